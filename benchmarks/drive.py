"""Watch the bundled controller: three real validation tracks beside three dreams, as a table, a video and pictures.

For example:

    python -m benchmarks.drive
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro
from moviepy import VideoFileClip

import wm_gym
from training.filming import branch, film, write_video
from training.pictures import save_figure, strip
from training.seeds import VALIDATION_SEEDS
from wm_gym.registration import env_ids

SHOWN = 8
"""Seconds of the animated picture."""


@dataclass
class Args:
    """What to watch."""

    controller: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    tracks: int = 3
    """real validation tracks, and dreams"""
    max_steps: int = 0
    """steps of a drive at most; 0 for the real env's own limit, or 1000 where it has none"""
    out: Path = Path("runs/drive")
    """folder for drive.mp4, drive.gif and strip.png"""


def main(args: Args) -> None:
    """Drive, and write the table, the video and the pictures."""
    controller = wm_gym.Controller.from_pretrained(args.controller)
    config = wm_gym.WorldModel.from_pretrained(args.world_model).config
    kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": config.task.limit(args.max_steps)}
    dream, real = (gym.make(env_id, **kwargs) for env_id in env_ids(args.world_model))
    first = VALIDATION_SEEDS[0]
    drives = [
        (film(real, controller, seed, f"real {seed}"), film(dream, controller, seed, f"dream {seed}"))
        for seed in VALIDATION_SEEDS[: args.tracks]
    ]
    print(f"{'seed':>8} {'real score':>11} {'steps':>6} {'dream score':>12} {'steps':>6}")
    for seed, (driven, dreamt) in enumerate(drives, start=first):
        print(f"{seed:>8} {driven.score:>11.1f} {driven.steps:>6} {dreamt.score:>12.1f} {dreamt.steps:>6}")
    write_video(args.out / "drive.mp4", drives[0][0].frames, drives[0][1].frames, config)
    with VideoFileClip(str(args.out / "drive.mp4")) as clip:
        shown = clip.subclipped(0, min(SHOWN, clip.duration)).resized(width=320)
        shown.write_gif(str(args.out / "drive.gif"), fps=8, logger=None)
    save_figure(strip(*branch(real, dream, controller, first), fps=config.task.fps), args.out / "strip.png")
    print(f"{args.out / 'drive.mp4'}: the real track (left) beside a dream (right)")
    print(f"{args.out / 'drive.gif'}: the first {SHOWN} seconds of it")
    print(f"{args.out / 'strip.png'}: a real stretch over the dream that starts in it")
    real.close()
    dream.close()


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
