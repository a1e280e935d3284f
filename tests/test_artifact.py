"""Artifacts: what is saved is what is loaded, and whatever is wrong is one error that names the file."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MEMORIES, every_memory, make_world_model
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

import wm_gym
from wm_gym.models.controller import Controller
from wm_gym.world_model import WorldModel

HEADS = 3 * 32 * 5 + 2
"""Length of the bias of M's heads."""


@pytest.fixture
def folder(world_model_folder: str, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(world_model_folder, tmp_path / "copy"))


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_world_model_comes_back_in_float16(kind, tmp_path):
    saved = make_world_model(kind)
    saved.save(tmp_path / "model")
    loaded = WorldModel.load(tmp_path / "model")
    assert type(loaded.memory) is type(saved.memory)
    assert loaded.config == saved.config
    for module in ("vae", "memory"):
        expected, got = getattr(saved, module).state_dict(), getattr(loaded, module).state_dict()
        assert expected.keys() == got.keys()
        for name, tensor in expected.items():
            assert torch.equal(got[name], tensor.half().float())
    for name, array in vars(saved.starts).items():
        assert np.allclose(getattr(loaded.starts, name), array, rtol=1e-3, atol=1e-4)


def test_files_are_as_readable_as_the_umask_allows(tmp_path):
    mask = os.umask(0o022)
    try:
        make_world_model().save(tmp_path / "model")
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o644}


@every_memory
def test_saving_what_was_loaded_changes_no_byte(world_model_folder, tmp_path):
    WorldModel.load(world_model_folder).save(tmp_path / "again")
    for path in Path(world_model_folder).iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_from_pretrained_loads_once_and_again_when_the_folder_changed(folder):
    model = WorldModel.from_pretrained(folder)
    assert WorldModel.from_pretrained(str(folder)) is model
    make_world_model(latent="mean").save(folder)
    assert WorldModel.from_pretrained(folder).config.latent == "mean"


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_arrays(folder: Path, file: str, **changes) -> None:
    arrays = {name: array for name, array in load_file(folder / file).items() if changes.get(name, 0) is not None}
    save_file({**arrays, **{name: array for name, array in changes.items() if array is not None}}, folder / file)


def edit_field(folder: Path, field: str, **changes) -> None:
    edit_config(folder, **{field: {**json.loads((folder / "config.json").read_text())[field], **changes}})


def others(folder: Path, name: str) -> dict[str, torch.Tensor]:
    arrays = load_file(folder / "memory.safetensors")
    return {key: torch.from_numpy(array) for key, array in arrays.items() if key != name}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILED = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json.*missing"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "config.json.*JSON"),
    "not utf-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json.*JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json.*list"),
    "another kind": (lambda f: edit_config(f, kind="controller"), "config.json.*'controller'"),
    "too new": (lambda f: edit_config(f, format_version=99), "config.json.*99.*upgrade"),
    "no version": (lambda f: edit_config(f, format_version=None), "config.json.*format_version"),
    "unknown frames": (lambda f: edit_config(f, frames="square"), "config.json.*square"),
    "unknown latent": (lambda f: edit_config(f, latent="mode"), "config.json.*mode"),
    "a broken field": (lambda f: edit_config(f, vae=None), "config.json.*field"),
    "no weights": (lambda f: (f / "vae.safetensors").unlink(), "vae.safetensors.*missing"),
    "truncated": (lambda f: truncate(f / "memory.safetensors"), "memory.safetensors.*not a readable"),
    "no safetensors": (lambda f: (f / "vae.safetensors").write_bytes(b"pickle"), "vae.safetensors.*not a readable"),
    "a missing tensor": (
        lambda f: edit_arrays(f, "memory.safetensors", **{"heads.bias": None}),
        r"memory.safetensors.*missing tensors \['heads.bias'\]",
    ),
    "an extra tensor": (
        lambda f: edit_arrays(f, "memory.safetensors", more=np.zeros(1)),
        r"memory.safetensors.*unexpected tensors \['more'\]",
    ),
    "a wrong shape": (
        lambda f: edit_arrays(f, "memory.safetensors", **{"heads.bias": np.zeros(2, np.float16)}),
        r"memory.safetensors.*'heads.bias' has shape \(2,\)",
    ),
    "not a number": (
        lambda f: edit_arrays(f, "memory.safetensors", **{"heads.bias": np.full(HEADS, np.nan, np.float16)}),
        "memory.safetensors.*'heads.bias'.*not finite",
    ),
    "a wrong type": (
        lambda f: edit_arrays(f, "memory.safetensors", **{"heads.bias": np.ones(HEADS, bool)}),
        "memory.safetensors.*'heads.bias' has type BOOL",
    ),
    "a type that numpy has not": (
        lambda f: save_torch(
            {"heads.bias": torch.zeros(HEADS, dtype=torch.bfloat16), **others(f, "heads.bias")},
            f / "memory.safetensors",
        ),
        "memory.safetensors.*'heads.bias' has type BF16",
    ),
    "too large for float32": (
        lambda f: edit_arrays(f, "memory.safetensors", **{"heads.bias": np.full(HEADS, 1e300)}),
        "memory.safetensors.*'heads.bias'.*not finite",
    ),
    "deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json.*JSON"),
    "a long number": (lambda f: (f / "config.json").write_text("1" * 10_000), "config.json.*JSON"),
    "three channels": (lambda f: edit_field(f, "vae", channels=[4, 4, 4]), "config.json.*four convolutions"),
    "a size in quotes": (lambda f: edit_field(f, "memory", hidden_size="256"), "config.json.*hidden_size"),
    "a huge size": (lambda f: edit_field(f, "memory", hidden_size=10**12), "config.json.*hidden_size"),
    "an unknown memory": (lambda f: edit_field(f, "memory", kind="mamba"), "config.json.*'mamba'.*transformer"),
    "a memory of no name": (lambda f: edit_field(f, "memory", kind=[]), r"config.json.*kind of memory \[\]"),
    "another memory's weights": (
        lambda f: edit_field(f, "memory", kind="ensemble", members=4),
        r"memory.safetensors.*missing tensors \['gates",
    ),
    "V and M of other sizes": (lambda f: edit_field(f, "vae", latent_size=16), "config.json.*16 latents.*32"),
    "a reward in quotes": (lambda f: edit_field(f, "reward", scale="3"), "config.json.*finite"),
    "no tiles": (lambda f: edit_field(f, "reward", goal=0), "config.json.*goal"),
    "starts that do not fit": (
        lambda f: edit_arrays(f, "starts.safetensors", gained=np.zeros(3, np.float16)),
        "starts.safetensors.*fit",
    ),
}


