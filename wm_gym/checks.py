"""Checking arguments and the order of calls, the same way in every env of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ValueError unless an argument is one of some strings."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless an argument is a whole number of at least 1."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """Raise ValueError unless an argument is a real number within bounds."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or not least <= value <= most:  # NaN is not
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raise ValueError unless an argument is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_render_mode(render_mode: Any, metadata: Mapping[str, Any]) -> None:
    """Raise ValueError unless the env can render so; None is for not at all."""
    if render_mode is not None:
        check_choice("render_mode", render_mode, metadata["render_modes"])


def check_options(options: Any, *known: str) -> dict[str, Any]:
    """Return the options of `reset` as a dict that has every known key, None where it was not given.

    Raises:
        TypeError: for anything but None or a mapping.
        ValueError: for an unknown key, if any are known.
    """
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"reset options must be None or a dict, got {options!r}")
    given = dict(options or {})
    if known and (unknown := [key for key in given if key not in known]):
        raise ValueError(f"unknown reset options {unknown}: expected some of {list(known)}")
    return dict.fromkeys(known) | given


def check_running(running: bool) -> None:
    """Refuse a call that needs a running episode.

    Raises:
        gymnasium.error.ResetNeeded: if none is running.
    """
    if not running:
        raise ResetNeeded("no episode is running: call reset() first")
