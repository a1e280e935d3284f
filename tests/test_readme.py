"""The README's code runs as it stands there, and its commands are ones that exist."""

import re
import runpy
import shlex
import shutil
from importlib import resources
from pathlib import Path
from unittest.mock import create_autospec

import huggingface_hub
import pytest
import tyro
from conftest import ANOTHER, make_world_model
from huggingface_hub import constants
from test_hub import Cache

from wm_gym import hub
from wm_gym.models.controller import Controller, ControllerConfig

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of shell blocks, and what stands in the text as `python -m ...`."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line] + re.findall(r"`(python -m [^`]+)`", README)


def test_the_python_blocks_run_in_order(tmp_path, monkeypatch):
    """In the folder of someone who has trained world models, with a Hub that is a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.download.cache_clear()
    api = create_autospec(huggingface_hub.HfApi, instance=True)
    api.upload_folder.side_effect = Cache(tmp_path / "hub").upload_folder
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    with resources.as_file(resources.files("wm_gym") / "pretrained" / "car_racing") as bundled:
        shutil.copytree(bundled, tmp_path / "runs/mine/best")
    another = make_world_model(ANOTHER)
    another.save(tmp_path / "runs/acrobot/best/world_model")
    actions = another.config.task.actions
    config = ControllerConfig(another.config.observation_size, actions.low, actions.high, discrete=actions.discrete)
    Controller(config=config).save(tmp_path / "runs/acrobot/best/controller")
    (tmp_path / "runs/mine/results").mkdir()
    shutil.copy(REPOSITORY / "benchmarks/results/score.json", tmp_path / "runs/mine/results")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    api.upload_folder.assert_called_once()


class Understood(Exception):
    """A command line was."""


@pytest.mark.parametrize("command", commands())
def test_the_commands_exist_and_take_their_arguments(command, monkeypatch):
    program, *rest = shlex.split(command, comments=True)
    if program == "make":
        assert re.search(rf"^{rest[0]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        return
    if program == "pip":
        (extras,) = re.findall(r"\[(.*)\]", command)
        known = (REPOSITORY / "pyproject.toml").read_text()
        assert all(re.search(rf"^{extra} = \[", known, re.MULTILINE) for extra in extras.split(","))
        return
    if program == "ray":
        start = pytest.importorskip("ray.scripts.scripts").cli.commands[rest[0]]
        assert {each.split("=")[0] for each in rest[1:]} <= {name for each in start.params for name in each.opts}
        return
    assert (program, rest[0]) == ("python", "-m")
    if rest[1] == "rl_zoo3.train":
        pytest.skip("test_train_sb3 runs it")

    def understand(*args, cli=tyro.cli, **kwargs):
        raise Understood(cli(*args, **kwargs))

    monkeypatch.setattr(tyro, "cli", understand)
    monkeypatch.setattr("sys.argv", rest[1:])
    with pytest.raises(Understood):
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
