"""The one function between an env's frame and the encoder's input.

Collection, training, the wrappers and rendering all go through here, so a frame means the same everywhere.
The artifact's config names the version it was trained with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

INPUT_SIZE = 64
"""Height and width of the encoder's input, in pixels."""

VERSIONS = {"crop84": slice(0, 84), "full96": slice(0, 96)}
"""Version name -> the rows of the 96x96 frame that are kept (rows 84 to 95 are CarRacing's score and gauges)."""


def area_weights(source: int, target: int) -> tuple[npt.NDArray[np.float32], int]:
    """Return integer area-averaging weights ``(target, source)`` and the sum of each row.

    A target pixel covers ``source / target`` source pixels. In units of ``1 / target`` of a source pixel all overlaps
    are integers, so a product with uint8 pixels is exact in float32 and the same on every machine.
    """
    left = np.arange(target)[:, None] * source
    overlap = np.minimum(left + source, (np.arange(source) + 1) * target) - np.maximum(left, np.arange(source) * target)
    weights = np.maximum(overlap, 0)
    divisor = int(np.gcd.reduce(weights, axis=None))
    return (weights // divisor).astype(np.float32), source // divisor


def check_version(version: str) -> None:
    """Raise ValueError unless ``version`` is one of `VERSIONS`."""
    if version not in VERSIONS:
        raise ValueError(f"unknown frame version {version!r}: expected one of {sorted(VERSIONS)}")


def encoder_input(frames: npt.NDArray[np.uint8], version: str = "crop84") -> npt.NDArray[np.uint8]:
    """Crop and shrink frames for the encoder by exact area averaging, rounded half up.

    Args:
        frames: uint8 array ``(..., 96, 96, 3)``.
        version: which rows are kept, see `VERSIONS`.

    Returns:
        uint8 array ``(..., 64, 64, 3)``.

    Raises:
        ValueError: for another dtype or shape, or an unknown version.
    """
    check_version(version)
    if frames.dtype != np.uint8 or frames.shape[-3:] != (96, 96, 3):
        raise ValueError(f"expected uint8 frames (..., 96, 96, 3), got {frames.dtype} {frames.shape}")
    rows = frames[..., VERSIONS[version], :, :]
    vertical, rows_sum = _WEIGHTS[rows.shape[-3]]
    horizontal, columns_sum = _WEIGHTS[96]
    lead, height = rows.shape[:-3], rows.shape[-3]
    shrunk = vertical @ rows.reshape(*lead, height, 96 * 3).astype(np.float32)
    shrunk = horizontal @ shrunk.reshape(*lead, INPUT_SIZE, 96, 3)
    area = rows_sum * columns_sum
    # every sum is an integer below 2**24, so float32 holds it exactly
    return ((shrunk.astype(np.int32) + area // 2) // area).astype(np.uint8)


_WEIGHTS = {size: area_weights(size, INPUT_SIZE) for size in (84, 96)}
