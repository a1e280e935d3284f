"""Sharing: what is pushed comes back from a cache of the Hugging Face Hub or a folder, and from nowhere else."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import gymnasium as gym
import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import make_world_model
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

import wm_gym
from wm_gym import hub
from wm_gym.card import card
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel

REPOSITORY = Path(__file__).parents[1]


class Cache:
    """The library's cache, filled by uploads: blobs, and snapshots whose files are links to them.

    Where the library stores a blob once for all repositories, the blob is a link too.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        self.folder, self.shared = folder, shared

    def add(self, name: str, files: dict[str, bytes]) -> None:
        repository = self.folder / f"models--{name.replace('/', '--')}"
        for path, content in files.items():
            blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
            link = repository / "snapshots" / ("c" * 40) / path
            for place in (blob, link):
                place.parent.mkdir(parents=True, exist_ok=True)
            stored = self.folder / "shared" / blob.name if self.shared else blob
            stored.parent.mkdir(exist_ok=True)
            stored.write_bytes(content)
            if self.shared and not blob.is_symlink():
                blob.symlink_to(os.path.relpath(stored, blob.parent))
            link.symlink_to(os.path.relpath(blob, link.parent))
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("c" * 40)

    def upload_folder(self, repo_id, folder_path, **_):
        files = (path for path in Path(folder_path).rglob("*") if path.is_file())
        self.add(repo_id, {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files})
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test is in a folder of its own and offline, and no name was looked up before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.download.cache_clear()


@pytest.fixture(params=[False, True], ids=["blobs", "shared blobs"])
def cache(tmp_path, request):
    return Cache(tmp_path / "hub", request.param)


@pytest.fixture
def api(monkeypatch, tmp_path):
    """The library's client, whose uploads go into its cache."""
    api = create_autospec(huggingface_hub.HfApi, instance=True)
    api.upload_folder.side_effect = Cache(tmp_path / "hub").upload_folder
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    return api


def controller() -> Controller:
    return Controller(np.linspace(-1, 1, 867))


def same(model: WorldModel, other: WorldModel) -> bool:
    pairs = zip(model.memory.state_dict().values(), other.memory.state_dict().values(), strict=True)
    return model.config == other.config and all(torch.equal(a.half(), b.half()) for a, b in pairs)


def test_what_is_pushed_comes_back(api, cache):
    api.upload_folder.side_effect = cache.upload_folder
    model = make_world_model(latent="mean")
    assert model.push_to_hub("ann/cars", controller(), private=True) == "https://huggingface.co/ann/cars/commit/1"
    api.create_repo.assert_called_once_with("ann/cars", private=True, exist_ok=True)
    assert same(WorldModel.from_pretrained("ann/cars"), model)
    assert WorldModel.from_pretrained("ann/cars") is WorldModel.from_pretrained("ann/cars")
    assert (Controller.from_pretrained("ann/cars").parameters == controller().parameters).all()
    dream = gym.make("DreamCarRacing-v0", world_model="ann/cars")
    assert isinstance(wm_gym.load_policy("ann/cars", dream), Controller)
    dream.reset(seed=0)


def test_it_comes_back_in_the_librarys_offline_mode(api, tmp_path):
    make_world_model().push_to_hub("ann/cars", controller())
    code = """
import wm_gym
wm_gym.Controller.from_pretrained("ann/cars")
try:
    wm_gym.Controller.from_pretrained("ann/bikes")
except wm_gym.ArtifactError as error:
    print(error)
"""
    env = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ann/bikes: no such controller")
    assert "HF_HUB_OFFLINE" in done.stdout


