"""A Gymnasium vector env as a Stable-Baselines3 VecEnv: hundreds of dreams under one agent.

from stable_baselines3 import PPO
from wm_gym.sb3 import make_sb3_vec

agent = PPO("MlpPolicy", make_sb3_vec("DreamCarRacing-v0", 256), n_steps=64, batch_size=1024).learn(1_000_000)
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from wm_gym.actions import rescale
from wm_gym.evaluate import make_lanes
from wm_gym.policies import unit_box

ALGORITHMS = {
    "stable_baselines3": ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3"),
    "sb3_contrib": ("ARS", "CrossQ", "QRDQN", "RecurrentPPO", "TQC", "TRPO"),
}
"""Packages and their algorithms. DQN and QRDQN are for choices, DDPG, TD3, SAC, TQC and CrossQ for continuous actions,
the others for both."""


def algorithm(name: str) -> type[BaseAlgorithm]:
    """Return the algorithm of Stable-Baselines3 or sb3-contrib called ``name``, in small letters.

    Raises:
        ValueError: for an unknown name.
        ImportError: for an algorithm whose package is not installed.
    """
    for package, names in ALGORITHMS.items():
        for each in names:
            if each.lower() == name:
                try:
                    return getattr(import_module(package), each)
                except ImportError as error:
                    raise ImportError(f"{each} is in {package}: pip install {package.replace('_', '-')}") from error
    known = sorted(each.lower() for names in ALGORITHMS.values() for each in names)
    raise ValueError(f"there is no algorithm {name!r}: choose one of {', '.join(known)}")


def make_sb3_vec(env_id: str, num_envs: int = 1, rescale_actions: bool = True, **kwargs: Any) -> VecEnv:
    """Return lanes of an env for Stable-Baselines3, in a `VecMonitor`, so that it logs what episodes pay.

    The dream's lanes share one batched network; the real env gets a process for each lane, if there are several.

    Args:
        env_id: "DreamCarRacing-v0", "LatentCarRacing-v0" or another id.
        num_envs: number of lanes.
        rescale_actions: see `SB3VecEnv`.
        **kwargs: of the env.
    """
    return VecMonitor(SB3VecEnv(make_lanes(env_id, num_envs, **kwargs), rescale_actions))


class SB3VecEnv(VecEnv):
    """A Gymnasium vector env under Stable-Baselines3's contract.

    A lane whose episode is over is reset at once: what it saw last is ``info["terminal_observation"]``, and
    ``info["TimeLimit.truncated"]`` says whether only the time limit ended it, so that values are bootstrapped there.

    Args:
        envs: with autoreset DISABLED or SAME_STEP; it returns a new array of observations at each step.
        rescale_actions: show the agent a Box from -1 to 1 instead of the env's own bounded Box: most algorithms begin
            with actions around 0, which must not be the bound of gas and brake. Choices stay as they are.

    Raises:
        ValueError: for a vector env of autoreset mode NEXT_STEP or of ``copy=False``, and for rescaling an unbounded
            Box.
    """

    def __init__(self, envs: VectorEnv, rescale_actions: bool = True) -> None:
        self.envs = envs
        self.autoreset_mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            raise ValueError(
                "autoreset mode NEXT_STEP makes a transition of every reset, which Stable-Baselines3 would learn from: "
                'make the vector env with autoreset_mode="SAME_STEP" or "DISABLED"'
            )
        if not getattr(envs.unwrapped, "copy", True):
            raise ValueError(
                "Stable-Baselines3 keeps an observation beyond the next step, and this vector env overwrites it then: "
                "make it with copy=True"
            )
        space: gym.Space = envs.single_action_space
        self.box: gym.spaces.Box | None = None
        if rescale_actions and not isinstance(space, gym.spaces.Discrete):
            if not isinstance(space, gym.spaces.Box) or not space.is_bounded():
                raise ValueError(f"only a bounded Box can be rescaled, got {space}: pass rescale_actions=False")
            self.box, space = space, unit_box(space)
        self.actions: np.ndarray = np.zeros(0)
        super().__init__(envs.num_envs, envs.single_observation_space, space)
        self.metadata = dict(envs.metadata)  # a video is as fast as the env

    def reset(self) -> VecEnvObs:
        """Reset all lanes with the seeds and options that were set for them, once.

        Raises:
            ValueError: for options that differ from lane to lane.
        """
        if any(options != self._options[0] for options in self._options):
            raise ValueError(f"the lanes of one vector env share their reset options, got {self._options}")
        seeds: Any = list(self._seeds)
        observation, infos = self.envs.reset(seed=seeds, options=dict(self._options[0]) or None)
        self.reset_infos = [lane_info(infos, lane) for lane in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self.actions = actions if self.box is None else rescale(actions, self.box)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all lanes, and reset those that are over."""
        observation, reward, terminated, truncated, batched = self.envs.step(self.actions)
        over = np.logical_or(terminated, truncated)
        infos = [lane_info(batched, lane) for lane in range(self.num_envs)]
        for lane in np.flatnonzero(over):
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                self.reset_infos[lane] = {k: v for k, v in infos[lane].items() if k not in ("final_obs", "final_info")}
                infos[lane] = {**infos[lane]["final_info"], "terminal_observation": infos[lane]["final_obs"]}
            else:
                infos[lane]["terminal_observation"] = observation[lane].copy()
        if over.any() and self.autoreset_mode == AutoresetMode.DISABLED:
            observation, batched = self.envs.reset(options={"reset_mask": over.copy()})
            for lane in np.flatnonzero(over):
                self.reset_infos[lane] = lane_info(batched, int(lane))
        for info, cut, ended in zip(infos, truncated, terminated, strict=True):
            info["TimeLimit.truncated"] = bool(cut and not ended)
        return observation, np.asarray(reward, dtype=np.float32), over, infos

    def close(self) -> None:
        """Close the vector env."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a frame of each lane, for "rgb_array"."""
        frames: Any = self.envs.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each lane, below wrappers of all; lanes of one batched env share its attributes."""
        envs = self.envs.unwrapped
        if isinstance(envs, (SyncVectorEnv, AsyncVectorEnv)):
            values = envs.get_attr(attr_name)
        else:
            values = (getattr(envs, attr_name),) * self.num_envs
        return [values[lane] for lane in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of lanes, below wrappers of all.

        Raises:
            ValueError: for some lanes only of an env whose lanes share their attributes.
        """
        envs, chosen = self.envs.unwrapped, list(self._get_indices(indices))
        if isinstance(envs, SyncVectorEnv):
            for lane in chosen:
                envs.envs[lane].set_wrapper_attr(attr_name, value)
        elif isinstance(envs, AsyncVectorEnv):
            values = list(envs.get_attr(attr_name))
            for lane in chosen:
                values[lane] = value
            envs.set_attr(attr_name, values)
        elif len(chosen) < self.num_envs:
            raise ValueError(f"the lanes of {type(envs).__name__} share their attributes: set {attr_name!r} in all")
        else:
            setattr(envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each lane; of a batched env once, whose answer is given for each lane.

        Raises:
            ValueError: for some lanes only of an env whose lanes are in processes or one batch.
        """
        envs, chosen = self.envs.unwrapped, list(self._get_indices(indices))
        if isinstance(envs, SyncVectorEnv):
            return [envs.envs[lane].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for lane in chosen]
        if len(chosen) < self.num_envs:
            raise ValueError(f"{type(envs).__name__} calls {method_name!r} in all lanes or in none")
        if isinstance(envs, AsyncVectorEnv):
            return list(envs.call(method_name, *method_args, **method_kwargs))
        return [getattr(envs, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return whether each lane has a wrapper; lanes in processes or one batch show none."""
        envs, singles = self.envs.unwrapped, list(self._get_indices(indices))
        if not isinstance(envs, SyncVectorEnv):
            return [False for _ in singles]
        return [is_wrapped(envs.envs[lane], wrapper_class) for lane in singles]


def lane_info(infos: dict[str, Any], lane: int) -> dict[str, Any]:
    """Return one lane's info of a Gymnasium vector env's batched infos."""
    found = {}
    for key, value in infos.items():
        if key.startswith("_") or not infos.get(f"_{key}", np.ones(lane + 1, dtype=bool))[lane]:
            continue
        if isinstance(value, dict):
            found[key] = lane_info(value, lane)
        else:
            found[key] = value[lane].copy() if isinstance(value[lane], np.ndarray) else value[lane]
    return found
