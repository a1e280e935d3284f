"""A list of jobs over workers, here or on a Ray cluster: the seam between the stages and whatever runs their drives.

Jobs name world models and controllers; `here` says where the worker's machine has them, which may share no disk with
the one that the jobs come from.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from wm_gym import artifact
from wm_gym.policies import WEIGHTLESS

Job = TypeVar("Job")
Result = TypeVar("Result")
Name = tuple[str, str]
"""How jobs call weights: a name, as `wm_gym.load_policy` and ``from_pretrained`` take it, and "world_model" or
"controller"."""

MOST_DEATHS = 3
"""So often in a row a worker may die before any job is done; on a cluster, so often with the same job."""

arrived: dict[Name, str] = {}
"""Where a worker on a cluster has the weights that came with its job."""


def weights_of(policy: str | None, world_model: str | None) -> dict[Name, Path]:
    """Return where this machine has the weights that drives name.

    Raises:
        wm_gym.ArtifactError: when there are none of that name.
    """
    found = {}
    if world_model is not None:
        found[world_model, "world_model"] = artifact.resolve(world_model, "world_model")
    if policy is not None and policy.endswith(".zip"):
        found[policy, "controller"] = Path(policy)
    elif policy is not None and policy not in WEIGHTLESS:
        found[policy, "controller"] = artifact.resolve(policy, "controller")
    return found


def here(name: str, kind: str) -> str:
    """Return what the weights that a job names are called on the machine that does the job."""
    return arrived.get((name, kind), name)


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


def map_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    ray: str | None = None,
    weights: Mapping[Name, Path] | None = None,
) -> Generator[Result, None, None]:
    """Yield ``function(job)`` for each job as results come in.

    Workers are spawned (nothing is forked after torch has threads) and have one torch thread each. When one dies in the
    middle of a job, killed from outside or out of memory, new ones begin again with all jobs that are not done. With
    ``ray`` they are those of a cluster, see `training.cluster`.

    Close the generator (`contextlib.closing`) where work on a result may be interrupted, or Python waits for all jobs.

    Args:
        function: importable by name, or a `functools.partial` of such a function with what all jobs share.
        jobs: picklable.
        workers: number of processes; a cluster has as many as cores.
        ray: address of a Ray cluster, as ``ray.init`` takes it; None for processes of this machine.
        weights: what `weights_of` says of the names in the jobs; for workers of another machine.

    Raises:
        Exception: what a job raised; jobs that were not started are dropped.
        ImportError: without Ray, which the extra ``ray`` installs.
        RuntimeError: when workers die again and again and no job gets done; `training.cluster` says what a cluster
            raises.
    """
    if ray is not None:
        try:
            from training import cluster
        except ImportError as error:
            raise ImportError('a cluster needs Ray: pip install "wm-gym[ray]"') from error
        yield from cluster.map_jobs(function, jobs, ray, weights or {})
        return
    context = multiprocessing.get_context("spawn")
    deaths, left = 0, list(jobs)
    while left:
        lost = []
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
            futures = {pool.submit(function, job): job for job in left}
            try:
                for future in as_completed(list(futures)):
                    job = futures.pop(future)  # and with it the result, once it is taken
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        lost.append(job)
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
