"""Whatever drives: the policy protocol, and `load_policy` for controllers, SB3 models, scripted and random drivers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from wm_gym.actions import draw_action, rescale
from wm_gym.seeding import stream

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from wm_gym.world_model import WorldModel

PolicyState = tuple[np.ndarray, ...] | None
WEIGHTLESS = ("random", "scripted", "scripted-varied")
"""Names of policies that have no weights, for `load_policy`."""


@runtime_checkable
class Policy(Protocol):
    """Stable-Baselines3's ``predict``, on one observation or on a batch of them."""

    def predict(
        self,
        observation: np.ndarray,
        state: PolicyState = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PolicyState]:
        """Return the policy's action and its next recurrent state, for one observation or each of a batch.

        Args:
            observation: ``(D,)`` or ``(N, D)``.
            state: what the last call returned, None at first.
            episode_start: ``(N,)``, whether an observation is the first of its episode.
            deterministic: take the likeliest action, where the policy draws them.
        """
        ...


def lanes_of(observation: np.ndarray, space: gym.Space) -> tuple[int, ...]:
    """Return ``()`` for one observation of ``space`` and ``(n,)`` for a batch of n."""
    return np.shape(observation)[: np.ndim(observation) - len(space.shape or ())]


class RandomPolicy:
    """Uniform random actions.

    Args:
        observation_space: tells one observation from a batch.
        action_space: a bounded Box, or Discrete.
        seed: of the policy's own random stream.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, seed: int | None = None) -> None:
        draw_action(action_space, np.random.default_rng())  # refuses other spaces
        self.observation_space = observation_space
        self.space = action_space
        self.rng = stream(seed, "random actions")

    def predict(
        self,
        observation: np.ndarray,
        state: PolicyState = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PolicyState]:
        """Return one action for each observation."""
        return draw_action(self.space, self.rng, lanes_of(observation, self.observation_space)), state


class ActionBursts:
    """A policy disturbed by bursts of one random action each, so that data holds mistakes and recoveries.

    With ``rate=1`` nothing but random actions remains, each held for a while.

    Args:
        policy: whose actions are disturbed.
        action_space: a bounded Box, or Discrete.
        rate: probability that a burst starts at a step.
        length: a burst lasts 1 to this many steps.
        seed: of the bursts' random stream.
    """

    def __init__(
        self, policy: Policy, action_space: gym.Space, rate: float, length: int, seed: int | None = None
    ) -> None:
        draw_action(action_space, np.random.default_rng())  # refuses other spaces
        self.policy, self.space, self.rate, self.length = policy, action_space, rate, length
        self.rng = stream(seed, "bursts")
        self.left = 0
        self.burst: Any = None

    def predict(
        self,
        observation: np.ndarray,
        state: PolicyState = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PolicyState]:
        """Return the policy's action, or the burst's for every lane while one lasts."""
        action, state = self.policy.predict(observation, state, episode_start, deterministic)
        if self.left == 0 and self.rng.random() < self.rate:
            self.left = int(self.rng.integers(1, self.length + 1))
            self.burst = draw_action(self.space, self.rng)
        if self.left > 0:
            self.left -= 1
            action = np.broadcast_to(self.burst, np.shape(action)).copy()
        return action, state


def unit_box(space: gym.spaces.Box) -> gym.spaces.Box:
    """Return a Box of the same shape from -1 to 1."""
    return gym.spaces.Box(-1.0, 1.0, space.shape, np.float32)


class RescaledPolicy:
    """A policy that acts in a Box from -1 to 1, as agents of `wm_gym.sb3` do, mapped to the env's own Box."""

    def __init__(self, policy: Policy, action_space: gym.spaces.Box) -> None:
        self.policy, self.space = policy, action_space
        self.world_model_fingerprint = getattr(policy, "world_model_fingerprint", "")

    def predict(
        self,
        observation: np.ndarray,
        state: PolicyState = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PolicyState]:
        """Return the policy's action, mapped."""
        action, state = self.policy.predict(observation, state, episode_start, deterministic)
        return rescale(action, self.space), state


def spaces(env: gym.Env | VectorEnv) -> tuple[gym.Space, gym.Space]:
    """Return the spaces of an env's observations and actions, or those of one lane."""
    if isinstance(env, VectorEnv):
        return env.single_observation_space, env.single_action_space
    return env.observation_space, env.action_space


def world_model_of(env: gym.Env | VectorEnv) -> WorldModel | None:
    """Return the world model whose latents an env shows; None where that can't be told."""
    from wm_gym.world_model import WorldModel

    lanes = env.unwrapped
    if isinstance(lanes, SyncVectorEnv):
        return world_model_of(lanes.envs[0])
    if isinstance(lanes, AsyncVectorEnv):  # its envs are in other processes
        name = lanes.spec.kwargs.get("world_model") if lanes.spec else None
        return WorldModel.from_pretrained(name) if name else None
    if isinstance(env, gym.Env):
        found = env.get_wrapper_attr("world_model") if env.has_wrapper_attr("world_model") else None
    else:
        found = getattr(lanes, "world_model", None)
    return found if isinstance(found, WorldModel) else None


