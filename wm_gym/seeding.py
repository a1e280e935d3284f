"""Random streams that are unlike those of the env with the same seed."""

from __future__ import annotations

import numpy as np


def stream(seed: int | None, use: str) -> np.random.Generator:
    """Return the random stream of a seed for one use.

    An env seeded with n draws its track from ``numpy.random.default_rng(n)``; whatever else is drawn for that seed must
    not come from the same bits, or it would tell of the track.

    Args:
        seed: whole number from 0; None for another stream each time.
        use: what it is for; each use has a stream of its own.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(use.encode())))
