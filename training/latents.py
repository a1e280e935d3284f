"""Encoded episodes on disk, ``<seed>.npz`` in a latents folder, beside the V that encoded them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.files import write_atomic
from training.rollouts import episode_files


@dataclass(frozen=True)
class LatentEpisode:
    """One drive of T steps as the memory sees it.

    Attributes:
        seed: of the track.
        vae: fingerprint of the V that encoded it.
        mu: means, float32 ``(T + 1, Z)``.
        logvar: log variances, float32 ``(T + 1, Z)``.
        actions: float32 ``(T, A)``.
        tiles: tiles visited at each step, int16 ``(T,)``.
        track_tiles: number of tiles of the track.
        failed: whether the last step was a failure (off the playfield).
        label: of the driver.
    """

    seed: int
    vae: str
    mu: npt.NDArray[np.float32]
    logvar: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    tiles: npt.NDArray[np.int16]
    track_tiles: int
    failed: bool
    label: str

    def save(self, folder: Path) -> None:
        """Write ``<seed>.npz`` into ``folder``, atomically."""
        write_atomic(folder / f"{self.seed}.npz", lambda file: np.savez(file, **vars(self)))

    @classmethod
    def load(cls, path: Path) -> LatentEpisode:
        """Read an encoded episode; no pickles are taken."""
        with np.load(path, allow_pickle=False) as data:
            return cls(**{name: data[name].item() if data[name].ndim == 0 else data[name] for name in data.files})


def load_latents(folder: Path, fingerprint: str) -> list[LatentEpisode]:
    """Return all encoded episodes, in the order of their seeds.

    Raises:
        FileNotFoundError: for a folder without any.
        ValueError: when one was encoded by another V.
    """
    episodes = [LatentEpisode.load(path) for path in episode_files(folder)]
    if not episodes:
        raise FileNotFoundError(f"no encoded episodes in {folder}: run `python -m training.encode` first")
    stale = [episode.seed for episode in episodes if episode.vae != fingerprint]
    if stale:
        raise ValueError(
            f"{folder}: episodes {stale[:5]} were encoded by another V: run `python -m training.encode` again"
        )
    return episodes
