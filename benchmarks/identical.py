"""Does FastCarRacing draw gymnasium's own frames? Whole episodes of both, byte by byte.

For example:

    python -m benchmarks.identical
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from gymnasium.envs.box2d.car_racing import CarRacing
from tqdm import tqdm

from benchmarks.report import RESULTS, command, write_report
from training.workers import map_jobs
from wm_gym.car_racing import ScriptedDriver
from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.policies import ActionBursts


@dataclass
class Args:
    """What to compare."""

    tracks: int = 100
    """from seed 0 on, each with another driver, disturbed by bursts of random actions on every other track"""
    steps: int = 1000
    """of an episode at most"""
    workers: int = 2
    """processes"""
    out: Path = RESULTS / "identical.json"
    """JSON file"""


@dataclass(frozen=True)
class Track:
    """One job of a worker."""

    seed: int
    steps: int


def compare(track: Track) -> Counter[str]:
    """Drive one track with both envs; count frames, and differing frames, rewards and ends."""
    fast, stock = FastCarRacing(), CarRacing()
    found: Counter[str] = Counter()

    def note(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
        found["frames"] += 1
        found["differing_frames"] += ours[0].tobytes() != theirs[0].tobytes()
        found["differing_rewards_or_ends"] += ours[1:] != theirs[1:]

    ours, theirs = fast.reset(seed=track.seed), stock.reset(seed=track.seed)
    note(ours, theirs)
    driver = ActionBursts(
        ScriptedDriver.varied(fast, track.seed), fast.action_space, 0.05 * (track.seed % 2), 40, track.seed
    )
    for _ in range(track.steps):
        action, _ = driver.predict(ours[0])
        ours, theirs = fast.step(action), stock.step(action)
        note(ours, theirs)
        if theirs[2]:
            break
    return found


def main(args: Args) -> None:
    """Compare, print and write."""
    jobs = [Track(seed, args.steps) for seed in range(args.tracks)]
    total: Counter[str] = Counter()
    for found in tqdm(map_jobs(compare, jobs, args.workers), total=len(jobs), unit="track"):
        total += found
    keys = ("frames", "differing_frames", "differing_rewards_or_ends")
    content = {"command": command("identical", args), "tracks": args.tracks, **{key: total[key] for key in keys}}
    write_report(args.out, content)
    print(content)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