def test_a_repository_holds_the_artifacts_and_a_card_and_nothing_of_an_older_one(api):
    seen = {}

    def upload_folder(repo_id, folder_path, **_):
        seen.update({str(path.relative_to(folder_path)): path.read_text() for path in Path(folder_path).rglob("*.md")})
        seen["files"] = {str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*.*")}
        return SimpleNamespace(commit_url="")

    api.upload_folder.side_effect = upload_folder
    make_world_model().push_to_hub("ann/cars")
    parts = ("config.json", "memory.safetensors", "starts.safetensors", "vae.safetensors")
    assert seen["files"] == {"README.md", *(f"world_model/{part}" for part in parts)}
    data = huggingface_hub.ModelCard(seen["README.md"]).data
    assert (data.library_name, data.pipeline_tag) == ("wm-gym", "reinforcement-learning")
    patterns = api.upload_folder.call_args.kwargs["delete_patterns"]
    removed = ["world_model/config.json", "controller/controller.safetensors", "README.md"]
    assert [any(fnmatch(path, pattern) for pattern in patterns) for path in removed] == [True, True, False]


def test_a_folder_works_as_a_repository_does(tmp_path):
    model = make_world_model()
    assert model.push_to_hub(tmp_path / "ann" / "cars", controller()) == str(tmp_path / "ann" / "cars")
    for name in (tmp_path / "ann" / "cars", "ann/cars", "ann/cars/world_model"):
        assert same(WorldModel.from_pretrained(name), model)
    assert (Controller.from_pretrained("ann/cars").parameters == controller().parameters).all()
    assert 'world_model="path/to/cars"' in (tmp_path / "ann" / "cars" / "README.md").read_text()


def test_no_controller_is_left_beside_another_world_model(tmp_path):
    make_world_model().push_to_hub(tmp_path / "cars", controller())
    with pytest.raises(FileExistsError, match="its controller would be left"):
        make_world_model(latent="mean").push_to_hub(tmp_path / "cars")
    assert WorldModel.from_pretrained(tmp_path / "cars").config.latent == make_world_model().config.latent


def test_a_folder_of_that_name_is_meant_and_not_the_repository(api):
    make_world_model(latent="mean").push_to_hub("ann/cars")
    Path("ann/cars").mkdir(parents=True)
    assert make_world_model(latent="sample").push_to_hub("ann/cars") == "ann/cars"
    api.upload_folder.assert_called_once()
    assert WorldModel.from_pretrained("ann/cars").config.latent == "sample"
    shutil.rmtree("ann")
    assert WorldModel.from_pretrained("ann/cars").config.latent == "mean"
    with pytest.raises(wm_gym.ArtifactError, match=r"ann/cars: no such world_model"):
        WorldModel.from_pretrained(Path("ann/cars"))


def test_only_configs_and_weights_are_asked_for_and_taken(cache, monkeypatch):
    files = dict.fromkeys(("world_model/config.json", "world_model/vae.safetensors"), b"{}")
    cache.add("ann/cars", {**files, "world_model/model.pkl": b"", "world_model/run.py": b"", "run.py": b""})
    snapshot_download = create_autospec(
        huggingface_hub.snapshot_download, side_effect=huggingface_hub.snapshot_download
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    folder = hub.download("ann/cars", "world_model")
    assert {path.name for path in folder.iterdir()} == {"config.json", "vae.safetensors"}
    assert not any(path.is_symlink() for path in folder.iterdir())
    patterns = snapshot_download.call_args.kwargs["allow_patterns"]
    assert patterns == ["world_model/config.json", "world_model/*.safetensors"]


def test_what_is_wrong_in_a_repository_is_refused_by_its_name(cache):
    cache.add("ann/cars", {"world_model/config.json": b"[]", "world_model/vae.safetensors": b""})
    with pytest.raises(wm_gym.ArtifactError, match=r"ann/cars/world_model/config\.json: expected the config"):
        WorldModel.from_pretrained("ann/cars")
    with pytest.raises(wm_gym.ArtifactError, match=r"ann/cars: .* holds no controller"):
        Controller.from_pretrained("ann/cars")


def test_a_file_larger_than_is_read_is_not_copied(tmp_path):
    cache = Cache(tmp_path / "hub")
    cache.add("ann/cars", {"world_model/config.json": b"{}"})
    (blob,) = (tmp_path / "hub" / "models--ann--cars" / "blobs").iterdir()
    os.truncate(blob, 1 << 40)
    with pytest.raises(wm_gym.ArtifactError, match=r"ann--cars.* bytes, at most"):
        WorldModel.from_pretrained("ann/cars")


def test_a_link_to_another_folder_is_no_part_of_a_shared_folder(tmp_path):
    make_world_model().save(tmp_path / "mine")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "world_model").symlink_to(tmp_path / "mine")
    with pytest.raises(wm_gym.ArtifactError, match=r"theirs/config\.json: missing"):
        WorldModel.from_pretrained(tmp_path / "theirs")


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("offline mode"), HTTPError("offline mode")])
def test_a_push_that_fails_says_why(api, error):
    api.create_repo.side_effect = error
    with pytest.raises(ConnectionError, match=r"ann/cars: not uploaded.*hf auth login.*offline mode"):
        make_world_model().push_to_hub("ann/cars")


