"""Where a dream starts: at one of the world model's starts, or in a state that another dream was in."""

import pickle
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ALL_STARTS, EPISODE_STARTS, Z, every_dream, every_task, stream, trace
from hypothesis import given, settings
from hypothesis import strategies as st

# --- starts --------------------------------------------------------------------------------------------------------


def start_of(observation, world_model):
    """Which of the world model's starts an observation shows."""
    z, _ = world_model.start_states
    (index,) = np.flatnonzero((z.numpy() == observation[:Z]).all(axis=1))
    return int(index)


@every_dream
@pytest.mark.parametrize("index", range(ALL_STARTS))
def test_start_gives_the_latent_and_the_memory_of_its_window(env, world_model, index):
    observation, _ = env.reset(options={"start": index})
    starts, memory = world_model.starts, world_model.memory
    length = starts.length[index]
    assert np.array_equal(observation[:Z], starts.z[index, length])
    if index < EPISODE_STARTS:
        assert not observation[Z:].any()
    else:
        window = (torch.from_numpy(array[index : index + 1, :length]) for array in (starts.z, starts.actions))
        hidden, _ = memory.unroll(*window, memory.initial_state(1))
        np.testing.assert_allclose(observation[Z:], hidden[0, -1], atol=1e-5)
        assert abs(observation[Z:]).max() > 1e-3
    assert env.unwrapped.get_state().gained.tolist() == [starts.gained[index]]


@every_task
def test_a_refused_first_reset_spoils_nothing(make, coast):
    env = make()
    for kwargs in ({"seed": -1}, {"options": {"start": ALL_STARTS}}, {"options": {"begin": 1}}):
        with pytest.raises((ValueError, gym.error.Error)):
            env.reset(**kwargs)
    env.reset(seed=0)
    env.step(coast)


@pytest.mark.parametrize("dtype", [int, np.int8, np.uint8, np.int32, np.uint64, np.array])
def test_start_of_any_whole_number_type(env, world_model, dtype):
    observation, _ = env.reset(options={"start": dtype(11)})
    assert start_of(observation, world_model) == 11


@every_task
@pytest.mark.parametrize(
    ("asked", "drawn"),
    [({}, EPISODE_STARTS), ({"starts": "episode"}, EPISODE_STARTS), ({"starts": "any"}, ALL_STARTS)],
    ids=["default", "episode", "any"],
)
def test_reset_draws_from_the_starts_asked_for(make, world_model, asked, drawn):
    env = make(**asked)
    env.reset(seed=0)
    assert {start_of(env.reset()[0], world_model) for _ in range(400)} == set(range(drawn))


def two_lanes(state):
    return state[[0, 0]]


def wrong_latents(state):
    return replace(state, z=state.z[:, :16])


def wrong_hidden(state):
    return replace(state, memory=tuple(part[:, :128] for part in state.memory))


@every_task
@pytest.mark.parametrize(
    "options",
    [
        {"begin": 0},
        {"reset_mask": np.array([True])},
        {"start": -1},
        {"start": ALL_STARTS},
        {"start": 2**70},
        {"start": 1.0},
        {"start": True},
        {"start": "1"},
        {"start": [0]},
        {"state": {}},
        {"state": two_lanes},
        {"state": wrong_latents},
        {"state": wrong_hidden},
        {"start": 0, "state": lambda state: state},
    ],
    ids=lambda options: "-".join(f"{key}-{getattr(value, '__name__', value)}" for key, value in options.items()),
)
@pytest.mark.parametrize("seed", [None, 9])
def test_wrong_options_change_nothing(make, options, seed, random_actions, coast):
    disturbed, calm = make(), make()
    for env in (disturbed, calm):
        env.reset(seed=2)
        env.step(coast)
    if callable(options.get("state")):
        options = {**options, "state": options["state"](disturbed.unwrapped.get_state())}
    before, asked = stream(disturbed), dict(options)
    with pytest.raises(ValueError, match=r"start|state|begin|reset_mask"):
        disturbed.unwrapped.reset(seed=seed, options=options)
    assert options.keys() == asked.keys()
    assert stream(disturbed) == before
    assert trace(disturbed, random_actions(10)) == trace(calm, random_actions(10))


@every_task
def test_a_wrong_seed_changes_nothing(make, random_actions):
    disturbed, calm = make(), make()
    for env in (disturbed, calm):
        env.reset(seed=2)
    with pytest.raises(gym.error.Error):
        disturbed.unwrapped.reset(seed=-1, options={"start": 4})
    assert trace(disturbed, random_actions(10)) == trace(calm, random_actions(10))


# --- states --------------------------------------------------------------------------------------------------------


@every_dream
@given(seed=st.integers(0, 999), before=st.integers(0, 70), pickled=st.booleans())
@settings(deadline=None, max_examples=15)
def test_a_state_continues_as_the_original_did(world_model_folder, seed, before, pickled, random_actions, dream_id):
    env, other = (gym.make(dream_id, world_model=world_model_folder, starts="any") for _ in range(2))
    observation, _ = env.reset(seed=seed)
    for action in random_actions(before, seed=seed):
        observation, _, terminated, _, _ = env.step(action)
        if terminated:
            observation, _ = env.reset()
    state = env.unwrapped.get_state()
    original = trace(env, random_actions(40))
    if pickled:
        state = pickle.loads(pickle.dumps(state))
    for branch in (env, other, other):  # more than once: a continuation leaves the state as it was
        assert np.array_equal(branch.reset(options={"state": state})[0], observation)
        assert trace(branch, random_actions(40)) == original


@every_dream
def test_get_state_disturbs_nothing(make, random_actions):
    one, other = make(), make()
    one.reset(seed=3)
    other.reset(seed=3)
    expected = trace(one, random_actions(20))
    watched = []
    for action in random_actions(20):
        other.unwrapped.get_state()
        watched += trace(other, [action])
    assert watched == expected


@every_dream
def test_a_state_with_a_seed_has_another_future(env, coast):
    env.reset(seed=0, options={"start": 12})
    state = env.unwrapped.get_state()
    futures = {}
    for seed in (None, 1, 2, 1):
        observation, _ = env.reset(seed=seed, options={"state": state})
        assert start_of(observation, env.unwrapped.dream.world_model) == 12
        step = env.step(coast)[0]
        assert np.array_equal(futures.setdefault(seed, step), step)
    assert len({future[:Z].tobytes() for future in futures.values()}) == 3
    assert len({future[Z:].tobytes() for future in futures.values()}) == 1  # h does not depend on what is drawn


@every_task
def test_a_states_stream_becomes_the_envs(env):
    env.reset(seed=0)
    state = env.unwrapped.get_state()
    following = [env.reset()[0].tobytes() for _ in range(10)]
    env.reset(seed=1)
    env.reset(options={"state": state})
    assert [env.reset()[0].tobytes() for _ in range(10)] == following


@every_task
def test_a_resumed_episodes_time_limit_starts_afresh(make, coast):
    env = make(max_episode_steps=5, sampling="mode")
    env.reset(seed=0)
    for _ in range(4):
        env.step(coast)
    env.reset(options={"state": env.unwrapped.get_state()})
    assert [env.step(coast)[3] for _ in range(5)] == [False] * 4 + [True]
