"""Let a child process do what may hang, die or take the machine's memory, and say which of these it did."""

from __future__ import annotations

import multiprocessing
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wm_gym.artifact import ArtifactError

LOADED, REFUSED, WRONG = "loaded", "refused", "wrong"
DATA = 4 << 30
"""Bytes that a child gets at most: a MemoryError there, and not the machine's end."""
START = 120.0
"""Seconds that a child may take for its imports."""


@dataclass(frozen=True)
class Verdict:
    """What came of a job.

    Attributes:
        outcome: LOADED, REFUSED (an ArtifactError) or WRONG (anything else).
        message: of the error; empty when there was none.
        seconds: that it took.
        memory: bytes that the child had at its peak, Python and torch included; 0 when it did not live to tell.
    """

    outcome: str
    message: str
    seconds: float
    memory: int = 0


class Examiner:
    """One spawned child that does jobs one by one, on Linux; a job that hangs costs the child, and a new one goes on.

    Args:
        use: importable by name; takes a job.
        seconds: that a job may take.
        memory: bytes that the child may have.
    """

    def __init__(self, use: Callable[[Any], object], seconds: float = 10.0, memory: int = 1 << 30) -> None:
        self.use, self.seconds, self.memory = use, seconds, memory
        self.child: Any = None
        self.connection: Any = None

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def examine(self, job: Any) -> Verdict:
        """Have a picklable job done.

        Raises:
            RuntimeError: when no child can be started.
        """
        if self.child is None:
            self._start()
        begun = time.monotonic()
        self.connection.send(job)
        if not self.connection.poll(self.seconds):
            self._end()
            return Verdict(WRONG, f"not done after {self.seconds} s", self.seconds)
        seconds = time.monotonic() - begun
        try:
            outcome, message, memory = self.connection.recv()
        except EOFError:
            self.child.join()
            code = self.child.exitcode
            self._end()
            return Verdict(WRONG, f"the process died with exit code {code}", seconds)
        if memory > self.memory:  # a peak stays: the next job needs a new child
            self._end()
            outcome, message = WRONG, f"took {memory / 2**20:,.0f} MiB, {outcome}: {message}"
        return Verdict(outcome, message, seconds, memory)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.child = context.Process(target=_serve, args=(theirs, self.use), daemon=True)
        self.child.start()
        theirs.close()  # so that the death of the child is the end of the pipe
        if not self.connection.poll(START):
            self._end()
            raise RuntimeError(f"a child that examines artifacts did not start within {START} s")
        self.connection.recv()

    def _end(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.join()
            self.connection.close()
            self.child = None


def _serve(connection: Connection, use: Callable[[Any], object]) -> None:
    """Do jobs until nobody asks any more."""
    resource.setrlimit(resource.RLIMIT_DATA, (DATA, DATA))
    connection.send(None)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send((*_outcome(use, job), _peak()))


def _outcome(use: Callable[[Any], object], job: Any) -> tuple[str, str]:
    try:
        use(job)
    except ArtifactError as error:
        return REFUSED, str(error)
    except BaseException as error:  # a panic in Rust or an exit is wrong too, and must be told
        return WRONG, repr(error)
    return LOADED, ""


def _peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError("/proc/self/status tells no VmHWM: peaks of memory are known on Linux only")
    return int(found[1]) << 10
