"""`rollout`: the one evaluation loop, in one env, in lanes and in processes."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ID as DREAM
from conftest import make_world_model
from gymnasium.vector import AutoresetMode

from wm_gym.car_racing import lap_reward
from wm_gym.evaluate import EpisodeResult, make_lanes, rollout, summarize
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.sb3 import make_sb3_vec

pytestmark = [pytest.mark.usefixtures("box2d", "no_display")]

ID = "LatentCarRacing-v0"


@pytest.fixture(scope="module")
def env(make):
    return make()


@pytest.fixture(scope="module")
def processes(world_model_folder):
    """Two lanes of six steps, each in a process of its own, and this process's threads (it had 3) after making them."""
    torch.set_num_threads(3)
    envs = make_lanes(ID, 2, world_model=world_model_folder, max_episode_steps=6)
    yield envs, torch.get_num_threads()
    envs.close()


def test_lanes_in_processes_leave_this_process_its_threads(processes):
    _, threads = processes
    assert threads == 3


def test_rollout_gives_the_same_scores_in_one_env_in_lanes_and_in_processes(world_model_folder, processes):
    config = ControllerConfig()
    driver = Controller(np.random.default_rng(0).normal(0, 0.1, config.parameters), config)
    kwargs = {"world_model": world_model_folder, "max_episode_steps": 6}
    seeds = [21, 22, 23]
    disabled = {"autoreset_mode": AutoresetMode.DISABLED}
    results = []
    for env in (
        gym.make(ID, **kwargs),
        make_lanes(ID, 1, **kwargs),
        gym.make_vec(ID, 2, vectorization_mode="sync", vector_kwargs=disabled, **kwargs),
        processes[0],
    ):
        results.append(sorted(rollout(env, driver, seeds), key=lambda result: result.index))
        env.close()
    for result in results:
        assert [episode.seed for episode in result] == seeds
        assert [(episode.steps, episode.terminated, episode.finished) for episode in result] == [(6, False, None)] * 3
        assert [episode.score for episode in result] == pytest.approx([episode.score for episode in results[0]])
    assert len({episode.score for episode in results[0]}) == 3


def test_rollout_refuses_lanes_that_reset_themselves(world_model_folder):
    envs = gym.make_vec(ID, 1, vectorization_mode="sync", world_model=world_model_folder)
    with pytest.raises(ValueError, match="DISABLED"):
        rollout(envs, Controller(), [1])
    envs.close()


def test_rollout_wants_a_policy_not_its_name(env):
    with pytest.raises(TypeError, match=r"'car_racing' predicts no actions: wm_gym\.load_policy"):
        rollout(env, "car_racing", [1])


def test_rollout_refuses_at_once_what_can_not_drive_and_says_why(env, world_model_folder):
    small, population = Controller(config=ControllerConfig(10)), Controller(np.zeros((4, 867)))
    for envs, policy, kind, message in (
        (make_sb3_vec("DreamCarRacing-v0", 2), Controller(), TypeError, "Stable-Baselines3 has evaluate_policy"),
        (env, small, ValueError, "given maps 10 observations"),
        (env, population, ValueError, r"a population of 4 controllers drives as many lanes, got 1: member\(i\)"),
    ):
        with pytest.raises(kind, match=message):
            rollout(envs, policy, [1])
    lanes = make_lanes("DreamCarRacing-v0", 4, world_model=world_model_folder, max_episode_steps=5)
    assert len(list(rollout(lanes, population, range(4)))) == 4


def test_a_summary_of_an_example():
    results = [EpisodeResult(i, i, score, 10, True, True) for i, score in enumerate((1.0, 2.0, 9.0))]
    deviation = pytest.approx(19**0.5)
    expected = {"episodes": 3, "mean": 4, "std": deviation, "median": 2, "min": 1, "max": 9, "share_2": 2 / 3}
    assert summarize(results, solved=2.0) == expected


class Counting:
    """Its state counts the steps of each lane's episode."""

    def __init__(self):
        self.lengths, self.told = [], set()

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        before = np.zeros(len(observation), int) if state is None else state[0]
        self.lengths += before[episode_start & (before > 0)].tolist()
        self.told.add(deterministic)
        return np.zeros((len(observation), 3), np.float32), (np.where(episode_start, 0, before) + 1,)


def test_a_recurrent_policy_is_told_where_episodes_start_and_gets_its_state_back(make_vec):
    policy, lanes = Counting(), make_vec(3, autoreset_mode="DISABLED", max_episode_steps=25, starts="any")
    results = list(rollout(lanes, policy, range(7), deterministic=False))
    assert policy.told == {False}
    lengths = [result.steps for result in results]
    assert all(lengths.count(n) <= policy.lengths.count(n) + 3 for n in lengths) and set(policy.lengths) <= {*range(26)}
    assert len(policy.lengths) >= 4 and max(lengths) <= 25


@pytest.mark.parametrize("seed", [1.7, "3", None])
def test_rollout_refuses_seeds_that_are_no_whole_numbers(env, seed):
    with pytest.raises(TypeError, match="integer"):
        rollout(env, Controller(), [0, seed])


def test_rollout_takes_a_policy_that_tells_one_of_its_spaces_as_it_is(env):
    policy = Controller()
    half = SimpleNamespace(predict=policy.predict, action_space=env.action_space)
    assert list(rollout(env, half, [0])) == list(rollout(env, policy, [0]))


def test_rollout_takes_seeds_of_numpy_and_gives_them_back_as_pythons(env, make_vec):
    for each in (env, make_vec(2, autoreset_mode="DISABLED", max_episode_steps=5)):
        results = list(rollout(each, Controller(), np.arange(3)))
        assert sorted(result.seed for result in results) == [0, 1, 2]
        assert {type(result.seed) for result in results} == {int}


@pytest.mark.parametrize("env_id", ["LatentCarRacing-v0", "DreamCarRacing-v0"])
def test_forked_lanes_step_after_torch_has_used_its_threads(world_model_folder, env_id):
    torch.set_num_threads(2)
    torch.ones(512, 512) @ torch.ones(512, 512)
    envs = gym.make_vec(env_id, 1, vectorization_mode="async", world_model=world_model_folder)
    try:
        envs.reset_async(seed=0)
        observation, _ = envs.reset_wait(timeout=60)
        assert np.isfinite(observation).all()
    finally:
        envs.close(terminate=True)


def test_a_result_says_how_its_own_lane_ended(tmp_path):
    make_world_model(reward=lap_reward(30.0)).save(tmp_path / "model")
    how, seen = {"world_model": str(tmp_path / "model"), "max_episode_steps": 60}, set()
    env = gym.make(DREAM, **how)
    for result in rollout(make_lanes(DREAM, 8, **how), Controller(), range(24)):
        env.reset(seed=result.seed)
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(np.zeros(3, np.float32))
            over = terminated or truncated
        assert result.finished == info.get("lap_finished")
        seen.add(result.finished)
    assert seen >= {True, False}
