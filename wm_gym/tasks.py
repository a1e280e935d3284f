"""The real env that a world model dreams of: what an artifact says of it, and how it is made.

Any Gymnasium env of Box or Discrete actions will do. One that does not observe pictures is seen as it renders itself.
What is CarRacing's own is in `wm_gym.car_racing`, but for what its pixels show, in `wm_gym.frames`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from wm_gym.actions import ActionConfig
from wm_gym.artifact import LARGEST_VALUE, build
from wm_gym.checks import check_render_mode

ENV_ID = re.compile(r"(?!GymV2)([\w-]+/)?[\w.-]+-v\d+")
"""What an env's id looks like in an artifact, which may come from anyone. "module:id" is refused, as gymnasium imports
that module for it, and so are its GymV21 and GymV26 envs, which import another library's."""
LARGEST_FRAME = 1 << 12
"""The greatest height or width of a frame."""
FINISHED = ("lap_finished", "is_success")
"""What envs call it in their info whether an end is a success; the first is CarRacing's."""
PACKAGES = "WM_GYM_PACKAGES"
"""Environment variable with packages, separated by commas, whose import registers envs. Processes that are started from
this one have it too; an artifact, which may come from anyone, can't name any."""
DEFAULT_LIMIT = 1000
"""Steps of an episode of an env that has no time limit of its own, where one is needed."""
RENDER_MODES = {"render_modes": ["rgb_array"]}
"""Of an env that is seen as it renders itself."""


@dataclass(frozen=True)
class TaskConfig:
    """What must be known of the real env to dream of it, and to make it.

    Attributes:
        env: its Gymnasium id. An env that needs wrappers is registered with them under an id of its own.
        actions: what it takes.
        frame: height and width of its frames.
        kwargs: of the env; strings, numbers, booleans and None.
        max_episode_steps: its time limit; None for none.
        fps: its steps per second.
        solved: score from which on an episode counts as solved; None where nobody has said.
        finished: what its info calls it whether an end is a success; None where the info does not say.

    Raises:
        ValueError: for anything else.
    """

    env: str
    actions: ActionConfig
    frame: tuple[int, int]
    kwargs: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    fps: int = 30
    solved: float | None = None
    finished: str | None = None

    def __post_init__(self) -> None:
        steps = 1 if self.max_episode_steps is None else self.max_episode_steps
        numbers = [] if self.solved is None else [self.solved]
        if not isinstance(self.env, str) or not ENV_ID.fullmatch(self.env):
            raise ValueError(f"env is {self.env!r}, expected the id of a registered env, such as Acrobot-v1")
        if len(self.frame) != 2 or not all(type(each) is int and 1 <= each <= LARGEST_FRAME for each in self.frame):
            raise ValueError(f"frame is {self.frame!r}, expected height and width from 1 to {LARGEST_FRAME}")
        if not all(type(each) is int and 1 <= each < 1 << 31 for each in (self.fps, steps)):
            raise ValueError(f"fps and max_episode_steps are whole numbers from 1, got {self.fps!r} and {steps!r}")
        if not isinstance(self.kwargs, dict) or not all(
            isinstance(key, str) and isinstance(value, (str, int, float, bool, type(None)))
            for key, value in self.kwargs.items()
        ):
            raise ValueError(f"kwargs are strings, numbers, booleans and None by their names, got {self.kwargs!r}")
        if not all(isinstance(each, (int, float)) and abs(each) <= LARGEST_VALUE for each in numbers):
            raise ValueError(f"solved is a score up to {LARGEST_VALUE}, got {self.solved!r}")
        if self.finished not in (None, *FINISHED):
            raise ValueError(f"finished is the name of an info, one of {FINISHED}, got {self.finished!r}")

    def limit(self, steps: int = 0) -> int:
        """Return how many steps an episode takes at most: so many, or for 0 the env's own limit, or 1000 without one.

        Raises:
            ValueError: for less than 0.
        """
        if steps < 0:
            raise ValueError(f"an episode has at least one step, or 0 for the limit of {self.env}, got {steps}")
        return steps or self.max_episode_steps or DEFAULT_LIMIT

    @classmethod
    def of(cls, env: str, **kwargs: Any) -> TaskConfig:
        """Return what an env says of itself.

        Args:
            env: its id, see `spec_of`.
            **kwargs: of the env.

        Raises:
            gymnasium.error.Error: for an id that is not registered.
            TypeError: for an env that neither observes pictures nor renders any.
            ValueError: for actions that lie neither in a flat, bounded Box nor in a Discrete space.
        """
        from wm_gym import car_racing

        if env == car_racing.CAR_RACING.env:
            if not kwargs:
                return car_racing.CAR_RACING
            actions = ActionConfig.of(car_racing.make(**kwargs).action_space)
            return replace(car_racing.CAR_RACING, kwargs=kwargs, actions=actions)
        spec = spec_of(env)
        made = observe_frames(spec, kwargs)
        height, width, _ = made.observation_space.shape
        found = cls(
            env=spec.id,
            actions=ActionConfig.of(made.action_space),
            frame=(height, width),
            kwargs=kwargs,
            max_episode_steps=spec.max_episode_steps,
            fps=int(made.metadata.get("render_fps") or 30),
            solved=spec.reward_threshold,
        )
        made.close()
        return found

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TaskConfig:
        """Build a config from JSON; raises TypeError or ValueError for what does not fit."""
        actions = dict(fields["actions"])
        bounds = {name: tuple(actions[name]) for name in ("low", "high")}
        return build(
            cls, {**fields, "frame": tuple(fields["frame"]), "actions": build(ActionConfig, {**actions, **bounds})}
        )


