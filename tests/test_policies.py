"""Whatever drives: each kind of policy behind one ``predict``, and bursts of mistakes."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.vector import SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO

from wm_gym import RNNHiddenObservation, VAELatentObservation
from wm_gym.evaluate import make_lanes, rollout
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.policies import ActionBursts, Policy, RandomPolicy, load_policy
from wm_gym.registration import env_ids
from wm_gym.world_model import WorldModel

KINDS = ["random", "scripted", "car_racing", "controller", "ppo_dream.zip", "a2c.zip"]
ACTIONS = Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
OBSERVATIONS = Box(-np.inf, np.inf, (288,), np.float32)
seeds = st.integers(0, 2**31)
examples = settings(deadline=None, max_examples=20)


class Blank(gym.Env):
    """Has spaces, and nothing to see."""

    def __init__(self, observation_space=OBSERVATIONS, action_space=ACTIONS):
        self.observation_space, self.action_space = observation_space, action_space


class Counter:
    """A recurrent policy: its state counts its steps, and its action tells the count in units of 1/1000."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        (count,) = state or (np.zeros(1),)
        return np.full((*np.shape(observation)[:-1], 3), count[0] / 1000, np.float32), (count + 1,)


def some_observations(*lanes, seed=0):
    return np.random.default_rng(seed).standard_normal((*lanes, 288)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A controller and two Stable-Baselines3 models of random weights, on disk."""
    folder = tmp_path_factory.mktemp("policies")
    weights = np.random.default_rng(0).standard_normal(ControllerConfig().parameters) / 20
    Controller(weights).save(folder / "controller")
    PPO("MlpPolicy", Blank(), n_steps=2, batch_size=2, device="cpu", seed=0).save(folder / "ppo_dream")
    A2C("MlpPolicy", Blank(), device="cpu", seed=0).save(folder / "a2c")
    return folder


@pytest.fixture
def load(folder, car_racing):
    """A function that loads a policy of a kind."""

    def load(kind, **kwargs):
        env = car_racing if kind == "scripted" else Blank()
        return load_policy(folder / kind if (folder / kind).exists() else kind, env, **kwargs)

    return load


# --- each kind -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_acts_on_one_observation_and_on_a_batch(load, kind):
    policy = load(kind)
    assert isinstance(policy, Policy)
    shape = (96, 96, 3) if kind == "scripted" else (288,)
    for lanes in [(), (1,), (4,)]:
        action, state = policy.predict(np.zeros((*lanes, *shape), np.float32), None, np.ones(lanes, bool), True)
        assert action.dtype == np.float32
        assert action.shape == (*lanes, 3)
        assert all(one in ACTIONS for one in action.reshape(-1, 3))
        assert state is None


@pytest.mark.parametrize("kind", ["controller", "ppo_dream.zip", "a2c.zip", "car_racing"])
def test_a_batch_is_answered_as_its_observations_one_by_one(load, kind):
    policy, observations = load(kind), some_observations(7)
    actions, _ = policy.predict(observations, deterministic=True)
    singly = [policy.predict(observation, deterministic=True)[0] for observation in observations]
    np.testing.assert_allclose(actions, singly, atol=1e-5)
    assert np.ptp(actions, axis=0).any()


@pytest.mark.parametrize(("kind", "load_back"), [("ppo_dream.zip", PPO.load), ("a2c.zip", A2C.load)])
def test_a_saved_model_answers_as_itself(load, folder, kind, load_back):
    original = load_back(folder / kind, device="cpu")
    actions, _ = load(kind).predict(some_observations(5), deterministic=True)
    assert np.array_equal(actions, original.predict(some_observations(5), deterministic=True)[0])


def test_a_saved_controller_answers_as_itself(load, folder):
    actions, _ = load("controller").predict(some_observations(5))
    assert np.array_equal(actions, Controller.from_pretrained(folder / "controller").predict(some_observations(5))[0])


def test_a_vector_env_takes_the_policy_of_its_lanes(folder):
    lanes = SyncVectorEnv([Blank] * 3)
    for name in ("random", folder / "controller", folder / "ppo_dream.zip"):
        actions, _ = load_policy(name, lanes).predict(some_observations(3))
        assert actions in lanes.action_space
    lanes.close()


def test_random_actions_fill_the_box_evenly_and_repeat_with_the_seed(load):
    actions, again, other = (load("random", seed=s).predict(some_observations(4000))[0] for s in (3, 3, 4))
    assert np.array_equal(actions, again)
    assert not np.array_equal(actions, other)
    unit = (actions - ACTIONS.low) / (ACTIONS.high - ACTIONS.low)
    for column in unit.T:
        counts, _ = np.histogram(column, bins=8, range=(0, 1))
        np.testing.assert_allclose(counts, 500, atol=125)  # six standard deviations
    assert abs(np.corrcoef(unit.T) - np.eye(3)).max() < 0.1


# --- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no_such_folder", "ppo_missing.zip"])
def test_a_missing_policy_is_named(tmp_path, name):
    with pytest.raises((FileNotFoundError, ValueError), match=re.escape(str(tmp_path / name))):
        load_policy(tmp_path / name, Blank())


def test_a_zip_in_the_place_of_a_controller_is_pointed_out(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("ppo_dream", "ppo_dream.zip"):
        with pytest.raises(ValueError, match=r"ppo_dream\.zip may be an agent, which wm_gym\.load_policy takes"):
            Controller.from_pretrained(name)


def test_a_zip_whose_name_tells_no_algorithm_is_refused(tmp_path):
    (tmp_path / "best_ppo.zip").touch()
    with pytest.raises(ValueError, match=r"best_ppo\.zip.*no algorithm 'best'.* a2c, .*ppo"):
        load_policy(tmp_path / "best_ppo.zip", Blank())


@pytest.mark.parametrize("kind", ["controller", "ppo_dream.zip"])
@pytest.mark.parametrize(
    ("observations", "actions"),
    [(Box(-np.inf, np.inf, (32,)), ACTIONS), (OBSERVATIONS, Box(-1, 1, (2,))), (Box(0, 255, (96, 96, 3)), ACTIONS)],
)
def test_a_policy_for_other_shapes_is_refused_with_both_sides_named(folder, kind, observations, actions):
    with pytest.raises(ValueError, match=rf"{kind}.*288.*{re.escape(f'{observations} and {actions}')}"):
        load_policy(folder / kind, Blank(observations, actions))


@pytest.mark.parametrize("name", ["random", "car_racing"])
def test_actions_that_are_neither_a_box_nor_choices_are_refused(name):
    with pytest.raises(ValueError, match=r"MultiDiscrete"):
        load_policy(name, Blank(OBSERVATIONS, MultiDiscrete([2, 3])))
    with pytest.raises(ValueError, match=r"MultiDiscrete"):
        ActionBursts(Counter(), MultiDiscrete([2, 3]), rate=0.1, length=3)


def test_a_policy_drives_with_its_own_world_model_alone(world_model_folder, tmp_path):
    fingerprint = WorldModel.from_pretrained(world_model_folder).fingerprint
    Controller(config=ControllerConfig(world_model=fingerprint)).save(tmp_path / "own")
    Controller(np.zeros((2, 867)), ControllerConfig(world_model=fingerprint)).save(tmp_path / "population")
    agent = PPO("MlpPolicy", Blank(), n_steps=2, batch_size=2, device="cpu", seed=0)
    agent.world_model_fingerprint = "another"
    agent.save(tmp_path / "ppo_another")
    (dream, real), how = env_ids(world_model_folder), {"world_model": world_model_folder, "max_episode_steps": 2}
    raw = gym.make("CarRacing-v3", max_episode_steps=2)
    envs = [
        gym.make(dream, **how),
        gym.make(real, **how),
        RNNHiddenObservation(VAELatentObservation(raw, world_model_folder)),
        make_lanes(dream, 2, **how),
        make_lanes(real, 1, **how),
        make_lanes(real, 2, **how),
    ]
    for env in envs:
        (result,) = rollout(env, load_policy(tmp_path / "own", env), [0])
        assert result.steps == 2
        for name in ("car_racing", tmp_path / "ppo_another.zip"):
            with pytest.raises(ValueError, match=rf"{name} knows the latents of another world model.*{fingerprint}"):
                load_policy(name, env)
        for policy in (Controller.from_pretrained(), load_policy(tmp_path / "ppo_another.zip", Blank())):
            with pytest.raises(ValueError, match="knows the latents of another world model"):
                rollout(env, policy, [0])
        env.close()
    assert load_policy(tmp_path / "population", envs[3]).member(1).world_model_fingerprint == fingerprint


def test_a_planner_may_have_a_world_model_of_its_own():
    env = gym.make("DreamCarRacing-v0", max_episode_steps=2)
    for own in (WorldModel.from_pretrained(), "car_racing", "another"):
        planner = Counter()
        planner.world_model = own
        (result,) = rollout(env, planner, [0])
        assert result.steps == 2


def test_a_scripted_driver_needs_the_car_itself():
    with pytest.raises(TypeError, match=r"CarRacing.*Blank"):
        load_policy("scripted", Blank())
    with pytest.raises(ValueError, match="single env"):
        load_policy("scripted", SyncVectorEnv([Blank]))


# --- bursts --------------------------------------------------------------------------------------------------------


def disturbed(steps, rate, length, seed, lanes=()):
    """The actions of a disturbed `Counter` over some steps, and which of them are its own; its state is handed on."""
    policy, state, actions = ActionBursts(Counter(), ACTIONS, rate, length, seed), None, []
    for _ in range(steps):
        action, state = policy.predict(np.zeros((*lanes, 288)), state)
        actions.append(action)
    assert state[0] == steps  # the policy below lives through the bursts
    actions = np.stack(actions)
    counts = (np.arange(steps) / 1000).astype(np.float32).reshape(-1, *[1] * (actions.ndim - 1))
    return actions, (actions == counts).all(axis=tuple(range(1, actions.ndim)))


def run_lengths(actions):
    changes = np.flatnonzero((np.diff(actions, axis=0) != 0).any(axis=1))
    return np.diff(np.concatenate([[-1], changes, [len(actions) - 1]]))


@given(length=st.integers(1, 30), seed=seeds)
@examples
def test_without_bursts_the_policy_is_its_own(length, seed):
    assert disturbed(50, 0, length, seed)[1].all()


@given(length=st.integers(1, 12), seed=seeds)
@examples
def test_with_nothing_but_bursts_each_is_a_random_action_held_for_one_to_length_steps(length, seed):
    actions, own = disturbed(1500, 1, length, seed)
    assert not own.any()
    assert all(action in ACTIONS for action in actions)
    runs = run_lengths(actions)[:-1]  # the last one was cut off
    assert set(runs) == set(range(1, length + 1))


@given(rate=st.floats(0, 1), length=st.integers(1, 12), seed=seeds)
@examples
def test_the_seed_makes_the_bursts(rate, length, seed):
    actions, _ = disturbed(60, rate, length, seed)
    assert np.array_equal(actions, disturbed(60, rate, length, seed)[0])
    if rate > 0.5:
        assert not np.array_equal(actions, disturbed(60, rate, length, seed + 1)[0])


@pytest.mark.parametrize(("rate", "length"), [(0.02, 20), (0.1, 5), (0.5, 1)])
def test_bursts_take_the_share_of_steps_that_rate_and_length_say(rate, length):
    _, own = disturbed(8000, rate, length, seed=0)
    burst, pause = (1 + length) / 2, (1 - rate) / rate  # mean lengths
    assert 1 - own.mean() == pytest.approx(burst / (burst + pause), abs=0.03)


def test_a_burst_takes_every_lane_and_hands_out_no_view_of_itself():
    actions, own = disturbed(40, 0.3, 4, seed=0, lanes=(3,))
    assert 0 < own.sum() < 40
    assert (actions == actions[:, :1]).all()
    policy = ActionBursts(RandomPolicy(OBSERVATIONS, ACTIONS), ACTIONS, rate=1, length=10**6, seed=0)
    first, _ = policy.predict(some_observations())
    kept = first.copy()
    first[:] = 9
    assert np.array_equal(policy.predict(some_observations())[0], kept)
