"""The instruments, on drives and world models whose truth is known."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world_model
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from training import closed_loop, open_loop
from training.closed_loop import BIN, alarms, compare
from training.driving import DREAM, REAL, Drive, Recorder, drive
from training.encode import fingerprint
from training.latents import LatentEpisode
from training.open_loop import on_road
from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.evaluate import EpisodeResult, make_lanes, rollout
from wm_gym.frames import VERSIONS, encoder_input
from wm_gym.models.controller import Controller
from wm_gym.models.memory import Prediction
from wm_gym.policies import ActionBursts, ScriptedDriver
from wm_gym.world_model import RewardConfig, WorldModel

Z = 32


# --- open loop -----------------------------------------------------------------------------------------------------


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
    return LatentEpisode(
        seed, "toy", mu, np.zeros_like(mu), actions, actions[:, 1].astype(np.int16), 300, False, "random"
    )


@pytest.fixture(scope="module")
def toy_drives():
    return [toy_drive(seed, steps) for seed, steps in enumerate((40, 25, 60))]


def test_a_memory_that_knows_the_world_is_right_at_every_horizon(toy_drives):
    report = open_loop.open_loop(toy_model(), toy_drives, horizons=(20, 1, 7), moments=30)
    assert (report["drives"], report["moments"]) == (3, 30)
    assert [line["steps"] for line in report["horizons"]] == [1, 7, 20]
    for line in report["horizons"]:
        assert line["z_rmse"] < 1e-5 < 1e-3 < line["copy_rmse"]
        assert line["tiles_dream"] == pytest.approx(line["tiles_real"])
        assert line["tiles_real"] == pytest.approx(line["steps"] / 2, rel=0.2, abs=0.3)
        assert line["tiles_rmse"] < 1e-5
        assert line["tiles_correlation"] == pytest.approx(1)
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
        assert line["tiles_dream"] - line["tiles_real"] == pytest.approx(0.25 * line["steps"], abs=1e-4)
        assert line["tiles_rmse"] == pytest.approx(0.25 * line["steps"], abs=1e-4)
        assert line["tiles_correlation"] == pytest.approx(1)
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


@pytest.mark.parametrize("version", sorted(VERSIONS))
def test_road_under_the_car_is_seen_where_the_wheels_touch_it(version):
    env = FastCarRacing()
    env.reset(seed=500_002)
    policy = ActionBursts(ScriptedDriver(env), env.action_space, rate=0.05, length=40, seed=2)
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


# --- closed loop ---------------------------------------------------------------------------------------------------


def made(rewards, z=None, failed=False, finished=False, seed=0):
    """A drive of given rewards."""
    rewards = np.array(rewards, np.float64)
    if z is None:
        z = np.random.default_rng(seed).standard_normal((len(rewards) + 1, Z))
    result = EpisodeResult(seed, seed, float(rewards.sum()), len(rewards), failed or finished, finished)
    return Drive(z, rewards, result)


def noisy(pay, drives=10, seed=0):
    """Drives that are paid so much a step, give or take 0.1 a drive."""
    rng = np.random.default_rng(seed)
    return [made(np.add(pay, rng.normal(0, 0.1)), seed=i) for i in range(drives)]


@pytest.mark.parametrize(("env_id", "lanes", "steps"), [(DREAM, 2, 60), (DREAM, 7, 60), (REAL, 1, 8)])
def test_drives_hold_what_their_episodes_showed(env_id, lanes, steps, world_model_folder):
    controller, kwargs = Controller(), {"world_model": world_model_folder, "max_episode_steps": steps}
    seeds = range(5) if env_id == DREAM else range(2)
    drives = drive(env_id, controller, seeds=seeds, lanes=lanes, **kwargs)
    assert [each.result.seed for each in drives] == list(seeds)
    envs = make_lanes(env_id, 1, **kwargs)
    alone = {result.seed: result for result in rollout(envs, controller, seeds)}
    envs.close()
    env = gym.make(env_id, **kwargs)
    for each in drives:
        result = alone[each.result.seed]
        assert (each.result.steps, each.result.terminated) == (result.steps, result.terminated)
        assert each.result.score == pytest.approx(result.score, abs=1e-3)
        assert each.rewards.sum() == pytest.approx(each.result.score)
        assert (each.z.shape, each.rewards.shape) == ((result.steps + 1, Z), (result.steps,))
        np.testing.assert_allclose(each.z[0], env.reset(seed=each.result.seed)[0][:Z], atol=1e-5)
        np.testing.assert_allclose(each.z[1], env.step(np.zeros(3, np.float32))[0][:Z], atol=1e-4)
    env.close()
    if env_id == DREAM:
        assert len({each.result.steps for each in drives}) > 1  # some lanes took another seed before others


def test_a_lane_that_resets_leaves_the_records_of_others_alone(world_model_folder):
    """Gymnasium's own vector envs, in which real drives run, take the reset mask out of the options they are given."""

    def lane():
        return gym.make(DREAM, world_model=world_model_folder, max_episode_steps=60)

    recorder = Recorder(SyncVectorEnv([lane, lane], autoreset_mode=AutoresetMode.DISABLED), Z)
    results = list(rollout(recorder, Controller(), range(6)))
    recorder.close()
    assert len({result.steps for result in results}) > 1
    for result in results:
        z, rewards = recorder.finished[result.seed]
        assert (len(z), len(rewards)) == (result.steps + 1, result.steps)
        assert rewards.sum() == pytest.approx(result.score)


