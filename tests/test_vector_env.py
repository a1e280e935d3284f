"""The dream as a vector env: what it is made with, takes and returns, and what is built around it."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import (
    ANOTHER,
    another_task,
    assert_infos_agree,
    assert_steps_equal,
    every_dream,
    every_task,
    some_actions,
)
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from wm_gym.dream import Dream
from wm_gym.evaluate import make_lanes, rollout
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel

# --- what it is made with ------------------------------------------------------------------------------------------


@every_task
def test_spaces(make_vec, make):
    envs, env = make_vec(3), make()
    assert (envs.single_observation_space, envs.single_action_space) == (env.observation_space, env.action_space)
    assert envs.observation_space == gym.vector.utils.batch_space(env.observation_space, 3)
    assert envs.action_space == gym.vector.utils.batch_space(env.action_space, 3)
    assert envs.reset(seed=0)[0] in envs.observation_space
    observation, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert observation in envs.observation_space
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)


def test_the_simulator_needs_a_lane(world_model_folder):
    with pytest.raises(ValueError, match=r"lanes .* at least 1"):
        Dream(WorldModel.from_pretrained(world_model_folder), 0)


# --- actions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.float64, np.int64, np.ndarray.tolist, torch.from_numpy])
def test_actions_of_any_real_type_are_taken(make_vec, convert):
    corners = np.array([[-1, 1, 0], [1, 0, 1], [0, 0, 0]], np.float32)
    one, other = make_vec(3), make_vec(3)
    one.reset(seed=0)
    other.reset(seed=0)
    assert_steps_equal(one.step(corners), other.step(convert(corners)))


@pytest.mark.parametrize(
    ("lane", "index", "value", "message"),
    [
        (0, 0, np.nan, r"action\[0, 0\] is nan"),
        (2, 1, np.inf, r"action\[2, 1\] is inf"),
        (1, 1, -0.5, r"action\[1, 1\] is -0\.5"),
        (1, 2, 1e300, r"action\[1, 2\] is 1e\+300"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_bad_action_is_named_with_its_lane_and_nothing_happens(make_vec, lane, index, value, message):
    disturbed, calm = make_vec(3), make_vec(3)
    for envs in (disturbed, calm):
        envs.reset(seed=0)
    actions = np.zeros((3, 3))
    actions[lane, index] = value
    with pytest.raises(ValueError, match=message):
        disturbed.step(actions)
    for good in some_actions(40, 3):
        assert_steps_equal(disturbed.step(good), calm.step(good))


@another_task
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([0, 3, 0], r"action\[1\] is 3, expected a value from 0 to 2"),
        ([0, 1, -1], r"action\[2\] is -1"),
        ([0.0, 1.0, 2.0], "whole numbers"),
        ([0, 1], r"shape \(3,\), got \(2,\)"),
        ([[1, 0, 0]] * 3, r"shape \(3,\), got \(3, 3\)"),
    ],
)
def test_a_bad_choice_is_named_with_its_lane_and_nothing_happens(make_vec, random_actions, bad, message):
    disturbed, calm = make_vec(3), make_vec(3)
    for envs in (disturbed, calm):
        envs.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        disturbed.step(bad)
    for good in random_actions(40, 3):
        assert_steps_equal(disturbed.step(good), calm.step(good))


@pytest.mark.parametrize("actions", [np.zeros(3), np.zeros((2, 3)), np.zeros((3, 2)), [["a"] * 3] * 3, None])
def test_actions_of_another_shape_or_type_are_errors(make_vec, actions):
    envs = make_vec(3)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="expected an action"):
        envs.step(actions)


# --- what is returned ----------------------------------------------------------------------------------------------


@every_dream
@pytest.mark.parametrize("mode", AutoresetMode)
def test_what_is_returned_is_never_overwritten(make_vec, mode, random_actions):
    envs = make_vec(4, autoreset_mode=mode, max_episode_steps=3, render_mode="rgb_array")
    given_out = [envs.reset(seed=0), envs.render()]
    kept = copy.deepcopy(given_out)
    for actions in random_actions(12, 4):
        step = envs.step(actions)
        given_out.append(step)
        kept.append(copy.deepcopy(step))
        over = step[2] | step[3]
        if mode == AutoresetMode.DISABLED and over.any():
            given_out.append(envs.reset(options={"reset_mask": over}))
            kept.append(copy.deepcopy(given_out[-1]))
    for mine, its in zip(given_out, kept, strict=True):
        if isinstance(its[-1], dict):
            for array, copied in zip(mine[:-1], its[:-1], strict=True):
                assert np.array_equal(array, copied)
            assert_infos_agree(mine[-1], its[-1])
        else:
            assert all(np.array_equal(frame, copied) for frame, copied in zip(mine, its, strict=True))


@every_task
def test_writing_to_what_is_returned_disturbs_nothing(make_vec, random_actions):
    disturbed, calm = (make_vec(3, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=2) for _ in range(2))
    for envs in (disturbed, calm):
        envs.reset(seed=0)
    for actions in random_actions(10, 3):
        step = disturbed.step(actions)
        assert_steps_equal(step, calm.step(actions))
        for array in step[:-1]:
            array[:] = 1


@pytest.mark.parametrize(
    ("world_model_folder", "shape"),
    [("lstm", (336, 384, 3)), (ANOTHER, (500, 500, 3))],
    indirect=["world_model_folder"],
)
def test_render_decodes_every_lane(make_vec, make, shape):
    envs, env = make_vec(3, render_mode="rgb_array"), make(render_mode="rgb_array")
    envs.reset(seed=0)
    frames = envs.render()
    assert isinstance(frames, tuple)
    assert len({frame.tobytes() for frame in frames}) > 1
    for lane, frame in enumerate(frames):
        env.reset(seed=lane)
        assert frame.dtype == np.uint8
        assert frame.shape == shape
        assert abs(frame.astype(int) - env.render()).max() <= 1  # batches may round otherwise


@every_task
def test_without_a_render_mode_render_warns(make_vec):
    envs = make_vec(2)
    envs.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert envs.render() is None


@every_task
def test_close_may_come_twice(make_vec):
    envs = make_vec(2)
    envs.close()
    envs.close()


# --- around it -----------------------------------------------------------------------------------------------------


@every_task
@pytest.mark.filterwarnings("error")
def test_is_made_again_from_its_spec_as_json(make_vec, random_actions):
    envs = make_vec(3, autoreset_mode="SAME_STEP", max_episode_steps=4, temperature=1.2, starts="any")
    again = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert again.num_envs == 3
    envs.reset(seed=0)
    again.reset(seed=0)
    truncations = 0
    for actions in random_actions(10, 3):
        step = envs.step(actions)
        assert_steps_equal(again.step(actions), step)
        truncations += step[3].sum()
    assert truncations > 0


@every_task
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_record_episode_statistics(make_vec, mode, random_actions):
    envs = RecordEpisodeStatistics(make_vec(3, autoreset_mode=mode, max_episode_steps=8))
    envs.reset(seed=0)
    score, steps, episodes = np.zeros(3), np.zeros(3, int), 0
    starting = np.zeros(3, bool)
    for actions in random_actions(40, 3):
        _, reward, terminated, truncated, infos = envs.step(actions)
        score, steps = np.where(starting, 0, score + reward), np.where(starting, 0, steps + 1)
        over = terminated | truncated
        for lane in np.flatnonzero(over):
            episodes += 1
            assert infos["_episode"][lane]
            assert infos["episode"]["r"][lane] == pytest.approx(score[lane])
            assert infos["episode"]["l"][lane] == steps[lane]
        if mode == AutoresetMode.NEXT_STEP:
            starting = over
        else:
            score[over], steps[over] = 0, 0
    assert envs.episode_count == episodes > 10


@every_dream
def test_rollout_scores_every_seed_the_same_at_any_number_of_lanes(world_model_folder, make, dream_id):
    config = ControllerConfig.for_spaces(make().observation_space, make().action_space)
    driver = Controller(np.random.default_rng(0).normal(0, 0.1, config.parameters), config)
    seeds = [11, 12, 13, 14, 15, 16, 17]

    def results(env):
        return sorted(rollout(env, driver, seeds), key=lambda result: result.index)

    alone = results(make(max_episode_steps=25))
    assert [result.seed for result in alone] == seeds
    assert {result.terminated for result in alone} == {True, False}
    assert all(result.steps == 25 or result.terminated for result in alone)
    for lanes in (1, 3, 10):
        together = results(make_lanes(dream_id, lanes, world_model=world_model_folder, max_episode_steps=25))
        for mine, its in zip(together, alone, strict=True):
            assert mine.score == pytest.approx(its.score, abs=0.01)
            assert (mine.seed, mine.steps, mine.terminated) == (its.seed, its.steps, its.terminated)
