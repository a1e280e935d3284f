"""Checking actions, the same way in every env of this package."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt


def check_action(action: Any, space: gym.Space) -> npt.NDArray[np.float32]:
    """Return an action, or a batch of them for a batched space, as float32.

    Args:
        action: numbers of any real type.
        space: what it must lie in.

    Raises:
        ValueError: for another shape or type, and for a value that is not finite or outside the space; the message
            names its index.
    """
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"actions are checked against a Box, got {space}")
    try:
        values = np.asarray(action)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors elsewhere or with a gradient
        raise ValueError(f"expected an action that numpy can read, in {space}, got {action!r}: {error}") from error
    if values.dtype.kind not in "fiub":
        raise ValueError(f"expected an action of real numbers in {space}, got {action!r}")
    if values.shape != space.shape:
        raise ValueError(f"expected an action of shape {space.shape}, got {values.shape}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused below
        narrow = values.astype(np.float32)
    good = (narrow >= space.low) & (narrow <= space.high)  # False for NaN
    if not good.all():
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        raise ValueError(
            f"action{list(index)} is {values[index]}, expected a value from {space.low[index]} to {space.high[index]}"
        )
    return narrow


def keys_action(left: bool, right: bool, up: bool, down: bool) -> npt.NDArray[np.float32]:
    """Return CarRacing's action ``(3,)`` for the arrow keys that are down: up gives gas, down brakes."""
    return np.array([float(right) - float(left), up, 0.8 * down], np.float32)  # a brake of 1 locks the wheels


def rescale(action: npt.NDArray[np.floating], box: gym.spaces.Box) -> npt.NDArray[np.float32]:
    """Map actions from [-1, 1] to the bounds of a Box, whose last dimensions they have."""
    share = (np.clip(action, -1, 1) + 1) / 2
    return (box.low + share * (box.high - box.low)).astype(np.float32)
