"""When lanes end and are reset: the rules are those of SyncVectorEnv."""

import gymnasium as gym
import numpy as np
import pytest
from conftest import assert_infos_agree, every_dream, every_task, nothing, some_actions, stepped_once
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def make_sync(make):
    def make_lanes(lanes, autoreset_mode=AutoresetMode.NEXT_STEP, **kwargs):
        return SyncVectorEnv([lambda: make(**kwargs)] * lanes, autoreset_mode=autoreset_mode)

    return make_lanes


def assert_steps_agree(step, expected, atol=1e-4):
    for mine, its in zip(step[:-1], expected[:-1], strict=True):
        assert mine.dtype == its.dtype
        np.testing.assert_allclose(mine, its, atol=atol)
    assert_infos_agree(step[-1], expected[-1])


@every_dream
@pytest.mark.parametrize("mode", AutoresetMode)
def test_agrees_with_sync_vector_env(make_vec, make_sync, mode, random_actions):
    lanes, limit = 6, 15
    native = make_vec(lanes, autoreset_mode=mode, max_episode_steps=limit)
    sync = make_sync(lanes, autoreset_mode=mode, max_episode_steps=limit)
    assert native.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"]
    observation, infos = native.reset(seed=3)
    np.testing.assert_allclose(observation, sync.reset(seed=3)[0], atol=1e-5)
    assert infos == {}
    terminations = truncations = 0
    for actions in random_actions(60, lanes):
        step, expected = native.step(actions), sync.step(actions)
        assert_steps_agree(step, expected)
        over = expected[2] | expected[3]
        terminations, truncations = terminations + expected[2].sum(), truncations + expected[3].sum()
        if mode == AutoresetMode.DISABLED and over.any():
            observation, infos = native.reset(options={"reset_mask": over.copy()})
            np.testing.assert_allclose(observation, sync.reset(options={"reset_mask": over})[0], atol=1e-4)
            assert infos == {}
    assert terminations > 2
    assert truncations > 2


def test_agrees_with_sync_vector_env_at_the_end_of_laps(make_vec, make_sync):
    native, sync = (
        maker(4, autoreset_mode=AutoresetMode.SAME_STEP, sampling="mode") for maker in (make_vec, make_sync)
    )
    native.reset(seed=0)
    sync.reset(seed=0)
    native.dream.gained[[0, 2]] = 293.5
    for lane in (0, 2):
        sync.envs[lane].unwrapped.dream.gained.fill(293.5)
    finished = np.zeros(4, int)
    for actions in some_actions(12, 4):
        step, expected = native.step(actions), sync.step(actions)
        assert_steps_agree(step, expected)
        if "final_info" in expected[-1]:
            finished += expected[-1]["final_info"]["lap_finished"]
    assert finished.tolist() == [1, 0, 1, 0]


@every_dream
@given(
    seeds=st.lists(st.one_of(st.none(), st.integers(0, 99)), min_size=3, max_size=3),
    masks=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6),
    mode=st.sampled_from(AutoresetMode),
)
@settings(deadline=None, max_examples=15)
def test_partial_resets_agree_with_sync_vector_env(make_vec, make_sync, seeds, masks, mode, random_actions):
    native, sync = (maker(3, autoreset_mode=mode, max_episode_steps=2) for maker in (make_vec, make_sync))
    native.reset(seed=0)
    sync.reset(seed=0)
    for i, mask in enumerate(masks):
        actions = random_actions(1, 3, seed=i)[0]
        expected = sync.step(actions)
        assert_steps_agree(native.step(actions), expected)
        mask = np.array(mask) | ((expected[2] | expected[3]) if mode == AutoresetMode.DISABLED else False)
        if mask.any():
            observation, _ = native.reset(seed=seeds, options={"reset_mask": mask.copy()})
            np.testing.assert_allclose(observation, sync.reset(seed=seeds, options={"reset_mask": mask})[0], atol=1e-4)


