"""Watch an agent in real time, or drive: the real track or the dream, in a window, as a video, or both on a page.

For example:

    python -m wm_gym.play --render_mode human
    python -m wm_gym.play --browser
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pygame
import torch

import wm_gym
from wm_gym.car_racing import keys_action
from wm_gym.envs.rendering import Video
from wm_gym.policies import PolicyState, lanes_of

NO_DISPLAY = ("offscreen", "dummy")
"""SDL's video drivers that show nothing; it takes the first when it finds no display."""


@dataclass
class Args:
    """Who drives what, and where it is seen."""

    env: Literal["LatentCarRacing-v0", "DreamCarRacing-v0"] = "LatentCarRacing-v0"
    """the real track, or the dream"""
    policy: str = "car_racing"
    """bundled controller, folder of a controller or user/name on the Hugging Face Hub, Stable-Baselines3 .zip (it holds
    pickles, which can run any code: only from whom you trust), "random", or "scripted" (real track only)"""
    hands: bool = False
    """drive yourself: arrow keys steer, give gas and brake; R goes on to the next episode, Esc ends"""
    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    render_mode: Literal["human", "rgb_array"] | None = None
    """"human" opens a window, "rgb_array" none; by default there is one, unless an agent's drive goes to a video"""
    video: Path | None = None
    """.mp4 to record to; without a window, no display is needed"""
    seed: int = 1_000_000
    """of the first episode; the following count up"""
    episodes: int = 3
    """how many"""
    max_steps: int = 0
    """steps of an episode at most; 0 for the env's own limit, -1 for none"""
    browser: bool = False
    """open a page of this machine, where the dream runs beside the real car under the same actions"""
    port: int = 0
    """of the page; 0 takes a free one"""


class Keyboard:
    """A policy whose actions come from a person at the arrow keys: left and right, up for gas, down for the brake.

    The window with the focus gives the keys; whoever shows it must handle its events.

    Args:
        observation_space: tells one observation from a batch.
    """

    def __init__(self, observation_space: gym.Space) -> None:
        self.observation_space = observation_space

    def predict(
        self,
        observation: npt.NDArray[np.float32],
        state: PolicyState = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PolicyState]:
        """Return the action of the keys that are down, for every lane."""
        down = pygame.key.get_pressed()
        action = keys_action(*(down[key] for key in (pygame.K_LEFT, pygame.K_RIGHT, pygame.K_UP, pygame.K_DOWN)))
        return np.tile(action, (*lanes_of(observation, self.observation_space), 1)), state


class Screen(gym.Wrapper):
    """Hands an env's frames to a video, and lets the keys of its window end the episode.

    R truncates the episode; so does Esc or closing the window, which also sets `closed`.

    Args:
        env: with the render mode "human" or "rgb_array".
        video: takes a frame at each reset and step.
    """

    def __init__(self, env: gym.Env, video: Video | None = None) -> None:
        super().__init__(env)
        self.video, self.closed = video, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the env and show its first frame."""
        result = self.env.reset(seed=seed, options=options)
        self._record()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env, show the frame, and look at what happened to the window."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._record()
        for event in pygame.event.get() if self.render_mode == "human" else []:
            key = event.key if event.type == pygame.KEYDOWN else None
            self.closed |= event.type == pygame.QUIT or key == pygame.K_ESCAPE
            truncated |= self.closed or key == pygame.K_r
        return observation, reward, terminated, truncated, info

    def _record(self) -> None:
        if self.video is None:
            return
        if self.render_mode == "human":
            window: Any = pygame.display.get_surface()
            frame: Any = pygame.surfarray.array3d(window).swapaxes(0, 1)
        else:
            frame = self.env.render()
        self.video.add(frame)


def check(args: Args, render_mode: str) -> None:
    """Exit with a message if the arguments do not go together, or ask for a window where there is no display."""
    for name in ("env", "hands", "render_mode", "video", "episodes", "max_steps") if args.browser else ():
        if getattr(args, name) != getattr(Args, name):
            raise SystemExit(f"--browser and --{name} exclude each other: leave one out")
    for name, least in (("seed", 0), ("episodes", 1), ("max_steps", -1)):
        if (given := getattr(args, name)) < least:
            raise SystemExit(f"--{name} must be at least {least}, got {given}")
    if args.video is not None and args.video.suffix != ".mp4":
        raise SystemExit(f"--video must name an .mp4 file, got {args.video}")
    if args.hands and args.policy != Args.policy:
        raise SystemExit(f"--hands and --policy {args.policy} exclude each other: leave out the one that shan't drive")
    if args.hands and render_mode != "human":
        raise SystemExit(f"--hands takes its keys from a window, got --render_mode {render_mode}: leave that out")
    if render_mode == "human":
        pygame.display.init()
        if (driver := pygame.display.get_driver()) in NO_DISPLAY:
            raise SystemExit(
                f"a window needs a display, but SDL found none (its video driver is {driver!r}, "
                f"DISPLAY is {os.environ.get('DISPLAY')!r}): set DISPLAY, or record an agent with --video out.mp4"
            )


@contextmanager
def one_message() -> Iterator[None]:
    """Exit with the message of what can't be loaded."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error


def browse(args: Args) -> None:
    """Serve the page until Ctrl-C; beside --policy, the drivers that fit the world model can be chosen there."""
    from wm_gym.browser.server import serve
    from wm_gym.browser.session import Session

    policies = list(dict.fromkeys((args.policy, Args.policy, "scripted", "random")))
    if args.world_model != Args.world_model:
        policies.remove(Args.policy)  # it reads the latents of its own V
    new_session = partial(Session, args.world_model, policies, args.seed)
    with one_message():
        new_session().close()
    serve(new_session, args.port)


def main(args: Args) -> None:
    """Play the episodes and print what each came to.

    Raises:
        SystemExit: for arguments that can't be, see `check`, and what can't be loaded.
    """
    windowed = args.hands or (args.video is None and not args.browser)
    render_mode = args.render_mode or ("human" if windowed else "rgb_array")
    check(args, render_mode)
    torch.set_num_threads(1)  # single frames are too small to share, and a window must not wait for a busy core
    if args.browser:
        browse(args)
        return
    with one_message():
        kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": args.max_steps or None}
        env = gym.make(args.env, render_mode=render_mode, **kwargs)
        policy = Keyboard(env.observation_space) if args.hands else wm_gym.load_policy(args.policy, env, args.seed)
    recording = Video(args.video, env.metadata["render_fps"], "veryfast") if args.video else nullcontext()
    with recording as video, Screen(env, video) as screen:
        for episode in wm_gym.rollout(screen, policy, range(args.seed, args.seed + args.episodes)):
            lap = ", lap finished" if episode.finished else ""
            print(f"seed {episode.seed}: score {episode.score:.1f} in {episode.steps} steps{lap}", flush=True)
            if screen.closed:
                break


if __name__ == "__main__":
    try:
        import tyro

        main(tyro.cli(Args, description=__doc__))
    except ModuleNotFoundError as error:
        extras = {"train": ("tyro", "moviepy", "stable_baselines3"), "browser": ("starlette", "uvicorn", "websockets")}
        for extra, names in extras.items():
            if error.name in names:
                raise SystemExit(f'{error}: it comes with pip install "wm-gym[{extra}]"') from error
        raise
