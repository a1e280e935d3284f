"""Actions: what an env takes, how the networks see it, and checking it the same way in every env of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from wm_gym.artifact import LARGEST


@dataclass(frozen=True)
class ActionConfig:
    """What an env takes: a vector of a bounded Box, or one of n choices, which networks see one-hot.

    Attributes:
        low: lower bound of each number that the networks see; zeros for choices.
        high: upper bound of each; ones for choices.
        discrete: whether these are the n choices of a Discrete space.

    Raises:
        ValueError: for bounds that are not finite, or not low below high.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    discrete: bool = False

    def __post_init__(self) -> None:
        bounds = np.array([self.low, self.high]) if len(self.low) == len(self.high) else np.zeros((2, 0))
        fit = bounds.ndim == 2 and 0 < bounds.shape[1] <= LARGEST and bounds.dtype.kind in "iuf"
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused
            bounds = bounds.astype(np.float32) if fit else bounds
        if not fit or not np.isfinite(bounds).all() or not (bounds[0] < bounds[1]).all():
            raise ValueError(f"actions need finite bounds, low below high, got {self.low} and {self.high}")
        if type(self.discrete) is not bool or (self.discrete and not ((bounds[0] == 0) & (bounds[1] == 1)).all()):
            raise ValueError(f"choices are one-hot, from 0 to 1, got {self}")

    @classmethod
    def of(cls, space: gym.Space) -> ActionConfig:
        """Return the config of a space.

        Raises:
            ValueError: for anything but a flat, bounded Box of float32 or a Discrete space that begins at 0.
        """
        if isinstance(space, Discrete) and space.start == 0:
            return cls((0.0,) * int(space.n), (1.0,) * int(space.n), discrete=True)
        if isinstance(space, Box) and len(space.shape) == 1 and space.dtype == np.float32 and space.is_bounded():
            low, high = (tuple(float(bound) for bound in bounds) for bounds in (space.low, space.high))
            return cls(low, high)
        raise ValueError(f"actions must lie in a flat, bounded Box of float32 or a Discrete from 0, got {space}")

    @property
    def size(self) -> int:
        """Length of an action as the networks see it."""
        return len(self.low)

    @property
    def space(self) -> Box | Discrete:
        """The env's space."""
        if self.discrete:
            return Discrete(self.size)
        return Box(np.array(self.low, np.float32), np.array(self.high, np.float32))

    def encode(self, action: Any) -> npt.NDArray[np.float32]:
        """Return actions ``(..., A)`` as the networks see them, for checked ones of the env: vectors, or choices."""
        return (np.expand_dims(action, -1) == np.arange(self.size)).astype(np.float32) if self.discrete else action


ROUNDING = 1e-6
"""Share of a Box's range by which rounding may put an action outside."""


def check_action(action: Any, space: gym.Space) -> Any:
    """Return an action, or a batch of them for a batched space: float32 of a Box, int64 of choices.

    What lies beyond a bound by `ROUNDING` of the range at most becomes the bound.

    Args:
        action: numbers of any real type; choices are of a whole one.
        space: what it must lie in: a Box, Discrete or, for a batch of choices, MultiDiscrete.

    Raises:
        ValueError: for another shape or type, and for a value that is not finite or outside the space; the message
            names its index.
    """
    choices = isinstance(space, (Discrete, MultiDiscrete))
    if not choices and not isinstance(space, Box):
        raise ValueError(f"actions are checked against a Box or choices, got {space}")
    try:
        values = np.asarray(action)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors elsewhere or with a gradient
        raise ValueError(f"expected an action that numpy can read, in {space}, got {action!r}: {error}") from error
    if values.dtype.kind not in ("iu" if choices else "fiub"):
        raise ValueError(f"expected an action of {'whole' if choices else 'real'} numbers in {space}, got {action!r}")
    if values.shape != space.shape:
        raise ValueError(f"expected an action of shape {space.shape}, got {values.shape}")
    if isinstance(space, Box):
        low, high = space.low, space.high
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused below
            narrow = values.astype(np.float32)
    else:
        most: Any = space.n if isinstance(space, Discrete) else space.nvec  # type: ignore[attr-defined]
        low, high = np.broadcast_arrays(0, most - 1)
        narrow = values
    good = (narrow >= low) & (narrow <= high)  # False for NaN
    if not good.all() and not choices:  # algorithms that scale actions to the bounds may miss them by a rounding
        slack = ROUNDING * (high - low)
        good = (narrow >= low - slack) & (narrow <= high + slack)
        narrow = np.clip(narrow, low, high)
    if not good.all():
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        name = f"action{list(index)}" if index else "action"
        raise ValueError(f"{name} is {values[index]}, expected a value from {low[index]} to {high[index]}")
    return narrow.astype(np.int64)[()] if choices else narrow


def draw_action(space: gym.Space, rng: np.random.Generator, lanes: tuple[int, ...] = ()) -> Any:
    """Draw uniform actions of a bounded Box, float32 ``(*lanes, A)``, or of a Discrete space, int64 ``lanes``.

    Raises:
        ValueError: for another space.
    """
    if isinstance(space, Discrete):
        return rng.integers(space.start, space.start + space.n, size=lanes)[()]
    if not isinstance(space, Box) or not space.is_bounded():
        raise ValueError(f"random actions need a bounded Box or a Discrete space, got {space}")
    return rng.uniform(space.low, space.high, size=(*lanes, *space.shape)).astype(np.float32)


def rescale(action: npt.NDArray[np.floating], box: Box) -> npt.NDArray[np.float32]:
    """Map actions from [-1, 1] to the bounds of a Box, whose last dimensions they have."""
    share = (np.clip(action, -1, 1) + 1) / 2
    return np.clip(box.low + share * (box.high - box.low), box.low, box.high).astype(np.float32)
