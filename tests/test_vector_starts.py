"""Where lanes start: at starts of the world model, or in states that other dreams were in."""

import copy

import numpy as np
import pytest
from conftest import ALL_STARTS, EPISODE_STARTS, Z, assert_steps_equal, every_dream, every_task, stepped_once
from gymnasium.vector import AutoresetMode

from wm_gym.world_model import WorldModel


def streams(envs):
    return [rng.bit_generator.state for rng in envs.np_random]


@every_task
def test_each_lane_tells_the_seed_of_its_stream(make_vec, coast):
    envs = make_vec(3)
    assert envs.np_random_seed == (-1, -1, -1)
    envs.reset(seed=5)
    assert envs.np_random_seed == (5, 6, 7)
    envs.reset(seed=[9, None, None])
    envs.reset()
    assert envs.np_random_seed == (9, 6, 7)
    state = envs.get_state()
    envs.reset(options={"state": state, "reset_mask": np.array([False, True, False])})
    assert envs.np_random_seed == (9, -1, 7)


@pytest.mark.parametrize("start", [13, np.int16(13), [0, 13, 23, 1], np.array([23, 2, 13, 4], np.uint8)])
def test_start_option_of_one_or_of_each_lane(make_vec, make, start):
    observation, _ = make_vec(4).reset(seed=0, options={"start": start})
    env = make()
    for lane, index in enumerate(np.broadcast_to(start, 4)):
        assert np.array_equal(observation[lane], env.reset(options={"start": int(index)})[0])


@every_task
def test_start_option_with_a_mask(make_vec, make):
    envs = make_vec(3, autoreset_mode=AutoresetMode.DISABLED)
    before, _ = envs.reset(seed=0)
    mask = np.array([False, True, True])
    observation, _ = envs.reset(options={"reset_mask": mask, "start": np.array([20, 21, 22])})
    assert np.array_equal(observation[0], before[0])
    for lane in (1, 2):
        assert np.array_equal(observation[lane], make().reset(options={"start": 20 + lane})[0])


@every_task
def test_starts_are_drawn_where_asked(make_vec, world_model_folder):
    z = WorldModel.from_pretrained(world_model_folder).start_states[0].numpy()
    for starts, drawn in (("episode", range(EPISODE_STARTS)), ("any", range(ALL_STARTS))):
        observation, _ = make_vec(400, starts=starts).reset(seed=0)
        found = (observation[:, None, :Z] == z).all(axis=2)
        assert set(found.argmax(axis=1)) == set(drawn)
        assert found.any(axis=1).all()


@every_dream
def test_a_state_continues_every_lane(make_vec, random_actions):
    envs, other = make_vec(5, starts="any"), make_vec(5, starts="any")
    observation, _ = envs.reset(seed=1)
    for actions in random_actions(40, 5):
        observation, _, terminated, truncated, _ = envs.step(actions)
    assert not (terminated | truncated).any()
    state = envs.get_state()
    original = [envs.step(actions) for actions in random_actions(40, 5, seed=1)]
    assert any(step[2].any() for step in original)
    for branch in (envs, other, other):
        assert np.array_equal(branch.reset(options={"state": state})[0], observation)
        for actions, step in zip(random_actions(40, 5, seed=1), original, strict=True):
            assert_steps_equal(branch.step(actions), step)


@every_dream
def test_one_state_branches_into_every_lane(make_vec, make, coast):
    env = make()
    env.reset(seed=0, options={"start": 17})
    env.step(coast)
    state = env.unwrapped.get_state()
    envs = make_vec(4)
    present = envs.reset(seed=30, options={"state": state})[0]
    futures = envs.step(np.stack([coast] * 4))[0]
    assert len({future.tobytes() for future in futures}) == 4
    for lane in range(4):
        assert np.array_equal(env.reset(seed=30 + lane, options={"state": state})[0], present[lane])
        np.testing.assert_allclose(env.step(coast)[0], futures[lane], atol=1e-5)
    envs.reset(options={"state": state})  # without seeds all go on as the original would
    env.reset(options={"state": state})
    expected = env.step(coast)[0]
    np.testing.assert_allclose(envs.step(np.stack([coast] * 4))[0], np.tile(expected, (4, 1)), atol=1e-5)


