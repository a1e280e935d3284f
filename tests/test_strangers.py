"""Artifacts from strangers: loaded correctly or refused by name; nothing in them runs, hangs or takes the memory."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import wm_gym
from benchmarks.soak.examine import LOADED, REFUSED, WRONG, Examiner, Verdict
from benchmarks.soak.mutations import MUTATIONS, fault, run, use
from benchmarks.soak.spoil import MODELS, Payload, change_sizes, edit_config, write_valid
from wm_gym.models.controller import Controller
from wm_gym.world_model import WorldModel


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a tiny world model."""
    write_valid(tmp_path / "model", "world_model", np.random.default_rng(0))
    return tmp_path / "model"


@pytest.fixture(params=["controller", "population"])
def controller(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of a tiny controller or of a population."""
    write_valid(tmp_path / "controller", request.param, np.random.default_rng(0))
    return tmp_path / "controller"


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    """Loads and uses artifacts where a hang is found."""
    with Examiner(use) as examiner:
        yield examiner


def edit(path: Path, **arrays: np.ndarray) -> None:
    save_file({**load_file(path), **arrays}, path)


def refuses(load, folder: Path, message: str) -> None:
    with pytest.raises(wm_gym.ArtifactError, match=f"{re.escape(str(folder))}/{message}"):
        load(folder)


def test_every_mutation_is_loaded_correctly_or_refused_by_name():
    figures = run(2 * len(MUTATIONS), seed=0)
    assert figures["wrong"] == []
    assert figures["mutations"] == dict.fromkeys(MUTATIONS, 2)
    assert figures["loaded"] + figures["refused"] == 2 * len(MUTATIONS)
    assert 0 < figures["memory"] < 1024


# --- how it is found -----------------------------------------------------------------------------------------------


def test_a_hang_a_death_and_memory_are_found_and_the_next_job_is_done():
    with Examiner(exec, seconds=3, memory=1 << 28) as examiner:
        assert examiner.examine("pass").outcome == LOADED
        for job, message in (
            ("raise SystemExit(2)", r"SystemExit\(2\)"),
            ("bytes(1 << 33)", "MemoryError"),
            ("import time; time.sleep(600)", "not done after 3 s"),
            ("import os; os._exit(3)", "the process died with exit code 3"),
            ("import numpy; numpy.ones(1 << 28, bool)", r"took \d+ MiB, loaded"),
        ):
            verdict = examiner.examine(job)
            assert verdict.outcome == WRONG and re.match(message, verdict.message), verdict


def test_what_ran_code_or_was_refused_without_a_name_is_found(model):
    mutation = MUTATIONS["a pickle"]
    assert fault(mutation, model, Verdict(REFUSED, f"{model}/vae.safetensors: no", 0)) is None
    assert "without its name" in str(fault(mutation, model, Verdict(REFUSED, "no", 0)))
    assert "should have been refused" in str(fault(mutation, model, Verdict(LOADED, "", 0)))
    assert fault(mutation, model, Verdict(WRONG, "KeyError()", 0)) == "KeyError()"
    pickle.loads(pickle.dumps(Payload(model.parent)))
    assert fault(mutation, model, Verdict(REFUSED, str(model), 0)) == "ran code"


@pytest.mark.filterwarnings("ignore:.*WARN")
def test_use_tells_a_model_that_gives_no_numbers(model, monkeypatch):
    use(("world_model", str(model)))
    spoilt = WorldModel.from_pretrained(model)
    monkeypatch.setattr(
        spoilt.memory.heads, "bias", torch.nn.Parameter(torch.full_like(spoilt.memory.heads.bias, np.nan))
    )
    with pytest.raises(RuntimeError, match="not finite"):
        use(("world_model", str(model)))


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "vae.safetensors", "starts.safetensors"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "expected a file, found p"),
        (Path.mkdir, "expected a file, found d"),
        (lambda path: path.symlink_to("nothing"), "a link to nothing"),
        (lambda path: path.symlink_to(path.name), "not readable"),
        (lambda path: path.symlink_to("/dev/zero"), "a link out of the folder, to /dev/zero"),
        (lambda path: path.symlink_to("../model.json"), "a link out of the folder"),
        (lambda path: (path.touch(), os.truncate(path, 1 << 36)), "has 68,719,476,736 bytes"),
    ],
    ids=["fifo", "folder", "dangling", "loop", "device", "out", "huge"],
)
def test_what_is_no_file_of_the_folder_is_refused(model, examiner, file, make, message):
    (model / file).rename(model.parent / "model.json")
    make(model / file)
    verdict = examiner.examine(("world_model", str(model)))
    assert verdict.outcome == REFUSED
    assert verdict.message.startswith(f"{model / file}: {message}")


def test_links_inside_the_folder_and_to_the_folder_are_followed(model):
    (model / "vae.safetensors").rename(model / "v")
    (model / "vae.safetensors").symlink_to("v")
    (model.parent / "link").symlink_to(model)
    assert torch.equal(WorldModel.load(model.parent / "link").vae.mu.weight, WorldModel.load(model).vae.mu.weight)


def test_folders_of_the_bundles_names_inside_are_not_looked_at(model, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (model / "world_model").symlink_to(tmp_path / "elsewhere")
    WorldModel.load(model.absolute())


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(wm_gym.ArtifactError, match="xxx: not readable"):
        WorldModel.load("x" * 300)


def test_what_a_killed_save_put_aside_is_read_where_it_is(model, monkeypatch):
    shutil.copytree(model, model.with_name("model.b"))
    edit_config(model.with_name("model.b"), lambda config: config.update(latent="mean"))
    for folder in (model, model.with_name("model.b")):
        folder.rename(folder.with_name(f".{folder.name}.old"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", None)  # as where nothing may be written
        assert WorldModel.from_pretrained(model).config.latent == "sample"
        assert WorldModel.from_pretrained(model.with_name("model.b")).config.latent == "mean"
    WorldModel.load(model).save(model)
    assert sorted(path.name for path in model.parent.iterdir()) == [".model.b.old", "model"]


def test_an_error_that_quotes_what_it_found_is_short(model):
    edit_config(model, lambda config: config.update(latent="x" * 10**6))
    with pytest.raises(wm_gym.ArtifactError, match=r"model/config\.json.*unknown latent") as caught:
        WorldModel.load(model)
    assert len(str(caught.value)) < 2100


# --- config.json ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=MODELS)
def any_model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of a tiny world model of each kind of memory."""
    write_valid(tmp_path / "model", request.param, np.random.default_rng(0))
    return tmp_path / "model"


@pytest.mark.parametrize("owner", ["reward", "vae", "memory", "task"])
def test_numbers_beyond_any_float_are_refused(any_model, owner):
    model = any_model
    for key in json.loads((model / "config.json").read_text())[owner]:
        copy = Path(shutil.copytree(model, model.with_name(key)))
        edit_config(copy, lambda config, key=key: config[owner].update({key: 10**400}))
        refuses(WorldModel.load, copy, r"config\.json")


@pytest.mark.parametrize(
    "low", [[10**400, 0, 0], [-1e300, 0, 0], ["-1", "0", "0"], "-10", [[-1], [0], [0]], None, [-1, 0, None]], ids=str
)
def test_bounds_that_are_no_three_numbers_are_refused(controller, low):
    edit_config(controller, lambda config: config.update(low=low))
    refuses(Controller.from_pretrained, controller, r"config\.json")


@pytest.mark.parametrize("training", [None, 3, "notes", [], [["a", 1]]], ids=str)
def test_training_is_an_object(model, controller, training):
    for load, folder in ((WorldModel.load, model), (Controller.from_pretrained, controller)):
        edit_config(folder, lambda config: config.update(training=training))
        refuses(load, folder, r"config\.json: training is")


@pytest.mark.parametrize("owner", ["reward", "vae", "memory", "task"])
def test_a_missing_field_is_not_made_up(any_model, owner):
    model = any_model
    for key in json.loads((model / "config.json").read_text())[owner]:
        copy = Path(shutil.copytree(model, model.with_name(key)))
        edit_config(copy, lambda config, key=key: config[owner].pop(key))
        refuses(WorldModel.load, copy, r"config\.json.*argument" if key == "kind" else rf"config\.json.*{key}")


def test_sizes_that_no_file_fills_take_no_memory(model, controller, examiner):
    edit_config(
        model, lambda c: (c["memory"].update(hidden_size=16384, mixtures=16384), c["vae"].update(channels=[16384] * 4))
    )
    edit_config(controller, lambda config: config.update(observation_size=16384))
    for subject, folder in (("world_model", model), ("controller", controller)):
        verdict = examiner.examine((subject, str(folder)))
        assert verdict.outcome == REFUSED and "has shape" in verdict.message


def test_a_memory_of_other_actions_than_the_tasks_is_refused(model):
    edit_config(model, lambda config: config["memory"].update(action_size=2))
    refuses(WorldModel.load, model, r"config\.json.*action_size is 2, but CarRacing-v3 has 3 actions")


def test_actions_that_are_not_car_racings_are_refused_when_the_env_is_made(model):
    change_sizes(model, np.random.default_rng(0), actions=2)
    for make in (gym.make, gym.make_vec):
        with pytest.raises(
            wm_gym.ArtifactError, match=r"model: a world model of Another-v0, expected one of CarRacing-v3"
        ):
            make("DreamCarRacing-v0", world_model=str(model))


# --- tensors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("length", np.float32), ("length", np.uint8), ("length", bool), ("z", np.int8), ("gained", np.int64)],
)
def test_starts_of_other_types_are_refused(model, name, dtype):
    path = model / "starts.safetensors"
    edit(path, **{name: load_file(path)[name].astype(dtype)})
    refuses(WorldModel.load, model, rf"starts\.safetensors: tensor '{name}' has type")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_short_integers_are_lengths_too(model, dtype):
    path = model / "starts.safetensors"
    z, state = WorldModel.load(model).start_states
    edit(path, length=load_file(path)["length"].astype(dtype))
    same_z, same_state = WorldModel.load(model).start_states
    assert torch.equal(z, same_z) and all(map(torch.equal, state, same_state))


