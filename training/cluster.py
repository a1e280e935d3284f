"""A list of jobs over the cores of a Ray cluster: what `training.workers.map_jobs` does with ``ray``.

Ray schedules, begins again what a lost worker or machine had not finished, and carries results. Code and weights go
from this machine to the others, once each, so that they need Python and the dependencies only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

import ray
import torch

from training import workers
from training.files import write_atomic
from training.workers import MOST_DEATHS, Job, Name, Result
from wm_gym import artifact
from wm_gym.tasks import PACKAGES

CANCELS = 30
"""Seconds for which jobs are cancelled again: a cancellation can miss one that is just about to start."""

ROOT = Path(__file__).parents[1]
CODE = ("wm_gym", "training", "benchmarks")
NOT_CODE = ["/??*", *(f"!/{name}{rest}" for name in CODE for rest in ("", "/**")), "/benchmarks/results"]
"""What of `ROOT` stays here, as .gitignore would say it; of two letters at least, as Ray calls `ROOT` a dot."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": ""}
"""Settings of Ray: a cluster that is started here tells no one, and does not warn that .git stays here."""

Parcel = tuple[str, dict[str, bytes]]
"""Where a worker is to have a file or folder, in its working directory, and the content of its files."""


def connect(address: str, **options: Any) -> None:
    """Join a cluster until this process ends, unless it has joined one.

    Args:
        address: as ``ray.init`` takes it: "auto" for the cluster that this machine is in, host:port of its head, or
            "local" for a new one of this machine alone.
        **options: of ``ray.init``.

    Raises:
        ConnectionError: when there is none at the address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        named = {name: os.environ[name] for name in (PACKAGES,) if name in os.environ}
        code = {"working_dir": str(ROOT), "excludes": NOT_CODE, "env_vars": named}
        ray.init(address, runtime_env=code, logging_level="warning", **options)


def pack(path: Path) -> Parcel:
    """Read a file, or an artifact's folder, to be sent.

    Raises:
        wm_gym.ArtifactError: for a file that `wm_gym.artifact` would not read either, such as a link out of its folder.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors"))
        for file in files:
            artifact.check_file(file, artifact.FILE_BYTES)
    contents, digest = [file.read_bytes() for file in files], hashlib.sha256()
    for file, content in zip(files, contents, strict=True):
        digest.update(f"{file.name} {len(content)} ".encode() + content)
    parent = Path("weights", digest.hexdigest()[:32])
    names = [str(parent / file.relative_to(path.parent)) for file in files]
    return str(parent / path.name), dict(zip(names, contents, strict=True))


def unpack(parcel: Parcel) -> str:
    """Write what was sent and is not there yet, and return where it is."""
    place, files = parcel
    for name, content in files.items():
        if not Path(name).is_file():
            write_atomic(Path(name), methodcaller("write", content))
    return str(Path(place).absolute())


def work(shared: tuple[Callable[[Job], Result], dict[Name, Parcel]], job: Job) -> Result:
    """Do one job on a worker, whose working directory is Ray's copy of the code and goes when Ray removes that."""
    torch.set_num_threads(1)
    function, parcels = shared
    workers.arrived.update({name: unpack(parcel) for name, parcel in parcels.items()})
    return function(job)


def map_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], address: str, weights: Mapping[Name, Path]
) -> Generator[Result, None, None]:
    """Yield ``function(job)`` for each job as results come in, each once.

    The function with what it holds, and the weights, go once to each machine that works on these jobs.

    Args:
        function: as `training.workers.map_jobs` takes it.
        jobs: one core each.
        address: of the cluster, see `connect`.
        weights: where this machine has what the jobs name.

    Raises:
        Exception: what a job raised; jobs that are not done are dropped.
        ConnectionError: when there is no cluster at the address.
        ray.exceptions.RayError: when the same job loses its worker again and again.
    """
    connect(address)
    shared = ray.put((function, {name: pack(path) for name, path in weights.items()}))
    task = ray.remote(max_retries=MOST_DEATHS)(work)
    left = [task.remote(shared, job) for job in jobs]
    try:
        while left:
            (done,), left = ray.wait(left)
            yield ray.get(done)
    finally:
        for _ in range(CANCELS):
            if not left:
                break
            for unfinished in left:
                ray.cancel(unfinished, force=True)
            _, left = ray.wait(left, num_returns=len(left), timeout=1)
