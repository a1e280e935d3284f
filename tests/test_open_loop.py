"""How far a memory is right, on drives and world models whose truth is known."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Z, make_world_model
from torch import nn

from training import open_loop
from training.latents import LatentEpisode, split
from training.open_loop import on_road
from wm_gym.car_racing import ScriptedDriver
from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.frames import encoder_input
from wm_gym.models.memory import Prediction
from wm_gym.policies import ActionBursts
from wm_gym.weights import fingerprint
from wm_gym.world_model import WorldModel


class ToyMemory(nn.Module):
    """Knows the toy world below: counts the steps, adds up the steering, pays the gas in tiles.

    With ``copies`` it holds every latent to stay what it is.
    """

    def __init__(self, copies=False, more_tiles=0.0):
        super().__init__()
        self.copies, self.more_tiles = copies, more_tiles
        self.weight = nn.Parameter(torch.zeros(1))

    def initial_state(self, lanes):
        return (torch.zeros(lanes, Z + 2),)  # next z, tiles, steps since the drive's first frame

    def step(self, z, action, state):
        steps, following = state[0][:, -1:] + 1, z.clone()
        if not self.copies:
            following[:, 0] = steps[:, 0] / 100
            following[:, 1] += action[:, 0]
        return (torch.cat([following, action[:, 1:2] + self.more_tiles, steps], dim=1),)

    def hidden(self, state):
        return state[0]

    def predict(self, hidden):
        mu, nothing = hidden[..., :Z, None], torch.zeros_like(hidden[..., :Z, None])
        return Prediction(nothing, mu, nothing - 20, hidden[..., Z], hidden[..., 0] * 0 - 20)


def toy_model(**memory):
    """A world model of the toy memory, whose V draws grass where z[1] > 0 and road elsewhere."""
    model = make_world_model(latent="mean")
    model.memory = ToyMemory(**memory)
    model.vae.decode = lambda z: (
        torch.where(z[:, 1, None, None, None] > 0, torch.tensor([0.4, 0.8, 0.4]), torch.tensor(0.4))
        .expand(-1, 64, 64, -1)
        .clone()
    )
    return model


def toy_drive(seed, steps):
    """z[0] is time, z[1] the sum of all steering, and each step visits as many tiles as gas was given."""
    rng = np.random.default_rng(seed)
    actions = np.stack(
        [rng.uniform(-1, 1, steps), rng.integers(0, 2, steps), np.zeros(steps)], axis=1, dtype=np.float32
    )
    mu = np.zeros((steps + 1, Z), np.float32)
    mu[:, 0] = np.arange(steps + 1) / 100
    mu[1:, 1] = np.cumsum(actions[:, 0])
    return LatentEpisode(seed, "toy", mu, np.zeros_like(mu), actions, actions[:, 1], 300, False, "random")


@pytest.fixture(scope="module")
def toy_drives():
    return [toy_drive(seed, steps) for seed, steps in enumerate((40, 25, 60))]


def test_a_memory_that_knows_the_world_is_right_at_every_horizon(toy_drives):
    report = open_loop.open_loop(toy_model(), toy_drives, horizons=(20, 1, 7), moments=30)
    assert (report["drives"], report["moments"]) == (3, 30)
    assert [line["steps"] for line in report["horizons"]] == [1, 7, 20]
    for line in report["horizons"]:
        assert line["z_rmse"] < 1e-5 < 1e-3 < line["copy_rmse"]
        assert line["gain_dream"] == pytest.approx(line["gain_real"])
        assert line["gain_real"] == pytest.approx(line["steps"] / 2, rel=0.2, abs=0.3)
        assert line["gain_rmse"] < 1e-5
        assert line["gain_correlation"] == pytest.approx(1)
        assert line["frame_rmse"] == 0 < line["copy_frame_rmse"]
        assert line["road_agrees"] == 1
        assert line["road_dream"] == line["road_real"]
    assert report["horizons"][0]["road_copy_agrees"] > report["horizons"][2]["road_copy_agrees"]


def test_a_memory_that_copies_is_as_good_as_copying(toy_drives):
    for line in open_loop.open_loop(toy_model(copies=True), toy_drives, horizons=(1, 10), moments=30)["horizons"]:
        assert line["ratio"] == pytest.approx(1)
        assert line["frame_rmse"] == line["copy_frame_rmse"] > 0
        assert line["road_agrees"] == line["road_copy_agrees"] < 1


def test_a_memory_that_pays_too_much_shows_in_the_tiles_alone(toy_drives):
    report = open_loop.open_loop(toy_model(more_tiles=0.25), toy_drives, horizons=(1, 10), moments=30)
    for line in report["horizons"]:
        assert line["gain_dream"] - line["gain_real"] == pytest.approx(0.25 * line["steps"], abs=1e-4)
        assert line["gain_rmse"] == pytest.approx(0.25 * line["steps"], abs=1e-4)
        assert line["gain_correlation"] == pytest.approx(1)
        assert line["z_rmse"] < 1e-5


def test_horizons_beyond_the_drives_are_left_out(toy_drives):
    report = open_loop.open_loop(toy_model(), toy_drives, horizons=(5, 60, 61))
    assert [line["steps"] for line in report["horizons"]] == [5, 60]
    assert report["moments"] == 1  # the first frame of the longest drive
    with pytest.raises(ValueError, match="60 steps: give a shorter horizon"):
        open_loop.open_loop(toy_model(), toy_drives, horizons=(61,))


def test_samples_of_the_posterior_are_repeated_by_their_seed(toy_drives):
    model = make_world_model(latent="sample")
    first, again, other = (
        open_loop.open_loop(model, toy_drives, horizons=(3,), moments=10, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    means = make_world_model(latent="mean")
    assert first != open_loop.open_loop(means, toy_drives, horizons=(3,), moments=10, seed=0)


def test_the_open_loop_command_uses_held_out_drives_of_its_own_v(world_model_folder, tmp_path):
    mark = fingerprint(WorldModel.from_pretrained(world_model_folder).vae)
    for seed in range(4):
        replace(toy_drive(seed, 30), vae=mark).save(tmp_path / "latents")
    args = open_loop.Args(world_model_folder, tmp_path / "latents", held_out=3, out=tmp_path / "out", moments=5)
    report = open_loop.main(args)
    assert report["drives"] == 2
    assert [line["steps"] for line in report["horizons"]] == [1, 5, 15]
    assert json.loads((tmp_path / "out" / "open_loop.json").read_text()) == report
    assert (tmp_path / "out" / "open_loop.png").stat().st_size > 10_000
    replace(toy_drive(4, 30), vae="another").save(tmp_path / "latents")
    with pytest.raises(ValueError, match="another V"):
        open_loop.main(args)


@pytest.mark.parametrize("version", ["crop84", "full96", "gauges96"])
def test_road_under_the_car_is_seen_where_the_wheels_touch_it(version):
    env = FastCarRacing()
    env.reset(seed=500_002)
    policy = ActionBursts(ScriptedDriver(env), env.action_space, rate=0.05, length=40, seed=0)
    frames, truth = [], []
    for step in range(500):
        frame, *_ = env.step(policy.predict(np.zeros((96, 96, 3), np.uint8))[0])
        if step >= 50:  # the camera has come down
            frames.append(encoder_input(frame, version))
            truth.append(any(wheel.tiles for wheel in env.car.wheels))
    env.close()
    right = on_road(np.stack(frames), version) == truth
    assert 0.1 < np.mean(truth) < 0.9
    assert right[np.array(truth)].mean() > 0.95
    assert right[~np.array(truth)].mean() > 0.95


@pytest.mark.parametrize("seeds", [[5], [1, 2], [4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
def test_what_is_held_out_stays_so_whichever_episodes_come(seeds):
    def episodes(*seeds):
        return [SimpleNamespace(seed=seed) for seed in seeds]

    trained, held_out = split(episodes(*seeds), 4)
    assert held_out and trained
    known = {each.seed for each in held_out if each.seed % 4 == 0}
    _, later = split(episodes(*sorted([*seeds, 2, 3, 8, 9, 10])), 4)
    assert {each.seed for each in later} == known | {8}
    if len(seeds) > 1:
        assert not {each.seed for each in trained} & {each.seed for each in held_out}
