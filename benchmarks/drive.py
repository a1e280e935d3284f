"""Watch the bundled controller: three real validation tracks beside three dreams, as a table, a video and a picture.

python -m benchmarks.drive
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import tyro
from moviepy import ImageSequenceClip
from tqdm import trange

import wm_gym
from training.loop import VALIDATION_SEEDS
from training.pictures import save_figure
from wm_gym.envs.rendering import enlarge
from wm_gym.frames import encoder_input

Frames = list[npt.NDArray[np.uint8]]


@dataclass
class Args:
    """What to watch."""

    controller: str = "car_racing"
    """bundled name or folder"""
    world_model: str = "car_racing"
    """bundled name or folder"""
    tracks: int = 3
    """real validation tracks, and dreams"""
    steps: int = 1000
    """length of a drive at most"""
    out: Path = Path("runs/drive")
    """folder for drive.mp4 and strip.png"""


STRIP_START, STRIP_EVERY, STRIP_LENGTH = 100, 6, 10


def drive(env: gym.Env, controller: wm_gym.Controller, seed: int, steps: int, title: str) -> tuple[float, int, Frames]:
    """Drive one episode; return its score, its length, and what the world model sees or dreams at every step."""
    observation, _ = env.reset(seed=seed)
    score, frames = 0.0, [picture(env)]
    with trange(steps, desc=title, unit="step") as bar:
        for _ in bar:
            observation, reward, terminated, truncated, _ = env.step(controller.predict(observation)[0])
            score += float(reward)
            frames.append(picture(env))
            bar.set_postfix(score=f"{score:.0f}")
            if terminated or truncated:
                break
    return score, len(frames) - 1, frames


def picture(env: gym.Env) -> npt.NDArray[np.uint8]:
    """Return the present 64x64 frame of the real env, or decode the dream's."""
    unwrapped: Any = env.unwrapped
    if hasattr(unwrapped, "dream"):
        return unwrapped.dream.frames()[0]
    return encoder_input(unwrapped.state, env.get_wrapper_attr("world_model").config.frames)


def strip(real: gym.Env, dream: gym.Env, controller: wm_gym.Controller, path: Path) -> None:
    """Draw a stretch of a real drive over the dream that starts at its first frame and is given the same actions."""
    observation, _ = real.reset(seed=VALIDATION_SEEDS[0])
    for _ in range(STRIP_START):
        observation, *_ = real.step(controller.predict(observation)[0])
    dream.reset(seed=0, options={"state": real.get_wrapper_attr("get_state")()})
    rows: tuple[Frames, Frames] = ([], [])
    for step in range(STRIP_EVERY * STRIP_LENGTH):
        if step % STRIP_EVERY == 0:
            rows[0].append(picture(real))
            rows[1].append(picture(dream))
        action = controller.predict(observation)[0]
        observation, *_ = real.step(action)
        if dream.step(action)[2]:
            break
    figure, axes = plt.subplots(2, STRIP_LENGTH, figsize=(STRIP_LENGTH, 2.4))
    for row, (name, frames) in enumerate(zip(("real", "dream"), rows, strict=True)):
        for column, axis in enumerate(axes[row]):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            if column < len(frames):
                axis.imshow(frames[column])
            if row == 1:
                axis.set_xlabel(f"{column * STRIP_EVERY / 50:.1f} s")
        axes[row, 0].set_ylabel(name)
    save_figure(figure, path)


def main(args: Args) -> None:
    """Drive, and write the table, the video and the picture."""
    controller = wm_gym.Controller.from_pretrained(args.controller)
    kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": args.steps}
    real, dream = gym.make("LatentCarRacing-v0", **kwargs), gym.make("DreamCarRacing-v0", **kwargs)
    version = real.get_wrapper_attr("world_model").config.frames
    table, video = [], None
    for seed in VALIDATION_SEEDS[: args.tracks]:
        on_track = drive(real, controller, seed, args.steps, f"real {seed}")
        dreamt = drive(dream, controller, seed, args.steps, f"dream {seed}")
        table.append((seed, *on_track[:2], *dreamt[:2]))
        video = video or (on_track[2], dreamt[2])
    print(f"{'seed':>8} {'real score':>11} {'steps':>6} {'dream score':>12} {'steps':>6}")
    for seed, score, steps, dream_score, dream_steps in table:
        print(f"{seed:>8} {score:>11.1f} {steps:>6} {dream_score:>12.1f} {dream_steps:>6}")

    args.out.mkdir(parents=True, exist_ok=True)
    if video is not None:
        length = max(map(len, video))
        sides = [[enlarge(frame, version) for frame in frames] for frames in video]
        both = [np.hstack([side[min(i, len(side) - 1)] for side in sides]) for i in range(length)]
        ImageSequenceClip(both, fps=50).write_videofile(str(args.out / "drive.mp4"), logger="bar")
    strip(real, dream, controller, args.out / "strip.png")
    print(f"{args.out / 'drive.mp4'}: the real track (left) beside a dream (right)")
    print(f"{args.out / 'strip.png'}: a real stretch over the dream that starts in it")
    real.close()
    dream.close()


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