@every_dream
def test_a_partial_reset_leaves_the_other_lanes_alone(make_vec, random_actions):
    reset, left = make_vec(4, autoreset_mode="DISABLED"), make_vec(4, autoreset_mode="DISABLED")
    for envs in (reset, left):
        envs.reset(seed=0)
        observation = envs.step(random_actions(1, 4)[0])[0]
    mask = np.array([False, True, False, False])
    others = ~mask
    after, _ = reset.reset(seed=50, options={"reset_mask": mask})
    assert np.array_equal(after[others], observation[others])
    assert not np.allclose(after[1], observation[1])
    assert np.array_equal(after[1], make_vec(1).reset(seed=51)[0][0])
    actions = random_actions(1, 4, seed=1)[0]
    np.testing.assert_allclose(reset.step(actions)[0][others], left.step(actions)[0][others], atol=1e-5)


@every_task
def test_a_lane_that_is_over_must_be_reset_when_autoreset_is_disabled(make_vec, random_actions):
    envs = make_vec(3, autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=2, sampling="mode")
    envs.reset(seed=0)
    actions = random_actions(3, 3)
    envs.step(actions[0])
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    observation, _, _, truncated, _ = envs.step(actions[1])
    assert truncated.tolist() == [True, False, True]
    with pytest.raises(gym.error.ResetNeeded, match=r"\[0, 2\]"):
        envs.step(actions[2])
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(gym.error.ResetNeeded, match=r"\[2\]"):
        envs.step(actions[2])
    after, _ = envs.reset(options={"reset_mask": np.array([False, False, True])})
    assert np.array_equal(after[1], observation[1])  # neither error moved the lane that was running
    envs.step(actions[2])


@every_task
def test_step_before_reset_is_an_error(make_vec, random_actions):
    envs = make_vec(3)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        envs.step(random_actions(1, 3)[0])


@every_task
def test_step_before_every_lane_was_reset_is_an_error(make_vec, random_actions):
    envs = make_vec(3, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0, options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        envs.step(random_actions(1, 3)[0])
    envs.reset(seed=0, options={"reset_mask": np.array([False, True, False])})
    assert np.array_equal(envs.step(random_actions(1, 3)[0])[0], stepped_once(make_vec(3), seed=0))


@every_task
@pytest.mark.parametrize("mode", AutoresetMode)
def test_autoreset_mode_may_be_given_by_member_name_or_value(make_vec, mode, random_actions):
    for given_as in (mode, mode.name, mode.value):
        envs = make_vec(1, autoreset_mode=given_as, max_episode_steps=1)
        assert envs.metadata["autoreset_mode"] is mode
        envs.reset(seed=0)
        first = envs.step(random_actions(1, 1)[0])
        assert first[3].tolist() == [True]
        assert ("final_obs" in first[-1]) == (mode == AutoresetMode.SAME_STEP)
        if mode == AutoresetMode.DISABLED:
            with pytest.raises(gym.error.ResetNeeded):
                envs.step(random_actions(1, 1)[0])
        else:
            assert envs.step(random_actions(1, 1)[0])[3].tolist() == [mode == AutoresetMode.SAME_STEP]


def test_next_step_is_the_default(make_vec):
    assert make_vec(2).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


@every_task
def test_the_registered_time_limit_is_the_default(make_vec):
    envs = make_vec(1, sampling="mode")
    envs.reset(options={"start": 0})
    truncated, limit = [], envs.spec.max_episode_steps
    for _ in range(limit):
        envs.dream.gained = np.zeros(1, np.float32)  # no lap ends
        truncated.append(envs.step(nothing(envs.action_space))[3].item())
    assert truncated == [False] * (limit - 1) + [True]


@every_task
def test_no_time_limit(make_vec):
    envs = make_vec(1, sampling="mode", max_episode_steps=-1)
    envs.reset(options={"start": 0})
    for _ in range(1100):
        envs.dream.gained = np.zeros(1, np.float32)
        assert not envs.step(nothing(envs.action_space))[3].any()