def test_an_artifact_that_names_no_kind_of_memory_has_an_lstm(folder):
    assert "kind" not in json.loads((folder / "config.json").read_text())["memory"]
    weights = WorldModel.load(folder).memory.lstm.weight_hh_l0
    edit_field(folder, "memory", kind="lstm")
    assert torch.equal(WorldModel.load(folder).memory.lstm.weight_hh_l0, weights)


@pytest.mark.parametrize(
    ("kind", "size", "value", "message"),
    [
        ("transformer", "layers", 65, "at most 64"),
        ("transformer", "attention_heads", 5, "width of 112.*5 attention_heads"),
        ("transformer", "context", 33, "memory.safetensors.*recency.*shape"),
        ("transformer", "context", 0, "context is 0"),
        ("transformer", "kind", "ensemble", "field.*members"),
        ("ensemble", "members", 1, "2 members or more"),
        ("ensemble", "members", 3, "share h"),
        ("ensemble", "members", 8, "memory.safetensors.*shape"),
        ("ensemble", "members", 2.0, "members is 2.0"),
    ],
)
def test_sizes_that_do_not_fit_the_kind_of_memory_are_refused(tmp_path, kind, size, value, message):
    make_world_model(kind).save(tmp_path / "model")
    edit_field(tmp_path / "model", "memory", **{size: value})
    with pytest.raises(wm_gym.ArtifactError, match=message):
        WorldModel.load(tmp_path / "model")


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_artifact_is_refused_by_name(folder, case):
    spoil, message = SPOILED[case]
    spoil(folder)
    with pytest.raises(wm_gym.ArtifactError, match=message):
        WorldModel.load(folder)


def test_a_missing_artifact_is_named(tmp_path):
    for load in (WorldModel.from_pretrained, WorldModel.load, Controller.from_pretrained):
        with pytest.raises(wm_gym.ArtifactError, match=r"nowhere.*car_racing"):
            load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "changes",
    [
        {"low": [float("nan"), 0, 0]},
        {"low": [1, 0, 0], "high": [-1, 1, 1]},
        {"low": [-1, 0]},
        {"low": [], "high": []},
        {"observation_size": "288"},
        {"observation_size": -1},
        {"world_model": 5},
    ],
)
def test_a_controller_of_impossible_bounds_or_sizes_is_refused(tmp_path, changes):
    Controller().save(tmp_path / "c")
    edit_config(tmp_path / "c", **changes)
    with pytest.raises(wm_gym.ArtifactError, match=r"config\.json"):
        Controller.from_pretrained(tmp_path / "c")


def test_the_bundled_world_model_and_controller_are_there_and_small():
    model, controller = WorldModel.from_pretrained(), Controller.from_pretrained()
    assert controller.config.observation_size == model.config.observation_size == 288
    assert controller.world_model_fingerprint == model.fingerprint
    bundle = Path(wm_gym.__file__).parent / "pretrained" / "car_racing"
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < 12e6
