"""What the page shows: one dream and one real car that take the same actions."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

import wm_gym
from wm_gym.car_racing import keys_action
from wm_gym.checks import check_number
from wm_gym.dream import Dream
from wm_gym.dream_state import STATE_LIMIT, DreamState
from wm_gym.policies import PolicyState

HANDS = "you"
"""The driver at the keys."""
BRANCHES = 9
"""Moments kept at most; the oldest makes room."""
REPLAY_STEPS = 4
"""Steps that the real car makes in a tick while it drives back to a branch."""


class Drive:
    """One of the two drives and what it came to.

    Attributes:
        observation: ``[z, h]``, of which z may have been changed by hand.
        score: sum of rewards.
        reward: of the last step; None before the first.
        outcome: how it ended; None while it runs.
    """

    def __init__(self, env: gym.Env) -> None:
        self.env = env

    def reset(self, score: float = 0.0, **kwargs: Any) -> None:
        """Reset the env and count on from a score."""
        self.observation, _ = self.env.reset(**kwargs)
        self.score = score
        self.reward: float | None = None
        self.outcome: str | None = None

    def step(self, action: npt.NDArray[np.float32]) -> None:
        """Step the env, unless its episode is over."""
        if self.outcome is not None:
            return
        self.observation, reward, terminated, _, info = self.env.step(action)
        self.reward = float(reward)
        self.score += self.reward
        if terminated:
            self.outcome = "finished the lap" if info["lap_finished"] else "left the playfield"


@dataclass(frozen=True)
class Branch:
    """A moment to return to: the dream's state, and how the real car came there.

    Attributes:
        dream: the dream's state.
        scores: of the dream and the real car.
        track: seed of the real track.
        actions: that the real car took on it so far.
        clock: steps since the track began.
        parted: clock at which the dream began at the real car's moment, if it did.
    """

    dream: DreamState
    scores: tuple[float, float]
    track: int
    actions: list[tuple[float, ...]]
    clock: int
    parted: int | None


class Session:
    """A dream and a real car under the same actions, with a driver and moments to return to.

    The page's commands are methods; `tick` goes on by a step. A real car can't be copied as a dream can:
    to return to a branch, it drives again what it had driven, some steps in a tick.

    Args:
        world_model: bundled name, folder, or user/name on the Hugging Face Hub.
        policies: whatever `wm_gym.load_policy` takes; the first drives at the beginning.
        seed: of the first track and of all noise.
    """

    def __init__(
        self, world_model: str = "car_racing", policies: Sequence[str] = ("car_racing",), seed: int = 1_000_000
    ) -> None:
        settings: dict[str, Any] = {"world_model": world_model, "max_episode_steps": -1}
        self.dream = Drive(gym.make("DreamCarRacing-v0", **settings))
        self.real = Drive(gym.make("LatentCarRacing-v0", **settings))
        self.simulator: Dream = self.dream.env.get_wrapper_attr("dream")
        self.policies = {name: wm_gym.load_policy(name, self.real.env, seed) for name in policies}
        self.rng = np.random.default_rng(seed)
        self.driver, self.watched = next(iter(self.policies), HANDS), "dream"
        self.keys = (False, False, False, False)
        self.held: dict[int, float] = {}
        self.branches: dict[int, Branch] = {}
        self.made = 0
        self.actions: list[tuple[float, ...]] = []
        self.replay: deque[tuple[float, ...]] = deque()
        self.parted: int | None = None
        self.policy_state: PolicyState = None
        self.paused = False
        self.start_track(seed)

    @property
    def idle(self) -> bool:
        """Whether nothing moves until the next command."""
        return self.paused and not self.replay

    # --- commands of the page; each raises ValueError for what can't be, and has changed nothing then ---------------

    def press(self, left: bool, right: bool, up: bool, down: bool) -> None:
        """Take the keys that are down; any of them takes the wheel."""
        self.keys = (left, right, up, down)
        if any(self.keys):
            self.drive(HANDS)

    def drive(self, driver: str) -> None:
        """Let `HANDS` or one of the policies drive."""
        if driver != HANDS and driver not in self.policies:
            raise ValueError(f"the driver must be one of {[HANDS, *self.policies]}, got {driver!r}")
        if driver != self.driver:
            self.driver, self.policy_state, self.fresh = driver, None, True

    def watch(self, drive: str) -> None:
        """Let the policy see the "dream" or the "real" car."""
        if drive not in ("dream", "real"):
            raise ValueError(f"a policy watches 'dream' or 'real', got {drive!r}")
        self.watched = drive

    def sample(self, temperature: float, sampling: str) -> None:
        """Choose the dream's temperature and sampling."""
        self.simulator.set_sampling(temperature, sampling)

    def pause(self, paused: bool) -> None:
        """Stop or go on."""
        if not paused and self.dream.outcome and self.real.outcome:
            raise ValueError("both drives are over: start a track, dream on, or return to a branch")
        self.paused = paused

    def advance(self) -> None:
        """Pause and make one step."""
        self.paused = True
        self._step()

    def start_track(self, seed: int) -> None:
        """Put the real car on a track and let the dream begin there."""
        if seed < 0:
            raise ValueError(f"tracks have seeds from 0, got {seed}")
        self.track, self.actions, self.clock = seed, [], 0
        self.replay.clear()
        self.real.reset(seed=seed)
        self.dream_on()

    def dream_on(self) -> None:
        """Let the dream begin at the real car's present moment, with its score."""
        if self.replay:
            raise ValueError("the real car still drives back to the branch: wait until it is there")
        if self.real.outcome:
            raise ValueError("the real drive is over: start a track, or return to a branch")
        state = self.real.env.get_wrapper_attr("get_state")()
        self._dream(self.real.score, options={"state": state}, seed=self._noise())
        self.parted = self.clock

    def start_dream(self, start: int) -> None:
        """Let the dream begin at a stored real moment; the real car stays where it is."""
        self._dream(0.0, options={"start": start}, seed=self._noise())
        self.parted = None

    def branch(self) -> None:
        """Keep the present moment to return to."""
        if self.dream.outcome:
            raise ValueError("the dream is over: nothing branches off from here")
        if self.replay:
            raise ValueError("the real car still drives back to the branch: wait until it is there")
        self.made += 1
        self.branches[self.made] = Branch(
            self.dream.env.get_wrapper_attr("get_state")(),
            (self.dream.score, self.real.score),
            self.track,
            list(self.actions),
            self.clock,
            self.parted,
        )
        if len(self.branches) > BRANCHES:
            del self.branches[min(self.branches)]

    def go_back(self, branch: int, other: bool) -> None:
        """Return to a branch: into the same future if the actions are the same, or into another one."""
        if branch not in self.branches:
            raise ValueError(f"branches are {list(self.branches)}, got {branch}")
        moment = self.branches[branch]
        if (moment.track, moment.actions) != (self.track, self.actions) or self.replay:
            self.real.reset(seed=moment.track)
            self.replay = deque(moment.actions)
        self.track, self.actions, self.clock = moment.track, list(moment.actions), moment.clock
        self._dream(moment.scores[0], options={"state": moment.dream}, seed=self._noise() if other else None)
        self.parted = moment.parted

    def hold(self, latent: int, value: float) -> None:
        """Give a latent of the dream a value, now and after each step until it is released."""
        size = self.simulator.z.shape[1]
        check_number("latent", latent, 0, size - 1)
        check_number("value", value, -STATE_LIMIT, STATE_LIMIT)
        self.held[latent] = float(value)
        self._hold()

    def release(self, latent: int) -> None:
        """Leave a latent to the memory again."""
        self.held.pop(latent, None)

    # --- what happens ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Go on by a step, unless paused."""
        if self.replay:
            for _ in range(min(REPLAY_STEPS, len(self.replay))):
                self.real.step(np.array(self.replay.popleft(), np.float32))
        elif not self.paused:
            self._step()

    def close(self) -> None:
        """Close both envs."""
        self.dream.env.close()
        self.real.env.close()

    def _step(self) -> None:
        """Let the driver act on both drives; pause where one ends."""
        ended = (self.dream.outcome, self.real.outcome)
        if self.replay or all(ended):
            return
        self.action = self._act()
        if self.real.outcome is None:
            self.actions.append(tuple(self.action.tolist()))
        self.dream.step(self.action)
        self.real.step(self.action)
        self._hold()
        self.clock += 1
        self.paused |= ended != (self.dream.outcome, self.real.outcome)

    def _act(self) -> npt.NDArray[np.float32]:
        """Return the driver's action; a policy whose drive is over sees the other one."""
        if self.driver == HANDS:
            return keys_action(*self.keys)
        drives = {"dream": self.dream, "real": self.real}
        seen = drives.pop(self.watched)
        if seen.outcome:
            (seen,) = drives.values()
        action, self.policy_state = self.policies[self.driver].predict(
            seen.observation, self.policy_state, np.array([self.fresh]), deterministic=True
        )
        self.fresh = False
        return action

    def _dream(self, score: float, **kwargs: Any) -> None:
        """Begin a dream and let the driver begin with it."""
        self.dream.reset(score, **kwargs)
        self.policy_state, self.fresh = None, True
        self.action = np.zeros(3, np.float32)

    def _noise(self) -> int:
        return int(self.rng.integers(2**31))

    @torch.inference_mode()
    def _hold(self) -> None:
        for latent, value in self.held.items():
            self.simulator.z[0, latent] = value
        if self.held:
            self.dream.observation = self.simulator.observation[0]
