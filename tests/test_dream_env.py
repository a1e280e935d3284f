"""DreamCarRacing-v0: the dream as a single Gymnasium env, and its contracts."""

import os
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from hashlib import sha256

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ALL_STARTS, EPISODE_STARTS, every_memory, make_world_model
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, RecordVideo, RescaleAction
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from wm_gym.envs.dream import DreamEnv
from wm_gym.models.vae import VAE
from wm_gym.world_model import RewardConfig, WorldModel

ID = "DreamCarRacing-v0"
Z = 32
COAST = np.zeros(3, np.float32)
UNBOUNDED = {"observation space minimum value is -infinity", "observation space maximum value is infinity"}


def some_actions(steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform([-1, 0, 0], [1, 1, 1], (steps, 3)).astype(np.float32)


def trace(env, actions):
    """Everything the env returns for these actions, over as many episodes as they last; comparable bit for bit."""
    steps = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append((observation.tobytes(), reward, terminated, truncated, tuple(info.items())))
        if terminated or truncated:
            steps.append(env.reset()[0].tobytes())
    return steps


def drive_to_the_end(env, seed):
    """Coast until the episode ends; the state before the last step, and what that step returned."""
    env.reset(seed=seed)
    while True:
        state = env.unwrapped.get_state()
        step = env.step(COAST)
        if step[2] or step[3]:
            return state, step


def stream(env):
    return env.unwrapped.np_random.bit_generator.state


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def make(world_model_folder):
    return lambda **kwargs: gym.make(ID, **{"world_model": world_model_folder, **kwargs})


@pytest.fixture(scope="module")
def env(world_model_folder):
    return gym.make(ID, world_model=world_model_folder)


@pytest.fixture
def world_model(world_model_folder):
    return WorldModel.from_pretrained(world_model_folder)


# --- what Gymnasium and SB3 ask of an env -------------------------------------------------------------------------


def assert_warns_only_of(markers, check):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    messages = {str(warning.message) for warning in caught}
    assert {marker for marker in markers if any(marker in message for message in messages)} == set(markers)
    assert [message for message in messages if not any(marker in message for marker in markers)] == []


@every_memory
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_passes_gymnasiums_check(make, render_mode):
    env = make(render_mode=render_mode)
    assert_warns_only_of(UNBOUNDED, lambda: check_env(env.unwrapped))


@every_memory
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_passes_sb3s_check(make, render_mode):
    env = make(render_mode=render_mode)
    assert_warns_only_of({"symmetric and normalized Box action space"}, lambda: check_env_for_sb3(env, True, False))


def run_python(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_wm_gym_loads_neither_torch_nor_box2d():
    loaded = run_python("import sys, gymnasium, wm_gym; print({'torch', 'Box2D', 'pygame'} & set(sys.modules))")
    assert loaded == "set()"


def test_both_ways_to_make_it_dream_the_same_in_every_process(make, world_model_folder):
    code = """
import sys, hashlib, gymnasium as gym, numpy as np
assert "wm_gym" not in sys.modules
env = gym.make("wm_gym:DreamCarRacing-v0", world_model=sys.argv[1])
frames = [env.reset(seed=3, options={"start": 1})[0]]
frames += [env.step(np.zeros(3, np.float32))[0] for _ in range(3)]
print(hashlib.sha256(np.stack(frames).tobytes()).hexdigest())
"""
    env = make()
    frames = [env.reset(seed=3, options={"start": 1})[0]] + [env.step(COAST)[0] for _ in range(3)]
    assert run_python(code, world_model_folder) == sha256(np.stack(frames).tobytes()).hexdigest()


@every_memory
def test_spaces_are_those_of_the_real_task(env, world_model_folder):
    real = gym.make("LatentCarRacing-v0", world_model=world_model_folder)
    stock = gym.make("CarRacing-v3")
    assert env.observation_space == real.observation_space == gym.spaces.Box(-np.inf, np.inf, (288,), np.float32)
    assert env.action_space == real.action_space == stock.action_space
    real.close()
    stock.close()


@every_memory
@pytest.mark.parametrize("change", ["to_json", "pickle"])
def test_is_made_again_from_its_spec(make, change):
    env = make(temperature=1.3, sampling="mode", starts="any", max_episode_steps=9)
    spec = env.spec
    spec = EnvSpec.from_json(spec.to_json()) if change == "to_json" else pickle.loads(pickle.dumps(spec))
    again = gym.make(spec)
    assert again.unwrapped.dream.temperature == 1.3
    assert np.array_equal(env.reset(seed=5)[0], again.reset(seed=5)[0])
    assert trace(env, some_actions(20)) == trace(again, some_actions(20))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling": "argmax"},
        {"sampling": None},
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"starts": "all"},
        {"render_mode": "ansi"},
        {"world_model": "no_such_model"},
    ],
)
def test_wrong_arguments_are_named(world_model_folder, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match="no_such_model" if name == "world_model" else name):
        DreamEnv(**{"world_model": world_model_folder, **wrong})


