"""What is CarRacing's own: the task, its count of tiles and their pay, the arrow keys and a scripted driver.

The task is that of ``DreamCarRacing-v0`` and ``LatentCarRacing-v0``:

* Actions: steering from -1 (left) to 1, gas and brake from 0 to 1.
* Rewards: -0.1 a step, 1000 / N for each of the track's N tiles when it is first visited, -100 for leaving the
  playfield. A dream pays for the expected number of tiles, and N is the mean track length.
* Starting state: at rest on the track that the seed makes.
* End: when all tiles are visited, or the start is crossed after 95 % of them (``info["lap_finished"]`` is True; in a
  dream when it has paid for N tiles), or the car leaves the playfield (False). The time limit is 1000 steps.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from wm_gym.actions import ActionConfig
from wm_gym.checks import check_flag, check_number, check_render_mode
from wm_gym.policies import PolicyState, lanes_of
from wm_gym.reward import RewardConfig
from wm_gym.seeding import stream
from wm_gym.tasks import TaskConfig

CAR_RACING = TaskConfig(
    env="CarRacing-v3",
    actions=ActionConfig((-1.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    frame=(96, 96),
    max_episode_steps=1000,
    fps=50,
    solved=900.0,
    finished="lap_finished",
)
MIRRORED = (-1.0, 1.0, 1.0)
"""What each part of an action is multiplied by in a mirror."""

LAP, STEP, FAILURE = 1000.0, -0.1, -100.0
"""What all tiles of a lap pay together, what each step pays, and what the step pays that leaves the playfield."""


def lap_reward(tiles: float = 295.0) -> RewardConfig:
    """Return how dreams of a track of so many tiles pay: gains are tiles, and the end is a failure."""
    return RewardConfig(scale=LAP / tiles, per_step=STEP, end=FAILURE, goal=tiles)


SWITCHES = ("fast", "verbose", "domain_randomize", "continuous")
"""Arguments of `make` that are True or False."""


def make(render_mode: str | None = None, fast: bool = True, **kwargs: Any) -> gym.Env:
    """Return gymnasium's CarRacing-v3, without its time limit.

    Args:
        render_mode: CarRacing's own: None, "human", "rgb_array" or "state_pixels", the last two also with "_list".
        fast: draw the same pixels faster, with `FastCarRacing`; False for gymnasium's own drawing.
        **kwargs: CarRacing's, such as ``domain_randomize``.

    Raises:
        ValueError: for an unknown render mode, a ``lap_complete_percent`` that is no share, or a switch that is neither
            True nor False.
    """
    from wm_gym.envs.fast_car_racing import CheckedCarRacing, FastCarRacing

    single = render_mode.removesuffix("_list") if isinstance(render_mode, str) else render_mode
    check_render_mode(single, CheckedCarRacing.metadata)
    for name, value in {"fast": fast, **kwargs}.items():
        if name in SWITCHES:
            check_flag(name, value)
    # CarRacing reads it in the middle of a step
    check_number("lap_complete_percent", kwargs.get("lap_complete_percent", 0.95), 0, 1)
    env = (FastCarRacing if fast else CheckedCarRacing)(render_mode=single, **kwargs)
    return env if single == render_mode else gym.wrappers.RenderCollection(env)


def tiles(env: gym.Env) -> tuple[int, int] | None:
    """Return how many of how many tiles a CarRacing env has visited, None for another env."""
    car_racing: Any = env.unwrapped
    return (car_racing.tile_visited_count, len(car_racing.track)) if hasattr(car_racing, "tile_visited_count") else None


def keys_action(left: bool, right: bool, up: bool, down: bool) -> npt.NDArray[np.float32]:
    """Return the action ``(3,)`` for the arrow keys that are down: up gives gas, down brakes."""
    return np.array([float(right) - float(left), up, 0.8 * down], np.float32)  # a brake of 1 locks the wheels


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
        seed: int | None = None,
    ) -> None:
        self.env: Any = env.unwrapped
        self.observation_space = env.observation_space
        if not hasattr(self.env, "car"):
            raise TypeError(f"a scripted driver needs CarRacing's track and car, got {self.env}")
        self.top_speed, self.grip, self.braking, self.offset = top_speed, grip, braking, offset
        self.horizon, self.bend_gas, self.tremor = horizon, bend_gas, tremor
        self.rng = stream(seed, "tremor")

    @classmethod
    def varied(cls, env: gym.Env, seed: int | None) -> ScriptedDriver:
        """Return one of many drivers: slow and far too fast, careful and reckless, calm and with trembling hands.

        None looks for bends beyond what a frame shows. From drivers who do, a dream learns that fast cars meet no
        bends, and then its own fast cars meet none.
        """
        rng = stream(seed, "driver")
        return cls(
            env,
            top_speed=rng.uniform(25, 110),
            grip=rng.uniform(60, 200),
            braking=rng.uniform(20, 80),
            offset=rng.uniform(-5, 5),
            horizon=rng.uniform(14, 35),
            bend_gas=rng.uniform(0.1, 0.7),
            tremor=rng.uniform(0, 0.4),
            seed=seed,
        )

    def predict(
        self,
        observation: np.ndarray,
        state: PolicyState = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PolicyState]:
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