def make_env(task: TaskConfig, render_mode: str | None = None, fast: bool = True, **kwargs: Any) -> gym.Env:
    """Return the real env of a task, without its time limit; it observes uint8 frames ``(H, W, 3)``.

    Args:
        task: which.
        render_mode: of the env; one that is seen as it renders itself has "rgb_array" alone.
        fast: for CarRacing: draw the same pixels faster.
        **kwargs: of the env, beside the task's.

    Raises:
        gymnasium.error.Error: for an env that is not registered here.
        TypeError: for an env of other frames or actions than the task's.
        ValueError: for a render mode that it does not have.
    """
    from wm_gym import car_racing

    kwargs = {**task.kwargs, **kwargs}
    if task.env == car_racing.CAR_RACING.env:
        return car_racing.make(render_mode, fast, **kwargs)
    env = observe_frames(spec_of(task.env), kwargs, render_mode)
    if (env.observation_space.shape or ())[:2] != task.frame or env.action_space != task.actions.space:
        env.close()
        raise TypeError(
            f"{task.env} observes {env.observation_space} and takes {env.action_space} here, but the world model "
            f"was trained on frames of {task.frame} and {task.actions.space}"
        )
    return env


def spec_of(env: str) -> EnvSpec:
    """Return what is registered under an env's id, if need be by the packages that `PACKAGES` names.

    Raises:
        gymnasium.error.Error: for an id that is not registered.
        ImportError: for a package that is not there.
    """
    if env not in gym.registry:
        for package in filter(None, map(str.strip, os.environ.get(PACKAGES, "").split(","))):
            import_module(package)
    try:
        return gym.spec(env)
    except gym.error.UnregisteredEnv as error:
        hint = f"a package whose import registers it is named by the environment variable {PACKAGES}"
        raise type(error)(f"{error} ({hint}, now {os.environ.get(PACKAGES)!r})") from error


def observe_frames(spec: EnvSpec, kwargs: Mapping[str, Any], render_mode: str | None = None) -> Any:
    """Make an env without its time limit; what observes no pictures is seen as it renders itself."""
    settings: dict[str, Any] = {**kwargs, "max_episode_steps": -1, "disable_env_checker": True}
    mode: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    env = gym.make(spec, **settings, **mode)
    if is_frame(env.observation_space):
        return env
    modes = env.metadata.get("render_modes", [])
    env.close()
    check_render_mode(render_mode, RENDER_MODES)
    if "rgb_array" not in modes:
        raise TypeError(f"{spec.id} neither observes pictures nor renders any: its render modes are {modes}")
    env = gym.wrappers.AddRenderObservation(gym.make(spec, render_mode="rgb_array", **settings))
    if not is_frame(env.observation_space):
        raise TypeError(f"{spec.id} renders {env.observation_space}, expected uint8 frames (height, width, 3)")
    return env


def is_frame(space: gym.Space) -> bool:
    """Return whether a space is one of uint8 frames ``(H, W, 3)``."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3
