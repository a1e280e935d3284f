"""A run of `training.loop`, killed again and again: what is lost, and does it come to what an unkilled run comes to?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import trange

from training.checkpoints import read_log

REPOSITORY = Path(__file__).parents[2]
RUN = "run"
EXACT = (".npz", ".safetensors", "config.json")
"""Endings of files that are the same bytes in each run; logs are the same lines, but for how long things took."""

DEADLY = """
import os, runpy, signal, sys
left, sys.argv = int(sys.argv[1]), sys.argv[2:]
def deadly(function):
    def call(*args, **kwargs):
        tick()
        result = function(*args, **kwargs)
        tick()
        return result
    return call
def tick():
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync, os.rename = deadly(os.fsync), deadly(os.rename)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module that kills itself before or after the n-th time that it flushes or renames a file."""


def start(folder: Path, arguments: Sequence[str], writes: int = 0) -> subprocess.Popen:
    """Start or resume the loop in ``folder / RUN``, in a process group of its own.

    Args:
        folder: working directory.
        arguments: of the loop.
        writes: the moment to die at, in the middle of that write; 0 for none.
    """
    command = ["-c", DEADLY, str(writes), "training.loop"] if writes else ["-m", "training.loop"]
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, *command, "--run", RUN, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "disabled"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: subprocess.Popen, seconds: float | None) -> bool:
    """Kill the loop and its workers after so many seconds unless it ends before; return whether it was killed.

    Raises:
        RuntimeError: when it ended by itself with an error.
    """
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the loop ended with status {status}; its output is in its folder's output.txt")
    return status != 0


def state(folder: Path) -> dict[str, Any]:
    """Return what each file of a run holds that must be the same in each."""
    found: dict[str, Any] = {}
    for path in sorted((folder / RUN).rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.endswith(EXACT):
            found[name] = path.read_bytes()
        elif path.suffix == ".jsonl":
            found[name] = [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(path)]
    return found


def finished(folder: Path) -> dict[str, Any]:
    """Return what no kill may change: episodes that were driven to their end, rounds and validations in the logs."""
    kept: dict[str, Any] = {str(path): path.read_bytes() for path in (folder / RUN / "rollouts").glob("*.npz")}
    for log in (folder / RUN).glob("*.jsonl"):
        kept |= {f"{log} {i}": json.dumps(line) for i, line in enumerate(read_log(log))}
    return kept


def run(kills: int, inside: int, seed: int = 0, arguments: Sequence[str] = ("--preset", "smoke")) -> dict[str, Any]:
    """Kill runs so many times, let the last one go on to its end, and compare those that ended with an unkilled run.

    Args:
        kills: at moments drawn by chance.
        inside: further ones, in the middle of writing a file.
        seed: of the moments.
        arguments: of the loop.

    Returns:
        The figures: kills made (a run may end before the moment comes); ``lost`` names what was finished before a kill
        and was not there after it, ``different`` what came out otherwise than in the unkilled run, ``left``
        half-written files.
    """
    rng, lost, different, left = np.random.default_rng(seed), [], [], []
    runs, made = 0, {True: 0, False: 0}
    plan = rng.permutation([True] * inside + [False] * kills)
    with tempfile.TemporaryDirectory() as place:
        straight = Path(place) / "straight"
        straight.mkdir()
        end(start(straight, arguments), None)
        expected, going = state(straight), False
        folder, before = straight, finished(straight)
        for i in trange(len(plan) + 1, desc="kills", unit="kill"):
            if not going:
                folder, before, runs = Path(place) / str(runs), {}, runs + 1
                folder.mkdir()
            if i == len(plan):
                going = end(start(folder, arguments), None)
            elif plan[i]:
                going = end(start(folder, arguments, writes=int(rng.integers(1, 40))), None)
            else:
                going = end(start(folder, arguments), rng.uniform(2, 12))
            if i < len(plan):
                made[bool(plan[i])] += going
            after = finished(folder)
            lost += [name for name, content in before.items() if after.get(name) != content]
            before = after
            if not going:
                came = state(folder)
                different += [name for name in expected | came if expected.get(name) != came.get(name)]
                left += [str(path) for path in folder.rglob(".*.tmp")]
    return {
        "kills": made[False],
        "inside_writes": made[True],
        "runs": runs,
        "files_compared": len(expected),
        "lost": lost,
        "different": different,
        "left": left,
    }
