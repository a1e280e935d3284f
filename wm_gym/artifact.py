"""Folders of trained weights: ``config.json`` beside safetensors files, and one clear error for whatever is wrong.

A folder may come from strangers. Nothing in it is run, nothing outside of it is read, and what its files claim is
checked before memory is taken for it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT_VERSION = 2
"""Version of the folder's format that this package writes; it reads this one and older."""

PRETRAINED = Path(__file__).parent / "pretrained"
Arrays = dict[str, np.ndarray]
Config = TypeVar("Config")
Read = TypeVar("Read")
FLOATS, INTEGERS = ("F16", "F32", "F64"), ("I8", "I16", "I32", "I64")
"""Types of tensors that are read, as safetensors calls them."""
LARGEST = 1 << 14
"""The greatest size of a layer that a config may ask for."""
LARGEST_VALUE = 65504.0
"""The greatest magnitude of a number: what float16 holds, in which weights are saved; sums of them stay finite."""
CONFIG_BYTES, HEADER_BYTES, FILE_BYTES = 1 << 22, 1 << 20, 1 << 26
"""The greatest config, header of a safetensors file, and whole file that are read: 33 million float16 weights."""


class ArtifactError(ValueError):
    """A folder of weights that can't be read; the message names the file and what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) < 2000 else f"{message[:2000]} ...")  # some quote what they found


def bundled(kind: str) -> list[str]:
    """Return the names of the artifacts of a kind that come with the package; a `Path` is none of them."""
    return sorted(path.name for path in PRETRAINED.iterdir() if (path / kind).is_dir()) if PRETRAINED.is_dir() else []


def resolve(name: str | Path, kind: str) -> Path:
    """Return the folder of a bundled name ("car_racing"), of the user's own path, or of a download.

    Args:
        name: bundled name, as a string; folder of the artifact, or one that has it in a folder called as its kind;
            "user/name" of a repository on the Hugging Face Hub, unless that is a path here.
        kind: "world_model" or "controller".

    Raises:
        ArtifactError: when there is no such folder or repository.
        TypeError: for anything but a string or a path.
    """
    from wm_gym import hub

    if not isinstance(name, (str, Path)):
        raise TypeError(f"a {kind} is given as a bundled name or a folder, got {name!r}")
    names = bundled(kind)
    folder = PRETRAINED / name / kind if name in names else Path(name)
    try:
        if not folder.exists() and put_aside(folder).is_dir():
            return put_aside(folder)
        if folder.is_dir():
            inner = folder / kind
            if not inner.exists() and put_aside(inner).is_dir():
                inner = put_aside(inner)
            shared = not (folder / "config.json").exists() and inner.is_dir() and not inner.is_symlink()
            return inner if shared else folder
    except (OSError, ValueError) as error:  # ValueError: no name that a file can have
        raise ArtifactError(f"no such {kind}: {name}: not readable: {error}") from error
    if hub.is_remote(name):
        return hub.download(str(name), kind)
    agent = next((path for path in (Path(name), Path(f"{name}.zip")) if path.suffix == ".zip" and path.is_file()), None)
    hint = "" if agent is None else f"; {agent} may be an agent, which wm_gym.load_policy takes"
    raise ArtifactError(f"{name}: no such {kind}: expected a folder, one of the bundled {names} or user/name{hint}")


def _is_kind(folder: Path, kind: str) -> bool:
    """Return whether a folder's config says that it is an artifact of a kind, whatever else may be wrong with it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("kind") == kind


def put_aside(folder: Path) -> Path:
    """Return where the old artifact is while a save replaces it; it stays there if the save is killed just then."""
    folder = Path(os.path.realpath(folder))  # behind a link
    return folder.with_name(f".{folder.name}.old")


def read_whole(name: str | Path, kind: str, read: Callable[[Path], Read]) -> Read:
    """Return what is read from an artifact's folder; once more if another one was saved in its place meanwhile.

    Args:
        name: see `resolve`.
        kind: "world_model" or "controller".
        read: reads the folder's files, one after the other.

    Raises:
        ArtifactError: when there is no such folder, and whatever ``read`` raises of one that nobody touched.
    """
    while True:
        folder = resolve(name, kind)
        before = stamp(folder)
        try:
            found = read(folder)
        except ArtifactError:
            if not folder.is_dir() or stamp(folder) != before:
                continue
            raise
        if folder.is_dir() and stamp(folder) == before:
            return found


