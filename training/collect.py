"""Collect drives of a real env with several processes or machines, or draw the frames of kept drives again.

For example:

    python -m training.collect --out runs/mine/rollouts --episodes 100 --policy scripted --burst-rate 0.02
    python -m training.collect --out runs/mine/rollouts --replay
    python -m training.collect --out runs/acrobot/rollouts --env Acrobot-v1 --frames whole --burst-rate 1
"""

from __future__ import annotations

import itertools
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import tyro
from tqdm import tqdm

from training.files import alone
from training.rollouts import (
    Driver,
    Episode,
    FrameRecorder,
    episode_files,
    frames_file,
    keep_task,
    load_task,
    parse_task,
    save_frames,
)
from training.seeds import TRAINING_SEEDS
from training.workers import here, map_jobs, weights_of
from wm_gym.car_racing import CAR_RACING, tiles
from wm_gym.evaluate import rollout
from wm_gym.frames import kept_size
from wm_gym.policies import ActionBursts, load_policy
from wm_gym.tasks import TaskConfig, make_env
from wm_gym.wrappers import RNNHiddenObservation, VAELatentObservation

Driven = tuple[Episode, npt.NDArray[np.uint8]]
"""What comes of a job: the episode, and its frames, uint8 ``(T + 1, 64, 64, 3)``."""


@dataclass
class Args:
    """What to collect."""

    out: Path = Path("runs/default/rollouts")
    """folder for the episodes; what it holds already is kept and counted"""
    env: str = CAR_RACING.env
    """id of the real env, as gymnasium registers it or a package that the environment variable WM_GYM_PACKAGES names"""
    env_kwargs: str = "{}"
    """JSON of its arguments"""
    episodes: int = 100
    """the folder is filled up to this many episodes"""
    first_seed: int = 0
    """lowest track; those that episodes have are left out"""
    policy: str = "random"
    """as wm_gym.load_policy takes it: "random", "scripted" or "scripted-varied" (privileged), a controller's folder"""
    world_model: Path | None = None
    """folder of the world model whose latents the policy sees; not needed by "random" and "scripted" drives"""
    own: bool = False
    """the policy was made of this folder's episodes alone; any but random drives are labelled privileged otherwise"""
    members: int = 0
    """let this many members of a population of controllers drive in turn"""
    burst_rate: float = 0.0
    """probability a step that a burst of one random action starts; 1 for nothing but held random actions"""
    burst_length: int = 20
    """longest burst, in steps"""
    max_steps: int = 0
    """steps of an episode at most; 0 for the real env's own limit, or 1000 where it has none"""
    patience: int = 0
    """an episode is over after so many steps without a new tile, such as a car stuck in the grass makes; 0 for never"""
    frames: str = "gauges96"
    """version of the frames, see wm_gym.frames; "whole" for all envs but CarRacing"""
    workers: int = 2
    """number of processes"""
    ray: str | None = None
    """Ray cluster that drives instead: "auto" for this machine's, its head's host:port, or "local" for a new one"""
    replay: bool = False
    """draw missing frames of the episodes in the folder again, instead of collecting"""


@dataclass(frozen=True)
class Job:
    """One job of a worker: drive the env after ``seed``."""

    task: TaskConfig
    seed: int
    driver: Driver
    max_steps: int
    patience: int
    version: str


class Patience(gym.Wrapper):
    """Truncates an episode after so many steps without progress: of CarRacing, without a new tile.

    Raises:
        ValueError: at the first step of an env that counts nothing.
    """

    def __init__(self, env: gym.Env, steps: int) -> None:
        super().__init__(env)
        self.steps = steps
        self.visited = self.waited = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin to wait."""
        self.visited = self.waited = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        counted = tiles(self.env)
        if counted is None:
            raise ValueError(f"{self.env} counts no progress to have patience for: use --patience 0")
        self.waited = 0 if counted[0] > self.visited else self.waited + 1
        self.visited = counted[0]
        return observation, reward, terminated, truncated or self.waited >= self.steps, info


def drive(job: Job) -> Driven:
    """Drive one episode."""
    recorder = FrameRecorder(make_env(job.task), job.version)
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


def draw_again(
    task: TaskConfig, path: Path, episode: Episode, version: str
) -> tuple[FrameRecorder, list[npt.NDArray[np.uint8]]]:
    """Drive an episode's actions again.

    Args:
        task: of the episode.
        path: where it was kept, for the error.
        episode: whose actions.
        version: of the frames that are recorded.

    Returns:
        What was recorded now, and the T + 1 frames as the env drew them, uint8 ``(H, W, 3)``.

    Raises:
        RuntimeError: when the rewards differ from the recorded ones: this env is not the one that was recorded.
    """
    env = FrameRecorder(make_env(task), version)
    frames = env.drive_again(episode.seed, episode.actions)
    env.close()
    if not env.earned(episode.rewards):
        raise RuntimeError(f"{path}: its actions do not earn the recorded rewards on this {task.env}")
    return env, frames


def replay(task: TaskConfig, version: str, kept: tuple[Path, Episode]) -> Driven:
    """Drive the actions of an episode, and where it was kept, again; raises what `draw_again` does."""
    path, episode = kept
    env, _ = draw_again(task, path, episode, version)
    return episode, np.stack(env.frames)


def new_drives(args: Args, task: TaskConfig) -> list[Job]:
    """Return the drives that are missing from the folder, of its first unused seeds.

    Raises:
        ValueError: when there are not so many seeds from the first one on, or for scripted drives called own.
    """
    taken = {int(path.stem) for path in episode_files(args.out)}
    missing = max(0, args.episodes - len(taken))
    free = (seed for seed in range(args.first_seed, TRAINING_SEEDS.stop) if seed not in taken)
    seeds = list(itertools.islice(free, missing))
    if args.first_seed not in TRAINING_SEEDS or len(seeds) < missing:
        raise ValueError(
            f"training tracks are 0 to {TRAINING_SEEDS.stop - 1}: no {missing} unused ones from --first-seed "
            f"{args.first_seed} on"
        )
    if args.own and args.policy.startswith("scripted"):
        raise ValueError(f"{args.policy} drives read the track, and are no policy's own: leave out --own")
    label = "own" if args.own else "random" if args.policy == "random" else "privileged"
    world_model = None if args.world_model is None else str(args.world_model)
    driver = Driver(args.policy, label, args.burst_rate, args.burst_length, world_model)
    return [
        Job(
            task,
            seed,
            # another first one for each turn, so that no member drives all seeds that some number divides
            replace(driver, member=(seed + seed // args.members) % args.members if args.members else None),
            task.limit(args.max_steps),
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
        ValueError: for a frame version that is not for the env's frames, or a folder of another env's episodes.
    """
    task = load_task(args.out) if args.replay else parse_task(args.env, args.env_kwargs)
    kept_size(args.frames, task.frame)
    if args.replay:
        paths = [
            path for path in episode_files(args.out) if not frames_file(args.out, int(path.stem), args.frames).is_file()
        ]
        kept = [(path, Episode.load(path)) for path in paths]
        results, total = map_jobs(partial(replay, task, args.frames), kept, args.workers, args.ray), len(kept)
    else:
        keep_task(args.out, task)
        drives, world_model = new_drives(args, task), None if args.world_model is None else str(args.world_model)
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
