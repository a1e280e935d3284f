"""Collection on a Ray cluster beside local processes, and on paper for more cores than there are here.

    python -m benchmarks.cluster

The bundled controller drives the same tracks with both in turn, at 1 and at 2 workers. The cluster is this machine
alone: what Ray costs is in the figures, a network is not. What a drive takes, and what it costs the machine where all
episodes come home, give the seconds of a list of drives on 64 and 1,000 cores.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
import tyro

from benchmarks.report import RESULTS, command, write_report
from training import cluster, collect
from training.presets import PRESETS
from training.rollouts import Episode, episode_files, open_frames, save_frames
from wm_gym.models.controller import Controller
from wm_gym.world_model import WorldModel

CORES, NODE = (64, 1000), 64
"""Of the clusters on paper, and of each of their machines."""
LINKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 1e10 / 8}
"""Of the machine where the episodes come home, in bytes a second."""


@dataclass
class Args:
    """What to measure."""

    episodes: int = 16
    """of each measurement"""
    max_steps: int = 1000
    """steps of an episode at most"""
    repeats: int = 3
    """of each measurement, local and Ray in turn; the figures are medians"""
    workers: tuple[int, ...] = (1, 2)
    """numbers of workers, the first of them 1"""
    out: Path = RESULTS / "cluster.json"
    """JSON file"""


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, float]:
    """Return the seconds that a call takes, and those of this process's own cores."""
    start, working = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - start, time.process_time() - working


def measure(args: Args, place: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Collect again and again.

    Args:
        args: how much.
        place: an empty folder.

    Returns:
        A line for each number of workers and each way, and the figures of one drive.

    Raises:
        RuntimeError: when the two ways do not give the same episodes.
    """
    Controller.from_pretrained().save(place / "controller")
    WorldModel.load("car_racing").save(place / "world_model")
    common = collect.Args(policy=str(place / "controller"), world_model=place / "world_model")
    runs, lines, contents = 0, list[dict[str, Any]](), set[tuple[bytes, ...]]()

    def run(ray_too: bool, workers: int, episodes: int, max_steps: int) -> tuple[float, float]:
        nonlocal runs
        runs += 1
        how: dict[str, Any] = {"workers": workers, "episodes": episodes, "max_steps": max_steps}
        return timed(collect.main, replace(common, out=place / str(runs), ray="local" if ray_too else None, **how))

    for workers in args.workers:
        cluster.connect("local", num_cpus=workers, include_dashboard=False)
        run(True, workers, workers, 1)  # its workers start but once
        ways: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for _ in range(args.repeats):
            for ray_too, figures in ways.items():
                start, _ = run(ray_too, workers, workers, 1)
                seconds, home = run(ray_too, workers, args.episodes, args.max_steps)
                figures.append({"start": start, "seconds": seconds, "home": home / args.episodes})
                contents.add(tuple(path.read_bytes() for path in episode_files(place / str(runs))))
        ray.shutdown()
        for ray_too, figures in ways.items():
            line: dict[str, Any] = {"workers": workers, "with": "ray" if ray_too else "processes"}
            lines.append(line | {key: median(each[key] for each in figures) for key in figures[0]})
    if len(contents) != 1:
        raise RuntimeError(f"the same drives gave {len(contents)} different sets of episodes")

    rollouts = place / str(runs)
    episodes = [Episode.load(path) for path in episode_files(rollouts)]
    frames, last = sum(len(each.actions) + 1 for each in episodes), episodes[-1]
    for line in lines:
        line["frames_per_second"] = frames / (line["seconds"] - line["start"])
        line["efficiency"] = line["frames_per_second"] / line["workers"] / lines[0]["frames_per_second"]

    kept = np.array(open_frames(rollouts, last.seed, common.frames))

    def save() -> None:
        save_frames(place / "saved", last.seed, common.frames, kept)
        last.save(place / "saved")

    stored = [path.stat().st_size for path in rollouts.rglob("*.np[yz]")]
    weights = [path.stat().st_size for name in ("controller", "world_model") for path in (place / name).iterdir()]
    alone = next(line for line in lines if line["with"] == "ray")
    return lines, {
        "frames": frames / len(episodes),
        "seconds": frames / len(episodes) / alone["frames_per_second"],
        "bytes": sum(stored) / len(episodes),
        "home_seconds": max(alone["home"], median(timed(save)[0] for _ in range(5))),
        "weights": sum(weights),
        "start": alone["start"],
    }


def on_paper(drive: dict[str, Any], cores: int, episodes: int, link: float) -> dict[str, Any]:
    """Return what a list of drives would take on a cluster: as long as the slowest of what goes on side by side.

    Args:
        drive: of one drive, its frames, seconds on a core, bytes and home_seconds on the core at home; the bytes of all
            weights; the seconds of start that each list takes.
        cores: that drive.
        episodes: on the list.
        link: bytes a second of the machine at home.
    """
    parts = {
        "driving": math.ceil(episodes / cores) * drive["seconds"],
        "home": episodes * drive["home_seconds"],
        "link": (episodes * drive["bytes"] + math.ceil(cores / NODE) * drive["weights"]) / link,
    }
    seconds = drive["start"] + max(parts.values())
    return {
        "cores": cores,
        "episodes": episodes,
        "seconds": seconds,
        "frames_per_second": episodes * drive["frames"] / seconds,
        "efficiency": episodes * drive["seconds"] / cores / seconds,
        "limit": max(parts, key=lambda part: parts[part]),
    }


def main(args: Args) -> None:
    """Measure, reckon, print and write.

    Raises:
        ValueError: when nothing is to be measured at one worker first: that is what the others are held against.
    """
    if args.workers[:1] != (1,):
        raise ValueError(f"--workers must begin with 1, got {args.workers}")
    with tempfile.TemporaryDirectory() as place:
        lines, drive = measure(args, Path(place))
    lists = (PRESETS["laptop"].own_episodes, PRESETS["paper"].random_episodes)
    paper = [
        {"link": name, **on_paper(drive, cores, episodes, link)}
        for cores in CORES
        for episodes in lists
        for name, link in LINKS.items()
    ]
    busy = {name: drive["seconds"] / max(drive["home_seconds"], drive["bytes"] / link) for name, link in LINKS.items()}
    content = {
        "command": command("cluster", args),
        "episodes": args.episodes,
        "repeats": args.repeats,
        "ray": ray.__version__,
        "measured": lines,
        "drive": drive,
        "on_paper": paper,
        "cores_that_home_keeps_busy": busy,
    }
    write_report(args.out, content)
    for line in lines:
        print("{workers} {with:>9}: {frames_per_second:6.0f} frames a second, {efficiency:.0%}".format(**line))
    print("a drive:", {key: round(value, 3) for key, value in drive.items()})
    for line in paper:
        text = "{cores:>5} cores, {episodes:>6} episodes, {link}: {seconds:.0f} s, {efficiency:.0%}, limited by {limit}"
        print(text.format(**line))
    print("home keeps busy:", {name: round(cores) for name, cores in busy.items()}, "cores")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
