"""Tiny valid artifacts, and named ways to spoil them: what strangers may send."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from wm_gym.actions import ActionConfig
from wm_gym.artifact import LARGEST
from wm_gym.car_racing import CAR_RACING
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.models.ensemble import EnsembleConfig
from wm_gym.models.kinds import make_memory
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.transformer import TransformerConfig
from wm_gym.models.vae import VAE, VAEConfig
from wm_gym.starts import Starts
from wm_gym.world_model import WorldModel, WorldModelConfig

Rng = np.random.Generator
MODEL, TRANSFORMER, ENSEMBLE, CONTROLLER, POPULATION = SUBJECTS = (
    "world_model",
    "world_model of a Transformer",
    "world_model of an ensemble",
    "controller",
    "population",
)
MODELS, CONTROLLERS = SUBJECTS[:3], SUBJECTS[3:]

# --- valid ones ----------------------------------------------------------------------------------------------------


def tiny_world_model(
    rng: Rng, latents: int = 3, hidden: int = 4, actions: int = 3, starts: int = 4, subject: str = MODEL
) -> WorldModel:
    """Return a world model of random weights whose dreams may start in ``starts`` moments, half of them mid-drive."""
    torch.manual_seed(int(rng.integers(1 << 31)))
    vae, sizes = VAEConfig(latents, (2, 2, 2, 2)), (latents, actions, hidden, 2)
    memory = {
        MODEL: MDNRNNConfig(*sizes),
        TRANSFORMER: TransformerConfig(*sizes, width=4, layers=2, attention_heads=2, context=3),
        ENSEMBLE: EnsembleConfig(*sizes, members=2),
    }[subject]
    task = CAR_RACING
    if actions != task.actions.size:
        task = replace(task, env="Another-v0", actions=ActionConfig((0.0,) * actions, (1.0,) * actions))
    moments = Starts(
        z=rng.standard_normal((starts, 4, latents)).astype(np.float32),
        actions=rng.uniform(0, 1, (starts, 3, actions)).astype(np.float32),
        length=np.arange(starts) % 2 * 3,
        gained=np.arange(starts).astype(np.float32) % 2 * 20,
    )
    config = WorldModelConfig(vae=vae, memory=memory, task=task)
    return WorldModel(config, VAE(vae), make_memory(memory), moments)


def write_valid(folder: Path, subject: str, rng: Rng) -> None:
    """Save a tiny artifact of random weights."""
    if subject in MODELS:
        tiny_world_model(rng, subject=subject).save(folder)
    else:
        config = ControllerConfig(observation_size=7)
        members = () if subject == CONTROLLER else (5,)
        Controller(rng.standard_normal((*members, config.parameters)), config).save(folder)


# --- tools ---------------------------------------------------------------------------------------------------------


def pick(folder: Path, rng: Rng, ending: str = "") -> Path:
    """Return one of the folder's files."""
    files = sorted(path for path in folder.iterdir() if path.name.endswith(ending))
    return files[rng.integers(len(files))]


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let ``change`` edit the content of the config in place."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def places(content: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return where the config's values stand, nested ones too: pairs of an object and a key."""
    found = [(content, key) for key in content]
    return found + [(value, key) for value in content.values() if isinstance(value, dict) for key in value]


def edit_place(folder: Path, rng: Rng, change: Callable[[dict[str, Any], str], object]) -> None:
    """Let ``change`` edit one of the config's places."""

    def edit(content: dict[str, Any]) -> None:
        found = places(content)
        change(*found[rng.integers(len(found))])

    edit_config(folder, edit)


def edit_tensor(folder: Path, rng: Rng, change: Callable[[np.ndarray], np.ndarray], name: str = "") -> None:
    """Replace one of the tensors, of floats unless it is named, by what ``change`` makes of it."""
    path = folder / "starts.safetensors" if name else pick(folder, rng, ".safetensors")
    arrays = load_file(path)
    name = name or str(rng.choice([key for key, array in arrays.items() if array.dtype.kind == "f"]))
    save_file({**arrays, name: np.ascontiguousarray(change(arrays[name]))}, path)


def rename_tensor(folder: Path, rng: Rng, *names: str) -> None:
    """Store one of the tensors under these names instead of its own; "" stands for its own."""
    path = pick(folder, rng, ".safetensors")
    arrays = load_file(path)
    own = str(rng.choice(list(arrays)))
    array = arrays.pop(own)
    save_file({**arrays, **{name or own: array for name in names}}, path)


def edit_header(folder: Path, rng: Rng, change: Callable[[dict[str, Any], str], object], padding: int = 0) -> None:
    """Let ``change`` edit a file's header, given one of the tensors' names; the tensors' bytes stay as they are."""
    path = pick(folder, rng, ".safetensors")
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    change(header, str(rng.choice(sorted(header))))
    written = json.dumps(header).encode() + b" " * padding
    path.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + size :])


