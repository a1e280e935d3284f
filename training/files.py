"""Folders that outlive their processes: whole files or none, one process at a time, the settings kept beside them."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

PACKAGES = ("wm-gym", "torch", "gymnasium", "numpy")
"""Packages whose versions are kept with a run's settings."""

TEMPORARY = re.compile(r"\..+\.(\d+|[0-9a-f]{32})\.tmp(\.mp4)?")
"""Names of what `write_atomic`, an artifact's ``save`` (32 digits of chance for the process's number) and a video's
writer, which wants an ending that it knows, are writing."""


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)  # there still, if something went wrong: a full disk needs the room


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file, atomically."""
    write_atomic(target, lambda file: file.write(source.read_bytes()))


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_atomic(path, lambda file: file.write((json.dumps(content, indent=2, default=str) + "\n").encode()))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other process work in a folder, in one above or in one inside it. The lock goes with the process.

    What a process left half-written there when it was killed is removed.

    Raises:
        RuntimeError: when another process works there.
        PermissionError: for a folder that is not ours to write in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except PermissionError:
        raise PermissionError(f"{folder} can't be written in: choose another folder") from None
    held = folder / ".lock"
    above = [parent / held.name for parent in folder.resolve().parents]
    others = [lock for lock in (*above, *folder.rglob(held.name)) if lock != held and os.access(lock, os.W_OK)]
    try:
        with FileLock(held, blocking=False):
            for lock in others:
                with FileLock(lock, blocking=False):
                    pass
            for path in folder.rglob(".*.tmp*"):
                if TEMPORARY.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield
    except Timeout as error:
        place = Path(error.lock_file).parent
        raise RuntimeError(f"another process works in {place}: wait for it, or choose another folder") from error


def keep_settings(path: Path, settings: dict[str, Any], free: Collection[str] = ()) -> None:
    """Write settings and versions to ``path``, or compare them with those that its folder was begun with.

    Args:
        path: of the file.
        settings: JSON-able, or with a ``str``; may be nested.
        free: names of settings that may change when work goes on; those of nested ones have dots.

    Raises:
        ValueError: for a folder that was begun with other settings or versions.
    """
    packages = {name: version(name) for name in PACKAGES}
    content = json.loads(json.dumps(settings, default=str))
    content["versions"] = {"python": platform.python_version()} | packages
    if path.is_file():
        old, new = dict(leaves(json.loads(path.read_text()))), dict(leaves(content))
        names = [name for name in old | new if name not in free and not _alike(name, old.get(name), new.get(name))]
        if names:
            changes = ", ".join(f"{name} ({old.get(name)}, now {new.get(name)})" for name in names)
            raise ValueError(
                f"{path.parent} was begun with another {changes}: give the settings that are in {path}, choose another "
                "folder, or remove that file to go on with these all the same"
            )
    write_json(path, content)


def _alike(name: str, old: Any, new: Any) -> bool:
    """Return whether a setting is the same; of a version neither torch's build nor Python's last number counts."""
    if name.startswith("versions.") and isinstance(old, str) and isinstance(new, str):
        old, new = (each.split("+")[0] for each in (old, new))
        if name == "versions.python":
            old, new = (each.rpartition(".")[0] for each in (old, new))
    return bool(old == new)


def leaves(settings: dict[str, Any], prefix: str = "", separator: str = ".") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested settings with their joined names, such as ``("rnn.model.hidden_size", 256)``."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}{separator}", separator)
        else:
            yield f"{prefix}{name}", value


def flags(settings: dict[str, Any], usual: dict[str, Any], alike: Collection[str]) -> list[str]:
    """Return the flags, as a command line takes them, of settings that differ from the usual ones.

    Args:
        settings: JSON-able, or with a ``str``; may be nested.
        usual: the same with other values; what is missing in it is no flag's.
        alike: names of settings that are left out.
    """
    given, others = (dict(leaves(json.loads(json.dumps(each, default=str)))) for each in (settings, usual))
    found = []
    for name, value in given.items():
        if name not in others or value == others[name] or name in alike:
            continue
        *groups, last = name.replace("_", "-").split(".")
        flag = ".".join([*groups, f"no-{last}" if value is False else last])
        values = [] if isinstance(value, bool) else value if isinstance(value, list) else [value]
        found.append(" ".join([f"--{flag}", *(shlex.quote(str(each)) for each in values)]))
    return found