# --- determinism ---------------------------------------------------------------------------------------------------


@every_memory
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_same_seed_and_actions_give_the_same_dream_bit_for_bit(world_model_folder, seed):
    one, other = (gym.make(ID, world_model=world_model_folder, starts="any") for _ in range(2))
    assert np.array_equal(one.reset(seed=seed)[0], other.reset(seed=seed)[0])
    first = trace(one, some_actions(40))
    assert trace(other, some_actions(40)) == first
    one.reset(seed=seed)  # and again in an env that has dreamt already
    assert trace(one, some_actions(40)) == first


def test_another_seed_gives_another_dream(env):
    dreams = set()
    for seed in range(5):
        env.reset(seed=seed, options={"start": 0})
        dreams.add(env.step(COAST)[0].tobytes())
    assert len(dreams) == 5


def test_another_action_gives_another_dream(env):
    observations = []
    for action in (COAST, np.array([0, 1, 0], np.float32)):
        env.reset(seed=0)
        observations.append(env.step(action)[0])
    assert not np.allclose(*observations)


def test_reset_without_a_seed_goes_on_with_the_stream(make):
    one, other = make(), make()
    one.reset(seed=0)
    other.reset(seed=0)
    starts = [one.reset()[0][:Z].tobytes() for _ in range(20)]
    assert len(set(starts)) > 1
    assert [other.reset()[0][:Z].tobytes() for _ in range(20)] == starts


# --- actions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [np.float64, np.float16, np.int8, np.int64, list, tuple, torch.from_numpy, lambda a: [int(x) for x in a]],
    ids=["float64", "float16", "int8", "int64", "list", "tuple", "tensor", "ints"],
)
def test_actions_of_any_real_type_are_taken(make, convert):
    corners = np.array([[-1, 1, 0], [1, 0, 1], [0, 0, 0]], np.float32)
    one, other = make(), make()
    one.reset(seed=1, options={"start": 0})
    other.reset(seed=1, options={"start": 0})
    assert trace(one, corners) == trace(other, [convert(action) for action in corners])