@every_dream
def test_a_lane_branches_into_the_single_env(make_vec, make, random_actions):
    envs, env = make_vec(4), make()
    observation = stepped_once(envs, seed=0)
    assert np.array_equal(env.reset(options={"state": envs.get_state()[[2]]})[0], observation[2])
    actions = random_actions(1, 4, seed=5)[0]
    np.testing.assert_allclose(env.step(actions[2])[0], envs.step(actions)[0][2], atol=1e-5)


@every_task
def test_a_state_with_a_mask_and_some_seeds(make_vec, random_actions):
    envs, other = make_vec(4, autoreset_mode=AutoresetMode.DISABLED), make_vec(4, autoreset_mode=AutoresetMode.DISABLED)
    first = stepped_once(envs, seed=0)
    state = envs.get_state()
    actions = random_actions(1, 4, seed=1)[0]
    second = envs.step(actions)[0]
    before = stepped_once(other, seed=70)
    mask = np.array([True, False, True, True])
    observation, _ = other.reset(seed=[None, 1, 2, None], options={"state": state, "reset_mask": mask})
    assert np.array_equal(observation[mask], first[mask])
    assert np.array_equal(observation[1], before[1])
    after = other.step(actions)[0]
    np.testing.assert_allclose(after[[0, 3]], second[[0, 3]], atol=1e-5)
    np.testing.assert_allclose(after[2, Z:], second[2, Z:], atol=1e-5)
    assert not np.allclose(after[2, :Z], second[2, :Z])


TRUE, FALSE = np.ones(3, bool), np.zeros(3, bool)


@every_task
@pytest.mark.parametrize(
    "wrong",
    [
        {"options": {"reset_mask": [True, False, True]}},
        {"options": {"reset_mask": TRUE.astype(int)}},
        {"options": {"reset_mask": np.ones(2, bool)}},
        {"options": {"reset_mask": np.ones((3, 1), bool)}},
        {"options": {"reset_mask": FALSE}},
        {"seed": [1, 2]},
        {"seed": [1, 2, 3, 4]},
        {"seed": -1},
        {"seed": [1, -2, 3]},
        {"seed": [1, 2.5, 3]},
        {"seed": 1.5},
        {"seed": ["1", "2", "3"]},
        {"options": {"start": ALL_STARTS}},
        {"options": {"start": -1}},
        {"options": {"start": 1.0}},
        {"options": {"start": [1, 2]}},
        {"options": {"start": [[1, 2, 3]]}},
        {"options": {"start": [1, 2, ALL_STARTS]}},
        {"options": {"start": [1, 2, 3], "reset_mask": FALSE}},
        {"options": {"begin": 3}},
        {"options": {"state": 3}},
        {"options": {"state": 2}, "lanes_of_state": 2},
        {"options": {"state": 3, "start": 1}, "lanes_of_state": 3},
        {"options": {"state": 3}, "lanes_of_state": 3, "seed": [1, 2]},
    ],
    ids=str,
)
def test_wrong_resets_change_nothing(make_vec, wrong, random_actions):
    wrong = copy.deepcopy(wrong)
    disturbed, calm = make_vec(3), make_vec(3)
    for envs in (disturbed, calm):
        stepped_once(envs, seed=0)
    if lanes := wrong.pop("lanes_of_state", None):
        state = disturbed.get_state()[[0, 1, 2][:lanes]]
        wrong["options"]["state"] = state
    before = streams(disturbed)
    with pytest.raises((ValueError, TypeError)):
        disturbed.reset(**wrong)
    assert streams(disturbed) == before
    for actions in random_actions(40, 3, seed=3):  # far enough to draw noise and starts anew
        assert_steps_equal(disturbed.step(actions), calm.step(actions))


@every_task
def test_reset_leaves_the_options_as_they_are(make_vec):
    mask = np.array([True, False])
    options = {"reset_mask": mask, "start": np.array([1, 2])}
    envs = make_vec(2, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    envs.reset(options=options)
    assert list(options) == ["reset_mask", "start"]
    assert mask.tolist() == [True, False]