def test_a_dream_that_turns_kind_is_found_out_and_since_when():
    real, same = noisy([1.0] * 400), noisy([1.0] * 400, seed=1)
    kind = noisy([1.0] * 200 + [1.5] * 200, seed=2)
    once = noisy([1.0] * 200 + [1.5] * BIN + [1.0] * 150, seed=3)
    assert compare(real, same)["kinder_since"] is None
    assert compare(kind, real)["kinder_since"] is None
    assert compare(real, once)["kinder_since"] is None
    report = compare(real, kind)
    assert report["kinder_since"] == 200
    assert [line["step"] for line in report["pay"]] == list(range(0, 400, BIN))
    for line in report["pay"]:
        assert line["real"]["mean"] == pytest.approx(1, abs=0.1)
        assert line["dream"]["mean"] == pytest.approx(1.5 if line["step"] >= 200 else 1, abs=0.1)
        assert line["real"]["error"] == pytest.approx(0.1 / 10**0.5, rel=0.6)


def test_pay_counts_drives_that_still_run_and_no_price_of_failing():
    real = [made([1.0] * 130), made([2.0] * 100, finished=True), made([4.0] * 49 + [-100], failed=True)]
    report = compare(real, [made([1.0] * 20), made([1.0] * 70)])
    assert report["pay"] == [
        {
            "step": 0,
            "real": {"mean": 1.5, "error": pytest.approx(0.5), "drives": 2},
            "dream": {"mean": 1, "error": None, "drives": 1},
        },
        {
            "step": 50,
            "real": {"mean": 1.5, "error": pytest.approx(0.5), "drives": 2},
            "dream": {"mean": None, "error": None, "drives": 0},
        },
    ]
    assert (report["real"]["lap_finished"], report["real"]["failed"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert report["real"]["max"] == 200
    assert report["changes"]["std_ratio"]["median"] == pytest.approx(1, abs=0.2)
    assert compare(real, [made([1.0] * 10)])["changes"] is None


def test_spread_tells_scale_tails_and_changes():
    rng = np.random.default_rng(0)
    calm = np.cumsum(rng.standard_normal((4001, Z)), axis=0) * 0.1
    wild = calm.copy()
    wild[:, 5] *= 3
    wild[:, 7] = rng.permutation(wild[:, 7])  # the same values, in leaps
    tails = rng.standard_normal(4001)
    wild[:, 9], calm[:, 9] = tails**3, tails
    report = compare([made(np.zeros(4000), calm)], [made(np.zeros(4000), wild)])
    latents, changes = report["latents"], report["changes"]
    others = np.setdiff1d(np.arange(Z), (5, 7, 9))
    for part in (latents, changes):
        ratio = np.array(part["std_ratio"]["latents"])
        np.testing.assert_allclose(ratio[others], 1)
        assert ratio[5] == pytest.approx(3)
        assert part["std_ratio"]["median"] == pytest.approx(1)
        assert part["std_ratio"]["max"] == ratio.max()
        assert part["q99_dream"]["latents"][5] == pytest.approx(3 * part["q99_real"]["latents"][5])
    assert latents["std_ratio"]["latents"][7] == pytest.approx(1)
    assert changes["std_ratio"]["latents"][7] > 2
    assert set(changes["worst"][:3]) == {5, 7, 9}
    assert latents["kurtosis_real"]["latents"][9] == pytest.approx(0, abs=0.3)
    assert latents["kurtosis_dream"]["latents"][9] > 10


def test_a_dream_that_claims_more_than_the_road_can_pay_raises_an_alarm():
    reward = RewardConfig()
    lap = reward.lap_tiles * reward.scale
    assert alarms([made([lap / 760 - 0.1] * 760, finished=True)], reward) == []  # a very good lap
    assert alarms([made([1.2] * 400)] * 3, reward) == []
    (sentence,) = alarms([made([lap / 600 - 0.1] * 600, finished=True)], reward)
    assert "score 940" in sentence
    too_fast, slow = made([lap / 600 - 0.1] * 600, finished=True), made([0.2] * 1000)
    assert alarms([too_fast] * 9 + [slow], reward)  # a long dream leaves no more room for claims than a lap does
    (sentence,) = alarms([made([0.5] * 100 + [2.5] * BIN + [0.5] * 250)], reward)
    assert "2.50 a step" in sentence
    assert "steps 100 to 150" in sentence


def test_the_bundled_dream_is_no_cheat_and_a_reward_head_biased_upward_is_one(tmp_path):
    model = WorldModel.load("car_racing")
    kwargs = {"policy": Controller.from_pretrained(), "seeds": range(12), "lanes": 12, "max_episode_steps": 300}
    assert alarms(drive(DREAM, world_model="car_racing", **kwargs), model.config.reward) == []
    model.memory.heads.bias[-2] += 2
    model.save(tmp_path / "cheat")
    cheats = alarms(drive(DREAM, world_model=tmp_path / "cheat", **kwargs), model.config.reward)
    assert any("on average" in sentence for sentence in cheats)


def test_the_closed_loop_command_writes_its_report(world_model_folder, tmp_path):
    Controller().save(tmp_path / "controller")
    args = closed_loop.Args(
        world_model_folder, str(tmp_path / "controller"), tmp_path, tracks=1, dreams=3, max_steps=60, workers=1
    )
    report = closed_loop.main(args)
    assert (report["real"]["episodes"], report["dream"]["episodes"]) == (1, 3)
    assert json.loads((tmp_path / "closed_loop.json").read_text()) == report
    assert (tmp_path / "closed_loop.png").stat().st_size > 10_000
