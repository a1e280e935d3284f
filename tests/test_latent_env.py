"""LatentCarRacing-v0: the real task as [z, h]."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import assert_warns_only_of, drive, gentle_actions
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from wm_gym import RNNHiddenObservation, VAELatentObservation
from wm_gym.evaluate import make_lanes, rollout
from wm_gym.models.controller import Controller, ControllerConfig

pytestmark = pytest.mark.usefixtures("box2d", "no_display")
ID = "LatentCarRacing-v0"
GAS = np.array([0, 1, 0], np.float32)


@pytest.fixture(scope="module")
def env(world_model_folder):
    env = gym.make(ID, world_model=world_model_folder)
    yield env
    env.close()


# --- what Gymnasium and SB3 ask of an env -------------------------------------------------------------------------


def test_passes_gymnasiums_check(env):
    expected = {
        "observation space minimum value is -infinity",
        "observation space maximum value is infinity",
        "different from the unwrapped version",  # unwrapped is CarRacing itself
    }
    assert_warns_only_of(expected, lambda: check_env(env))


def test_passes_sb3s_check(env):
    assert_warns_only_of({"symmetric and normalized Box action space"}, lambda: check_env_for_sb3(env, True, False))


@pytest.mark.parametrize("change", ["to_json", "pickle"])
def test_is_made_again_from_its_spec(env, change):
    spec = EnvSpec.from_json(env.spec.to_json()) if change == "to_json" else pickle.loads(pickle.dumps(env.spec))
    again = gym.make(spec)
    actions = gentle_actions(5)
    for mine, its in zip(drive(again, 1, actions), drive(env, 1, actions), strict=True):
        assert np.array_equal(mine, its)
    assert str(again) == str(env)
    again.close()


def test_wrapped_by_hand_it_is_made_again_from_its_spec(world_model_folder):
    env = RNNHiddenObservation(VAELatentObservation(gym.make("CarRacing-v3"), world_model_folder))
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert np.array_equal(again.reset(seed=0)[0], env.reset(seed=0)[0])


def test_the_time_limit_is_carracings(env):
    assert env.spec.max_episode_steps == gym.spec("CarRacing-v3").max_episode_steps == 1000


# --- the real task -------------------------------------------------------------------------------------------------


def test_is_carracing_with_both_wrappers(env, world_model_folder):
    stock = gym.make("CarRacing-v3")
    by_hand = RNNHiddenObservation(VAELatentObservation(gym.make("CarRacing-v3"), world_model=world_model_folder))
    actions = gentle_actions(25)
    for seed in (7, 8):
        observations, rewards = drive(env, seed, actions)
        same, rewards_by_hand = drive(by_hand, seed, actions)
        _, stock_rewards = drive(stock, seed, actions)
        assert np.array_equal(observations, same)
        assert rewards == rewards_by_hand == stock_rewards
        assert max(rewards) > 1  # tiles were visited
    assert by_hand.observation_space == env.observation_space == gym.spaces.Box(-np.inf, np.inf, (288,), np.float32)
    assert by_hand.action_space == env.action_space == stock.action_space
    assert observations.dtype == np.float32


def test_an_explicit_world_model_for_the_memory(env, world_model_folder):
    z = VAELatentObservation(gym.make("CarRacing-v3"), world_model_folder)
    by_hand = RNNHiddenObservation(z, world_model=world_model_folder)
    assert np.array_equal(drive(by_hand, 0, gentle_actions(3))[0], drive(env, 0, gentle_actions(3))[0])


def test_leaving_the_playfield_ends_it_as_in_carracing(env):
    env.reset(seed=0)
    for body in (env.unwrapped.car.hull, *env.unwrapped.car.wheels):
        body.position = (body.position.x + 1000, body.position.y)
    _, reward, terminated, truncated, info = env.step(GAS)
    assert (reward, terminated, truncated, info) == (-100, True, False, {"lap_finished": False})


def test_finishing_the_lap_ends_it_as_in_carracing(env):
    env.reset(seed=0)
    env.step(GAS)
    env.unwrapped.tile_visited_count = len(env.unwrapped.track)
    _, _, terminated, _, info = env.step(GAS)
    assert (terminated, info) == (True, {"lap_finished": True})


def test_carracings_own_arguments_pass_through(world_model_folder):
    env = gym.make(ID, world_model=world_model_folder, domain_randomize=True, render_mode="rgb_array")
    assert env.unwrapped.domain_randomize
    env.reset(seed=0)
    frame = env.render()
    assert (frame.dtype, frame.shape) == (np.uint8, (400, 600, 3))
    env.close()
    env.close()
    for wrong in ({"fast": "no"}, {"continuous": 1}, {"domain_randomize": None}):
        with pytest.raises(ValueError, match="must be True or False"):
            gym.make(ID, world_model=world_model_folder, **wrong)
    with pytest.raises(TypeError, match="give the world_model that was trained on it"):
        gym.make(ID, world_model=world_model_folder, continuous=False)


# --- actions -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_a_bad_action_is_named_and_nothing_happens(env):
    actions = gentle_actions(8)
    observations, rewards = drive(env, 6, actions)
    bad = [
        ([np.nan, 0, 0], r"action\[0\] is nan"),
        ([0, np.inf, 0], r"action\[1\] is inf"),
        ([0, 0, -0.5], r"action\[2\] is -0\.5"),
        (np.array([-1e300, 0, 0]), r"action\[0\] is -1e\+300"),
        ([0, 0], r"\(2,\)"),
        (["left", "gas", "brake"], "left"),
        (None, "None"),
    ]
    first, _ = env.reset(seed=6)
    assert np.array_equal(first, observations[0])
    for t, action in enumerate(actions):
        for wrong, message in bad[t : t + 1]:
            with pytest.raises(ValueError, match=message):
                env.step(wrong)
        observation, reward, *_ = env.step(action)
        assert np.array_equal(observation, observations[t + 1])
        assert reward == rewards[t]


@pytest.mark.parametrize("convert", [list, tuple, np.float64, np.int8, torch.from_numpy])
def test_actions_of_any_real_type_are_taken(env, convert):
    corners = np.array([[0, 1, 0], [1, 1, 0], [-1, 0, 1]], np.float32)
    observations, rewards = drive(env, 2, corners)
    same, same_rewards = drive(env, 2, [convert(action) for action in corners])
    assert np.array_equal(observations, same)
    assert rewards == same_rewards


# --- rollout -------------------------------------------------------------------------------------------------------


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
        next(rollout(envs, Controller(), [1]))
    envs.close()


def test_rollout_wants_a_policy_not_its_name(env):
    with pytest.raises(TypeError, match=r"'car_racing' predicts no actions: wm_gym\.load_policy"):
        next(rollout(env, "car_racing", [1]))


def test_forked_lanes_step_after_torch_has_used_its_threads(world_model_folder):
    torch.set_num_threads(2)
    torch.ones(512, 512) @ torch.ones(512, 512)
    envs = gym.make_vec("LatentCarRacing-v0", 1, vectorization_mode="async", world_model=world_model_folder)
    try:
        envs.reset_async(seed=0)
        observation, _ = envs.reset_wait(timeout=60)
        assert np.isfinite(observation).all()
    finally:
        envs.close(terminate=True)


def test_a_solved_task_is_the_real_envs(env):
    assert gym.spec("DreamCarRacing-v0").reward_threshold == env.spec.reward_threshold == 900
