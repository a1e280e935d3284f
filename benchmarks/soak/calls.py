"""What wild users give to envs: values beside whether the env is documented to take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from wm_gym.dream_state import DreamState

LANES = 3
"""Of the vector env."""

RAGGED = [[1], [2, 3]]
JUNK: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=8),
    st.floats(),
    st.complex_numbers(),
    st.sets(st.integers(), min_size=1),
    st.dictionaries(st.integers() | st.text(), st.none(), min_size=1, max_size=3),
    st.lists(st.text(max_size=3), min_size=1, max_size=4),
    st.sampled_from([object(), Ellipsis, int, len, RAGGED, [None] * 2, np.array(["a"] * 3), np.zeros(0), {}, []]),
    st.sampled_from(
        [np.full(3, 1j), np.array([None] * 2), np.array("2020", "M8[Y]"), torch.zeros(3, requires_grad=True)]
    ),
)
NOT_ACTIONS = st.one_of(st.none(), JUNK, st.integers(), st.booleans())
OUTSIDE = [np.nan, np.inf, -np.inf, 1.5, -1.5, 1e300, -1e300, 2**40, 1.0001, -1.0001]
TYPES = [np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint8, np.int64, np.bool_, list, torch.tensor]


@st.composite
def actions(draw: Any, env: str) -> tuple[Any, bool]:
    """Actions of all types, some spoilt: a number outside, another shape, no action at all."""
    shape = (LANES, 3) if env == "dreams" else (3,)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    action = rng.uniform([-1, 0, 0], [1, 1, 1], shape)
    how = draw(st.sampled_from(["fits", "outside", "shape", "junk"]))
    if how == "junk":
        return draw(NOT_ACTIONS), False
    if how == "shape":
        other = draw(st.lists(st.integers(0, 4), max_size=4).map(tuple).filter(lambda other: other != shape))
        return np.zeros(other, np.float32), False
    if how == "outside":
        action[tuple(draw(st.integers(0, size - 1)) for size in shape)] = draw(st.sampled_from(OUTSIDE))
        return draw(st.sampled_from([np.asarray, np.ndarray.tolist, torch.from_numpy]))(action), False
    convert = draw(st.sampled_from(TYPES))
    if convert is list:
        return action.tolist(), True
    if convert is torch.tensor:
        return torch.from_numpy(action), True
    if np.issubdtype(convert, np.unsignedinteger):
        action = abs(action)
    return action.astype(convert), True


CHANGES: dict[str, Callable[[Any], Any]] = {
    "shorter": lambda array: array[:, :-1] if array.ndim > 1 else array[:-1],
    "deeper": lambda array: array[None],
    "nan": lambda array: array * float("nan"),
    "inf": lambda array: array * 0 + float("inf"),
    "huge": lambda array: array * 0 + 1e8,
    "negative": lambda array: array * 0 - 1e8,
    "list": lambda array: array.tolist(),
    "nothing": lambda array: None,
    "text": lambda array: "state",
    "doubled": lambda array: array.double() if isinstance(array, torch.Tensor) else array.astype(np.complex128),
    "bytes": lambda array: array.numpy().tobytes() if isinstance(array, torch.Tensor) else array.tobytes(),
}


@dataclass(frozen=True)
class Spoilt:
    """A state of which one field is changed; made when the env is there to give it."""

    field: str
    change: str

    def of(self, state: DreamState) -> DreamState:
        """Return the spoilt state; without a field, as it is."""
        if not self.field:
            return state
        change = CHANGES[self.change]
        if self.field == "rngs":
            return replace(state, rngs=[self.change])  # type: ignore[list-item]
        if self.field == "memory":
            return replace(state, memory=(state.memory[0], change(state.memory[1])))
        return replace(state, **{self.field: change(getattr(state, self.field))})


INTACT = Spoilt("", "")
SPOILT = st.builds(
    Spoilt, st.sampled_from(["z", "memory", "gained", "noise", "cursor", "rngs"]), st.sampled_from(sorted(CHANGES))
)


def options(env: str, starts: int) -> st.SearchStrategy[tuple[Any, bool]]:
    """Options of `reset`, documented or not."""
    no_dicts = JUNK.filter(lambda value: not isinstance(value, dict)).map(lambda value: (value, False))
    unknown = st.dictionaries(st.text(max_size=3) | st.integers(), st.none(), min_size=1, max_size=3)
    if env == "real":
        known = [
            (None, True),
            ({}, True),
            ({"randomize": True}, True),
            ({"randomize": 1}, False),
            ({"start": 1}, False),
        ]
        return no_dicts | unknown.map(lambda value: (value, False)) | st.sampled_from(known)
    within = st.integers(0, starts - 1)
    good: list[st.SearchStrategy[Any]] = [
        st.builds(dict),
        within.map(lambda i: {"start": i}),
        st.just({"state": INTACT}),
    ]
    wrong_starts = st.integers(max_value=-1) | st.integers(starts) | JUNK | st.booleans()
    bad: list[st.SearchStrategy[Any]] = [
        unknown,
        wrong_starts.map(lambda start: {"start": start}),
        SPOILT.map(lambda state: {"state": state}),
        JUNK.map(lambda state: {"state": state}),
        within.map(lambda i: {"start": i, "state": INTACT}),
    ]
    if env == "dreams":
        masks = st.lists(st.booleans(), min_size=LANES, max_size=LANES)
        good.append(masks.filter(any).map(lambda mask: {"reset_mask": np.array(mask)}))
        good.append(st.lists(within, min_size=LANES, max_size=LANES).map(lambda each: {"start": each}))
        bad.append(masks.map(lambda mask: {"reset_mask": mask}))
        bad.append(JUNK.map(lambda mask: {"reset_mask": mask}))
        bad.append(st.sampled_from([LANES - 1, LANES + 1]).map(lambda n: {"reset_mask": np.ones(n, bool)}))
        bad.append(st.just({"reset_mask": np.zeros(LANES, bool)}))
    else:
        bad.append(st.lists(within, max_size=3).map(lambda each: {"start": each}))
    fits, wild = (st.one_of(strategies) for strategies in (good, bad))
    return no_dicts | wild.map(lambda value: (value, False)) | fits.map(lambda value: (value, True))


def seeds(env: str) -> st.SearchStrategy[tuple[Any, bool]]:
    """Seeds, documented or not."""
    whole, wild = st.integers(0, 2**80), st.integers(max_value=-LANES) | JUNK
    if env != "dreams":
        return whole.map(lambda seed: (seed, True)) | wild.map(lambda seed: (seed, False))
    each = st.lists(st.none() | whole, min_size=LANES, max_size=LANES)
    others = st.lists(whole, max_size=5).filter(lambda seeds: len(seeds) != LANES)
    spoilt = st.tuples(whole, wild, whole)
    return st.one_of(
        (whole | each | st.integers(0, 9).map(np.int64)).map(lambda seed: (seed, True)),
        (wild | others | spoilt).map(lambda seed: (seed, False)),
    )


def arguments(env: str) -> st.SearchStrategy[tuple[Any, bool]]:
    """Keyword arguments of `gym.make` and `gym.make_vec`, documented or not."""
    junk, words = st.none() | JUNK, st.text(max_size=8)
    no_numbers = junk.filter(lambda value: not isinstance(value, float))
    names = st.sampled_from(["**", "no such", "\0", "a" * 5000])
    wild: dict[str, st.SearchStrategy[Any]] = {
        "world_model": names | junk.filter(lambda name: not isinstance(name, str)),
        "device": junk | st.sampled_from(["meta", "cuda:99", -1]),
        "speed": junk,
        "max_episode_steps": words | st.sampled_from([0, -2, 2.5, np.nan, RAGGED]),
        "render_mode": words,
    }
    good: dict[str, st.SearchStrategy[Any]] = {
        "render_mode": st.none() | st.just("rgb_array"),
        "max_episode_steps": st.integers(1, 2000) | st.just(-1),
    }
    if env == "real":
        wild |= {"lap_complete_percent": no_numbers | st.sampled_from([-0.1, 1.1, np.nan]), "fast": junk}
        good |= {"lap_complete_percent": st.floats(0, 1), "fast": st.booleans()}
    else:
        outside = st.floats(max_value=0.0009) | st.floats(min_value=1001) | st.sampled_from([np.nan, 0, 1e300, "1"])
        wild |= {"temperature": outside | no_numbers, "sampling": junk, "starts": junk}
        good |= {"temperature": st.floats(0.001, 1000), "sampling": st.just("mode"), "starts": st.just("any")}
    if env == "dreams":
        wild |= {"num_envs": junk | st.integers(max_value=0) | st.sampled_from([2.5, True]), "autoreset_mode": junk}
        good |= {"num_envs": st.integers(1, 9), "autoreset_mode": st.sampled_from(["DISABLED", "NextStep"])}
    fits, spoilt = (
        st.one_of([st.fixed_dictionaries({name: values}) for name, values in each.items()]) for each in (good, wild)
    )
    return fits.map(lambda kwargs: (kwargs, True)) | spoilt.map(lambda kwargs: (kwargs, False))


def orders(env: str) -> st.SearchStrategy[tuple[Any, bool]]:
    """Calls before the first `reset`, after an episode's end, and after `close`."""
    refused = ["step before reset", "state before reset", "step after the end", "step after close"]
    return st.sampled_from([("close twice", True), *((order, False) for order in refused)])


def of(kind: str, env: str, starts: int) -> st.SearchStrategy[tuple[Any, bool]]:
    """Return calls of one kind.

    Args:
        kind: "action", "options", "seed", "argument" or "order".
        env: "dream", "dreams" (its vector env of `LANES` lanes) or "real".
        starts: number of starts of the world model.
    """
    if kind == "options":
        return options(env, starts)
    return {"action": actions, "seed": seeds, "argument": arguments, "order": orders}[kind](env)
