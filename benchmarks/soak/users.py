"""Wild users: does each senseless call get a clear error, and leave the env as it was?

Every env is there twice, side by side. One gets a wild call, then both get the same valid ones, and must return the
same bytes. An error is clear if it is a ValueError, a TypeError or one of gymnasium's, and a ``raise`` of this package
or of gymnasium wrote its words, not one of numpy or torch.

Two slips of gymnasium's own are left out: its `TimeLimit` counts from zero after any call of ``reset``, a refused one
too (so the single envs here have none), and its env checker stumbles over a refused very first ``reset``.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.error import ClosedEnvironmentError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

import wm_gym
from benchmarks.soak import calls
from wm_gym.world_model import WorldModel

ENVS = ("dream", "dream", "dreams", "dreams", "real")
"""The dream, its vector env, and the real env: a fifth of the cases, as it takes nearly all of the time."""

KINDS = ("action", "options", "seed", "argument", "order")
OURS = tuple(f"{Path(str(package.__file__)).parent}{os.sep}" for package in (wm_gym, gym))
CLEAR = (ValueError, TypeError, gym.error.Error, ClosedEnvironmentError)


def run(cases: int, seed: int, world_model: str = "car_racing") -> dict[str, Any]:
    """Make ``cases`` calls; return them by kind and env, what refused them, and each that went wrong."""
    made: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    wrong: list[dict[str, str]] = []
    pairs = {env: Pair(env, world_model) for env in dict.fromkeys(ENVS)}
    slots = list(product(ENVS, KINDS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, (env, kind) in enumerate(slots):
            share = cases // len(slots) + (i < cases % len(slots))
            for value, error, problem in answers(pairs[env], kind, share, seed * len(slots) + i):
                made[f"{kind}, {env}"] += 1
                refused.update([type(error).__name__] if error else [])
                if problem:
                    wrong.append({"env": env, "kind": kind, "value": repr(value)[:200], "problem": problem[:400]})
    for pair in pairs.values():
        pair.close()
    return {
        "cases": made.total(),
        "by_kind_and_env": dict(sorted(made.items())),
        "refused": dict(refused.most_common()),
        "accepted": made.total() - refused.total(),
        "wrong": wrong,
    }


def answers(pair: Pair, kind: str, cases: int, seed: int) -> list[tuple[Any, Exception | None, str]]:
    """Make calls of one kind; return each one's value, the error that refused it, and what was wrong, if anything."""
    found: list[tuple[Any, Exception | None, str]] = []

    @with_seed(seed)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls.of(kind, pair.env, pair.starts), st.integers(1, 3), st.integers(0, 2**32))
    def each(call: tuple[Any, bool], steps: int, actions: int) -> None:
        value, fits = call
        found.append((value, *pair.answer(kind, value, fits, steps, actions)))

    if cases:
        each()
    return found


def is_clear(error: BaseException) -> bool:
    """Return whether an error is of a documented type and in the words of this package or of gymnasium."""
    if not isinstance(error, CLEAR):
        return False
    while (last := traceback.extract_tb(error.__traceback__)[-1]).name == "make" and error.__cause__ is not None:
        error = error.__cause__  # gymnasium.make repeats a TypeError in its own words
    # a keyword that no env has is refused by Python, whose words say it all
    return "unexpected keyword" in str(error) or (last.filename.startswith(OURS) and str(last.line).startswith("raise"))


