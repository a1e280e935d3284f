"""Rollouts as a Minari dataset of CarRacing-v3, and datasets of others as rollouts.

    python -m training.minari export --rollouts runs/mine/rollouts --dataset CarRacing/mine-v0
    python -m training.minari import --dataset CarRacing/theirs-v0 --out runs/new/rollouts

Datasets lie in Minari's own folder (~/.minari/datasets, or MINARI_DATASETS_PATH); `minari download` and `minari upload`
carry them. Minari comes with the extra ``minari``.

Rollouts are seeds and actions, so an episode is imported by driving it again, and only if that earns its rewards. One
without a seed is refused: its frames could neither be checked nor drawn again, and Minari keeps frames as JPEGs by
default, which are not what an encoder sees of the env.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import gymnasium as gym
import minari
import numpy as np
import tyro
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from minari.storage.datasets_root_dir import get_dataset_path
from tqdm import tqdm

from training.collect import Driven, draw_again
from training.files import alone
from training.rollouts import Driver, Episode, FrameRecorder, episode_files, load_task, save_frames
from training.seeds import HELD_OUT_SEEDS
from training.workers import map_jobs
from wm_gym.car_racing import CAR_RACING
from wm_gym.frames import check_version
from wm_gym.tasks import make_env

FRAMES = "gauges96"
"""Version of the frames by default, see `wm_gym.frames`."""
TAKEN = "there is an episode on their track already"


@dataclass
class Export:
    """Write rollouts as a dataset: frames as CarRacing draws them, actions, rewards, ends and each episode's seed."""

    dataset: str
    """its id, such as CarRacing/mine-v0; it must not be there yet"""
    rollouts: Path = Path("runs/default/rollouts")
    """folder of episodes; their frames are drawn again, 28 MB for 1000 steps"""
    author: str | None = None
    """whom the dataset names"""
    author_email: str | None = None
    """how to reach them"""


@dataclass
class Import:
    """Drive a dataset's episodes of CarRacing-v3 again and keep those that earn the rewards they come with."""

    dataset: str
    """its id"""
    out: Path = Path("runs/default/rollouts")
    """folder for the episodes; what it holds already is kept"""
    label: Literal["random", "privileged"] = "privileged"
    """"random" if nothing else drove; other agents count as the strictest, as what they saw and learned is unknown"""
    frames: str = FRAMES
    """version of the frames, see wm_gym.frames"""
    workers: int = 2
    """number of processes"""


def check_car_racing(rollouts: Path) -> None:
    """Raise ValueError for a folder that holds episodes of another env, or of CarRacing with other arguments."""
    if (task := load_task(rollouts)) != CAR_RACING:
        raise ValueError(
            f"{rollouts} holds episodes of {task.env} {task.kwargs}, but these datasets are of {CAR_RACING.env} {{}}"
        )


def export_dataset(args: Export) -> minari.MinariDataset:
    """Write the dataset and return it; one that can't be finished is removed.

    Raises:
        FileExistsError: when there is a dataset of this id.
        FileNotFoundError: for a folder without episodes.
        RuntimeError: when an episode's actions do not earn the recorded rewards on this CarRacing-v3.
        ValueError: for episodes of another env, or of CarRacing with other arguments.
    """
    paths, folder = episode_files(args.rollouts), get_dataset_path(args.dataset)
    check_car_racing(args.rollouts)
    if not paths:
        raise FileNotFoundError(f"no episodes in {args.rollouts}: run `python -m training.collect` first")
    if folder.exists():
        raise FileExistsError(f"{folder}: exists already: choose another name or version than {args.dataset}")
    labels = Counter(Episode.load(path).driver.label for path in paths)
    try:
        return minari.create_dataset_from_buffers(
            args.dataset,
            _buffers(paths),
            env="CarRacing-v3",
            eval_env="CarRacing-v3",
            author=args.author,
            author_email=args.author_email,
            description="Drives by wm-gym: " + ", ".join(f"{count} {label}" for label, count in labels.items()),
            requirements=[f"gymnasium[box2d]=={version('gymnasium')}"],
            jpeg_encoding=False,
        )
    except BaseException:  # Minari writes as it goes, and what is there would pass for the whole
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _buffers(paths: list[Path]) -> Iterator[EpisodeBuffer]:
    """Drive episodes again, one at a time, as Minari takes them."""
    for path in tqdm(paths, desc="export", unit="episode"):
        episode = Episode.load(path)
        env, frames = draw_again(CAR_RACING, path, episode, FRAMES)
        last = np.arange(1, len(frames)) == len(episode.actions)
        yield EpisodeBuffer(
            seed=episode.seed,
            observations=frames,
            actions=list(episode.actions),
            rewards=env.rewards,
            terminations=list(last & episode.terminated),
            truncations=list(last & (not episode.terminated)),
            infos={},
        )


