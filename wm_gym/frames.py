"""The one function between an env's frame and the encoder's input.

Collection, training, the wrappers and rendering all go through here, so a frame means the same everywhere.
The artifact's config names the version it was trained with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

INPUT_SIZE = 64
"""Height and width of the encoder's input, in pixels."""

VERSIONS = {"crop84": slice(0, 84), "full96": slice(0, 96), "gauges96": slice(0, 96)}
"""Version name -> the rows of the 96x96 frame that are kept (rows 84 to 95 are CarRacing's score and gauges).

"gauges96" keeps the gauges (speed, wheels, steering, rotation) and blanks the score beside them: its digits tell
nothing of the car, and a VAE would spend its bits on them.
"""

PANEL_ROW, SCORE = 84, (slice(84, 96), slice(0, 11))
"""First row of the panel, and where the score stands in it, in the 96x96 frame."""


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
    """Return the rows of the encoder's input that show the panel: none for "crop84"."""
    kept = VERSIONS[version].stop
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


def check_version(version: str) -> None:
    """Raise ValueError unless ``version`` is one of `VERSIONS`."""
    if version not in VERSIONS:
        raise ValueError(f"unknown frame version {version!r}: expected one of {sorted(VERSIONS)}")


def encoder_input(frames: npt.NDArray[np.uint8], version: str = "crop84") -> npt.NDArray[np.uint8]:
    """Crop, blank and shrink frames for the encoder, by exact area averaging rounded half up.

    Args:
        frames: uint8 array ``(..., 96, 96, 3)``.
        version: what is kept, see `VERSIONS`.

    Returns:
        uint8 array ``(..., 64, 64, 3)``.

    Raises:
        ValueError: for another dtype or shape, or an unknown version.
    """
    check_version(version)
    if frames.dtype != np.uint8 or frames.shape[-3:] != (96, 96, 3):
        raise ValueError(f"expected uint8 frames (..., 96, 96, 3), got {frames.dtype} {frames.shape}")
    if version == "gauges96":
        frames = frames.copy()
        frames[..., *SCORE, :] = 0
    rows = frames[..., VERSIONS[version], :, :]
    lead, height = rows.shape[:-3], rows.shape[-3]
    vertical, rows_sum = _VERTICAL[height]
    # torch's products and not numpy's: they keep to the threads that torch was given
    shrunk = vertical @ torch.from_numpy(np.ascontiguousarray(rows)).reshape(*lead, height, 96 * 3).float()
    shrunk = (shrunk @ _HORIZONTAL).reshape(*lead, INPUT_SIZE, INPUT_SIZE, 3)
    area = rows_sum * _COLUMNS_SUM
    # every sum is an integer below 2**24, so float32 holds it exactly
    return shrunk.add_(area // 2).div_(area).to(torch.uint8).numpy()


_VERTICAL = {
    size: (torch.from_numpy(weights), total) for size in (84, 96) for weights, total in [area_weights(size, INPUT_SIZE)]
}
_COLUMNS_SUM = _VERTICAL[96][1]
_HORIZONTAL = torch.kron(_VERTICAL[96][0].T.contiguous(), torch.eye(3))  # (96 · 3, 64 · 3): colours do not mix