BAD_ACTIONS = [
    ([np.nan, 0, 0], r"action\[0\] is nan"),
    ([0, np.inf, 0], r"action\[1\] is inf"),
    ([0, 0, -np.inf], r"action\[2\] is -inf"),
    ([1.5, 0, 0], r"action\[0\] is 1\.5"),
    (np.array([0, -0.25, 0], np.float64), r"action\[1\] is -0\.25"),
    (np.array([0, 0, 1e300]), r"action\[2\] is 1e\+300"),
    ([0, 0, 2], r"action\[2\] is 2"),
    ([0, 0], r"shape \(3,\).*\(2,\)"),
    ([[0, 0, 0]], r"shape \(3,\).*\(1, 3\)"),
    (0.5, r"shape \(3,\)"),
    (["left", "gas", "brake"], "left"),
    ("left", "left"),
    ([0, 0, 1j], "1j"),
    (None, "None"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ACTIONS)
@pytest.mark.filterwarnings("error")
def test_a_bad_action_is_named_and_nothing_happens(make, bad, message):
    disturbed, calm = make(), make()
    for env in (disturbed, calm):
        env.reset(seed=2)
        env.step(COAST)
    before = stream(disturbed)
    with pytest.raises(ValueError, match=message):
        disturbed.step(bad)
    assert stream(disturbed) == before
    assert trace(disturbed, some_actions(10)) == trace(calm, some_actions(10))


def test_step_before_reset_is_an_error(make):
    env = make().unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(COAST)
    with pytest.raises(ValueError, match="start"):
        env.reset(options={"start": ALL_STARTS})
    with pytest.raises(gym.error.ResetNeeded, match="reset"):  # a reset that failed began nothing
        env.step(COAST)


def test_step_after_the_end_is_an_error(env):
    drive_to_the_end(env, seed=0)
    before = stream(env)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(COAST)
    assert stream(env) == before
    env.reset()
    env.step(COAST)


# --- starts --------------------------------------------------------------------------------------------------------


def start_of(observation, world_model):
    """Which of the world model's starts an observation shows."""
    z, _ = world_model.start_states
    (index,) = np.flatnonzero((z.numpy() == observation[:Z]).all(axis=1))
    return int(index)


@every_memory
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
    assert env.unwrapped.get_state().tiles.tolist() == [starts.gained[index]]


@pytest.mark.parametrize("dtype", [int, np.int8, np.uint8, np.int32, np.uint64, np.array])
def test_start_of_any_whole_number_type(env, world_model, dtype):
    observation, _ = env.reset(options={"start": dtype(11)})
    assert start_of(observation, world_model) == 11


@pytest.mark.parametrize(
    ("starts", "drawn"), [("episode", set(range(EPISODE_STARTS))), ("any", set(range(ALL_STARTS)))]
)
def test_reset_draws_from_the_starts_asked_for(make, world_model, starts, drawn):
    env = make(starts=starts)
    env.reset(seed=0)
    assert {start_of(env.reset()[0], world_model) for _ in range(400)} == drawn


def test_episode_starts_are_the_default(make, world_model):
    env = make()
    env.reset(seed=0)
    assert {start_of(env.reset()[0], world_model) for _ in range(200)} == set(range(EPISODE_STARTS))


def two_lanes(state):
    return state[[0, 0]]


def wrong_latents(state):
    return replace(state, z=state.z[:, :16])


def wrong_hidden(state):
    return replace(state, memory=tuple(part[:, :128] for part in state.memory))


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
def test_wrong_options_change_nothing(make, options, seed):
    disturbed, calm = make(), make()
    for env in (disturbed, calm):
        env.reset(seed=2)
        env.step(COAST)
    if callable(options.get("state")):
        options = {**options, "state": options["state"](disturbed.unwrapped.get_state())}
    before, asked = stream(disturbed), dict(options)
    with pytest.raises(ValueError, match=r"start|state|begin|reset_mask"):
        disturbed.unwrapped.reset(seed=seed, options=options)
    assert options.keys() == asked.keys()
    assert stream(disturbed) == before
    assert trace(disturbed, some_actions(10)) == trace(calm, some_actions(10))


def test_a_wrong_seed_changes_nothing(make):
    disturbed, calm = make(), make()
    for env in (disturbed, calm):
        env.reset(seed=2)
    with pytest.raises(gym.error.Error):
        disturbed.unwrapped.reset(seed=-1, options={"start": 4})
    assert trace(disturbed, some_actions(10)) == trace(calm, some_actions(10))


# --- states --------------------------------------------------------------------------------------------------------


@every_memory
@given(seed=st.integers(0, 999), before=st.integers(0, 70), pickled=st.booleans())
@settings(deadline=None, max_examples=15)
def test_a_state_continues_as_the_original_did(world_model_folder, seed, before, pickled):
    env, other = (gym.make(ID, world_model=world_model_folder, starts="any") for _ in range(2))
    observation, _ = env.reset(seed=seed)
    for action in some_actions(before, seed):
        observation, _, terminated, _, _ = env.step(action)
        if terminated:
            observation, _ = env.reset()
    state = env.unwrapped.get_state()
    original = trace(env, some_actions(40))
    if pickled:
        state = pickle.loads(pickle.dumps(state))
    for branch in (env, other, other):  # more than once: a continuation leaves the state as it was
        assert np.array_equal(branch.reset(options={"state": state})[0], observation)
        assert trace(branch, some_actions(40)) == original


@every_memory
def test_get_state_disturbs_nothing(make):
    one, other = make(), make()
    one.reset(seed=3)
    other.reset(seed=3)
    expected = trace(one, some_actions(20))
    watched = []
    for action in some_actions(20):
        other.unwrapped.get_state()
        watched += trace(other, [action])
    assert watched == expected


@every_memory
def test_a_state_with_a_seed_has_another_future(env):
    env.reset(seed=0, options={"start": 12})
    state = env.unwrapped.get_state()
    futures = {}
    for seed in (None, 1, 2, 1):
        observation, _ = env.reset(seed=seed, options={"state": state})
        assert start_of(observation, env.unwrapped.dream.world_model) == 12
        step = env.step(COAST)[0]
        assert np.array_equal(futures.setdefault(seed, step), step)
    assert len({future[:Z].tobytes() for future in futures.values()}) == 3
    assert len({future[Z:].tobytes() for future in futures.values()}) == 1  # h does not depend on what is drawn


def test_a_states_stream_becomes_the_envs(env):
    env.reset(seed=0)
    state = env.unwrapped.get_state()
    following = [env.reset()[0].tobytes() for _ in range(10)]
    env.reset(seed=1)
    env.reset(options={"state": state})
    assert [env.reset()[0].tobytes() for _ in range(10)] == following


def test_a_resumed_episodes_time_limit_starts_afresh(make):
    env = make(max_episode_steps=5, sampling="mode")
    env.reset(seed=0)
    for _ in range(4):
        env.step(COAST)
    env.reset(options={"state": env.unwrapped.get_state()})
    assert [env.step(COAST)[3] for _ in range(5)] == [False] * 4 + [True]


# --- what a step dreams --------------------------------------------------------------------------------------------


@every_memory
def test_the_memory_takes_z_and_action_of_the_same_step(make, world_model):
    env = make(sampling="mode")
    actions = some_actions(20)
    observations = np.stack([env.reset(seed=0)[0]] + [env.step(action)[0] for action in actions])
    z = torch.from_numpy(observations[None, :-1, :Z])
    hidden, _ = world_model.memory.unroll(z, torch.from_numpy(actions[None]), world_model.memory.initial_state(1))
    np.testing.assert_allclose(observations[1:, Z:], hidden[0], atol=1e-5)


@every_memory
def test_mode_dreams_the_mean_of_the_likeliest_component(make, world_model):
    env = make(sampling="mode")
    env.reset(seed=0)
    for action in some_actions(5):
        observation = env.step(action)[0]
        prediction = world_model.memory.predict(torch.from_numpy(observation[Z:]))
        likeliest = prediction.logits.numpy().argmax(axis=1)
        np.testing.assert_allclose(observation[:Z], prediction.mu.numpy()[np.arange(Z), likeliest], atol=1e-5)


@every_memory
def test_mode_is_deterministic_but_for_the_start(make):
    env = make(sampling="mode")
    dreams, starts = set(), set()
    for seed in range(8):
        starts.add(env.reset(seed=seed)[0].tobytes())
        env.reset(seed=seed, options={"start": 2})
        dreams.add(str(trace(env, some_actions(30))))
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


def test_leaving_the_playfield_is_no_finished_lap(env):
    for seed in range(5):
        _, (_, reward, terminated, truncated, info) = drive_to_the_end(env, seed)
        assert (reward, terminated, truncated, info) == (-100.0, True, False, {"lap_finished": False})


def test_a_failure_at_the_last_tile_is_a_failure(env):
    state, _ = drive_to_the_end(env, seed=0)
    env.reset(options={"state": replace(state, gained=np.full_like(state.gained, 294.99))})
    _, reward, terminated, _, info = env.step(COAST)
    assert (reward, terminated, info) == (-100.0, True, {"lap_finished": False})


@every_memory
@given(temperature=st.floats(0.05, 5), seed=st.integers(0, 99), steps=st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_temperature_changes_neither_reward_nor_end(world_model_folder, temperature, seed, steps):
    env = gym.make(ID, world_model=world_model_folder)
    other = gym.make(ID, world_model=world_model_folder, temperature=temperature)
    env.reset(seed=seed)
    for action in some_actions(steps + 1, seed):
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


@pytest.mark.parametrize("temperature", [0.1, 4.0])
def test_temperature_changes_no_end_where_there_is_one(make, temperature):
    state, (_, *outcome) = drive_to_the_end(make(), seed=1)
    other = make(temperature=temperature)
    other.reset(options={"state": state})
    assert list(other.step(COAST)[1:]) == outcome


# --- wrappers ------------------------------------------------------------------------------------------------------


def test_time_limit_truncates(make):
    env = make(max_episode_steps=4, sampling="mode")
    env.reset(seed=0)
    assert [env.step(COAST)[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]


def test_the_registered_time_limit_is_carracings(env):
    assert env.spec.max_episode_steps == gym.spec("CarRacing-v3").max_episode_steps == 1000


def test_record_episode_statistics(make):
    env = RecordEpisodeStatistics(make(max_episode_steps=30))
    env.reset(seed=0)
    rewards, over = [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(COAST)
        rewards.append(reward)
        over = terminated or truncated
    assert info["episode"]["r"] == pytest.approx(sum(rewards))
    assert info["episode"]["l"] == len(rewards)


@pytest.mark.filterwarnings("ignore")
def test_record_video(make, tmp_path):
    env = RecordVideo(make(render_mode="rgb_array", max_episode_steps=5), str(tmp_path), disable_logger=True)
    env.reset(seed=0)
    while not any(env.step(COAST)[2:4]):
        pass
    env.close()
    (video,) = tmp_path.glob("*.mp4")
    assert video.stat().st_size > 0


def test_flatten_observation_changes_nothing(make, env):
    flat = FlattenObservation(make())
    env.reset(seed=0)
    flat.reset(seed=0)
    assert trace(flat, some_actions(10)) == trace(env, some_actions(10))


def test_rescaled_actions(make, env):
    rescaled = RescaleAction(make(), np.float32(-1), np.float32(1))
    rescaled.reset(seed=0)
    env.reset(seed=0)
    actions = np.array([[-1, -1, 1], [0.5, 0, -1], [1, 1, 1]], np.float32)
    inside = np.array([[-1, 0, 1], [0.5, 0.5, 0], [1, 1, 1]], np.float32)
    assert trace(rescaled, actions) == trace(env, inside)


# --- rendering -----------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows by the number of frames whenever the VAE decodes."""
    calls, decode = [], VAE.decode
    monkeypatch.setattr(VAE, "decode", lambda self, z: calls.append(len(z)) or decode(self, z))
    return calls


def test_rgb_array_shows_the_present_latent_when_asked(make, decoded):
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    trace(env, some_actions(10))
    assert decoded == []
    frame = env.render()
    assert decoded == [1]
    assert frame.dtype == np.uint8
    assert frame.shape == (4 * 84, 4 * 96, 3)
    assert np.array_equal(env.render(), frame)
    kept = frame.copy()
    env.step(COAST)
    assert not np.array_equal(env.render(), kept)
    assert np.array_equal(frame, kept)


def test_rendering_disturbs_nothing(make):
    drawn, plain = make(render_mode="rgb_array"), make()
    drawn.reset(seed=0)
    plain.reset(seed=0)
    for action in some_actions(10):
        drawn.render()
        assert trace(drawn, [action]) == trace(plain, [action])


def test_without_a_render_mode_nothing_is_decoded(make, decoded):
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match=re.escape('render_mode="rgb_array"')):
        assert env.render() is None
    assert decoded == []


def test_human_mode_shows_each_step(make, decoded):
    env = make(render_mode="human", sampling="mode")
    env.reset(seed=0)
    for _ in range(3):
        env.step(COAST)
    assert decoded == [1] * 4
    assert env.render() is None
    env.close()
    env.close()


@pytest.mark.parametrize("render_mode", [None, "rgb_array", "human"])
def test_close_may_come_twice_or_before_reset(make, render_mode):
    env = make(render_mode=render_mode)
    env.close()
    env.close()
