"""LatentCarRacing-v0: the real task as [z, h]."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import assert_warns_only_of, drive, gentle_actions
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from wm_gym import RNNHiddenObservation, VAELatentObservation

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


def test_a_state_knows_how_much_of_the_lap_is_paid_for(env):
    env.reset(seed=0)
    assert env.unwrapped.tile_visited_count > 0 and env.get_wrapper_attr("get_state")().gained == 0
    for action in gentle_actions(40):
        env.step(action)
    visited, tiles = env.unwrapped.tile_visited_count, len(env.unwrapped.track)
    state = env.get_wrapper_attr("get_state")()
    assert visited > 3 and state.gained == pytest.approx(
        visited / tiles * env.get_wrapper_attr("world_model").config.reward.goal
    )


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
    with pytest.raises(TypeError, match="give VAELatentObservation the world_model that was trained on it"):
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


def test_a_refused_first_reset_spoils_nothing(world_model_folder):
    env = gym.make(ID, world_model=world_model_folder)
    for kwargs in ({"seed": -1}, {"options": {"start": 3}}):
        with pytest.raises((ValueError, gym.error.Error)):
            env.reset(**kwargs)
    env.reset(seed=0)
    env.step(GAS)
    env.close()


def test_a_state_is_a_copy_that_can_be_changed(env):
    observation, _ = env.reset(seed=0)
    state = env.get_wrapper_attr("get_state")()
    for part in (state.z, *state.memory):
        part.add_(1.0)
    again, _ = env.reset(seed=0)
    assert np.array_equal(again, observation)
    assert np.array_equal(env.get_wrapper_attr("get_state")().z[0], observation[:32])
    env.get_wrapper_attr("get_state")().z.add_(1.0)
    expected = env.step(GAS)[0]
    env.reset(seed=0)
    assert np.array_equal(env.step(GAS)[0], expected)


@pytest.mark.parametrize("render_mode", ["rgb_array", "state_pixels"])
def test_lists_of_frames_are_rendered_as_gymnasiums_own_env_does(world_model_folder, render_mode):
    env = gym.make(ID, world_model=world_model_folder, render_mode=f"{render_mode}_list")
    stock = gym.make("CarRacing-v3", render_mode=f"{render_mode}_list")
    for each in (env, stock):
        each.reset(seed=0)
        each.step(GAS)
        each.step(GAS)
    frames, expected = env.render(), stock.render()
    assert len(frames) == len(expected) == 3
    assert all(np.array_equal(*pair) for pair in zip(frames, expected, strict=True))
    env.close()
    stock.close()


def test_a_solved_task_is_the_real_envs(env):
    assert gym.spec("DreamCarRacing-v0").reward_threshold == env.spec.reward_threshold == 900
