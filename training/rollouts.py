"""Episodes on disk.

The envs are deterministic, so an episode *is* its seed, its exact actions and what drove it: ``<seed>.npz``, a few kB.
Its frames are a cache that can be drawn again, ``frames-<version>/<seed>.npy``, uint8 ``(T + 1, 64, 64, 3)``, and are
memory-mapped. ``task.json`` names the env of all episodes of a folder; without it they are of CarRacing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from training.files import write_atomic, write_json
from wm_gym.car_racing import CAR_RACING, tiles
from wm_gym.frames import encoder_input
from wm_gym.tasks import TaskConfig

FORMER_NAMES = {"tiles": "counts", "track_tiles": "goal", "lap_finished": "finished"}
"""What files called an episode's parts while there was CarRacing alone."""


@dataclass(frozen=True)
class Driver:
    """What drove an episode.

    Attributes:
        policy: a name or a folder, as `wm_gym.policies.load_policy` takes it.
        label: "random", "own" (an agent of the same run) or "privileged" (sees the track or the car's hidden state).
        burst_rate: probability a step that a burst of one random action starts.
        burst_length: longest burst, in steps.
        world_model: the folder of the world model whose latents the policy saw; None for a policy that needs none.
        member: which member of a population of controllers drove; None for a policy that is no population.
    """

    policy: str
    label: str
    burst_rate: float = 0.0
    burst_length: int = 20
    world_model: str | None = None
    member: int | None = None


@dataclass(frozen=True)
class Episode:
    """One drive of T steps, without its frames.

    Attributes:
        seed: of the env.
        actions: exactly as the env received them: float32 ``(T, A)``, or choices, int64 ``(T,)``.
        rewards: float32 ``(T,)``.
        counts: int16 ``(T,)``, what the env counts at each step (CarRacing the tiles that it visits; those visited at
            reset count for the first step); all 0 for an env that counts nothing.
        goal: of how many, such as the tiles of the track; 0 for an env that counts nothing.
        terminated: whether the last step ended the episode.
        finished: whether that was by reaching the goal (CarRacing: a finished lap).
        driver: what drove.
    """

    seed: int
    actions: npt.NDArray[np.float32] | npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int16]
    goal: int
    terminated: bool
    finished: bool
    driver: Driver

    def save(self, folder: Path) -> None:
        """Write ``<seed>.npz`` into ``folder``, atomically."""
        fields = {**self.__dict__, "driver": json.dumps(asdict(self.driver))}
        write_atomic(folder / f"{self.seed}.npz", lambda file: np.savez_compressed(file, **fields))

    @classmethod
    def load(cls, path: Path) -> Episode:
        """Read an episode; no pickles are taken."""
        with np.load(path, allow_pickle=False) as data:
            fields: dict[str, Any] = {FORMER_NAMES.get(name, name): data[name] for name in data.files}
        return cls(
            **{
                **{name: value.item() if value.ndim == 0 else value for name, value in fields.items()},
                "driver": Driver(**json.loads(fields["driver"].item())),
            }
        )


def keep_task(folder: Path, task: TaskConfig) -> None:
    """Note that the episodes of a folder are of a task.

    Raises:
        ValueError: when they are of another one.
    """
    path = folder / "task.json"
    kept = load_task(folder) if path.is_file() or episode_files(folder) else None
    if kept not in (None, task):
        raise ValueError(f"{folder} holds episodes of {kept}, not of {task}: choose another folder")
    if not path.is_file():
        write_json(path, asdict(task))


def load_task(folder: Path) -> TaskConfig:
    """Return the task of a folder's episodes."""
    path = folder / "task.json"
    return TaskConfig.from_dict(json.loads(path.read_text())) if path.is_file() else CAR_RACING