def check_sizes(config: Any, *names: str) -> None:
    """Raise ValueError unless these attributes of a config are whole numbers from 1 to `LARGEST`."""
    for name in names:
        value = getattr(config, name)
        for each in value if isinstance(value, tuple) else (value,):
            if type(each) is not int or not 1 <= each <= LARGEST:
                raise ValueError(f"{name} is {value!r}, expected whole numbers from 1 to {LARGEST}")


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes whenever a file of the folder does: names, times and sizes.

    Raises:
        ArtifactError: when the folder can't be read.
    """
    try:
        stats = [(path.name, path.lstat()) for path in sorted(folder.iterdir())]
    except OSError as error:
        raise ArtifactError(f"{folder}: not readable: {error}") from error
    return tuple((name, found.st_mtime_ns, found.st_size) for name, found in stats)


def build(config: type[Config], content: Mapping[str, Any]) -> Config:
    """Make a config dataclass of JSON that names all its fields; raises TypeError if not, and what the class raises."""
    if missing := sorted({field.name for field in fields(config)} - set(content)):  # type: ignore[arg-type]
        raise TypeError(f"{config.__name__} lacks {missing}")
    return config(**content)


def check_file(path: Path, largest: int) -> None:
    """Refuse what is no file of its folder, or a larger one than is read, before anything opens it.

    Raises:
        ArtifactError: for a missing file, a link out of the folder or to nothing, a folder, a FIFO or other device.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
        found = real.stat()
        inside = real.is_relative_to(path.parent.resolve())
    except FileNotFoundError:
        problem = "a link to nothing" if path.is_symlink() else "missing"
        raise ArtifactError(f"{path}: {problem}: expected a folder that wm_gym has saved") from None
    except OSError as error:
        raise ArtifactError(f"{path}: not readable: {error}") from error
    if not inside:
        raise ArtifactError(f"{path}: a link out of the folder, to {real}: put the file itself there")
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{path}: expected a file, found {stat.filemode(found.st_mode)}")
    if found.st_size > largest:
        raise ArtifactError(f"{path}: has {found.st_size:,} bytes, at most {largest:,} are read")


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """Read and check ``config.json``.

    Raises:
        ArtifactError: for a missing or broken file, another kind of artifact, or a format newer than this package.
    """
    path = folder / "config.json"
    check_file(path, CONFIG_BYTES)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or absurdly long numbers
        raise ArtifactError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("kind") != kind:
        found = config.get("kind") if isinstance(config, dict) else type(config).__name__
        raise ArtifactError(f"{path}: expected the config of a {kind}, found {found!r}")
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        raise ArtifactError(f"{path}: format_version is {version!r}, expected a positive whole number")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: written in format {version}, this wm_gym reads up to {FORMAT_VERSION}: upgrade wm_gym"
        )
    if not isinstance(config.get("training"), dict):
        raise ArtifactError(f"{path}: training is {config.get('training')!r}, expected an object")
    return config


def read_arrays(path: Path, shapes: Mapping[str, tuple[int | None, ...]], integers: Collection[str] = ()) -> Arrays:
    """Read a safetensors file after checking its names, shapes and types against what the config asks for.

    Args:
        path: of the file.
        shapes: expected name -> shape; None stands for any length.
        integers: names of those that hold whole numbers.

    Returns:
        int64 arrays, and float32 arrays of magnitudes up to `LARGEST_VALUE`.

    Raises:
        ArtifactError: when the file is missing, truncated, or holds something else.
    """
    arrays: Arrays = {}
    check_file(path, FILE_BYTES)
    try:
        with path.open("rb") as start:
            if (size := int.from_bytes(start.read(8), "little")) > HEADER_BYTES:
                raise ArtifactError(f"{path}: not a readable safetensors file: a header of {size:,} bytes")
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            if names != set(shapes):
                missing, extra = sorted(set(shapes) - names), sorted(names - set(shapes))
                raise ArtifactError(f"{path}: missing tensors {missing}, unexpected tensors {extra}")
            for name, shape in shapes.items():
                found = tuple(file.get_slice(name).get_shape())
                if len(found) != len(shape) or any(
                    want not in (None, have) for want, have in zip(shape, found, strict=True)
                ):
                    raise ArtifactError(f"{path}: tensor {name!r} has shape {found}, expected {shape}")
                types = INTEGERS if name in integers else FLOATS
                if (kind := file.get_slice(name).get_dtype()) not in types:
                    raise ArtifactError(f"{path}: tensor {name!r} has type {kind}, expected one of {types}")
            for name in shapes:
                with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused
                    array = file.get_tensor(name).astype(np.int64 if name in integers else np.float32)
                if name not in integers and not (np.abs(array) <= LARGEST_VALUE).all():
                    raise ArtifactError(f"{path}: tensor {name!r} holds values that are not finite in float16")
                arrays[name] = array
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: not a readable safetensors file: {error}") from error
    return arrays


def write_folder(folder: Path, kind: str, config: Mapping[str, Any], files: Mapping[str, Arrays]) -> None:
    """Write a whole artifact to a temporary folder, then put it in the place of ``folder``.

    Args:
        folder: where it goes; an artifact of this kind that is there already is replaced.
        kind: "world_model" or "controller".
        config: JSON-able content of ``config.json``.
        files: file name -> arrays.

    Raises:
        FileExistsError: when ``folder`` holds anything but an artifact of this kind, or is the current directory.
        ValueError: for what would be refused when it is read again; nothing has been written then.
    """
    description = {"kind": kind, "format_version": FORMAT_VERSION, **config}
    try:
        written = {"config.json": (json.dumps(description, indent=2) + "\n").encode()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: not saved: no JSON can be made of it: {error}") from error
    for name, arrays in files.items():
        if broken := [key for key, array in arrays.items() if not (np.abs(array) <= LARGEST_VALUE).all()]:
            raise ValueError(
                f"{folder / name}: not saved: {broken} hold values that are not finite, or beyond "
                f"±{LARGEST_VALUE:.0f}, the most of float16"
            )
        # safetensors' own save_file would make files that nobody but their owner can read
        written[name] = save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
    for name, data in written.items():
        if len(data) > (most := FILE_BYTES if name in files else CONFIG_BYTES):
            raise ValueError(f"{folder / name}: not saved: {len(data):,} bytes, at most {most:,} are read")
    folder = Path(os.path.realpath(folder))  # behind a link, which stays
    if folder == Path.cwd():
        raise FileExistsError(f"{folder}: is the current directory, which can't be replaced; choose another folder")
    if folder.exists():
        content = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        own = {"config.json", *(name for name in content if name.endswith(".safetensors"))}
        if content and (content - own or "config.json" not in content or not _is_kind(folder, kind)):
            raise FileExistsError(f"{folder}: exists and is no {kind}; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        for name, data in written.items():
            (temporary / name).write_bytes(data)
        replaced = put_aside(folder)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room
        raise
    shutil.rmtree(replaced, ignore_errors=True)