@pytest.mark.parametrize("to", ["cars", "ann/big/cars", "./cars", "/nowhere/cars"])
def test_what_is_neither_repository_nor_folder_is_pushed_nowhere(api, to):
    with pytest.raises(ValueError, match=f"{to}: expected a repository's user/name"):
        make_world_model().push_to_hub(to)
    api.create_repo.assert_not_called()
    with pytest.raises(wm_gym.ArtifactError, match="no such world_model"):
        WorldModel.from_pretrained(to)


def test_a_controller_of_another_world_model_is_not_pushed_with_it(api, tmp_path):
    other = Controller(config=ControllerConfig(observation_size=10))
    choices = Controller(config=ControllerConfig(low=(0.0,) * 3, high=(1.0,) * 3, discrete=True))
    for to in ("ann/cars", tmp_path / "cars"):
        with pytest.raises(ValueError, match="the controller maps 10 observations"):
            make_world_model().push_to_hub(to, other)
        with pytest.raises(ValueError, match="discrete=True"):
            make_world_model().push_to_hub(to, choices)
        with pytest.raises(ValueError, match=r"cars knows the latents of another world model"):
            make_world_model().push_to_hub(to, Controller.from_pretrained())
    api.create_repo.assert_not_called()
    assert not (tmp_path / "cars").exists()


def test_without_the_library_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(wm_gym.ArtifactError, match=r'ann/cars: no such.*pip install "wm-gym\[hub\]"'):
        WorldModel.from_pretrained("ann/cars")
    with pytest.raises(ImportError, match=r'ann/cars: .*pip install "wm-gym\[hub\]"'):
        make_world_model().push_to_hub("ann/cars")


def test_a_card_has_score_data_and_config(tmp_path):
    bundled = WorldModel.from_pretrained()
    score = {"mean": 812.4, "std": 9.6, "median": 820.0, "share_900": 0.25}
    content = {"command": "measure", "real": score, "dream": score | {"std": 0.48}}
    content["training"] = bundled.config.training
    (tmp_path / "score.json").write_text(json.dumps(content))
    text = card("ann/cars", bundled.config, Controller.from_pretrained().config, tmp_path, note="Rainy tracks")
    for said in (
        'world_model="ann/cars"',
        "evolved in\nits dreams only",
        "episodes on tracks 0 to",
        "- Label: privileged.",
        "- Rainy tracks",
        "(`measure`): 812 ± 10, median 820, 25% at 900 or more; in 100 dreams 812 ± 0.5.",
        "| round | real frames |",
        f'"frames": "{bundled.config.frames}"',
    ):
        assert said in text
    for other in ({"seed": 8}, None):
        (tmp_path / "score.json").write_text(json.dumps(content | {"controller": other}))
        assert "not measured" in card("ann/cars", bundled.config, Controller.from_pretrained().config, tmp_path)
    assert "(VAE, MDN-RNN, doubters: 1, starts of dreams)" in text
    for kind, said in (("transformer", "Transformer"), ("ensemble", "ensemble of MDN-RNNs")):
        other = card("ann/cars", make_world_model(kind).config)
        assert f"(VAE, {said}, starts" in other and f'"kind": "{kind}"' in other
    assert "finalists" not in text  # the config is shown without the long record of its training


def test_a_card_takes_no_figures_of_another_world_model_and_tells_what_is_unknown(tmp_path):
    (tmp_path / "score.json").write_text(json.dumps({"training": {"frames": 1}}))
    (tmp_path / "reconstruction.json").write_text("{}")
    with pytest.warns(UserWarning, match="of another world model or controller") as told:
        text = card("mine", make_world_model().config, Controller().config, tmp_path)
    assert [Path(str(each.message).split()[0]).name for each in told] == ["score.json", "reconstruction.json"]
    assert "- Data: unknown." in text
    assert "not measured" in text
    assert "dreams only" not in text
    with pytest.raises(FileNotFoundError, match="nowhere"):
        card("mine", make_world_model().config, results=tmp_path / "nowhere")
