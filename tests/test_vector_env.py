"""DreamCarRacing-v0 as a vector env: its lanes are single envs, and its rules are those of SyncVectorEnv."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ALL_STARTS, EPISODE_STARTS, every_memory
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.dream import Dream
from wm_gym.evaluate import make_lanes, rollout
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel

ID = "DreamCarRacing-v0"
Z = 32
NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


def some_actions(steps, lanes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform([-1, 0, 0], [1, 1, 1], (steps, lanes, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def make(world_model_folder):
    return lambda lanes, **kwargs: gym.make_vec(ID, lanes, world_model=world_model_folder, **kwargs)


@pytest.fixture(scope="module")
def make_single(world_model_folder):
    return lambda **kwargs: gym.make(ID, world_model=world_model_folder, **kwargs)


@pytest.fixture(scope="module")
def make_sync(make_single):
    def make(lanes, autoreset_mode=NEXT_STEP, **kwargs):
        return SyncVectorEnv([lambda: make_single(**kwargs)] * lanes, autoreset_mode=autoreset_mode)

    return make


def assert_infos_agree(infos, expected):
    assert infos.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_infos_agree(infos[key], value)
        elif key == "final_obs":
            for mine, its in zip(infos[key], value, strict=True):
                assert (mine is None) == (its is None)
                if its is not None:
                    assert mine.dtype == its.dtype
                    np.testing.assert_allclose(mine, its, atol=1e-4)
        else:
            assert infos[key].dtype == value.dtype
            np.testing.assert_allclose(infos[key], value, atol=1e-4 if key == "disagreement" else 0)


def assert_steps_agree(step, expected, atol=1e-4):
    for mine, its in zip(step[:-1], expected[:-1], strict=True):
        assert mine.dtype == its.dtype
        np.testing.assert_allclose(mine, its, atol=atol)
    assert_infos_agree(step[-1], expected[-1])


def assert_steps_equal(step, expected):
    for mine, its in zip(step[:-1], expected[:-1], strict=True):
        np.testing.assert_array_equal(mine, its)
    assert_infos_agree(step[-1], expected[-1])


def streams(envs):
    return [rng.bit_generator.state for rng in envs.np_random]


# --- a lane is a single env ----------------------------------------------------------------------------------------


@every_memory
@pytest.mark.parametrize("starts", ["episode", "any"])
@pytest.mark.parametrize(("lanes", "compared"), [(1, [0]), (7, range(7)), (256, [0, 31, 200, 255])])
def test_a_lane_is_the_single_env_of_its_seed(make, make_single, lanes, compared, starts):
    envs = make(lanes, starts=starts)
    actions = some_actions(30, lanes)
    steps = [(envs.reset(seed=10)[0],)] + [envs.step(batch) for batch in actions]
    assert steps[0][0].shape == (lanes, 288)
    env = make_single(starts=starts)
    for lane in compared:
        expected, over = env.reset(seed=10 + lane)[0], False
        np.testing.assert_allclose(steps[0][0][lane], expected, atol=1e-5)
        for i, (observation, reward, terminated, truncated, infos) in enumerate(steps[1:]):
            result = (env.reset()[0], 0.0, False, False, {}) if over else env.step(actions[i, lane])
            expected, reward_expected, over, _, info = result
            np.testing.assert_allclose(observation[lane], expected, atol=1e-5 if i == 0 else 1e-3)
            assert reward[lane] == pytest.approx(reward_expected, abs=1e-5 if i == 0 else 1e-3)
            assert (terminated[lane], truncated[lane]) == (over, False)
            if over:
                assert (infos["_lap_finished"][lane], infos["lap_finished"][lane]) == (True, info["lap_finished"])
            else:
                assert "_lap_finished" not in infos or not infos["_lap_finished"][lane]


@every_memory
@pytest.mark.parametrize("lanes", [1, 7, 256])
def test_one_step_from_equal_states_agrees_at_any_number_of_lanes(make, make_single, lanes):
    env = make_single(starts="any")
    env.reset(seed=0, options={"start": 15})
    state = env.unwrapped.get_state()
    envs = make(lanes)
    envs.reset(options={"state": state})
    action = np.array([0.3, 0.9, 0.0], np.float32)
    observation, reward, terminated, *_ = env.step(action)
    many = envs.step(np.tile(action, (lanes, 1)))
    np.testing.assert_allclose(many[0], np.tile(observation, (lanes, 1)), atol=1e-5)
    np.testing.assert_allclose(many[1], reward, atol=1e-5)
    assert (many[2] == terminated).all()


@every_memory
def test_a_lane_does_not_depend_on_its_neighbours(make):
    mine, theirs = some_actions(30, 1), (some_actions(30, 7, seed) for seed in (1, 2))
    seen = []
    for seeds, neighbours in zip(([1, 2, 3, 40, 5, 6, 7], [8, 9, 10, 40, 11, 12, 13]), theirs, strict=True):
        envs = make(7)
        steps = [envs.reset(seed=seeds)[0]]
        neighbours[:, 3] = mine[:, 0]
        steps += [envs.step(batch)[0] for batch in neighbours]
        seen.append(np.stack(steps))
    np.testing.assert_allclose(seen[0][:2, 3], seen[1][:2, 3], atol=1e-5)
    np.testing.assert_allclose(seen[0][:, 3], seen[1][:, 3], atol=1e-3)
    assert not np.allclose(seen[0][-1, 2], seen[1][-1, 2], atol=1e-3)


@every_memory
def test_same_seed_and_actions_give_the_same_dreams_bit_for_bit(make):
    one, other = make(7, starts="any"), make(7, starts="any")
    for envs in (one, other):
        envs.reset(seed=4)
    for actions in some_actions(60, 7):
        assert_steps_equal(one.step(actions), other.step(actions))


@every_memory
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_dream(make, threads):
    actions, seen = some_actions(10, 256), []
    for count in (1, threads):  # the fixture sets one again
        torch.set_num_threads(count)
        envs = make(256, starts="any")
        steps = [envs.reset(seed=3)[0]] + [envs.step(batch)[0] for batch in actions]
        seen.append(np.stack(steps))
    assert torch.get_num_threads() == threads
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-4)


def test_spaces(make, make_single):
    envs, env = make(3), make_single()
    assert (envs.single_observation_space, envs.single_action_space) == (env.observation_space, env.action_space)
    assert envs.observation_space == gym.vector.utils.batch_space(env.observation_space, 3)
    assert envs.action_space == gym.vector.utils.batch_space(env.action_space, 3)
    assert envs.reset(seed=0)[0] in envs.observation_space
    observation, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert observation in envs.observation_space
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)


# --- SyncVectorEnv's rules -----------------------------------------------------------------------------------------


@every_memory
@pytest.mark.parametrize("mode", AutoresetMode)
def test_agrees_with_sync_vector_env(make, make_sync, mode):
    lanes, limit = 6, 15
    native = make(lanes, autoreset_mode=mode, max_episode_steps=limit)
    sync = make_sync(lanes, autoreset_mode=mode, max_episode_steps=limit)
    assert native.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"]
    observation, infos = native.reset(seed=3)
    np.testing.assert_allclose(observation, sync.reset(seed=3)[0], atol=1e-5)
    assert infos == {}
    terminations = truncations = 0
    for actions in some_actions(60, lanes):
        step, expected = native.step(actions), sync.step(actions)
        assert_steps_agree(step, expected)
        over = expected[2] | expected[3]
        terminations, truncations = terminations + expected[2].sum(), truncations + expected[3].sum()
        if mode == DISABLED and over.any():
            observation, infos = native.reset(options={"reset_mask": over.copy()})
            np.testing.assert_allclose(observation, sync.reset(options={"reset_mask": over})[0], atol=1e-4)
            assert infos == {}
    assert terminations > 2
    assert truncations > 2


def test_agrees_with_sync_vector_env_at_the_end_of_laps(make, make_sync):
    native, sync = (maker(4, autoreset_mode=SAME_STEP, sampling="mode") for maker in (make, make_sync))
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


@every_memory
@given(
    seeds=st.lists(st.one_of(st.none(), st.integers(0, 99)), min_size=3, max_size=3),
    masks=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6),
    mode=st.sampled_from(AutoresetMode),
)
@settings(deadline=None, max_examples=15)
def test_partial_resets_agree_with_sync_vector_env(make, make_sync, seeds, masks, mode):
    native, sync = (maker(3, autoreset_mode=mode, max_episode_steps=2) for maker in (make, make_sync))
    native.reset(seed=0)
    sync.reset(seed=0)
    for i, mask in enumerate(masks):
        actions = some_actions(1, 3, i)[0]
        expected = sync.step(actions)
        assert_steps_agree(native.step(actions), expected)
        mask = np.array(mask) | ((expected[2] | expected[3]) if mode == DISABLED else False)
        if mask.any():
            observation, _ = native.reset(seed=seeds, options={"reset_mask": mask.copy()})
            np.testing.assert_allclose(observation, sync.reset(seed=seeds, options={"reset_mask": mask})[0], atol=1e-4)


@every_memory
def test_a_partial_reset_leaves_the_other_lanes_alone(make):
    reset, left = make(4, autoreset_mode="DISABLED"), make(4, autoreset_mode="DISABLED")
    for envs in (reset, left):
        envs.reset(seed=0)
        observation = envs.step(some_actions(1, 4)[0])[0]
    mask = np.array([False, True, False, False])
    others = ~mask
    after, _ = reset.reset(seed=50, options={"reset_mask": mask})
    assert np.array_equal(after[others], observation[others])
    assert not np.allclose(after[1], observation[1])
    assert np.array_equal(after[1], make(1).reset(seed=51)[0][0])
    actions = some_actions(1, 4, seed=1)[0]
    np.testing.assert_allclose(reset.step(actions)[0][others], left.step(actions)[0][others], atol=1e-5)


def test_a_lane_that_is_over_must_be_reset_when_autoreset_is_disabled(make):
    envs = make(3, autoreset_mode=DISABLED, max_episode_steps=2, sampling="mode")
    envs.reset(seed=0)
    actions = some_actions(3, 3)
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


def test_step_before_reset_is_an_error(make):
    envs = make(3)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        envs.step(some_actions(1, 3)[0])


def test_step_before_every_lane_was_reset_is_an_error(make):
    envs = make(3, autoreset_mode=DISABLED)
    envs.reset(seed=0, options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        envs.step(some_actions(1, 3)[0])
    envs.reset(seed=0, options={"reset_mask": np.array([False, True, False])})
    assert np.array_equal(envs.step(some_actions(1, 3)[0])[0], stepped_once(make(3), seed=0))


def stepped_once(envs, **reset):
    envs.reset(**reset)
    return envs.step(some_actions(1, envs.num_envs)[0])[0]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_autoreset_mode_may_be_given_by_member_name_or_value(make, mode):
    for given_as in (mode, mode.name, mode.value):
        envs = make(1, autoreset_mode=given_as, max_episode_steps=1)
        assert envs.metadata["autoreset_mode"] is mode
        envs.reset(seed=0)
        first = envs.step(some_actions(1, 1)[0])
        assert first[3].tolist() == [True]
        assert ("final_obs" in first[-1]) == (mode == SAME_STEP)
        if mode == DISABLED:
            with pytest.raises(gym.error.ResetNeeded):
                envs.step(some_actions(1, 1)[0])
        else:
            assert envs.step(some_actions(1, 1)[0])[3].tolist() == [mode == SAME_STEP]


def test_next_step_is_the_default(make):
    assert make(2).metadata["autoreset_mode"] is NEXT_STEP


@pytest.mark.parametrize(
    "wrong",
    [
        {"autoreset_mode": "Never"},
        {"max_episode_steps": 0},
        {"max_episode_steps": -2},
        {"num_envs": 0},
        {"temperature": 0.0},
        {"sampling": "argmax"},
        {"starts": "all"},
        {"render_mode": "human"},
    ],
)
def test_wrong_arguments_are_errors(make, wrong):
    (value,) = wrong.values()
    with pytest.raises(ValueError, match=str(value)):
        make(wrong.pop("num_envs", 2), **wrong)


def test_the_registered_time_limit_is_the_default(make):
    envs = make(1, sampling="mode")
    envs.reset(options={"start": 0})
    truncated = []
    for _ in range(1000):
        envs.dream.gained = np.zeros(1, np.float32)  # no lap ends
        truncated.append(envs.step(np.zeros((1, 3)))[3].item())
    assert truncated == [False] * 999 + [True]


def test_no_time_limit(make):
    envs = make(1, sampling="mode", max_episode_steps=-1)
    envs.reset(options={"start": 0})
    for _ in range(1100):
        envs.dream.gained = np.zeros(1, np.float32)
        assert not envs.step(np.zeros((1, 3)))[3].any()


# --- seeds ---------------------------------------------------------------------------------------------------------


def test_a_number_seeds_lane_i_with_that_much_more(make):
    one, other = make(3), make(3)
    for seeds in (5, np.int64(5), [5, 6, 7], (5, 6, 7), np.array([5, 6, 7])):
        assert np.array_equal(stepped_once(one, seed=5), stepped_once(other, seed=seeds))
    assert not np.allclose(stepped_once(one, seed=5), stepped_once(other, seed=[7, 5, 6]))


def test_a_lane_seeded_with_none_keeps_its_stream(make):
    one, other = make(3), make(3)
    for envs in (one, other):
        stepped_once(envs, seed=0)
    fresh, kept = stepped_once(one, seed=[5, None, 7]), stepped_once(other)
    assert np.array_equal(fresh[1], kept[1])
    assert np.array_equal(fresh[[0, 2]], stepped_once(other, seed=5)[[0, 2]])


def test_unseeded_envs_differ(make):
    assert not np.allclose(stepped_once(make(2)), stepped_once(make(2)))


# --- starts and states ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [13, np.int16(13), [0, 13, 23, 1], np.array([23, 2, 13, 4], np.uint8)])
def test_start_option_of_one_or_of_each_lane(make, make_single, start):
    observation, _ = make(4).reset(seed=0, options={"start": start})
    env = make_single()
    for lane, index in enumerate(np.broadcast_to(start, 4)):
        assert np.array_equal(observation[lane], env.reset(options={"start": int(index)})[0])


def test_start_option_with_a_mask(make, make_single):
    envs = make(3, autoreset_mode=DISABLED)
    before, _ = envs.reset(seed=0)
    mask = np.array([False, True, True])
    observation, _ = envs.reset(options={"reset_mask": mask, "start": np.array([20, 21, 22])})
    assert np.array_equal(observation[0], before[0])
    for lane in (1, 2):
        assert np.array_equal(observation[lane], make_single().reset(options={"start": 20 + lane})[0])


def test_starts_are_drawn_where_asked(make, world_model_folder):
    z = WorldModel.from_pretrained(world_model_folder).start_states[0].numpy()
    for starts, drawn in (("episode", range(EPISODE_STARTS)), ("any", range(ALL_STARTS))):
        observation, _ = make(400, starts=starts).reset(seed=0)
        found = (observation[:, None, :Z] == z).all(axis=2)
        assert set(found.argmax(axis=1)) == set(drawn)
        assert found.any(axis=1).all()


@every_memory
def test_a_state_continues_every_lane(make):
    envs, other = make(5, starts="any"), make(5, starts="any")
    observation, _ = envs.reset(seed=1)
    for actions in some_actions(40, 5):
        observation, _, terminated, truncated, _ = envs.step(actions)
    assert not (terminated | truncated).any()
    state = envs.get_state()
    original = [envs.step(actions) for actions in some_actions(40, 5, seed=1)]
    assert any(step[2].any() for step in original)
    for branch in (envs, other, other):
        assert np.array_equal(branch.reset(options={"state": state})[0], observation)
        for actions, step in zip(some_actions(40, 5, seed=1), original, strict=True):
            assert_steps_equal(branch.step(actions), step)


@every_memory
def test_one_state_branches_into_every_lane(make, make_single):
    env = make_single()
    env.reset(seed=0, options={"start": 17})
    env.step(np.zeros(3))
    state = env.unwrapped.get_state()
    envs = make(4)
    present = envs.reset(seed=30, options={"state": state})[0]
    futures = envs.step(np.zeros((4, 3)))[0]
    assert len({future.tobytes() for future in futures}) == 4
    for lane in range(4):
        assert np.array_equal(env.reset(seed=30 + lane, options={"state": state})[0], present[lane])
        np.testing.assert_allclose(env.step(np.zeros(3))[0], futures[lane], atol=1e-5)
    envs.reset(options={"state": state})  # without seeds all go on as the original would
    env.reset(options={"state": state})
    expected = env.step(np.zeros(3))[0]
    np.testing.assert_allclose(envs.step(np.zeros((4, 3)))[0], np.tile(expected, (4, 1)), atol=1e-5)


@every_memory
def test_a_lane_branches_into_the_single_env(make, make_single):
    envs, env = make(4), make_single()
    observation = stepped_once(envs, seed=0)
    assert np.array_equal(env.reset(options={"state": envs.get_state()[[2]]})[0], observation[2])
    actions = some_actions(1, 4, seed=5)[0]
    np.testing.assert_allclose(env.step(actions[2])[0], envs.step(actions)[0][2], atol=1e-5)


def test_a_state_with_a_mask_and_some_seeds(make):
    envs, other = make(4, autoreset_mode=DISABLED), make(4, autoreset_mode=DISABLED)
    first = stepped_once(envs, seed=0)
    state = envs.get_state()
    actions = some_actions(1, 4, seed=1)[0]
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
def test_wrong_resets_change_nothing(make, wrong):
    wrong = copy.deepcopy(wrong)
    disturbed, calm = make(3), make(3)
    for envs in (disturbed, calm):
        stepped_once(envs, seed=0)
    if lanes := wrong.pop("lanes_of_state", None):
        state = disturbed.get_state()[[0, 1, 2][:lanes]]
        wrong["options"]["state"] = state
    before = streams(disturbed)
    with pytest.raises((ValueError, TypeError)):
        disturbed.reset(**wrong)
    assert streams(disturbed) == before
    for actions in some_actions(40, 3, seed=3):  # far enough to draw noise and starts anew
        assert_steps_equal(disturbed.step(actions), calm.step(actions))


def test_reset_leaves_the_options_as_they_are(make):
    mask = np.array([True, False])
    options = {"reset_mask": mask, "start": np.array([1, 2])}
    envs = make(2, autoreset_mode=DISABLED)
    envs.reset(seed=0)
    envs.reset(options=options)
    assert list(options) == ["reset_mask", "start"]
    assert mask.tolist() == [True, False]


# --- actions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.float64, np.int64, np.ndarray.tolist, torch.from_numpy])
def test_actions_of_any_real_type_are_taken(make, convert):
    corners = np.array([[-1, 1, 0], [1, 0, 1], [0, 0, 0]], np.float32)
    one, other = make(3), make(3)
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
def test_a_bad_action_is_named_with_its_lane_and_nothing_happens(make, lane, index, value, message):
    disturbed, calm = make(3), make(3)
    for envs in (disturbed, calm):
        envs.reset(seed=0)
    actions = np.zeros((3, 3))
    actions[lane, index] = value
    with pytest.raises(ValueError, match=message):
        disturbed.step(actions)
    for good in some_actions(40, 3):
        assert_steps_equal(disturbed.step(good), calm.step(good))


@pytest.mark.parametrize("actions", [np.zeros(3), np.zeros((2, 3)), np.zeros((3, 2)), [["a"] * 3] * 3, None])
def test_actions_of_another_shape_or_type_are_errors(make, actions):
    envs = make(3)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="expected an action"):
        envs.step(actions)


# --- what is returned ----------------------------------------------------------------------------------------------


@every_memory
@pytest.mark.parametrize("mode", AutoresetMode)
def test_what_is_returned_is_never_overwritten(make, mode):
    envs = make(4, autoreset_mode=mode, max_episode_steps=3, render_mode="rgb_array")
    given_out = [envs.reset(seed=0), envs.render()]
    kept = copy.deepcopy(given_out)
    for actions in some_actions(12, 4):
        step = envs.step(actions)
        given_out.append(step)
        kept.append(copy.deepcopy(step))
        over = step[2] | step[3]
        if mode == DISABLED and over.any():
            given_out.append(envs.reset(options={"reset_mask": over}))
            kept.append(copy.deepcopy(given_out[-1]))
    for mine, its in zip(given_out, kept, strict=True):
        if isinstance(its[-1], dict):
            for array, copied in zip(mine[:-1], its[:-1], strict=True):
                assert np.array_equal(array, copied)
            assert_infos_agree(mine[-1], its[-1])
        else:
            assert all(np.array_equal(frame, copied) for frame, copied in zip(mine, its, strict=True))


def test_writing_to_what_is_returned_disturbs_nothing(make):
    disturbed, calm = (make(3, autoreset_mode=SAME_STEP, max_episode_steps=2) for _ in range(2))
    for envs in (disturbed, calm):
        envs.reset(seed=0)
    for actions in some_actions(10, 3):
        step = disturbed.step(actions)
        assert_steps_equal(step, calm.step(actions))
        for array in step[:-1]:
            array[:] = 1


def test_render_decodes_every_lane(make, make_single):
    envs, env = make(3, render_mode="rgb_array"), make_single(render_mode="rgb_array")
    envs.reset(seed=0)
    frames = envs.render()
    assert isinstance(frames, tuple)
    assert len({frame.tobytes() for frame in frames}) > 1
    for lane, frame in enumerate(frames):
        env.reset(seed=lane)
        assert frame.dtype == np.uint8
        assert frame.shape == (336, 384, 3)
        assert abs(frame.astype(int) - env.render()).max() <= 1  # batches may round otherwise


def test_without_a_render_mode_render_warns(make):
    envs = make(2)
    envs.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert envs.render() is None


def test_close_may_come_twice(make):
    envs = make(2)
    envs.close()
    envs.close()


# --- around it -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_is_made_again_from_its_spec_as_json(make):
    envs = make(3, autoreset_mode="SAME_STEP", max_episode_steps=4, temperature=1.2, starts="any")
    again = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert again.num_envs == 3
    envs.reset(seed=0)
    again.reset(seed=0)
    truncations = 0
    for actions in some_actions(10, 3):
        step = envs.step(actions)
        assert_steps_equal(again.step(actions), step)
        truncations += step[3].sum()
    assert truncations > 0


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP])
def test_record_episode_statistics(make, mode):
    envs = RecordEpisodeStatistics(make(3, autoreset_mode=mode, max_episode_steps=8))
    envs.reset(seed=0)
    score, steps, episodes = np.zeros(3), np.zeros(3, int), 0
    starting = np.zeros(3, bool)
    for actions in some_actions(40, 3):
        _, reward, terminated, truncated, infos = envs.step(actions)
        score, steps = np.where(starting, 0, score + reward), np.where(starting, 0, steps + 1)
        over = terminated | truncated
        for lane in np.flatnonzero(over):
            episodes += 1
            assert infos["_episode"][lane]
            assert infos["episode"]["r"][lane] == pytest.approx(score[lane])
            assert infos["episode"]["l"][lane] == steps[lane]
        if mode == NEXT_STEP:
            starting = over
        else:
            score[over], steps[over] = 0, 0
    assert envs.episode_count == episodes > 10


@every_memory
def test_rollout_scores_every_seed_the_same_at_any_number_of_lanes(world_model_folder, make_single):
    config = ControllerConfig()
    driver = Controller(np.random.default_rng(0).normal(0, 0.1, config.parameters), config)
    seeds = [11, 12, 13, 14, 15, 16, 17]

    def results(env):
        return sorted(rollout(env, driver, seeds), key=lambda result: result.index)

    alone = results(make_single(max_episode_steps=25))
    assert [result.seed for result in alone] == seeds
    assert {result.terminated for result in alone} == {True, False}
    assert all(result.steps == 25 or result.terminated for result in alone)
    for lanes in (1, 3, 10):
        together = results(make_lanes(ID, lanes, world_model=world_model_folder, max_episode_steps=25))
        for mine, its in zip(together, alone, strict=True):
            assert mine.score == pytest.approx(its.score, abs=0.01)
            assert (mine.seed, mine.steps, mine.terminated) == (its.seed, its.steps, its.terminated)


# --- the distribution of a step ------------------------------------------------------------------------------------


@every_memory
def test_ends_come_with_their_probability(make):
    envs = make(2000, starts="any")
    envs.reset(seed=0)
    observation, _, terminated, _, _ = envs.step(some_actions(1, 2000)[0])
    memory = envs.dream.world_model.memory
    probability = memory.predict(torch.from_numpy(observation[:, Z:])).end_logit.sigmoid().numpy()
    assert terminated.sum() > 20
    assert abs(terminated.sum() - probability.sum()) < 4 * np.sqrt((probability * (1 - probability)).sum())


@every_memory
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_latents_come_from_the_mixture_at_its_temperature(make, make_single, temperature):
    env = make_single()
    env.reset(seed=0, options={"start": 14})
    lanes = 2000
    envs = make(lanes, temperature=temperature, autoreset_mode=DISABLED)
    envs.reset(seed=1, options={"state": env.unwrapped.get_state()})
    observation, *_ = envs.step(np.tile(np.array([0.5, 0.5, 0], np.float32), (lanes, 1)))
    prediction = envs.dream.world_model.memory.predict(torch.from_numpy(observation[0, Z:]))
    logits, mu, log_sigma = (part.numpy().astype(float) for part in prediction[:3])
    weight = np.exp(logits / temperature)
    weight /= weight.sum(axis=1, keepdims=True)
    mean = (weight * mu).sum(axis=1)
    variance = (weight * (np.exp(2 * log_sigma) * temperature + mu**2)).sum(axis=1) - mean**2
    z = observation[:, :Z]
    assert (abs(z.mean(axis=0) - mean) < 5 * np.sqrt(variance / lanes)).all()
    np.testing.assert_allclose(z.var(axis=0), variance, rtol=0.25)
    assert z.var(axis=0).mean() == pytest.approx(variance.mean(), rel=0.05)


def test_the_simulator_needs_a_lane(world_model_folder):
    with pytest.raises(ValueError, match=r"lanes .* at least 1"):
        Dream(WorldModel.from_pretrained(world_model_folder), 0)
