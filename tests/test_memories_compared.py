"""The memories side by side, as the benchmark compares them."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from conftest import make_world_model

from benchmarks import memories
from training.checkpoints import save_checkpoint
from training.latents import LatentEpisode
from training.train_rnn import Args as TrainArgs
from training.train_rnn import validate
from wm_gym.car_racing import lap_reward
from wm_gym.models.kinds import KINDS, make_memory
from wm_gym.models.memory import mixture_mean
from wm_gym.weights import fingerprint


def test_memories_of_the_comparison_are_equally_large():
    args = memories.equals()
    sizes = [sum(p.numel() for p in make_memory(replace(args, memory=kind).sizes).parameters()) for kind in KINDS]
    assert max(sizes) < 1.01 * min(sizes)


def drive_of(model, steps, seed):
    rng = np.random.default_rng(seed)
    return LatentEpisode(
        seed=seed,
        vae=fingerprint(model.vae),
        mu=rng.standard_normal((steps + 1, 32)).astype(np.float32),
        logvar=np.full((steps + 1, 32), -4, np.float32),
        actions=rng.uniform([-1, 0, 0], [1, 1, 1], (steps, 3)).astype(np.float32),
        gains=rng.integers(0, 2, steps).astype(np.float32),
        goal=300,
        ended=False,
        label="random",
    )


def test_the_nll_along_a_drive_is_the_one_that_training_reports():
    model = make_world_model()
    drive = drive_of(model, 40, 0)
    found = memories.along_drives(model, [drive], seed=0)
    expected = validate(model.memory, [drive], TrainArgs(), torch.device("cpu"), lap_reward())
    assert found["nll"] == pytest.approx(expected[0], rel=1e-5)
    assert found["disagreement_correlation"] is None
    loud = replace(drive, logvar=np.full_like(drive.logvar, 4.0))  # samples are far from the means
    assert memories.along_drives(model, [loud])["z_rmse"] < 3


def test_disagreement_that_grows_with_the_error_correlates_with_it(monkeypatch):
    model = make_world_model("ensemble", latent="mean")
    drive, predict = drive_of(model, 40, 0), model.memory.predict
    following = torch.from_numpy(drive.mu[None, 1:])

    def knows(hidden):
        prediction = predict(hidden)
        error = (mixture_mean(prediction) - following).square().mean(-1)
        return prediction._replace(disagreement=error**3)

    monkeypatch.setattr(model.memory, "predict", knows)
    assert memories.along_drives(model, [drive])["disagreement_correlation"] == pytest.approx(1)


def test_the_comparison_writes_a_row_for_each_memory(tmp_path):
    model = make_world_model()
    for seed in range(4):
        drive_of(model, 12 + seed, seed).save(tmp_path / "latents")
    content = {"model": model.vae.state_dict(), "fingerprint": fingerprint(model.vae), "frames": "crop84", "epoch": 1}
    content |= {"config": asdict(model.config.vae), "task": asdict(model.config.task)}
    save_checkpoint(tmp_path / "latents/vae.pt", content)
    how = replace(memories.equals(), batch=2, chunk=8, held_out=3, starts=8, window=5, device="cpu")
    sizes = {"latents": tmp_path / "latents", "seconds": 0.01, "moments": 4, "lanes": 3, "turns": 1, "turn": 0.01}
    memories.main(memories.Args(**sizes, rnn=how, horizons=(1, 5), out=tmp_path / "memories.json"))
    report = json.loads((tmp_path / "memories.json").read_text())
    assert [row["memory"] for row in report["rows"]] == list(KINDS)
    for row in report["rows"]:
        assert row["epochs"] >= 1 and [line["steps"] for line in row["open_loop"]] == [1, 5]
        assert (row["disagreement_correlation"] is not None) == (row["memory"] == "ensemble")
    assert set(report["lane_steps_per_second"]) == set(KINDS)
    assert (tmp_path / "memories.png").is_file()
