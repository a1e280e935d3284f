"""Drives recorded for pictures and videos: a real one, a dream that branches off it, and where the two part."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from wm_gym.envs.rendering import Video, enlarge
from wm_gym.policies import Policy, PolicyState
from wm_gym.world_model import WorldModelConfig

COLUMNS = 10
"""Frames in a row of pictures."""
STRIP_START, STRIP_EVERY = 100, 6
"""First step of a strip, and steps from one of its pictures to the next."""
GAP_BEFORE, GAP_EVERY = 50, 10
"""Steps of a gap before the real car has earned its most, and from one of its pictures to the next."""

Frames = list[npt.NDArray[np.uint8]]
"""Of the encoder's size, ``(64, 64, 3)``, one for each step of a drive and the first."""


@dataclass(frozen=True)
class Film:
    """One episode: its score, and what the world model saw or dreamt at every step."""

    score: float
    frames: Frames

    @property
    def steps(self) -> int:
        """Length of the episode."""
        return len(self.frames) - 1


class Hand:
    """A policy with what it remembers of the episode it drives."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.start = policy, np.ones(1, dtype=bool)
        self.state: PolicyState = None

    def __call__(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return the action for the next observation."""
        action, self.state = self.policy.predict(observation, self.state, self.start, deterministic=True)
        self.start = np.zeros(1, dtype=bool)
        return action


def picture(env: gym.Env) -> npt.NDArray[np.uint8]:
    """Return the present frame of the real env as the encoder gets it, or decode the dream's."""
    unwrapped: Any = env.unwrapped
    if hasattr(unwrapped, "dream"):
        return unwrapped.dream.frames()[0]
    return env.get_wrapper_attr("frame")


def film(env: gym.Env, policy: Policy, seed: int, title: str) -> Film:
    """Film one episode."""
    observation, _ = env.reset(seed=seed)
    hand = Hand(policy)
    score, frames, over = 0.0, [picture(env)], False
    with tqdm(desc=title, unit="step", total=env.spec.max_episode_steps if env.spec else None) as bar:
        while not over:
            observation, reward, terminated, truncated, _ = env.step(hand(observation))
            over = terminated or truncated
            score += float(reward)
            frames.append(picture(env))
            bar.set_postfix(score=f"{score:.0f}")
            bar.update()
    return Film(score, frames)


def branch(real: gym.Env, dream: gym.Env, policy: Policy, seed: int) -> tuple[Frames, Frames]:
    """Record a stretch of a real drive, and the dream that starts at its first frame and is given the same actions.

    Each ends with its episode. A drive that is over before step `STRIP_START` is recorded from its first frame.
    """
    observation, _ = real.reset(seed=seed)
    hand = Hand(policy)
    for _ in range(STRIP_START):
        observation, _, terminated, truncated, _ = real.step(hand(observation))
        if terminated or truncated:
            observation, _ = real.reset(seed=seed)
            hand = Hand(policy)
            break
    dream.reset(seed=0, options={"state": real.get_wrapper_attr("get_state")()})
    on_track, dreamt, dreaming = [picture(real)], [picture(dream)], True
    for _ in range(STRIP_EVERY * (COLUMNS - 1)):
        action = hand(observation)
        observation, _, terminated, truncated, _ = real.step(action)
        on_track.append(picture(real))
        if dreaming:
            _, _, ended, cut, _ = dream.step(action)
            dreaming = not (ended or cut)
            dreamt.append(picture(dream))
        if terminated or truncated:
            break
    return on_track, dreamt


def gap(real: gym.Env, dream: gym.Env, policy: Policy, seed: int) -> tuple[Frames, Frames, float, float]:
    """Record what went wrong in a real drive, and what the dream believed instead.

    The dream branches off `GAP_BEFORE` steps before the real car has earned most beside what each step pays; the same
    policy drives both, in the dream with what it remembers of the real drive.

    Returns:
        real frames and dreamt ones from there on, and what each drive earned in these steps.
    """
    observation, _ = real.reset(seed=seed)
    hand = Hand(policy)
    states, frames, earned, over = [real.get_wrapper_attr("get_state")()], [picture(real)], [0.0], False
    hands = [copy(hand)]
    while not over:
        observation, reward, terminated, truncated, _ = real.step(hand(observation))
        over = terminated or truncated
        hands.append(copy(hand))
        states.append(real.get_wrapper_attr("get_state")())
        frames.append(picture(real))
        earned.append(earned[-1] + float(reward))
    per_step = real.get_wrapper_attr("world_model").config.reward.per_step
    beside = (np.array(earned) - per_step * np.arange(len(earned))).round(6)  # sums of floats that should be equal are
    start = max(int(np.argmax(beside)) - GAP_BEFORE, 0)
    end = min(start + GAP_EVERY * (COLUMNS - 1), len(frames) - 1)
    observation, _ = dream.reset(seed=0, options={"state": states[start]})
    hand, dreamt, paid, over = hands[start], [picture(dream)], 0.0, False
    while not over and len(dreamt) <= end - start:
        observation, reward, terminated, truncated, _ = dream.step(hand(observation))
        over = terminated or truncated
        dreamt.append(picture(dream))
        paid += float(reward)
    return frames[start : end + 1], dreamt, earned[end] - earned[start], paid


def write_video(path: Path, real: Frames, dream: Frames, config: WorldModelConfig) -> None:
    """Write a drive beside a dream as mp4, atomically; the shorter one ends with a still.

    Args:
        path: ends in ".mp4".
        real: left.
        dream: right.
        config: of the world model.
    """
    with Video(path, config.task.fps) as video:
        for i in tqdm(range(max(len(real), len(dream))), desc=path.name, unit="frame"):
            sides = [enlarge(frames[min(i, len(frames) - 1)], config.picture) for frames in (real, dream)]
            video.add(np.hstack(sides))
