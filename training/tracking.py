"""Curves and videos in Weights & Biases: offline unless logged in, off with ``--no-track`` or ``WANDB_MODE=disabled``.

Nothing depends on it: every number is in the stages' ``log.jsonl`` too. W&B's own monitor adds what the machine does
every 15 seconds: the use of processor and memory, and of each GPU where there is one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import wandb

from training.files import leaves, write_atomic

STEPS = {
    "vae": "epoch",
    "rnn": "epoch",
    "rnn-1": "epoch",
    "rnn-2": "epoch",
    "rnn-3": "epoch",
    "controller": "generation",
    "controller-real": "generation",
    "loop": "round",
    "sb3": "steps",
}
"""What the curves of each stage are drawn over; "rnn-1" and on are a loop's further Ms."""


@contextmanager
def tracking(folder: Path, enabled: bool, config: dict[str, Any]) -> Iterator[None]:
    """Log to one W&B run while inside; a folder keeps its run's id, so a resumed stage goes on in it.

    Inside another `tracking` this does nothing: a loop's stages log to the loop's run.

    Args:
        folder: of the stage or the loop; W&B's files go to ``folder/wandb``.
        enabled: False for none.
        config: settings to keep with the run.
    """
    if not enabled or os.environ.get("WANDB_MODE") == "disabled" or wandb.run is not None:
        yield
        return
    name = folder / "wandb-id"
    if not name.is_file():
        write_atomic(name, lambda file: file.write(uuid4().hex[:12].encode()))
    with _open(folder, name.read_text(), config) as run:
        for stage, step in STEPS.items():
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/{step}")
        yield


def _open(folder: Path, run_id: str, config: dict[str, Any]) -> wandb.Run:
    """Begin or resume a run; offline, with a warning, where W&B can't be reached."""
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
    settings = wandb.Settings(silent=True, console="off")
    arguments: dict[str, Any] = {"project": "wm-gym", "name": folder.name, "id": run_id, "resume": "allow"}
    arguments |= {"dir": str(folder), "config": config, "settings": settings, "mode": mode}
    try:
        return wandb.init(**arguments)
    except wandb.Error as error:
        if mode == "offline":
            raise
        warnings.warn(f"Weights & Biases can't be reached, so this run is logged offline: {error}", stacklevel=2)
        wandb.teardown()  # its service still holds the run that failed
        return wandb.init(**{**arguments, "mode": "offline"})


def track(stage: str, values: dict[str, Any]) -> None:
    """Log values as ``stage/name``, if a W&B run is open; nested values as ``stage/name/part``."""
    if wandb.run is not None:
        wandb.run.log(dict(leaves(values, f"{stage}/", "/")))


def track_video(stage: str, path: Path) -> None:
    """Log an mp4 file, if a W&B run is open."""
    if wandb.run is not None:
        wandb.run.log({f"{stage}/video": wandb.Video(str(path), format="mp4")})