def parse_task(env: str, kwargs: str) -> TaskConfig:
    """Return the task of an env's id and the JSON of its arguments.

    Raises:
        ValueError: for arguments that are no JSON object, and an env of another kind than is taken.
    """
    try:
        parsed = json.loads(kwargs)
    except json.JSONDecodeError as error:
        raise ValueError(f"--env-kwargs must be a JSON object, got {kwargs!r}: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"--env-kwargs must be a JSON object, got {kwargs!r}")
    return TaskConfig.of(env, **parsed)


def check_mirror(mirror: bool, task: TaskConfig) -> None:
    """Raise ValueError for a mirror of another task than CarRacing's: what others look like there is not known."""
    if mirror and (task.env, task.actions) != (CAR_RACING.env, CAR_RACING.actions):
        raise ValueError(
            f"only {CAR_RACING.env} with its continuous actions is known in a mirror, not {task.env} with "
            f"{task.actions}: use --no-mirror"
        )


def episode_files(folder: Path) -> list[Path]:
    """Return the files of the finished episodes in ``folder``, in the order of their seeds."""
    return sorted(folder.glob("[0-9]*.npz"), key=lambda path: int(path.stem))


def frames_file(folder: Path, seed: int, version: str) -> Path:
    """Return where the frames of an episode are cached."""
    return folder / f"frames-{version}" / f"{seed}.npy"


def open_frames(folder: Path, seed: int, version: str) -> npt.NDArray[np.uint8]:
    """Memory-map the cached frames of an episode, uint8 ``(T + 1, 64, 64, 3)``.

    Raises:
        FileNotFoundError: when they are not cached; the message says how to draw them.
    """
    path = frames_file(folder, seed, version)
    if not path.is_file():
        raise FileNotFoundError(f"no frames at {path}: draw them with `python -m training.collect --replay`")
    return np.load(path, mmap_mode="r")


def save_frames(folder: Path, seed: int, version: str, frames: npt.NDArray[np.uint8]) -> None:
    """Write an episode's frames to the cache, atomically."""
    write_atomic(frames_file(folder, seed, version), lambda file: np.save(file, frames))


class FrameRecorder(gym.Wrapper):
    """Keeps what passes through an env of frames: encoder inputs, actions, rewards and counts of the present episode.

    It sits directly on the env, below the latent wrappers, so it sees the very actions that the env got.
    """

    def __init__(self, env: gym.Env, version: str) -> None:
        super().__init__(env)
        self.version = version
        self.frames: list[npt.NDArray[np.uint8]] = []
        self.actions: list[npt.NDArray[Any]] = []
        self.rewards: list[float] = []
        self.visited: list[int] = []
        self.goal = 0
        self.terminated = self.finished = False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start a new record."""
        observation, info = self.env.reset(**kwargs)
        self.frames, self.actions, self.rewards, self.visited = [encoder_input(observation, self.version)], [], [], []
        self.terminated = self.finished = False
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env and record it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.frames.append(encoder_input(observation, self.version))
        self.actions.append(np.array(action, dtype=self.action_space.dtype))
        self.rewards.append(float(reward))
        visited, self.goal = tiles(self.env) or (0, 0)
        self.visited.append(visited)
        self.terminated, self.finished = terminated, bool(self.goal and terminated and info["lap_finished"])
        return observation, reward, terminated, truncated, info

    def drive_again(self, seed: int, actions: npt.NDArray[Any]) -> list[npt.NDArray[np.uint8]]:
        """Repeat recorded actions after a seed; return the T + 1 frames as the env drew them, uint8 ``(H, W, 3)``."""
        return [self.reset(seed=seed)[0], *(self.step(action)[0] for action in actions)]

    def earned(self, rewards: npt.NDArray[np.floating]) -> bool:
        """Return whether these are the rewards that were earned, as float32."""
        return np.array_equal(np.array(self.rewards, dtype=np.float32), rewards.astype(np.float32))

    def episode(self, seed: int, driver: Driver) -> Episode:
        """Return the record of the episode that was driven since the last reset."""
        return Episode(
            seed=seed,
            actions=np.stack(self.actions),
            rewards=np.array(self.rewards, dtype=np.float32),
            counts=np.diff(np.array(self.visited), prepend=0).astype(np.int16),
            goal=self.goal,
            terminated=self.terminated,
            finished=self.finished,
            driver=driver,
        )