def fit(policy: Any, env: gym.Env | VectorEnv, name: str | Path = "given") -> Policy:
    """Return a policy for an env: an agent of Stable-Baselines3 that acts from -1 to 1 is mapped.

    Args:
        policy: a controller or an agent, which tell their spaces and may tell their world model by an attribute
            ``world_model_fingerprint``; any other is taken as it is.
        env: single or vectorised.
        name: of the policy, for messages.

    Raises:
        ValueError: when it was made for other spaces or another world model, or learnt from normalised observations.
    """
    fitting = _fit_spaces(policy, *spaces(env), name)
    if getattr(policy, "world_model_fingerprint", "") and (model := world_model_of(env)) is not None:
        check_world_model(policy, model, name)
    return fitting


def check_world_model(policy: Any, model: WorldModel, name: str | Path) -> None:
    """Raise ValueError for a policy that learnt on the latents of another world model, if it tells of which."""
    known = getattr(policy, "world_model_fingerprint", "")
    if known and known != model.fingerprint:
        raise ValueError(
            f"the policy {name} knows the latents of another world model ({known}) than of this one "
            f"({model.fingerprint}): give a policy that learnt on these, or its own world model"
        )


def _fit_spaces(policy: Any, observation_space: gym.Space, action_space: gym.Space, name: str | Path) -> Policy:
    from wm_gym.models.controller import Controller

    if isinstance(policy, Controller):
        config = policy.config
        if observation_space.shape != (config.observation_size,) or action_space != config.actions.space:
            raise ValueError(
                f"the controller {name} maps {config.observation_size} observations to {config.actions.space}, "
                f"but the env has {observation_space} and {action_space}: it drives with its own world model alone"
            )
        return policy
    if not (hasattr(policy, "observation_space") and hasattr(policy, "action_space")):
        return policy
    normalize = getattr(policy, "get_vec_normalize_env", lambda: None)()
    if normalize is not None and normalize.norm_obs:
        raise ValueError(
            f"the policy {name} learnt from normalised observations, and an env gives them as they are: train it with "
            "VecNormalize(..., norm_obs=False)"
        )
    seen = policy.observation_space == observation_space
    if seen and policy.action_space == action_space:
        return policy
    if seen and isinstance(action_space, gym.spaces.Box) and policy.action_space == unit_box(action_space):
        return RescaledPolicy(policy, action_space)
    raise ValueError(
        f"the policy {name} was trained on {policy.observation_space} and {policy.action_space}, "
        f"but the env has {observation_space} and {action_space}"
    )


def load_policy(name: str | Path, env: gym.Env | gym.vector.VectorEnv, seed: int | None = None) -> Policy:
    """Return the policy called ``name`` for ``env``.

    Args:
        name: "random", "scripted" or "scripted-varied" (privileged: read CarRacing's state; the seed draws one of
            many drivers), the name of a bundled controller ("car_racing"), a folder saved by `Controller.save` or
            the user/name of one on the Hugging Face Hub, which may come from anyone, or a Stable-Baselines3 ``.zip``,
            which may not: it holds pickles, and loading one runs whatever code is in it. Load only zips that you trust,
            of agents that learnt from observations as they are: a zip does not tell whether they were normalised.
        env: whose spaces it must fit, and whose world model if it tells its own; the scripted driver reads its state.
        seed: of a random policy's stream, and which of the varied drivers it is.

    Raises:
        FileNotFoundError: when there is no such zip.
        wm_gym.ArtifactError: when there is no such controller, or its files are not what they should be.
        ValueError: when the policy does not fit the env's spaces or world model, or a zip's name no algorithm.
        ImportError: when the package of a zip's algorithm is not installed.
        TypeError: for a scripted driver of another env than CarRacing.
    """
    if name == "random":
        return RandomPolicy(*spaces(env), seed)
    if name in ("scripted", "scripted-varied"):
        if isinstance(env, VectorEnv):
            raise ValueError("a scripted driver drives a single env")
        from wm_gym.car_racing import ScriptedDriver

        return ScriptedDriver(env) if name == "scripted" else ScriptedDriver.varied(env, seed)
    if str(name).endswith(".zip"):
        return fit(_load_sb3(Path(name)), env, name)
    from wm_gym.models.controller import Controller

    return fit(Controller.from_pretrained(name), env, name)


def _load_sb3(path: Path) -> BaseAlgorithm:
    """Load a model of the Stable-Baselines3 algorithm that its file name starts with (``ppo_dream.zip``).

    The zip's pickles run here, whatever they hold.
    """
    from wm_gym.sb3 import algorithm

    if not path.is_file():
        raise FileNotFoundError(f"no such policy file: {path}")
    try:
        kind = algorithm(path.stem.lower().split("_")[0])
    except ValueError as error:
        raise ValueError(
            f"can't tell the algorithm of {path} by the first word of its name, as in ppo_dream.zip: {error}"
        ) from error
    return kind.load(path, device="cpu")
