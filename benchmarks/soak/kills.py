"""A run of `training.loop`, killed again and again: what is lost, and does it come to what an unkilled run comes to?"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from training.checkpoints import read_log

REPOSITORY = Path(__file__).parents[2]
RUN = "run"
EXACT = (".npz", ".safetensors")
"""Endings of files that are the same bytes in each run; logs and configs say the same, but for how long things took."""

NEXT = RUN + "/latents/*"
"""What the next round would begin with: the last round's drives are among them if its kill came after some."""

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
runpy.run_module(sys.argv[0], run_name="__main__")
"""
"""Runs a module that kills itself before or after the n-th time that it flushes or renames a file, or never for 0."""

Kill = Callable[[Path, Sequence[str]], bool]
"""Starts or resumes the loop of a folder and kills it; returns whether it did, as the loop may end before."""


def start(folder: Path, arguments: Sequence[str], writes: int = 0) -> subprocess.Popen:
    """Start or resume the loop in ``folder / RUN``, in a process group of its own.

    Args:
        folder: working directory.
        arguments: of the loop.
        writes: the moment to die at, in the middle of that write; 0 for none.
    """
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-c", DEADLY, str(writes), "training.loop", "--run", RUN, *arguments],
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
    with contextlib.suppress(subprocess.TimeoutExpired):
        try:
            process.wait(seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the loop ended with status {status}; its output is in its folder's output.txt")
    return status != 0


def never(folder: Path, arguments: Sequence[str]) -> bool:
    """Let the loop of a folder go on to its end."""
    return end(start(folder, arguments), None)


def after(seconds: float) -> Kill:
    """Return a kill after so many seconds."""
    return lambda folder, arguments: end(start(folder, arguments), seconds)


def in_write(n: int) -> Kill:
    """Return a kill before or after the n-th time that the loop flushes or renames a file."""
    return lambda folder, arguments: end(start(folder, arguments, writes=n), None)


def when(reached: Callable[[Path], bool]) -> Kill:
    """Return a kill at the moment that a function of the run's folder finds reached."""

    def kill(folder: Path, arguments: Sequence[str]) -> bool:
        process = start(folder, arguments)
        try:
            while process.poll() is None and not reached(folder / RUN):
                time.sleep(0.01)
        finally:
            killed = end(process, 0)
        return killed

    return kill


def state(folder: Path) -> dict[str, Any]:
    """Return what each file of a run holds that must be the same in each."""
    found: dict[str, Any] = {}
    for path in sorted((folder / RUN).rglob("*")):
        name = str(path.relative_to(folder))
        if path.relative_to(folder).match(NEXT):
            continue
        if path.name == "config.json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.name.endswith(EXACT):
            found[name] = path.read_bytes()
        elif path.suffix == ".jsonl":
            found[name] = timeless(read_log(path))
    return found


def timeless(content: Any) -> Any:
    """Return what a JSON file holds without the seconds that were measured."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if key != "seconds"}
    return [timeless(each) for each in content] if isinstance(content, list) else content


def finished(folder: Path) -> dict[str, Any]:
    """Return what no kill may change: episodes that were driven to their end, rounds and validations in the logs."""
    episodes = (folder / RUN / "rollouts").glob("*.npz")
    kept: dict[str, Any] = {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in episodes}
    for log in (folder / RUN).glob("*.jsonl"):
        kept |= {f"{log} {i}": json.dumps(line) for i, line in enumerate(read_log(log))}
    return kept


def stage(folder: Path) -> str:
    """Return which part of a run was written last, such as "vae" or "rounds/sought"; its clocks don't count."""
    files = [path for path in (folder / RUN).rglob("[!.]*") if path.is_file() and path.name != "seconds.json"]
    if not files:
        return "nothing"
    part, *rest = max(files, key=lambda path: path.stat().st_mtime_ns).relative_to(folder / RUN).parts
    return f"{part}/{rest[1]}" if part == "rounds" else part


def run(kills: Sequence[Kill], place: Path, arguments: Sequence[str] = ("--preset", "smoke")) -> dict[str, Any]:
    """Kill runs, let the last one go on to its end, and compare those that ended with an unkilled run.

    Args:
        kills: one after the other, each of the run that the one before killed, or of a new one where that had ended.
        place: an empty folder, in which the unkilled run's is ``straight`` and the others' are ``0``, ``1``, ...
        arguments: of the loop.

    Returns:
        The figures: ``kills`` made (a run may end before the moment comes), and what was ``last_written`` before each;
        ``lost`` names what was finished before a kill and was not there after it, ``different`` what came out otherwise
        than in the unkilled run, ``left`` half-written files.

    Raises:
        RuntimeError: when a run ended with an error.
    """
    lost, different, left, runs, struck = [], [], [], 0, Counter[str]()
    folder = place / "straight"
    folder.mkdir()
    going = never(folder, arguments)
    expected, before = state(folder), finished(folder)
    for kill in tqdm([*kills, never], desc="kills", unit="kill"):
        if not going:
            folder, before, runs = place / str(runs), {}, runs + 1
            folder.mkdir()
        going = kill(folder, arguments)
        struck.update([stage(folder)] if going else [])
        kept = finished(folder)
        lost += [name for name, content in before.items() if kept.get(name) != content]
        before = kept
        if not going:
            came = state(folder)
            different += [name for name in expected | came if expected.get(name) != came.get(name)]
            left += [str(path) for path in folder.rglob(".*.tmp*")]
    return {
        "kills": struck.total(),
        "last_written": dict(sorted(struck.items())),
        "runs": runs,
        "files_compared": len(expected),
        "lost": lost,
        "different": different,
        "left": left,
    }


def soak(anywhere: int, inside: int, seed: int) -> dict[str, Any]:
    """Return the figures of kills at moments drawn by chance: so many at any time, and so many inside a write."""
    rng = np.random.default_rng(seed)
    drawn = [in_write(int(rng.integers(1, 40))) for _ in range(inside)]
    drawn += [after(rng.uniform(2, 12)) for _ in range(anywhere)]
    with tempfile.TemporaryDirectory() as place:
        return run([drawn[i] for i in rng.permutation(len(drawn))], Path(place))
