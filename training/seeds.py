"""What each track is for: a seed is a track, and none is for two things."""

from __future__ import annotations

TRAINING_SEEDS = range(0, 1_000_000)
"""For collection and training."""
VALIDATION_SEEDS = range(1_000_000, 1_000_100)
"""For choosing between checkpoints."""
TEST_SEEDS = range(2_000_000, 2_000_100)
"""For reported scores; nothing is chosen on them."""
FURTHER_SEEDS = range(2_000_100, 2_000_200)
"""For showing whether a reported score holds on others."""
HELD_OUT_SEEDS = range(1_000_000, 3_000_000)
"""What no training may see: those of validation and tests, and room for more."""


def take(seeds: range, count: int) -> range:
    """Return the first of some seeds; ValueError for fewer than one, or more than there are."""
    if not 1 <= count <= len(seeds):
        raise ValueError(
            f"there are {len(seeds)} tracks, {seeds.start} to {seeds.stop - 1}: can't drive {count} of them"
        )
    return seeds[:count]
