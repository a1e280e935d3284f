"""Folders of trained weights: ``config.json`` beside safetensors files, and one clear error for whatever is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT_VERSION = 1
"""Version of the folder's format that this package writes; it reads this one and older."""

PRETRAINED = Path(__file__).parent / "pretrained"
Arrays = dict[str, np.ndarray]
TYPES = ("F16", "F32", "F64", "I8", "I16", "I32", "I64")
"""Types of tensors that are read, as safetensors calls them."""
LARGEST = 1 << 16
"""The greatest size of a layer that a config may ask for."""


class ArtifactError(ValueError):
    """A folder of weights that can't be read; the message names the file and what is wrong with it."""


def resolve(name: str | Path, kind: str) -> Path:
    """Return the folder of a bundled name ("car_racing") or of the user's own path.

    Args:
        name: bundled name or folder.
        kind: "world_model" or "controller".

    Raises:
        ArtifactError: when there is no such folder.
        TypeError: for anything but a string or a path.
    """
    if not isinstance(name, (str, Path)):
        raise TypeError(f"a {kind} is given as a bundled name or a folder, got {name!r}")
    bundled = PRETRAINED / str(name) / kind
    try:
        folder = bundled if bundled.is_dir() else Path(name)
        left = sorted(folder.parent.glob(f".{escape(folder.name)}.*.old")) if not folder.exists() else []
        if left:  # a save was killed after it had put the old artifact aside
            left[0].rename(folder)
    except OSError as error:  # no name that the file system takes
        raise ArtifactError(f"{name}: no such {kind}: {error}") from error
    if not folder.is_dir():
        names = (
            sorted(path.name for path in PRETRAINED.iterdir() if (path / kind).is_dir()) if PRETRAINED.is_dir() else []
        )
        raise ArtifactError(f"{name}: no such {kind}: expected a folder or one of the bundled {names}")
    return folder


def check_sizes(config: Any, *names: str) -> None:
    """Raise ValueError unless these attributes of a config are whole numbers from 1 to `LARGEST`."""
    for name in names:
        value = getattr(config, name)
        for each in value if isinstance(value, tuple) else (value,):
            if type(each) is not int or not 1 <= each <= LARGEST:
                raise ValueError(f"{name} is {value!r}, expected whole numbers from 1 to {LARGEST}")


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes whenever a file of the folder does: names, times and sizes."""
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """Read and check ``config.json``.

    Raises:
        ArtifactError: for a missing or broken file, another kind of artifact, or a format newer than this package.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; expected a folder written by {kind}.save") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or absurdly long numbers
        raise ArtifactError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("kind") != kind:
        found = config.get("kind") if isinstance(config, dict) else type(config).__name__
        raise ArtifactError(f"{path}: expected the config of a {kind}, found {found!r}")
    version = config.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ArtifactError(f"{path}: format_version is {version!r}, expected a positive whole number")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: written in format {version}, this wm_gym reads up to {FORMAT_VERSION}: upgrade wm_gym"
        )
    return config


def read_arrays(path: Path, shapes: Mapping[str, tuple[int | None, ...]]) -> Arrays:
    """Read a safetensors file after checking its names, shapes and types against what the config asks for.

    Args:
        path: of the file.
        shapes: expected name -> shape; None stands for any length.

    Returns:
        float32 (or integer) arrays, all finite.

    Raises:
        ArtifactError: when the file is missing, truncated, or holds something else.
    """
    arrays: Arrays = {}
    try:
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
                if (kind := file.get_slice(name).get_dtype()) not in TYPES:
                    raise ArtifactError(f"{path}: tensor {name!r} has type {kind}, expected one of {TYPES}")
            for name in shapes:
                array = file.get_tensor(name)
                with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused
                    array = array.astype(np.float32) if array.dtype.kind == "f" else array
                if not np.isfinite(array).all():
                    raise ArtifactError(f"{path}: tensor {name!r} holds values that are not finite in float32")
                arrays[name] = array
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing") from None
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: not a readable safetensors file: {error}") from error
    return arrays


def write_folder(folder: Path, kind: str, config: Mapping[str, Any], files: Mapping[str, Arrays]) -> None:
    """Write a whole artifact to a temporary folder, then put it in the place of ``folder``.

    Args:
        folder: where it goes; an artifact that is there already is replaced.
        kind: "world_model" or "controller".
        config: JSON-able content of ``config.json``.
        files: file name -> arrays.

    Raises:
        FileExistsError: when ``folder`` holds anything but an artifact.
    """
    if folder.exists():
        content = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        own = {"config.json", *(name for name in content if name.endswith(".safetensors"))}
        if content and (content - own or "config.json" not in content):
            raise FileExistsError(f"{folder}: exists and is no artifact; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
    temporary.mkdir()
    for name, arrays in files.items():
        # safetensors' own save_file would make files that nobody but their owner can read
        (temporary / name).write_bytes(save({key: np.ascontiguousarray(array) for key, array in arrays.items()}))
    description = {"kind": kind, "format_version": FORMAT_VERSION, **config}
    (temporary / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    replaced = folder.with_name(f".{folder.name}.{uuid4().hex}.old")
    if folder.exists():
        folder.rename(replaced)
    temporary.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
