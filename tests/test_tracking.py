"""What Weights & Biases is told, read back from offline runs; and where the stages compute."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import tyro
import wandb
from trainings import make_episodes
from wandb.proto import wandb_internal_pb2

from training import encode, loop, train_controller, train_rnn, train_vae
from training.checkpoints import read_log
from training.device import choose_device
from training.filming import write_video
from training.tracking import track, track_video, tracking
from wm_gym.models.vae import VAEConfig
from wm_gym.world_model import WorldModelConfig

REPOSITORY = Path(__file__).parents[1]
STAGES = [train_vae, train_rnn, train_controller]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.teardown()


def offline_runs(folder):
    """The folders of W&B's offline runs, oldest first; its service has then written all that it was told."""
    wandb.teardown()
    return sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)


def records(run):
    """What an offline run wrote: protobuf messages in LevelDB's log format, after a header of 7 bytes.

    A message lies in blocks of 32 KiB, in fragments with a header each: checksum, length, and kind, which is 1 for a
    whole message and 4 for the last fragment of one.
    """
    data, position, message = next(run.glob("*.wandb")).read_bytes(), 7, b""
    while position < len(data):
        left = 2**15 - position % 2**15
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += 7
        message += data[position : position + length]
        position += length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(message)
            message = b""


def history(run):
    """The lines that an offline run logged, as dictionaries of flat names."""
    for record in records(run):
        if record.WhichOneof("record_type") == "history":
            yield {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}


def curves(run, stage):
    """What a run logged of a stage, by name; W&B's own names are left out."""
    prefix = f"{stage}/"
    lines = [
        {name.removeprefix(prefix): value for name, value in line.items() if name.startswith(prefix)}
        for line in history(run)
    ]
    return [line for line in lines if line]


def run_stages(run, world_model):
    """V, encoding, M and C, each tiny, on three made-up episodes of noise."""
    make_episodes(run, (12, 15, 9), "crop84")
    model = VAEConfig(channels=(4, 8, 8, 8))
    train_vae.main(
        train_vae.Args(run / "rollouts", run / "vae", epochs=2, batch=16, frames="crop84", device="cpu", model=model)
    )
    encode.main(encode.Args(run / "rollouts", run / "vae", run / "latents", device="cpu"))
    train_rnn.main(train_rnn.Args(run / "latents", run / "rnn", epochs=3, held_out=3, starts=4, device="cpu"))
    train_controller.main(
        train_controller.Args(
            world_model=world_model, out=run / "controller", generations=2, population=4, rollouts=2, max_steps=8
        )
    )


def test_the_curves_and_the_video_are_read_back_from_an_offline_run(world_model_folder, tmp_path):
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (30, 64, 64, 3), np.uint8))
    video = tmp_path / "drive.mp4"
    write_video(video, frames, frames, WorldModelConfig())
    line = {"round": 0, "real": {"mean": 1 / 3, "std": 0.1}, "dream": {"mean": 2.5e-9, "std": 3.0}, "frames": 12}
    with tracking(tmp_path, True, {"learning_rate": 0.1}):
        run_stages(tmp_path, world_model_folder)
        track("loop", line)
        track_video("loop", video)

    (run,) = offline_runs(tmp_path)
    for stage, length in (("vae", 2), ("rnn", 3), ("controller", 2)):
        logged = read_log(tmp_path / stage / "log.jsonl")
        assert len(logged) == length
        assert curves(run, stage) == logged
    scores, film = curves(run, "loop")
    expected = {"round": 0, "frames": 12, "real/mean": 1 / 3, "real/std": 0.1, "dream/mean": 2.5e-9, "dream/std": 3.0}
    assert scores == expected
    assert film["round"] == 0
    assert film["video/_type"] == "video-file"
    assert (run / "files" / film["video/path"]).read_bytes() == video.read_bytes()

    metrics = {record.metric.glob_name: record.metric.step_metric for record in records(run)}
    assert metrics["vae/*"] == "vae/epoch"
    assert metrics["loop/*"] == "loop/round"


def test_the_machine_is_watched_too(tmp_path):
    with tracking(tmp_path, True, {}):
        assert not wandb.run.settings.x_disable_stats
        assert not wandb.run.settings.x_disable_machine_info
        assert wandb.run.settings.x_stats_gpu_device_ids is None  # all of them


def test_a_folder_keeps_its_run(tmp_path):
    for epoch in range(2):
        with tracking(tmp_path, True, {}):
            track("vae", {"epoch": epoch})
    first, second = offline_runs(tmp_path)
    ids = {record.run.run_id for run in (first, second) for record in records(run) if record.HasField("run")}
    assert ids == {(tmp_path / "wandb-id").read_text()}


def test_a_stage_within_a_loop_logs_to_the_loops_run(tmp_path):
    with tracking(tmp_path / "loop", True, {}):
        outer = wandb.run
        with tracking(tmp_path / "stage", True, {}):
            assert wandb.run is outer
        assert wandb.run is outer
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize(("mode", "enabled"), [("disabled", True), ("offline", False)])
def test_nothing_is_written_when_it_is_off(mode, enabled, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.chdir(tmp_path)
    with tracking(tmp_path / "run", enabled, {}):
        assert wandb.run is None
        track("vae", {"epoch": 1})
        track_video("loop", tmp_path / "none.mp4")
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_the_switch():
    assert not loop.parse(["--preset", "smoke", "--no-track"]).track
    for stage in STAGES:
        assert not tyro.cli(stage.Args, args=["--no-track"]).track
        assert tyro.cli(stage.Args, args=[]).track


@pytest.mark.parametrize("key", [None, 40 * "0"], ids=["logged out", "logged in, but W&B can't be reached"])
def test_without_a_network_a_run_is_offline(key, tmp_path):
    code = (
        "import pathlib, sys\n"
        "from training.tracking import track, tracking\n"
        "with tracking(pathlib.Path(sys.argv[1]), True, {}):\n"
        "    track('vae', {'epoch': 1, 'kl': 0.5})\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    environment |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "1"}  # nothing listens there
    if key is not None:
        environment["WANDB_API_KEY"] = key
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert ("can't be reached" in result.stderr) == (key is not None)
    (run,) = offline_runs(tmp_path / "run")
    assert curves(run, "vae") == [{"epoch": 1, "kl": 0.5}]


# --- where the stages compute --------------------------------------------------------------------------------------


class Stop(Exception):
    """Ends a stage once it has chosen its device."""


def allowed():
    """Whether products and cuDNN's convolutions may round to TF32."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def tf32_elsewhere():
    """TF32 as something else may have left it; it is off afterwards."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    choose_device("cpu")


def test_tf32_is_off_unless_switched_on(tf32_elsewhere):
    assert choose_device("cpu") == torch.device("cpu")
    assert allowed() == (False, False)
    choose_device("cpu", tf32=True)
    assert allowed() == (True, True)
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert allowed() == (False, False)


@pytest.mark.parametrize("stage", [*STAGES, encode], ids=lambda stage: stage.__name__)
def test_every_stage_computes_without_tf32_unless_switched_on(stage: ModuleType, tf32_elsewhere, monkeypatch):
    def choose(*arguments):
        choose_device(*arguments)
        raise Stop

    monkeypatch.setattr(stage, "choose_device", choose)
    with pytest.raises(Stop):
        stage.main(stage.Args())
    assert allowed() == (False, False)
    if stage in STAGES:
        with pytest.raises(Stop):
            stage.main(stage.Args(tf32=True))
        assert allowed() == (True, True)
