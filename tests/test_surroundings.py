"""Poor surroundings: a folder of somebody else's, a read-only home, one core and no display, a full disk."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import collect, train_vae
from training.checkpoints import load_checkpoint, read_log

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def theirs(tmp_path):
    """A folder that may be read, but not written in."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    if os.getuid() == 0:
        shutil.chown(folder, 65534, 65534)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def call(*command, **kwargs):
    """Run Python as a user who may write only what is theirs, be it root."""
    python = [sys.executable, *map(str, command)]
    if os.getuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root without setpriv may write everywhere")
        python = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *python]
    environment = {**os.environ, "WANDB_MODE": "disabled", **kwargs.pop("env", {})}
    return subprocess.run(python, cwd=REPOSITORY, env=environment, capture_output=True, text=True, **kwargs)


@pytest.mark.parametrize("folder", ["", "new"], ids=["in it", "below it"])
def test_a_stage_in_a_folder_of_somebody_else_says_so(theirs, folder):
    done = call("-m", "training.collect", "--out", theirs / folder, "--episodes", 1)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == f"PermissionError: {theirs / folder} can't be written in: choose another folder"
    )
    assert not list(theirs.iterdir())


def test_an_artifact_of_somebody_else_is_read_and_not_written(theirs, world_model_folder, tmp_path):
    theirs.chmod(0o755)
    shutil.copytree(world_model_folder, theirs / "model")
    (theirs / "model").chmod(0o555)
    theirs.chmod(0o555)
    code = f"""
import gymnasium, wm_gym
env = gymnasium.make("DreamCarRacing-v0", world_model={str(theirs / "model")!r})
env.reset(seed=0)
env.step(env.action_space.sample())
model = wm_gym.WorldModel.load({str(theirs / "model")!r})
model.save({str(tmp_path / "mine")!r})
model.save({str(theirs / "model")!r})
"""
    done = call("-c", code)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("PermissionError"), done.stderr
    assert (tmp_path / "mine" / "config.json").is_file()
    assert {path.name for path in theirs.iterdir()} == {"model"}


def test_stages_work_on_one_core_without_home_display_or_account(theirs, tmp_path):
    poor = {"HOME": str(theirs), "WANDB_MODE": "offline", "WANDB_API_KEY": ""}
    poor |= {name: "" for name in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    for command in (
        ["collect", "--out", tmp_path / "rollouts", "--episodes", 2, "--max-steps", 30, "--workers", 2],
        ["train_vae", "--rollouts", tmp_path / "rollouts", "--out", tmp_path / "vae", "--epochs", 1, "--batch", 16],
    ):
        done = call(
            "-m",
            f"training.{command[0]}",
            *command[1:],
            env=poor,
            preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        )
        assert done.returncode == 0, done.stderr
    assert len(read_log(tmp_path / "vae" / "log.jsonl")) == 1
    assert list((tmp_path / "vae" / "wandb").glob("offline-run-*"))
    assert not list(theirs.iterdir())


def test_a_full_disk_loses_nothing(tmp_path):
    rollouts = tmp_path / "rollouts"
    collect.main(collect.Args(out=rollouts, episodes=1, max_steps=30, workers=1))

    def train(folder, epochs):
        train_vae.main(train_vae.Args(rollouts=rollouts, out=tmp_path / folder, epochs=epochs, batch=16, track=False))

    train("full", 1)
    before = (tmp_path / "full" / "checkpoint.pt").read_bytes()
    room = len(before) // 2
    flags = ["--rollouts", rollouts, "--out", tmp_path / "full", "--epochs", 2, "--batch", 16, "--no-track"]
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))}
    full = call("-m", "training.train_vae", *flags, **limit)
    assert full.returncode == 1 and "OSError: [Errno 27]" in full.stderr, full.stderr
    assert (tmp_path / "full" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "full").glob(".*.tmp"))

    for folder, epochs in (("full", 2), ("wide", 1), ("wide", 2)):
        train(folder, epochs)
    gone_on, straight = (load_checkpoint(tmp_path / folder / "checkpoint.pt") for folder in ("full", "wide"))
    assert all(torch.equal(gone_on["model"][name], value) for name, value in straight["model"].items())
    assert read_log(tmp_path / "full" / "log.jsonl") == read_log(tmp_path / "wide" / "log.jsonl")
