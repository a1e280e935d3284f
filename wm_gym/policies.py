"""Whatever drives: the policy protocol, and `load_policy` for controllers, SB3 models, scripted and random drivers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from wm_gym.actions import rescale

State = tuple[np.ndarray, ...] | None
WEIGHTLESS = ("random", "scripted", "scripted-varied")
"""Names of policies that have no weights, for `load_policy`."""


@runtime_checkable
class Policy(Protocol):
    """Stable-Baselines3's ``predict``, on one observation or on a batch of them."""

    def predict(
        self,
        observation: np.ndarray,
        state: State = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, State]:
        """Return the action (or one per observation of a batch) and the policy's next recurrent state."""
        ...


def lanes_of(observation: np.ndarray, space: gym.Space) -> tuple[int, ...]:
    """Return ``()`` for one observation of ``space`` and ``(n,)`` for a batch of n."""
    return np.shape(observation)[: np.ndim(observation) - len(space.shape or ())]


class RandomPolicy:
    """Uniform random actions.

    Args:
        observation_space: tells one observation from a batch.
        action_space: a bounded Box.
        seed: of the policy's own random stream.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.spaces.Box, seed: int | None = None) -> None:
        self.observation_space = observation_space
        self.space = action_space
        self.rng = np.random.default_rng(seed)

    def predict(
        self,
        observation: np.ndarray,
        state: State = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, State]:
        """Return one action for each observation."""
        lanes = lanes_of(observation, self.observation_space)
        action = self.rng.uniform(self.space.low, self.space.high, size=(*lanes, *self.space.shape))
        return action.astype(np.float32), state


class ScriptedDriver:
    """A pure-pursuit driver that reads the track and the car's pose from CarRacing itself.

    It sees what an agent does not, so everything trained on its drives is labelled "privileged".

    Args:
        env: a CarRacing env, wrapped or not.
        top_speed: in metres per second.
        grip: lateral acceleration that it trusts in a bend, in metres per second squared.
        braking: deceleration that it trusts before a bend, in metres per second squared.
        offset: how far it keeps to the right of the road's middle, in metres; the road is 13.3 m wide.
        horizon: how far ahead it looks for bends, in metres, at least 7; a frame shows 37.
        bend_gas: most gas that it gives while it steers hard.
        tremor: standard deviation of the noise on its steering and gas.
        seed: of that noise.

    Raises:
        TypeError: for an env that has no track and car.
    """

    def __init__(
        self,
        env: gym.Env,
        top_speed: float = 70.0,
        grip: float = 120.0,
        braking: float = 40.0,
        offset: float = 0.0,
        horizon: float = 140.0,
        bend_gas: float = 0.3,
        tremor: float = 0.0,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.env: Any = env.unwrapped
        self.observation_space = env.observation_space
        if not hasattr(self.env, "car"):
            raise TypeError(f"a scripted driver needs CarRacing's track and car, got {self.env}")
        self.top_speed, self.grip, self.braking, self.offset = top_speed, grip, braking, offset
        self.horizon, self.bend_gas, self.tremor = horizon, bend_gas, tremor
        self.rng = np.random.default_rng(seed)

    @classmethod
    def varied(cls, env: gym.Env, seed: int | None) -> ScriptedDriver:
        """Return one of many drivers: slow and far too fast, careful and reckless, calm and with trembling hands.

        None looks for bends beyond what a frame shows. From drivers who do, a dream learns that fast cars meet no
        bends, and then its own fast cars meet none.
        """
        rng = np.random.default_rng(seed)
        return cls(
            env,
            top_speed=rng.uniform(25, 110),
            grip=rng.uniform(60, 200),
            braking=rng.uniform(20, 80),
            offset=rng.uniform(-5, 5),
            horizon=rng.uniform(14, 35),
            bend_gas=rng.uniform(0.1, 0.7),
            tremor=rng.uniform(0, 0.4),
            seed=rng.spawn(1)[0],
        )

    def predict(
        self,
        observation: np.ndarray,
        state: State = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, State]:
        """Return the action for the env's present state; the observation is not looked at."""
        track = np.array(self.env.track)  # (N, 4): alpha, heading, x, y of each tile
        hull = self.env.car.hull
        speed = hull.linearVelocity.length
        offsets = track[:, 2:4] - np.array(hull.position)
        nearest = int(np.argmin((offsets**2).sum(axis=1)))

        ahead = (nearest + int(2.5 + 0.08 * speed)) % len(track)
        right = np.array([math.cos(track[ahead, 1]), math.sin(track[ahead, 1])])
        target = offsets[ahead] + self.offset * right
        forward = np.array(hull.GetWorldVector((0, 1)))
        angle = math.atan2(forward[0] * target[1] - forward[1] * target[0], float(forward @ target))

        tile = 3.5  # metres
        heading = track[(nearest + np.arange(round(self.horizon / tile))) % len(track), 1]
        turns = (np.diff(heading) + np.pi) % (2 * np.pi) - np.pi
        window = min(8, len(turns))  # tiles of a bend
        curvature = np.abs(np.convolve(turns, np.ones(window) / window, "valid")) / tile
        distance = tile * np.arange(len(curvature))
        allowed = np.sqrt(self.grip / np.maximum(curvature, 1e-3) + 2 * self.braking * distance).min()
        missing = min(self.top_speed, float(allowed)) - speed

        gas = np.clip(0.2 * missing, 0, self.bend_gas if abs(angle) > 0.3 else 1)
        brake = np.clip(-0.05 * missing, 0, 0.8)
        steering, gas = self.tremor * self.rng.standard_normal(2) + (-angle, gas)
        action = np.clip((steering, gas, brake), (-1, 0, 0), 1).astype(np.float32)
        return np.broadcast_to(action, (*lanes_of(observation, self.observation_space), 3)).copy(), state


