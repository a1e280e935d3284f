"""What a stage refuses before its work begins, and who drives what."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import collecting

from benchmarks import controls
from benchmarks.report import command
from benchmarks.score import Args as ScoreArgs
from training import collect, loop, train_controller, train_rnn, train_sb3
from training.checkpoints import append_log
from training.latents import LatentEpisode, reward_of
from training.presets import PRESETS
from training.seeds import FURTHER_SEEDS, TEST_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS, take
from wm_gym.car_racing import CAR_RACING, lap_reward
from wm_gym.models.controller import ControllerConfig
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.vae import VAE
from wm_gym.tasks import TaskConfig

SMOKE = PRESETS["smoke"]


def latent_episode(seed, steps, fingerprint="v", **changes):
    mu = np.arange(steps + 1, dtype=np.float32)[:, None] * np.ones((1, 32), np.float32)
    how = {"logvar": np.full_like(mu, -60), "actions": np.zeros((steps, 3), np.float32)}
    how |= {"gains": np.ones(steps, np.float32), "goal": steps, "ended": False, "label": "random"}
    return LatentEpisode(seed=seed, vae=fingerprint, mu=mu, **{**how, **changes})


@pytest.fixture
def latents(tmp_path):
    """Three encoded episodes, of 32 numbers a frame."""
    vae = VAE()
    for seed in range(3):
        latent_episode(seed, 10).save(tmp_path)
    content = {"fingerprint": "v", "model": vae.state_dict(), "config": vars(vae.config), "frames": "gauges96"}
    torch.save(content, tmp_path / "vae.pt")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 0}, "batch, chunk and starts are 1 or more"),
        ({"chunk": 0}, "batch, chunk and starts are 1 or more"),
        ({"starts": 0}, "batch, chunk and starts are 1 or more"),
        ({"held_out": 0}, "held_out 2 or more"),
        ({"window": -1}, "window is 0 or more"),
        ({"latent": "means"}, "latent must be one of.*'means'"),
        ({"model": MDNRNNConfig(latent_size=16)}, "latents of 32 numbers, but M is to take 16"),
    ],
)
def test_a_memory_that_can_not_be_trained_is_refused_before_it_is(latents, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        train_rnn.main(replace(train_rnn.Args(latents=latents, out=tmp_path / "rnn", epochs=3), **changed))
    assert not (tmp_path / "rnn").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"validation_tracks": 101}, "there are 100 tracks.*can't drive 101"),
        ({"validation_tracks": 0}, "can't drive 0"),
        ({"rnn": replace(SMOKE.rnn, starts=100_000)}, "100,016 starts of 24 steps are too many .*--rnn.starts"),
        ({"random_steps": -1}, "at least one step, or 0 for the limit of CarRacing-v3, got -1"),
        ({"controller": replace(SMOKE.controller, max_steps=-1)}, "at least one step, .* got -1"),
        (
            {"rnn": replace(SMOKE.rnn, model=MDNRNNConfig(latent_size=16))},
            "V makes latents of 32 numbers and M takes 16",
        ),
    ],
)
def test_a_run_that_would_fail_later_is_refused_before_it_begins(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        loop.main(replace(SMOKE, run=tmp_path / "run", **changed))
    assert not (tmp_path / "run").exists()


def test_no_more_tracks_than_there_are():
    assert take(VALIDATION_SEEDS, 2) == range(1_000_000, 1_000_002)
    assert take(VALIDATION_SEEDS, 100) == VALIDATION_SEEDS
    with pytest.raises(ValueError, match="there are 100 tracks, 1000000 to 1000099: can't drive 101 of them"):
        take(VALIDATION_SEEDS, 101)


@pytest.mark.parametrize(("latent", "spread"), [("sample", np.exp(-1)), ("mean", 0)])
def test_starts_are_of_the_z_that_the_memory_learns(latent, spread):
    loud = [latent_episode(0, 6, logvar=np.full((7, 32), -2, np.float32))]
    starts = train_rnn.make_starts(loud, [], train_rnn.Args(starts=200, window=8, latent=latent), 6.0)
    z = starts.z[1:, 0]
    assert (z - z.mean(1, keepdims=True)).std() == pytest.approx(spread, rel=0.05, abs=1e-6)


def test_the_goal_of_dreams_is_the_tracks_mean():
    assert reward_of([latent_episode(0, 6), latent_episode(1, 10)], CAR_RACING) == lap_reward(8.0)


def test_seeds_of_training_validation_and_tests_have_nothing_in_common():
    seeds = (TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS, FURTHER_SEEDS)
    assert sum(map(len, seeds)) == len(set().union(*seeds)) == 1_000_300
    assert (ScoreArgs().seeds, ScoreArgs(further=True).seeds) == (TEST_SEEDS, FURTHER_SEEDS)


def test_dreams_never_start_where_a_drive_is_over():
    episodes = [latent_episode(0, 6), latent_episode(1, 1), latent_episode(2, 6, ended=True)]
    starts = train_rnn.make_starts(episodes, [], train_rnn.Args(starts=200, window=8), 12.0)
    moments = starts.z[np.arange(len(starts.z)), starts.length].mean(-1).round()
    assert set(moments[starts.length > 0]) == {1, 2, 3, 4, 5}
    np.testing.assert_allclose(starts.gained, 2 * moments)  # of each step one of six, which are twelve in dreams
    alone = train_rnn.make_starts([latent_episode(0, 1)], [], train_rnn.Args(starts=5, window=8), None)
    assert alone.length.tolist() == [0]


@pytest.mark.parametrize("members", [2, 4, 5])
def test_seeds_that_some_number_divides_are_driven_by_all_members(members, tmp_path):
    args = replace(collecting(tmp_path), episodes=400, members=members)
    drives = collect.new_drives(args, TaskConfig.of("CarRacing-v3"))
    apart = [drive.driver.member for drive in drives if drive.seed % 20 == 0]
    assert members == 2 or set(apart) == set(range(members))
    counts = np.bincount([drive.driver.member for drive in drives], minlength=members)
    assert (counts == 400 // members).all()


def test_a_real_training_that_goes_on_begins_on_training_tracks(monkeypatch, world_model_folder, tmp_path):
    seeds = []
    monkeypatch.setattr(
        train_sb3,
        "hyperparameters",
        lambda *_: {"n_envs": 1, "n_timesteps": 60, "policy": "MlpPolicy", "n_steps": 30, "batch_size": 30},
    )
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    args = train_sb3.Args(env="LatentCarRacing-v0", world_model=world_model_folder, out=tmp_path, evaluations=1)
    args = replace(args, tracks=1, workers=1, max_steps=10, track=False, seed=7)
    monkeypatch.setattr(train_sb3.SB3VecEnv, "seed", lambda self, seed=None: seeds.append(seed) or [seed])
    train_sb3.main(args)
    assert set(seeds) == {7}
    train_sb3.main(replace(args, steps=90, evaluations=2))
    assert seeds[-1] in TRAINING_SEEDS and seeds[-1] != 7


def test_real_drives_take_as_many_processes_as_there_are_cores(monkeypatch):
    asked = []
    monkeypatch.setattr(train_controller.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(train_controller, "drive_real", lambda *args, **_: asked.append(args[3]) or [])
    for lanes in (0, 5):
        with pytest.raises(ValueError):  # no drive came back
            members, config = np.zeros((2, 867)), ControllerConfig()
            train_controller.evaluate_real(train_controller.Args(lanes=lanes), members, np.arange(2), config)
    assert asked == [3, 5]


def test_controls_of_another_base_are_not_mixed(latents, tmp_path):
    base, out = tmp_path / "base", tmp_path / "controls.json"
    (base / "latents").mkdir(parents=True)
    (latents / "vae.pt").rename(base / "latents" / "vae.pt")
    out.write_text(json.dumps({"base": "another", "controls": {}}))
    with pytest.raises(ValueError, match=r"controls of another base.*choose another --out"):
        controls.main(controls.Args(base=base, out=out))
    append_log(base / "rounds.jsonl", {"round": 0})
    with pytest.raises(ValueError, match="has finished a round"):
        controls.main(controls.Args(base=base, out=tmp_path / "other.json", runs=tmp_path / "runs"))


def test_a_recorded_command_names_what_it_scored_and_where_it_wrote(tmp_path):
    args = ScoreArgs(policy="mine/ppo.zip", out=tmp_path / "score.json", workers=7)
    assert command("score", args) == f"python -m benchmarks.score --policy mine/ppo.zip --out {tmp_path}/score.json"
