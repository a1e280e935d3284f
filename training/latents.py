"""Encoded episodes on disk, ``<seed>.npz`` in a latents folder, beside the V that encoded them; and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.files import write_atomic
from training.rollouts import episode_files
from wm_gym.car_racing import CAR_RACING, MIRRORED, lap_reward
from wm_gym.models.vae import sample_latent
from wm_gym.reward import RewardConfig
from wm_gym.tasks import TaskConfig


@dataclass(frozen=True)
class LatentEpisode:
    """One drive of T steps as the memory sees it.

    Attributes:
        seed: of the env.
        vae: fingerprint of the V that encoded it.
        mu: means, float32 ``(T + 1, Z)``.
        logvar: log variances, float32 ``(T + 1, Z)``.
        actions: float32 ``(T, A)``; choices are one-hot.
        gains: what each step is paid for, float32 ``(T,)``: what the env counts, or else the rewards.
        goal: of how many, such as the tiles of the track; 0 for an env that counts nothing.
        ended: whether the last step ended the episode otherwise than by reaching the goal.
        label: of the driver.
        mirrored: means and log variances of the drive in a mirror, float32 ``(2, T + 1, Z)``; None if it has none.
    """

    seed: int
    vae: str
    mu: npt.NDArray[np.float32]
    logvar: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    gains: npt.NDArray[np.float32]
    goal: int
    ended: bool
    label: str
    mirrored: npt.NDArray[np.float32] | None = None

    def save(self, folder: Path) -> None:
        """Write ``<seed>.npz`` into ``folder``, atomically."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        write_atomic(folder / f"{self.seed}.npz", lambda file: np.savez(file, **known))

    def in_mirror(self) -> LatentEpisode:
        """Return CarRacing's drive as a mirror shows it.

        Raises:
            ValueError: when it was not encoded in a mirror too.
        """
        if self.mirrored is None:
            raise ValueError(f"drive {self.seed} was not seen in a mirror: run `python -m training.encode --mirror`")
        mu, logvar = self.mirrored
        return replace(self, mu=mu, logvar=logvar, actions=self.actions * np.array(MIRRORED, np.float32), mirrored=None)

    @classmethod
    def load(cls, path: Path) -> LatentEpisode:
        """Read an encoded episode; no pickles are taken."""
        with np.load(path, allow_pickle=False) as data:
            return cls(**{name: data[name].item() if data[name].ndim == 0 else data[name] for name in data.files})

    @staticmethod
    def encoder(path: Path, mirror: bool = False) -> str:
        """Return the fingerprint of the V that encoded a file; "" for one to be encoded again.

        That is one of an older form, or not seen in a mirror though asked for.
        """
        with np.load(path, allow_pickle=False) as data:
            whole = "gains" in data.files and ("mirrored" in data.files or not mirror)
            return data["vae"].item() if whole else ""


def load_latents(folder: Path, fingerprint: str) -> list[LatentEpisode]:
    """Return all encoded episodes, in the order of their seeds.

    Raises:
        FileNotFoundError: for a folder without any.
        ValueError: when one was encoded by another V.
    """
    paths = episode_files(folder)
    if not paths:
        raise FileNotFoundError(f"no encoded episodes in {folder}: run `python -m training.encode` first")
    stale = [int(path.stem) for path in paths if LatentEpisode.encoder(path) != fingerprint]
    if stale:
        raise ValueError(
            f"{folder}: episodes {stale[:5]} were encoded by another V: run `python -m training.encode` again; V of "
            "an earlier round's world model is that model's alone, and its figures are in that round's open_loop.json"
        )
    return [LatentEpisode.load(path) for path in paths]


def split(episodes: Sequence[LatentEpisode], held_out: int) -> tuple[list[LatentEpisode], list[LatentEpisode]]:
    """Return the episodes that are trained on, and those that are held out: the seeds that ``held_out`` divides.

    So whichever other episodes come, what was trained on once is never held out. Where it divides none, the first
    episode is held out; a lone episode is in both parts.
    """
    apart = [each for each in episodes if each.seed % held_out == 0] or list(episodes[:1])
    seeds = {each.seed for each in apart}
    return [each for each in episodes if each.seed not in seeds] or list(episodes), apart


@dataclass(frozen=True)
class Sequences:
    """A batch of B padded episodes; step t leads from frame t to frame t + 1.

    Attributes:
        mu, logvar: ``(B, T + 1, Z)``.
        actions: ``(B, T, A)``.
        gains, ended, valid: ``(B, T)``; ``valid`` is 0 where an episode is over.
        paid: ``(B, T)``, 1 where M learns the gain. It is 0 where an episode is over, and at an end that pays
            ``reward.end`` instead of a gain; where gains are counts, as CarRacing's tiles, such an end counts too.
    """

    mu: Tensor
    logvar: Tensor
    actions: Tensor
    gains: Tensor
    ended: Tensor
    valid: Tensor
    paid: Tensor

    @classmethod
    def of(cls, episodes: Sequence[LatentEpisode], device: torch.device, reward: RewardConfig) -> Sequences:
        """Pad episodes to the longest; their gains are in the reward's units."""
        longest = max(len(episode.actions) for episode in episodes)

        def stack(arrays: Sequence[npt.NDArray[Any]], length: int) -> Tensor:
            padded = [np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)]) for array in arrays]
            return torch.from_numpy(np.stack(padded)).float().to(device)

        ended = [np.zeros(len(episode.actions)) for episode in episodes]
        for ends, episode in zip(ended, episodes, strict=True):
            ends[-1] = episode.ended
        priced = reward.goal is None and reward.end is not None
        return cls(
            mu=stack([episode.mu for episode in episodes], longest + 1),
            logvar=stack([episode.logvar for episode in episodes], longest + 1),
            actions=stack([episode.actions for episode in episodes], longest),
            gains=stack([reward.gains(episode.gains) for episode in episodes], longest),
            ended=stack(ended, longest),
            valid=stack([np.ones(len(ends)) for ends in ended], longest),
            paid=stack([1 - ends if priced else np.ones(len(ends)) for ends in ended], longest),
        )


def draw(part: Sequences, latent: str, generator: torch.Generator) -> Tensor:
    """Return z ``(B, T + 1, Z)``: means, or fresh samples."""
    if latent == "mean":
        return part.mu
    noise = torch.randn(part.mu.shape, generator=generator).to(part.mu.device)
    return sample_latent(part.mu, part.logvar, noise)


def reward_of(episodes: Sequence[LatentEpisode], task: TaskConfig) -> RewardConfig:
    """Return how dreams of a task pay, as the real episodes do.

    CarRacing's gains are tiles. Those of other envs are their rewards, standardised; if all steps that ended an episode
    paid the same, that is what an end pays, ``end``, instead of a gain.
    """
    if task.env == CAR_RACING.env:
        return lap_reward(float(np.mean([episode.goal for episode in episodes])))
    ends = {float(episode.gains[-1]) for episode in episodes if episode.ended}
    end = ends.pop() if len(ends) == 1 else None
    paid = [episode.gains[: len(episode.gains) - (episode.ended and end is not None)] for episode in episodes]
    gains = np.concatenate(paid).astype(np.float64)
    spread = float(gains.std())
    return RewardConfig(scale=spread if spread > 1e-6 else 0.0, per_step=float(gains.mean()), end=end)