class ActionBursts:
    """A policy disturbed by bursts of one random action each, so that data holds mistakes and recoveries.

    With ``rate=1`` nothing but random actions remains, each held for a while.

    Args:
        policy: whose actions are disturbed.
        action_space: a bounded Box.
        rate: probability that a burst starts at a step.
        length: a burst lasts 1 to this many steps.
        seed: of the bursts' random stream.
    """

    def __init__(
        self, policy: Policy, action_space: gym.Space, rate: float, length: int, seed: int | None = None
    ) -> None:
        if not isinstance(action_space, gym.spaces.Box):
            raise ValueError(f"bursts need a Box of actions, got {action_space}")
        self.policy, self.space, self.rate, self.length = policy, action_space, rate, length
        self.rng = np.random.default_rng(seed)
        self.left = 0
        self.burst = np.zeros(action_space.shape, dtype=np.float32)

    def predict(
        self,
        observation: np.ndarray,
        state: State = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, State]:
        """Return the policy's action, or the burst's for every lane while one lasts."""
        action, state = self.policy.predict(observation, state, episode_start, deterministic)
        if self.left == 0 and self.rng.random() < self.rate:
            self.left = int(self.rng.integers(1, self.length + 1))
            self.burst = self.rng.uniform(self.space.low, self.space.high).astype(np.float32)
        if self.left > 0:
            self.left -= 1
            action = np.broadcast_to(self.burst, np.shape(action)).copy()
        return action, state


class RescaledPolicy:
    """A policy that acts in a Box from -1 to 1, as agents of `wm_gym.sb3` do, mapped to the env's own Box."""

    def __init__(self, policy: Policy, action_space: gym.spaces.Box) -> None:
        self.policy, self.space = policy, action_space

    def predict(
        self,
        observation: np.ndarray,
        state: State = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, State]:
        """Return the policy's action, mapped."""
        action, state = self.policy.predict(observation, state, episode_start, deterministic)
        return rescale(action, self.space), state


def load_policy(name: str | Path, env: gym.Env | gym.vector.VectorEnv, seed: int | None = None) -> Policy:
    """Return the policy called ``name`` for ``env``.

    Args:
        name: "random", "scripted" or "scripted-varied" (privileged: read CarRacing's state; the seed draws one of
            many drivers), the name of a bundled controller ("car_racing"), a folder saved by `Controller.save` or
            the user/name of one on the Hugging Face Hub, which may come from anyone, or a Stable-Baselines3 ``.zip``,
            which may not: it holds pickles, and loading one runs whatever code is in it. Load only zips that you trust.
        env: whose spaces the policy must fit; the scripted driver reads its state.
        seed: of a random policy's stream, and which of the varied drivers it is.

    Raises:
        FileNotFoundError: when there is no such zip.
        wm_gym.ArtifactError: when there is no such controller, or its files are not what they should be.
        ValueError: when the policy does not fit the env's spaces.
    """
    if isinstance(env, gym.vector.VectorEnv):
        observation_space, action_space = env.single_observation_space, env.single_action_space
    else:
        observation_space, action_space = env.observation_space, env.action_space
    if not isinstance(action_space, gym.spaces.Box):
        raise ValueError(f"policies act in a Box, got an env of {action_space}")
    if name == "random":
        return RandomPolicy(observation_space, action_space, seed)
    if name in ("scripted", "scripted-varied"):
        if isinstance(env, gym.vector.VectorEnv):
            raise ValueError("a scripted driver drives a single env")
        return ScriptedDriver(env) if name == "scripted" else ScriptedDriver.varied(env, seed)
    if str(name).endswith(".zip"):
        return _load_sb3(Path(name), observation_space, action_space)
    from wm_gym.models.controller import Controller

    controller = Controller.from_pretrained(name)
    config = controller.config
    acts = gym.spaces.Box(np.array(config.low, np.float32), np.array(config.high, np.float32))
    if observation_space.shape != (config.observation_size,) or action_space != acts:
        raise ValueError(
            f"the controller {name} maps {config.observation_size} observations to {acts}, "
            f"but the env has {observation_space} and {action_space}"
        )
    return controller


def _load_sb3(path: Path, observation_space: gym.Space, action_space: gym.spaces.Box) -> Policy:
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
    model: Any = kind.load(path, device="cpu")
    if model.observation_space == observation_space and model.action_space == action_space:
        return model
    if model.observation_space == observation_space and model.action_space == gym.spaces.Box(-1, 1, action_space.shape):
        return RescaledPolicy(model, action_space)
    raise ValueError(
        f"{path} was trained on {model.observation_space} and {model.action_space}, "
        f"but the env has {observation_space} and {action_space}"
    )
