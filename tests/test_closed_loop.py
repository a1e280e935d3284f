"""Whether dreams pay and move as the real car does, on drives whose truth is known."""

import json

import gymnasium as gym
import numpy as np
import pytest
from conftest import Z
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO

from training import closed_loop
from training.closed_loop import BIN, alarms, compare
from training.driving import Drive, LatentRecorder, drive
from wm_gym.car_racing import lap_reward
from wm_gym.evaluate import EpisodeResult, make_lanes, rollout
from wm_gym.models.controller import Controller
from wm_gym.policies import load_policy
from wm_gym.sb3 import make_sb3_vec
from wm_gym.world_model import WorldModel

DREAM, REAL = "DreamCarRacing-v0", "LatentCarRacing-v0"


def made(rewards, z=None, failed=False, finished=False, seed=0):
    """A drive of given rewards."""
    rewards = np.array(rewards, np.float64)
    if z is None:
        z = np.random.default_rng(seed).standard_normal((len(rewards) + 1, Z))
    over = failed or finished
    result = EpisodeResult(seed, seed, float(rewards.sum()), len(rewards), over, finished if over else None)
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

    recorder = LatentRecorder(SyncVectorEnv([lane, lane], autoreset_mode=AutoresetMode.DISABLED), Z)
    results = list(rollout(recorder, Controller(), range(6)))
    recorder.close()
    assert len({result.steps for result in results}) > 1
    for result in results:
        z, rewards = recorder.finished[result.seed]
        assert (len(z), len(rewards)) == (result.steps + 1, result.steps)
        assert rewards.sum() == pytest.approx(result.score)


def test_an_agents_zip_drives_in_processes_as_it_does_here(world_model_folder, tmp_path):
    agent = PPO("MlpPolicy", make_sb3_vec(DREAM, 1, world_model=world_model_folder), n_steps=8, batch_size=8, seed=0)
    agent.save(tmp_path / "ppo.zip")
    how = {"world_model": world_model_folder, "max_episode_steps": 30}
    there = drive(REAL, str(tmp_path / "ppo.zip"), seeds=[5, 6], lanes=2, **how)
    env = gym.make(REAL, **how)
    here = list(rollout(env, load_policy(tmp_path / "ppo.zip", env), [5, 6]))
    assert [each.result for each in there] == here


def test_a_dream_that_turns_kind_is_found_out_and_since_when():
    real, same = noisy([1.0] * 400), noisy([1.0] * 400, seed=1)
    kind = noisy([1.0] * 200 + [1.5] * 200, seed=2)
    once = noisy([1.0] * 200 + [1.5] * BIN + [1.0] * 150, seed=3)
    assert compare(real, same)["kinder_since"] is None
    assert compare(kind, real)["kinder_since"] is None
    assert compare(real, once)["kinder_since"] is None
    assert [compare(real, each)["kinder"] for each in (same, kind)] == [False, True]
    short, long = ([made([1.0] * steps, seed=i) for i, steps in enumerate(each)] for each in ((12, 15), (400, 410)))
    assert compare(short, long)["kinder"] and compare(short, long)["kinder_since"] is None
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
    assert (report["real"]["finished"], report["real"]["failed"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
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
    reward = lap_reward()
    lap = reward.goal * reward.scale
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
    controller = Controller(Controller.from_pretrained().parameters)  # which drives in any dream
    kwargs = {"policy": controller, "seeds": range(12), "lanes": 12, "max_episode_steps": 300}
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