@dataclass(frozen=True)
class Given:
    """One job of a worker: drive episode ``index`` of a dataset again, on track ``seed``."""

    dataset: str
    index: int
    seed: int
    driver: Driver
    version: str


def take(job: Given) -> Driven | str:
    """Drive an episode of a dataset as one of ours, and return it and its frames, or why it can't be taken."""
    given = open_dataset(job.dataset)[job.index]
    actions, allowed = np.asarray(given.actions, dtype=np.float32), CAR_RACING.actions
    if not len(actions) or not ((actions >= allowed.low) & (actions <= allowed.high)).all():
        return f"no actions, or others than {allowed.space}"
    env = FrameRecorder(make_env(CAR_RACING), job.version)
    env.drive_again(job.seed, actions)
    env.close()
    if not env.earned(given.rewards) or env.terminated != given.terminations[-1]:
        return "the actions do not earn the rewards on this CarRacing-v3"
    return env.episode(job.seed, job.driver), np.stack(env.frames)


def open_dataset(name: str) -> minari.MinariDataset:
    """Open a dataset of continuous CarRacing.

    Raises:
        FileNotFoundError: when it is not there.
        ValueError: for one of other actions, or one that would have Minari call what it names.
    """
    folder = get_dataset_path(name) / "data"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such dataset: `minari download {name}` fetches what Minari's server has")
    lacking = {"observation_space", "action_space"} - MinariStorage.read_raw_metadata(folder).keys()
    if lacking:
        raise ValueError(
            f"{folder / 'metadata.json'}: lacks {sorted(lacking)}: Minari would make the env that it names to learn "
            "them, and call any function with any arguments for it"
        )
    dataset = minari.load_dataset(name)
    space = dataset.action_space
    if not isinstance(space, gym.spaces.Box) or space.shape != CAR_RACING.actions.space.shape:
        raise ValueError(f"{name}: its actions are of {space}, expected CarRacing's {CAR_RACING.actions.space}")
    return dataset


def import_dataset(args: Import) -> list[Episode]:
    """Import what can be driven again and is not in the folder yet, and return it; say what is left out and why.

    Raises:
        FileNotFoundError: when there is no such dataset.
        ValueError: for an unknown frame version, a folder of another env or of CarRacing with other arguments, other
            actions than CarRacing's, or when nothing can be taken.
    """
    check_version(args.frames)
    check_car_racing(args.out)
    dataset = open_dataset(args.dataset)
    driver = Driver(f"minari:{args.dataset}", args.label)
    taken = {int(path.stem) for path in episode_files(args.out)}
    jobs: list[Given] = []
    left_out: Counter[str] = Counter()
    for index, metadata in enumerate(dataset.storage.get_episode_metadata(range(len(dataset)))):
        seed = metadata.get("seed")
        if seed is None:
            left_out["no seed is known"] += 1
        elif seed in HELD_OUT_SEEDS:
            left_out["the tracks are those of validation and tests"] += 1
        elif seed in taken:
            left_out[TAKEN] += 1
        else:
            taken.add(seed)
            jobs.append(Given(args.dataset, index, seed, driver, args.frames))
    episodes = []
    with closing(map_jobs(take, jobs, args.workers)) as results:
        for result in tqdm(results, total=len(jobs), desc="import", unit="episode"):
            if isinstance(result, str):
                left_out[result] += 1
                continue
            episode, frames = result
            save_frames(args.out, episode.seed, args.frames, frames)
            episode.save(args.out)  # last: its file says that all is there
            episodes.append(episode)
    summary = "; ".join([f"{len(episodes)} imported", *(f"{count} left out: {why}" for why, count in left_out.items())])
    if not episodes and not left_out[TAKEN]:
        raise ValueError(f"{args.dataset}: no episode can be imported: {summary}")
    print(f"{args.dataset}: {summary}")
    return episodes


if __name__ == "__main__":
    arguments = tyro.cli(Export | Import, description=__doc__)
    if isinstance(arguments, Export):
        export_dataset(arguments)
    else:
        with alone(arguments.out):
            import_dataset(arguments)