class Pair:
    """An env that gets wild calls, and one that never sees them, in equal states.

    Args:
        env: "dream", "dreams" or "real".
        world_model: bundled name or folder.
    """

    def __init__(self, env: str, world_model: str) -> None:
        self.env, self.world_model = env, world_model
        self.wild, self.calm = self.make(), self.make()
        self.starts = len(WorldModel.from_pretrained(world_model).starts)
        self.begin(seed=0)

    def answer(self, kind: str, value: Any, fits: bool, steps: int, seed: int) -> tuple[Exception | None, str]:
        """Make a user's call, then valid ones; return the error that refused it, and what was wrong, if anything."""
        error, problem = None, ""
        try:
            if not self.call(kind, value, seed):
                problem = "the two envs returned different things, or no numbers"
        except Exception as caught:
            error = caught
            if not is_clear(error):
                problem = f"unclear: {error!r}"
        if fits != (error is None):
            problem = f"refused although documented: {error!r}" if fits else "taken although it makes no sense"
        try:
            if not self.go_on(steps, seed):
                problem = problem or "the valid calls that followed returned different things"
        except Exception as broken:
            problem = problem or f"a valid call that followed was refused: {broken!r}"
        if problem:
            self.begin(seed=0)
        return error, problem

    def make(self, **kwargs: Any) -> Any:
        """Make an env, without a time limit."""
        kwargs = {"world_model": self.world_model, "max_episode_steps": -1, **kwargs}
        if self.env == "dreams":
            num_envs = kwargs.pop("num_envs", calls.LANES)
            return gym.make_vec("DreamCarRacing-v0", num_envs, **{"autoreset_mode": "DISABLED", **kwargs})
        return gym.make("LatentCarRacing-v0" if self.env == "real" else "DreamCarRacing-v0", **kwargs)

    def call(self, kind: str, value: Any, seed: int) -> bool:
        """Make a user's call; return whether what was returned is the same in both envs, where both get it.

        Every other call with options has the seed too.

        Raises:
            Exception: the env's.
        """
        if kind == "action":
            return self.step(value)
        if kind == "argument":
            env = self.make(**value)
            env.reset(seed=0)
            step = env.step(env.action_space.sample())
            env.close()
            return bool(np.isfinite(step[0]).all())
        if kind == "order":
            self.out_of_order(value)
            return True
        if kind == "seed":
            return self.begin(seed=value)
        return self.begin(seed=seed if seed % 2 else None, options=self.with_state(value))

    def with_state(self, options: Any) -> Any:
        """Return options of `reset` with a state where one was asked for."""
        if isinstance(options, dict) and isinstance(spoilt := options.get("state"), calls.Spoilt):
            return {**options, "state": spoilt.of(state_of(self.wild))}
        return options

    def out_of_order(self, order: str) -> None:
        """Make a call out of order in a new env, which becomes the wild one if it can go on."""
        env = self.make()
        if "close" in order:
            env.reset(seed=0)
            env.close()
            if order == "close twice":
                env.close()
            else:
                env.step(env.action_space.sample())
            return
        try:
            if order == "step after the end":
                env.reset(seed=0)
                finish(env)
                env.step(env.action_space.sample())
            elif order == "step before reset":
                env.step(env.action_space.sample())
            else:
                state_of(env)
        finally:
            self.wild.close()
            self.wild = env
            if not self.begin(seed=1):
                raise RuntimeError("after the first reset, the env differs from one that saw no wild call")

    def begin(self, **kwargs: Any) -> bool:
        """Reset both envs; return whether they agree. If the first refuses, the second is left alone."""
        return self.same(self.wild.reset(**kwargs), self.calm.reset(**kwargs))

    def go_on(self, steps: int, seed: int) -> bool:
        """Make valid calls in both envs; return whether they agree."""
        space, rng, agree = self.calm.action_space, np.random.default_rng(seed), True
        for _ in range(steps):
            action = rng.uniform(space.low, space.high).astype(np.float32)
            agree &= self.step(action)
        return agree

    def step(self, action: Any) -> bool:
        """Step both envs, the calm one with plain float32, and reset what is over; return whether they agree."""
        mine = self.wild.step(action)
        its = self.calm.step(np.asarray(action).astype(np.float32))
        agree = self.same(mine, its)
        if np.any(over := its[2] | its[3]):
            agree &= self.begin(options={"reset_mask": over} if self.env == "dreams" else None)
        return agree

    def same(self, mine: tuple[Any, ...], its: tuple[Any, ...]) -> bool:
        """Return whether two envs returned the same bytes, and finite numbers."""
        pairs = zip(mine[:-1], its[:-1], strict=True)
        equal = all(np.asarray(one).tobytes() == np.asarray(other).tobytes() for one, other in pairs)
        return equal and repr(mine[-1]) == repr(its[-1]) and bool(np.isfinite(mine[0]).all())

    def close(self) -> None:
        """Close both envs."""
        self.wild.close()
        self.calm.close()


def state_of(env: Any) -> Any:
    """Return an env's present moment."""
    return env.get_state() if hasattr(env, "num_envs") else env.get_wrapper_attr("get_state")()


def finish(env: Any) -> None:
    """Take a running episode to the end of its lap."""
    if isinstance(env.unwrapped, CarRacing):
        env.unwrapped.tile_visited_count = len(env.unwrapped.track)
    else:
        state = state_of(env)
        lap = env.unwrapped.dream.reward.goal
        env.reset(options={"state": replace(state, gained=np.full_like(state.gained, lap))})
    env.step(env.action_space.sample())
