"""Envs as an agent is trained in them: what their pay counts, and a hand that trembles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorActionWrapper, VectorEnv, VectorRewardWrapper

from training import gradient
from wm_gym.actions import draw_action
from wm_gym.envs.dream_vector import DreamVectorEnv
from wm_gym.evaluate import make_lanes
from wm_gym.registration import env_ids
from wm_gym.seeding import stream
from wm_gym.world_model import WorldModel


def make_weighed(env_id: str, lanes: int, objective: gradient.Objective, world_model: str, **kwargs: Any) -> VectorEnv:
    """Return lanes of an env, as `wm_gym.evaluate.make_lanes` makes them, that pay what counts.

    Raises:
        ValueError: for the real env and an objective that does not count all pay, where tiles come one by one, or that
            has a price of doubt; for a pace where nothing is counted; or for such a price, and a world model that
            nothing doubts.
    """
    if env_id == env_ids(world_model)[1] and (objective.beyond != 1 or objective.doubt):
        raise ValueError(
            "only a dream's pay, an expectation, can be weighed step by step, and only a dream be doubted: use "
            "--objective.beyond 1 --objective.doubt 0"
        )
    if objective.beyond != 1 and WorldModel.from_pretrained(world_model).config.reward.goal is None:
        raise ValueError("only a lap has a pace beyond which pay counts otherwise: use --objective.beyond 1")
    if objective.doubt:
        kwargs["disagreement_limit"] = np.inf
    envs = make_lanes(env_id, lanes, world_model=world_model, **kwargs)
    return envs if objective.beyond == 1 and not objective.doubt else Weighed(envs, objective)


class Weighed(VectorRewardWrapper):
    """Pays what an objective counts.

    Args:
        env: lanes of a dream with autoreset disabled, which tells its disagreement if that has a price.
        objective: what counts.
    """

    def __init__(self, env: VectorEnv, objective: gradient.Objective) -> None:
        super().__init__(env)
        assert isinstance(env.unwrapped, DreamVectorEnv)
        self.objective, self.dream = objective, env.unwrapped.dream

    def rewards(self, rewards: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what counts of the pay of a step, ``(N,)``."""
        per_step = self.dream.reward.per_step
        counted = self.objective.weigh(rewards - per_step) + per_step
        if self.dream.disagreement is not None:
            counted -= self.objective.doubt * self.dream.disagreement
        return counted


class Tremble(VectorActionWrapper):
    """Makes the hand on the wheel tremble, as gradients do (see `gradient.Args.disturbance`).

    Where there are choices, the hand slips: it takes any of them.

    Args:
        env: lanes with a Box of actions, or with choices.
        disturbance: standard deviation, as a share of half the actions' range; of choices, the probability of a slip.
        alike: every so many lanes the tremble is the same again, so that members of a population can be compared.
        seed: of the tremble.
    """

    def __init__(self, env: VectorEnv, disturbance: float, alike: int, seed: int = 0) -> None:
        super().__init__(env)
        space = env.action_space
        self._disturbance, self._rng, self._alike = disturbance, stream(seed, "tremble"), alike
        self._tremble = np.zeros(space.shape or (), np.float32)
        if isinstance(space, Box):
            self._low, self._high = space.low, space.high
            self._size = disturbance * (space.high - space.low) / 2

    def actions(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return disturbed actions within their bounds."""
        if isinstance(self.single_action_space, Discrete):
            slips = self._rng.random(self._alike) < self._disturbance
            others = draw_action(self.single_action_space, self._rng, (self._alike,))
            return np.where(np.resize(slips, actions.shape), np.resize(others, actions.shape), actions)
        shock = self._rng.standard_normal((self._alike, self._tremble.shape[1]), np.float32)
        shock = np.resize(shock, self._tremble.shape)
        self._tremble = gradient.TREMBLE * self._tremble + (1 - gradient.TREMBLE**2) ** 0.5 * shock
        return np.clip(actions + self._size * self._tremble, self._low, self._high)
