"""Saving artifacts: whole or not at all, and nothing else is lost."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents, make_world_model

from wm_gym import world_model
from wm_gym.artifact import put_aside
from wm_gym.models.controller import Controller
from wm_gym.world_model import WorldModel


@pytest.fixture
def folder(world_model_folder: str, tmp_path: Path) -> Path:
    """A copy to replace."""
    return Path(shutil.copytree(world_model_folder, tmp_path / "copy"))


@pytest.mark.parametrize("config", [False, True])
def test_a_folder_of_something_else_is_not_replaced(tmp_path, config):
    (tmp_path / "thesis.txt").write_text("precious")
    if config:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="is no controller"):
        Controller().save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_artifact_of_another_kind_is_not_replaced(tmp_path):
    model, controller = make_world_model(), Controller()
    model.save(tmp_path / "model")
    controller.save(tmp_path / "controller")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("[]")
    (foreign / "model.safetensors").write_text("precious")
    before = contents(tmp_path)
    for artifact, folder, kind in (
        (controller, tmp_path / "model", "controller"),
        (model, tmp_path / "controller", "world_model"),
        (model, foreign, "world_model"),
    ):
        with pytest.raises(FileExistsError, match=f"{folder}: exists and is no {kind}; choose another folder"):
            artifact.save(folder)
    assert contents(tmp_path) == before


def test_a_save_through_a_link_replaces_what_it_links_to(folder):
    link = folder.with_name("best")
    link.symlink_to(folder)
    for latent in ("mean", "sample"):
        make_world_model(latent=latent).save(link)
        assert link.is_symlink() and WorldModel.load(folder).config.latent == latent
    assert sorted(path.name for path in folder.parent.iterdir()) == ["best", folder.name]


def test_the_current_directory_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="current directory"):
        make_world_model().save(".")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["lstm", "ensemble"])  # an ensemble's files do not fit the old config
def test_an_artifact_that_is_replaced_while_it_is_read_is_read_again(folder, monkeypatch, kind):
    old, new = WorldModel.load(folder), make_world_model(kind, latent="mean")
    for module in (new.vae, new.memory):
        for weight in module.parameters():
            weight.data.mul_(0.5)
    fill, saves = world_model.fill, [new]

    def fill_then_save(module, path, device):
        fill(module, path, device)
        if saves:
            saves.pop().save(folder)

    monkeypatch.setattr(world_model, "fill", fill_then_save)
    found = WorldModel.load(folder)
    assert found.config.latent == "mean"
    for name in ("vae", "memory") if kind == "lstm" else ("vae",):
        weights, others = (getattr(each, name).state_dict().values() for each in (found, old))
        assert not any(torch.equal(one, other) for one, other in zip(weights, others, strict=True) if other.any())


def test_what_an_earlier_kill_put_aside_is_no_hindrance(folder):
    shutil.copytree(folder, put_aside(folder))
    make_world_model(latent="mean").save(folder)
    assert WorldModel.load(folder).config.latent == "mean"
    assert os.listdir(folder.parent) == [folder.name]


def test_a_write_that_breaks_off_leaves_the_old_artifact(folder, monkeypatch):
    write = Path.write_bytes

    def fail(path, data):
        write(path, data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        make_world_model(latent="mean").save(folder)
    assert WorldModel.load(folder).config.latent == "sample"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: model.memory.heads.bias.fill_(7e4),
            r"memory\.safetensors: not saved.*'heads\.bias'.*not finite",
        ),
        (lambda model: model.starts.z.fill(np.nan), r"starts\.safetensors: not saved.*'z'.*not finite"),
        (lambda model: model.config.training.update(note="x" * (1 << 22)), r"config\.json: not saved: 4,19.*at most"),
        (lambda model: model.config.training.update(note=object()), r"config\.json: not saved: no JSON.*object"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_could_not_be_loaded_again_is_not_saved(folder, change, message):
    model, before = WorldModel.load(folder), contents(folder)
    change(model)
    with pytest.raises(ValueError, match=message):
        model.save(folder)
    assert contents(folder) == before
    assert os.listdir(folder.parent) == [folder.name]


def test_a_save_killed_between_its_renames_loses_nothing(folder, monkeypatch):
    rename = Path.rename

    def killed(path, target):
        if path.name.endswith(".tmp"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            make_world_model(latent="mean").save(folder)
    assert not folder.exists()
    assert WorldModel.load(folder).config.latent == "sample"


def test_what_a_killed_save_put_aside_is_found_through_the_folder_of_both(tmp_path):
    Controller(np.full(867, 3)).save(tmp_path / "controller")
    (tmp_path / "controller").rename(put_aside(tmp_path / "controller"))
    for name in (tmp_path, tmp_path / "controller"):
        assert Controller.from_pretrained(name).parameters[0] == 3


def test_what_would_be_refused_when_it_is_read_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"controller\.safetensors: not saved: .*beyond ±65504"):
        Controller(np.full(867, 1e5)).save(tmp_path / "controller")
    assert not (tmp_path / "controller").exists()