def poke(array: np.ndarray, value: float, rng: Rng, dtype: Any = None) -> np.ndarray:
    """Return a copy with one element replaced."""
    changed = array.astype(dtype or array.dtype)
    changed.flat[rng.integers(changed.size)] = value
    return changed


# --- mutations -----------------------------------------------------------------------------------------------------


def cut(path: Path, rng: Rng) -> None:
    """Truncate a file somewhere."""
    os.truncate(path, int(rng.integers(path.stat().st_size - 1)))


def put(path: Path, make: Callable[[Path], object]) -> None:
    """Make something else in the place of a file."""
    path.unlink()
    make(path)


def flip(path: Path, rng: Rng, among: int | None = None) -> None:
    """Change up to eight of the first ``among`` bytes."""
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    content[rng.integers(among or content.size, size=rng.integers(1, 9))] ^= rng.integers(1, 256, dtype=np.uint8)
    path.write_bytes(content.tobytes())


def swap(folder: Path, rng: Rng) -> None:
    """Exchange two of the folder's files."""
    first, second = (sorted(folder.iterdir())[i] for i in rng.permutation(len(list(folder.iterdir())))[:2])
    first.rename(folder / "other")
    second.rename(first)
    (folder / "other").rename(second)


def nest(folder: Path, rng: Rng) -> None:
    """Put folders of the bundle's names into the folder."""
    for kind in (MODEL, CONTROLLER, POPULATION):
        (folder / kind).mkdir()


def link_out(folder: Path, rng: Rng) -> None:
    """Move a file out of the folder, and link to it."""
    path = pick(folder, rng)
    path.rename(folder.parent / "outside")
    path.symlink_to(folder.parent / "outside")


def link_inside(folder: Path, rng: Rng) -> None:
    """Give a file another name, and link to that."""
    path = pick(folder, rng)
    path.rename(folder / "elsewhere")
    path.symlink_to("elsewhere")


def link_folder(folder: Path, rng: Rng) -> None:
    """Let the folder be a link to a folder."""
    folder.rename(folder.parent / "real")
    folder.symlink_to("real")


def replace_folder(folder: Path, make: Callable[[Path], object]) -> None:
    """Make something else in the place of the folder."""
    shutil.rmtree(folder)
    make(folder)


class Payload:
    """What unpickles by making a folder "ran"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "ran"),)


def change_sizes(folder: Path, rng: Rng, **sizes: int) -> None:
    """Put a whole world model of other sizes, and of any memory, there."""
    tiny_world_model(rng, **sizes, subject=MODELS[rng.integers(len(MODELS))]).save(folder)


def stretch(folder: Path, rng: Rng, starts: int, steps: int) -> None:
    """Put starts there of another number and length, which fit together."""
    path = folder / "starts.safetensors"
    shapes = {"z": (starts, steps + 1, 3), "actions": (starts, steps, 3), "gained": (starts,)}
    arrays = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file({**arrays, "length": np.arange(starts) % 2 * steps}, path)


def set_bounds(folder: Path, rng: Rng) -> None:
    """Give a controller bounds that no action can keep to."""
    bad: list[Any] = [None, "012", ["0", "0", "0"], [], [0, 0], [2, 0, 0], [[0], [0], [0]], [10**400, 0, 0]]
    bad += [[float("nan"), 0, 0], [-1e300, 0, 0], {"a": 0}, [True, {}, 0], 3]
    edit_config(folder, lambda config: config.update(low=bad[rng.integers(len(bad))]))


NUMBERS = (True, -1, 0, 1, 2.5, 10**400, float("nan"), float("inf"))
STRANGE: tuple[Any, ...] = (None, *NUMBERS, "32", "\ud800", "x" * 10**5, [], [[]], [1] * 4, {})
"""Values that stand in a config where others belong."""
HUGE = (LARGEST, LARGEST + 1, 2**31, 10**12, 2**63, 10**400)
"""Sizes that no file beside the config has."""
SIZES = {"latent_size", "action_size", "hidden_size", "mixtures", "observation_size"}
SIZES |= {"width", "layers", "attention_heads", "context", "members"}


def set_huge_size(folder: Path, rng: Rng) -> None:
    """Let the config ask for a huge size."""

    def change(config: dict[str, Any]) -> None:
        found = [(owner, key) for owner, key in places(config) if key in SIZES]
        owner, key = found[rng.integers(len(found))]
        owner[key] = HUGE[rng.integers(len(HUGE))]

    edit_config(folder, change)
