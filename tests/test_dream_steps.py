"""What a step dreams: latents, hidden states, rewards and ends as the memory predicts them."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import (
    ANOTHER,
    COAST,
    EPISODE_STARTS,
    Z,
    drive_to_the_end,
    every_dream,
    every_task,
    make_world_model,
    some_actions,
    trace,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.registration import env_ids
from wm_gym.reward import RewardConfig
from wm_gym.world_model import WorldModel


@every_dream
def test_the_memory_takes_z_and_action_of_the_same_step(make, world_model, random_actions):
    env = make(sampling="mode")
    actions = random_actions(20)
    observations = np.stack([env.reset(seed=0)[0]] + [env.step(action)[0] for action in actions])
    z = torch.from_numpy(observations[None, :-1, :Z])
    taken = torch.from_numpy(world_model.config.task.actions.encode(actions)[None])
    hidden, _ = world_model.memory.unroll(z, taken, world_model.memory.initial_state(1))
    np.testing.assert_allclose(observations[1:, Z:], hidden[0], atol=1e-5)


@every_dream
def test_mode_dreams_the_mean_of_the_likeliest_component(make, world_model, random_actions):
    env = make(sampling="mode")
    env.reset(seed=0)
    for action in random_actions(5):
        observation = env.step(action)[0]
        prediction = world_model.memory.predict(torch.from_numpy(observation[Z:]))
        likeliest = prediction.logits.numpy().argmax(axis=1)
        np.testing.assert_allclose(observation[:Z], prediction.mu.numpy()[np.arange(Z), likeliest], atol=1e-5)


@every_dream
def test_mode_is_deterministic_but_for_the_start(make, random_actions):
    env = make(sampling="mode")
    dreams, starts = set(), set()
    for seed in range(8):
        starts.add(env.reset(seed=seed)[0].tobytes())
        env.reset(seed=seed, options={"start": 2})
        dreams.add(str(trace(env, random_actions(30))))
    assert len(dreams) == 1
    assert len(starts) > 1


@pytest.fixture(scope="module")
def short_laps(tmp_path_factory):
    """A world model with rules of its own and laps of 30 tiles."""
    folder = tmp_path_factory.mktemp("short_laps") / "world_model"
    reward = RewardConfig(scale=2.5, per_step=-0.5, end=-7.0, goal=30.0)
    make_world_model(reward=reward).save(folder)
    return str(folder)


@pytest.mark.parametrize("own_rules", [False, True])
def test_reward_is_expected_tiles_times_scale_plus_per_step(make, world_model, short_laps, own_rules):
    env = make(world_model=short_laps) if own_rules else make()
    scale, per_step, failure = (2.5, -0.5, -7.0) if own_rules else (1000 / 295, -0.1, -100.0)
    env.reset(seed=0)
    failures = 0
    for action in some_actions(200):
        observation, reward, terminated, _, info = env.step(action)
        assert type(reward) is float
        if not terminated:
            tiles = world_model.memory.predict(torch.from_numpy(observation[Z:])).gain
            assert reward == pytest.approx(tiles.item() * scale + per_step, abs=1e-4)
            assert info == {}
        else:
            env.reset()
            if not info["lap_finished"]:
                failures += 1
                assert reward == failure
    assert failures > 1


@pytest.mark.parametrize("end", [0.0, None])
def test_a_reward_that_nothing_counts_is_the_memorys_own_at_every_step(end, tmp_path):
    model = make_world_model(ANOTHER, reward=RewardConfig(scale=0.5, per_step=-1.0, end=end))
    model.save(tmp_path / "model")
    env = gym.make(env_ids(tmp_path / "model")[0], world_model=str(tmp_path / "model"))
    env.reset(seed=0)
    ends, gains, memory = 0, [], WorldModel.load(tmp_path / "model").memory
    for action in np.random.default_rng(0).integers(0, 3, 200):
        observation, reward, terminated, _, info = env.step(action)
        gains.append(memory.predict(torch.from_numpy(observation[Z:])).gain.item())
        expected = end if terminated and end is not None else gains[-1] * 0.5 - 1
        assert (type(reward), info) == (float, {})
        assert reward == pytest.approx(expected, abs=1e-4)
        assert env.unwrapped.get_state().gained == 0
        if terminated:
            ends += 1
            env.reset()
    assert ends > 1
    assert min(gains) < -0.01 < 0.01 < max(gains)  # no count


@pytest.mark.parametrize("start", [0, EPISODE_STARTS])
def test_a_dream_pays_for_one_lap_and_ends(make, world_model, short_laps, start):
    env = make(world_model=short_laps, sampling="mode")
    env.reset(options={"start": start})
    left = 30 - world_model.starts.gained[start]
    rewards, terminated = [], False
    while not terminated:
        assert sum(rewards) + 0.5 * len(rewards) < left * 2.5 - 0.01
        _, reward, terminated, truncated, info = env.step(COAST)
        rewards.append(reward)
        assert not truncated
    assert type(terminated) is bool
    assert info == {"lap_finished": True}
    assert sum(rewards) == pytest.approx(left * 2.5 - 0.5 * len(rewards), abs=1e-3)


def test_no_tile_is_paid_beyond_the_lap(make):
    env = make(sampling="mode")
    env.reset(seed=0)
    env.unwrapped.dream.gained.fill(295 - 0.25)
    _, reward, terminated, _, info = env.step(COAST)
    assert (terminated, info) == (True, {"lap_finished": True})
    assert reward == pytest.approx(0.25 * 1000 / 295 - 0.1, abs=1e-4)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(COAST)


def test_a_dream_that_starts_beyond_the_goal_takes_no_tile_back(make):
    env = make(sampling="mode")
    env.reset(seed=0)
    env.unwrapped.dream.gained.fill(295 + 0.5)
    _, reward, terminated, _, info = env.step(COAST)
    assert (terminated, info) == (True, {"lap_finished": True})
    assert reward == pytest.approx(-0.1)


def test_leaving_the_playfield_is_no_finished_lap(env):
    for seed in range(5):
        _, (_, reward, terminated, truncated, info) = drive_to_the_end(env, seed)
        assert (reward, terminated, truncated, info) == (-100.0, True, False, {"lap_finished": False})


def test_a_failure_at_the_last_tile_is_a_failure(env):
    state, _ = drive_to_the_end(env, seed=0)
    env.reset(options={"state": replace(state, gained=np.full_like(state.gained, 294.99))})
    _, reward, terminated, _, info = env.step(COAST)
    assert (reward, terminated, info) == (-100.0, True, {"lap_finished": False})


@every_dream
@given(temperature=st.floats(0.05, 5), seed=st.integers(0, 99), steps=st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_temperature_changes_neither_reward_nor_end(
    world_model_folder, temperature, seed, steps, random_actions, dream_id
):
    env = gym.make(dream_id, world_model=world_model_folder)
    other = gym.make(dream_id, world_model=world_model_folder, temperature=temperature)
    env.reset(seed=seed)
    for action in random_actions(steps + 1, seed=seed):
        state = env.unwrapped.get_state()
        observation, *outcome = env.step(action)
        if outcome[1]:
            break
    other.reset(options={"state": state})
    expected, *same = other.step(action)
    assert outcome == same
    np.testing.assert_array_equal(observation[Z:], expected[Z:])
    if abs(temperature - 1) > 1e-3:
        assert not np.array_equal(observation[:Z], expected[:Z])


@every_task
@pytest.mark.parametrize("temperature", [0.1, 4.0])
def test_temperature_changes_no_end_where_there_is_one(make, temperature, coast):
    state, (_, *outcome) = drive_to_the_end(make(), seed=1)
    other = make(temperature=temperature)
    other.reset(options={"state": state})
    assert list(other.step(coast)[1:]) == outcome