@pytest.mark.parametrize("tiles", [-1, 400])
def test_tiles_beyond_a_lap_are_refused(model, tiles):
    edit(model / "starts.safetensors", gained=np.full(4, tiles, np.float16))
    refuses(WorldModel.load, model, r"starts\.safetensors: what was gained.*295")


@pytest.mark.parametrize(("limit", "value"), [("LONGEST_WINDOW", 2), ("MOST_STATES", 15), ("MOST_PRODUCTS", 10_000)])
def test_starts_that_ask_for_too_much_are_refused(model, monkeypatch, limit, value):
    WorldModel.load(model)
    monkeypatch.setattr(f"wm_gym.starts.{limit}", value)
    refuses(WorldModel.load, model, r"starts\.safetensors: 4 starts of 3 steps are too many")


@pytest.mark.parametrize("value", [np.nan, np.inf, 65600.0, 1e300])
def test_a_controllers_weights_are_numbers_of_float16(controller, value):
    path = controller / "controller.safetensors"
    edit(path, parameters=np.where(load_file(path)["parameters"] > 0, value, 0))
    refuses(Controller.from_pretrained, controller, r"controller\.safetensors.*'parameters'.*not finite")


def test_a_population_of_nobody_is_refused(controller):
    path = controller / "controller.safetensors"
    edit(path, parameters=load_file(path)["parameters"][:0])
    refuses(Controller.from_pretrained, controller, r"controller\.safetensors: holds no controller")


def test_a_header_longer_than_any_is_refused_unread(model, monkeypatch):
    path = model / "vae.safetensors"
    path.write_bytes((1 << 21).to_bytes(8, "little") + b" " * (1 << 21))
    monkeypatch.setattr("wm_gym.artifact.safe_open", None)
    refuses(WorldModel.load, model, r"vae\.safetensors: .*a header of 2,097,152 bytes")
