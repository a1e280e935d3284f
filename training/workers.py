"""A list of jobs over worker processes: the seam between the stages and whatever runs their drives."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

MOST_DEATHS = 3
"""So often in a row a worker may die before any job is done."""


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker when the process that started it is gone, however it went: nobody would take its result."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def map_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Generator[Result, None, None]:
    """Yield ``function(job)`` for each job as results come in.

    Workers are spawned (nothing is forked after torch has threads) and have one torch thread each. When one dies in the
    middle of a job, killed from outside or out of memory, new ones begin again with all jobs that are not done.

    Close the generator (`contextlib.closing`) where work on a result may be interrupted, or Python waits for all jobs.

    Args:
        function: importable by name.
        jobs: picklable.
        workers: number of processes.

    Raises:
        Exception: what a job raised; jobs that were not started are dropped.
        RuntimeError: when workers die again and again and no job gets done.
    """
    context = multiprocessing.get_context("spawn")
    deaths, left = 0, list(jobs)
    while left:
        lost = []
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
            futures = {pool.submit(function, job): job for job in left}
            try:
                for future in as_completed(futures):
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        lost.append(futures[future])
                    else:
                        yield result
            finally:
                pool.shutdown(cancel_futures=True)
        deaths = deaths + 1 if len(lost) == len(left) else 0
        if deaths == MOST_DEATHS:
            raise RuntimeError(
                f"{deaths} times in a row a worker process died before any of {len(left)} jobs was done: "
                f"is there memory for {workers} of them? Try fewer --workers"
            )
        if lost:
            tqdm.write(f"a worker process died: {len(lost)} of {len(left)} jobs begin again", sys.stderr)
        left = lost
