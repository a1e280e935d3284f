"""Checkpoints that an interrupted stage goes on from, and the log beside them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.files import write_atomic


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    write_atomic(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are accepted.

    Raises:
        FileNotFoundError: when the stage that writes it has not run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: run the stage before this one first")
    return torch.load(path, map_location=device, weights_only=True)


def append_log(path: Path, line: dict[str, Any]) -> None:
    """Add one JSON line to a log, in the place of one that was not written to its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write((json.dumps(line) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; none if it does not exist. A line without its end was not logged."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.is_file() else []


def cut_log(path: Path, count: str, done: int) -> None:
    """Drop the lines whose ``count`` is above what is done: a stage logs first, and then keeps what it has come to."""
    lines = read_log(path)
    kept = [line for line in lines if line[count] <= done]
    if kept != lines:
        write_atomic(path, lambda file: file.write("".join(json.dumps(line) + "\n" for line in kept).encode()))


def segment(checkpoint: dict[str, Any] | None, epochs: int) -> tuple[int, int]:
    """Return the first and last epoch of the learning rate's cosine.

    A finished checkpoint that is trained for more epochs starts a new cosine; an interrupted one goes on in its own.
    """
    if checkpoint is None:
        return 0, epochs
    first, last = checkpoint["segment"]
    return (first, epochs) if checkpoint["epoch"] < last else (checkpoint["epoch"], epochs)


def cosine(progress: float) -> float:
    """Return the factor of the learning rate, from 1 at progress 0 to 0.05 at 1."""
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def randn(*shape: int) -> Any:
    """Draw normals from NumPy's global stream, as ``np.random.randn`` does.

    A pickle of that bound method holds a copy of the stream; of this function it holds the name, so that what is
    unpickled still follows ``np.random.seed``.
    """
    return np.random.randn(*shape)
