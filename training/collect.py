"""Collect drives of the real CarRacing-v3 with several processes or machines, or draw frames of kept drives again.

python -m training.collect --out runs/mine/rollouts --episodes 100 --policy scripted --burst-rate 0.02
python -m training.collect --out runs/mine/rollouts --replay
"""

from __future__ import annotations

import itertools
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import tyro
from tqdm import tqdm

from training.files import alone
from training.rollouts import Driver, Episode, Recorder, episode_files, frames_file, save_frames
from training.workers import here, map_jobs, weights_of
from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.evaluate import rollout
from wm_gym.frames import check_version
from wm_gym.policies import ActionBursts, load_policy
from wm_gym.wrappers import RNNHiddenObservation, VAELatentObservation

TRAINING_SEEDS = range(0, 1_000_000)
"""Track seeds for collection and training."""

Driven = tuple[Episode, npt.NDArray[np.uint8]]
"""What comes of a job: the episode, and its frames, uint8 ``(T + 1, 64, 64, 3)``."""


@dataclass
class Args:
    """What to collect."""

    out: Path = Path("runs/default/rollouts")
    """folder for the episodes; what it holds already is kept and counted"""
    episodes: int = 100
    """the folder is filled up to this many episodes"""
    first_seed: int = 0
    """their tracks are the first unused ones from this seed on"""
    policy: str = "random"
    """as wm_gym.load_policy takes it: "random", "scripted" or "scripted-varied" (privileged), a controller's folder"""
    world_model: Path | None = None
    """folder of the world model whose latents the policy sees; not needed by "random" and "scripted" drives"""
    members: int = 0
    """let this many members of a population of controllers drive in turn"""
    burst_rate: float = 0.0
    """probability a step that a burst of one random action starts; 1 for nothing but held random actions"""
    burst_length: int = 20
    """longest burst, in steps"""
    max_steps: int = 1000
    """steps of an episode at most"""
    patience: int = 0
    """an episode is over after so many steps without a new tile, such as a car stuck in the grass makes; 0 for never"""
    frames: str = "gauges96"
    """version of the frames, see wm_gym.frames"""
    workers: int = 2
    """number of processes"""
    ray: str | None = None
    """Ray cluster that drives instead: "auto" for this machine's, its head's host:port, or "local" for a new one"""
    replay: bool = False
    """draw missing frames of the episodes in the folder again, instead of collecting"""


@dataclass(frozen=True)
class Drive:
    """One job of a worker: drive track ``seed``."""

    seed: int
    driver: Driver
    max_steps: int
    patience: int
    version: str


class Patience(gym.Wrapper):
    """Truncates an episode of CarRacing after so many steps without a new tile."""

    def __init__(self, env: gym.Env, steps: int) -> None:
        super().__init__(env)
        self.steps = steps
        self.tiles = self.waited = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin to wait."""
        self.tiles = self.waited = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        visited = self.unwrapped.tile_visited_count  # type: ignore[attr-defined]
        self.waited = 0 if visited > self.tiles else self.waited + 1
        self.tiles = visited
        return observation, reward, terminated, truncated or self.waited >= self.steps, info


def drive(job: Drive) -> Driven:
    """Drive one episode."""
    recorder = Recorder(FastCarRacing(), job.version)
    env: gym.Env = gym.wrappers.TimeLimit(recorder, job.max_steps)
    if job.patience:
        env = Patience(env, job.patience)
    if job.driver.world_model is not None:
        env = RNNHiddenObservation(VAELatentObservation(env, here(job.driver.world_model, "world_model")))
    policy = load_policy(here(job.driver.policy, "controller"), env, job.seed)
    if job.driver.member is not None:
        policy = policy.member(job.driver.member)  # type: ignore[attr-defined]
    if job.driver.burst_rate > 0:
        policy = ActionBursts(policy, env.action_space, job.driver.burst_rate, job.driver.burst_length, job.seed)
    list(rollout(env, policy, [job.seed]))
    env.close()
    return recorder.episode(job.seed, job.driver), np.stack(recorder.frames)


@dataclass(frozen=True)
class Replay:
    """One job of a worker: draw the frames of an episode again; ``path`` is where it was kept."""

    path: Path
    episode: Episode
    version: str


def draw_again(path: Path, episode: Episode, version: str) -> tuple[Recorder, list[npt.NDArray[np.uint8]]]:
    """Drive an episode's actions again.

    Args:
        path: where the episode was kept, for the error.
        episode: whose actions.
        version: of the frames that are recorded.

    Returns:
        What was recorded now, and the T + 1 frames as CarRacing drew them, uint8 ``(96, 96, 3)``.

    Raises:
        RuntimeError: when the rewards differ from the recorded ones: this env is not the one that was recorded.
    """
    env = Recorder(FastCarRacing(), version)
    frames = env.drive_again(episode.seed, episode.actions)
    env.close()
    if not env.earned(episode.rewards):
        raise RuntimeError(f"{path}: its actions do not earn the recorded rewards on this CarRacing-v3")
    return env, frames


def replay(job: Replay) -> Driven:
    """Drive an episode's actions again; raises what `draw_again` does."""
    env, _ = draw_again(job.path, job.episode, job.version)
    return job.episode, np.stack(env.frames)


def new_drives(args: Args) -> list[Drive]:
    """Return the drives that are missing from the folder, on its first unused track seeds."""
    taken = {int(path.stem) for path in episode_files(args.out)}
    missing = max(0, args.episodes - len(taken))
    seeds = itertools.islice((seed for seed in TRAINING_SEEDS[args.first_seed :] if seed not in taken), missing)
    privileged = args.policy.startswith("scripted")
    label = "privileged" if privileged else "random" if args.policy == "random" else "own"
    world_model = None if args.world_model is None else str(args.world_model)
    driver = Driver(args.policy, label, args.burst_rate, args.burst_length, world_model)
    return [
        Drive(
            seed,
            replace(driver, member=seed % args.members if args.members else None),
            args.max_steps,
            args.patience,
            args.frames,
        )
        for seed in seeds
    ]


def main(args: Args) -> list[Episode]:
    """Run the missing drives (or replays) and return their episodes; kept episodes are not touched.

    Workers only drive. Each episode is written here as it comes in, so they need no disk of this machine's.

    Raises:
        wm_gym.ArtifactError: when there is no such policy or world model.
        ValueError: for an unknown frame version.
    """
    check_version(args.frames)
    if args.replay:
        paths = [
            path for path in episode_files(args.out) if not frames_file(args.out, int(path.stem), args.frames).is_file()
        ]
        again = [Replay(path, Episode.load(path), args.frames) for path in paths]
        results, total = map_jobs(replay, again, args.workers, args.ray), len(again)
    else:
        drives, world_model = new_drives(args), None if args.world_model is None else str(args.world_model)
        weights = weights_of(args.policy, world_model)
        results, total = map_jobs(drive, drives, args.workers, args.ray, weights), len(drives)
    episodes, frames, start = [], 0, time.monotonic()
    name = "replay" if args.replay else f"collect {args.policy}"
    with closing(results), tqdm(results, total=total, desc=name, unit="episode") as bar:
        for episode, drawn in bar:
            save_frames(args.out, episode.seed, args.frames, drawn)
            if not args.replay:
                episode.save(args.out)  # last: its file says that all is there
            episodes.append(episode)
            frames += len(episode.actions) + 1
            mean = float(np.mean([e.rewards.sum() for e in episodes]))
            bar.set_postfix(score=f"{mean:.0f}", fps=f"{frames / (time.monotonic() - start):.0f}")
    return episodes


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    with alone(arguments.out):
        main(arguments)
