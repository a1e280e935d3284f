"""The one function between an env's frame and the encoder's input.

Collection, training and the wrappers all go through here, so a frame means the same everywhere.
The artifact's config names the version it was trained with.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

INPUT_SIZE = 64
"""Height and width of the encoder's input, in pixels."""

VERSIONS = ("crop84", "full96", "gauges96", "whole")
"""What is kept of a frame: "whole" is all of a frame of any size, the others are for CarRacing's.

Rows 84 to 95 of its 96x96 frame are its score and gauges. "crop84" cuts them off. "gauges96" keeps the gauges (speed,
wheels, steering, rotation) and blanks the score beside them: its digits tell nothing of the car, and a VAE would spend
its bits on them. "full96" keeps all.
"""

PANEL_ROW, SCORE = 84, (slice(84, 96), slice(0, 11))
"""First row of the panel, and where the score stands in it, in the 96x96 frame."""

MIRRORED_BARS = (slice(24, 40), slice(40, 56))
"""Columns of the encoder's input about whose middles the bars of steering and of rotation grow."""

CAR_RACING_FRAME = (96, 96)
"""Height and width of CarRacing's frame."""


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


def gauge_rows(version: str) -> slice:
    """Return the rows of the encoder's input that show the panel: none for "crop84" and "whole"."""
    if version == "whole":
        return slice(INPUT_SIZE, INPUT_SIZE)
    kept, _ = kept_size(version, CAR_RACING_FRAME)
    return slice(min(PANEL_ROW, kept) * INPUT_SIZE // kept, INPUT_SIZE)


def gauge_speed(frame: npt.NDArray[np.uint8], version: str) -> float | None:
    """Return the speed in m/s that the gauge of an encoder-sized frame ``(64, 64, 3)`` shows, real or dreamt.

    It is a white bar, in CarRacing's window of 1000x800 pixels 26 wide and 1 + 0.4 · speed high. None where a version
    cuts the gauges off.
    """
    rows = gauge_rows(version)
    if rows.start == INPUT_SIZE:
        return None
    bar = frame[rows, 8:10].mean(axis=-1).sum() / 255 * (1000 / INPUT_SIZE) * (800 / INPUT_SIZE)
    return max(0.0, float(bar / 26 - 1) / 0.4)


def mirror(frames: npt.NDArray[np.uint8], version: str) -> npt.NDArray[np.uint8]:
    """Return CarRacing's encoder-sized frames ``(..., 64, 64, 3)`` of any version, as drives in a mirror show them.

    On the panel, the bars of steering and rotation change sides about their own zeros, and nothing else moves.
    """
    mirrored = frames[..., ::-1, :].copy()
    panel = gauge_rows(version)
    mirrored[..., panel, :, :] = frames[..., panel, :, :]
    for bar in MIRRORED_BARS:
        mirrored[..., panel, bar, :] = frames[..., panel, bar, :][..., ::-1, :]
    return mirrored


def check_version(version: str) -> None:
    """Raise ValueError unless ``version`` is one of `VERSIONS`."""
    if version not in VERSIONS:
        raise ValueError(f"unknown frame version {version!r}: expected one of {sorted(VERSIONS)}")


def kept_size(version: str, frame: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of what a version keeps of a frame of this height and width.

    Raises:
        ValueError: for an unknown version, or one that is not for frames of this size.
    """
    check_version(version)
    if version != "whole" and frame != CAR_RACING_FRAME:
        raise ValueError(
            f'frames of {frame} need --frames "whole" (of a loop --vae.frames), got {version!r}, which is '
            "for CarRacing's"
        )
    return (PANEL_ROW, frame[1]) if version == "crop84" else frame


def encoder_input(frames: npt.NDArray[np.uint8], version: str = "crop84") -> npt.NDArray[np.uint8]:
    """Crop, blank and shrink frames for the encoder, by exact area averaging rounded half up.

    Args:
        frames: uint8 array ``(..., H, W, 3)``.
        version: what is kept, see `VERSIONS`.

    Returns:
        uint8 array ``(..., 64, 64, 3)``.

    Raises:
        ValueError: for another dtype or shape, or an unknown version.
    """
    check_version(version)
    size = frames.shape[-3:-1] if version == "whole" else CAR_RACING_FRAME
    if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-3:] != (*size, 3) or 0 in size:
        expected = f"(..., {', '.join(map(str, size)) or 'height, width'}, 3)"
        raise ValueError(f"expected uint8 frames {expected} of version {version!r}, got {frames.dtype} {frames.shape}")
    height, width = kept_size(version, size)
    if version == "gauges96":
        frames = frames.copy()
        frames[..., *SCORE, :] = 0
    rows, lead = frames[..., :height, :, :], frames.shape[:-3]
    vertical, horizontal, area = _weights(height, width)
    # torch's products and not numpy's: they keep to the threads that torch was given
    shrunk = vertical @ torch.from_numpy(np.ascontiguousarray(rows)).reshape(*lead, height, width * 3).to(vertical)
    shrunk = (shrunk @ horizontal).reshape(*lead, INPUT_SIZE, INPUT_SIZE, 3)
    return shrunk.add_(area // 2).div_(area).to(torch.uint8).numpy()


@lru_cache(maxsize=8)
def _weights(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return weights of rows ``(64, H)`` and, for each colour alone, of columns ``(3 W, 3 · 64)``; and their total."""
    (rows, rows_sum), (columns, columns_sum) = area_weights(height, INPUT_SIZE), area_weights(width, INPUT_SIZE)
    area = rows_sum * columns_sum
    # every sum is an integer that its type holds exactly
    exact = torch.float32 if 256 * area < 2**24 else torch.float64
    horizontal = torch.kron(torch.from_numpy(columns).T.contiguous(), torch.eye(3))
    return torch.from_numpy(rows).to(exact), horizontal.to(exact), area
