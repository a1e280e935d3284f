"""LatentCarRacing-v0 and the two wrappers it is made of: the real task as [z, h]."""

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world_model
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from wm_gym import RNNHiddenObservation, VAELatentObservation
from wm_gym.evaluate import make_lanes, rollout
from wm_gym.frames import encoder_input
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel

ID = "LatentCarRacing-v0"
Z = 32
GAS = np.array([0, 1, 0], np.float32)


def some_actions(steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform([-1, 0.3, 0], [1, 1, 0.2], (steps, 3)).astype(np.float32)


def drive(env, seed, actions):
    """All observations and all rewards of a drive that does not end."""
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not (terminated or truncated)
        observations.append(observation)
        rewards.append(reward)
    return np.stack(observations), rewards


def reference_hidden(world_model, z, actions):
    """h_0 ... h_T from z_0 ... z_T and a_0 ... a_{T-1}, by the unroll that training uses."""
    inputs = (torch.from_numpy(np.ascontiguousarray(array))[None] for array in (z[:-1], actions))
    hidden, _ = world_model.memory.unroll(*inputs, world_model.memory.initial_state(1))
    return np.concatenate([np.zeros((1, hidden.shape[-1])), hidden[0].numpy()])


class Camera(gym.Env):
    """Frames of noise, the same ones in every episode, and CarRacing's actions."""

    observation_space = gym.spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = gym.spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
    frames = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.actions = 0, []
        return self.frames[0].copy(), {}

    def step(self, action):
        self.steps += 1
        self.actions.append(action)
        return self.frames[self.steps % len(self.frames)].copy(), 1.0, False, False, {}


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="module", autouse=True)
def box2d():
    """Box2D's bindings warn once, when they are loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gym.make("CarRacing-v3").close()


@pytest.fixture(scope="module")
def env(world_model_folder):
    env = gym.make(ID, world_model=world_model_folder)
    yield env
    env.close()


@pytest.fixture(scope="module")
def world_model(world_model_folder):
    return WorldModel.from_pretrained(world_model_folder)


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """Save a world model of another config and return its folder."""

    def save(**config):
        folder = tmp_path_factory.mktemp("variant") / "world_model"
        make_world_model(**config).save(folder)
        return str(folder)

    return save


# --- what Gymnasium and SB3 ask of an env -------------------------------------------------------------------------


def assert_warns_only_of(markers, check):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    messages = {str(warning.message) for warning in caught}
    assert {marker for marker in markers if any(marker in message for message in messages)} == set(markers)
    assert [message for message in messages if not any(marker in message for marker in markers)] == []


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
    actions = some_actions(5)
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
    actions = some_actions(25)
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
    assert np.array_equal(drive(by_hand, 0, some_actions(3))[0], drive(env, 0, some_actions(3))[0])


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


# --- z -------------------------------------------------------------------------------------------------------------


def test_z_alone_is_an_observation(world_model_folder):
    env = VAELatentObservation(gym.make("CarRacing-v3"), world_model=world_model_folder)
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (Z,), np.float32)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert env.step(GAS)[0] in env.observation_space


def test_mean_latents_are_the_posterior_means_of_the_frames(variant):
    folder = variant(latent="mean")
    actions = some_actions(6)
    observations, _ = drive(gym.make(ID, world_model=folder), 3, actions)
    frames, _ = drive(gym.make("CarRacing-v3"), 3, actions)
    mu, _ = WorldModel.from_pretrained(folder).vae.encode(torch.from_numpy(encoder_input(frames)))
    np.testing.assert_allclose(observations[:, :Z], mu, atol=1e-5)
    assert abs(np.diff(observations[:, :Z], axis=0)).max() > 1e-4  # frames do differ


@pytest.mark.parametrize("version", ["crop84", "full96"])
def test_frames_are_prepared_as_the_config_says(variant, version):
    folder = variant(latent="mean", frames=version)
    observations, _ = drive(VAELatentObservation(Camera(), folder), 0, some_actions(5))
    vae = WorldModel.from_pretrained(folder).vae
    np.testing.assert_allclose(
        observations, vae.encode(torch.from_numpy(encoder_input(Camera.frames, version)))[0], atol=1e-5
    )
    other = "full96" if version == "crop84" else "crop84"
    wrong, _ = vae.encode(torch.from_numpy(encoder_input(Camera.frames, other)))
    assert not np.allclose(observations, wrong, atol=1e-4)


def test_mean_latents_do_not_depend_on_the_seed(variant):
    env = VAELatentObservation(Camera(), variant(latent="mean"))
    assert np.array_equal(drive(env, 0, some_actions(5))[0], drive(env, 1, some_actions(5))[0])


def test_sampled_latents_follow_the_seed(world_model_folder):
    one, other = (VAELatentObservation(Camera(), world_model_folder) for _ in range(2))
    actions = some_actions(5)
    first, _ = drive(one, 0, actions)
    assert np.array_equal(drive(other, 0, actions)[0], first)
    assert np.array_equal(drive(one, 0, actions)[0], first)
    assert not np.allclose(drive(one, 1, actions)[0], first)
    assert not np.allclose(other.reset()[0], first[0])  # without a seed the stream goes on


def test_sampled_latents_have_the_posteriors_distribution(world_model, world_model_folder):
    env = VAELatentObservation(Camera(), world_model_folder)
    z, _ = drive(env, 0, some_actions(59))
    frames = torch.from_numpy(encoder_input(Camera.frames[np.arange(60) % 6]))
    mu, logvar = (part.numpy() for part in world_model.vae.encode(frames))
    noise = (z - mu) / np.exp(logvar / 2)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(2 * noise.size))
    assert len(np.unique(noise.round(4))) > 0.9 * noise.size  # fresh for every latent and step


# --- h -------------------------------------------------------------------------------------------------------------


def test_h_is_the_memory_unrolled_over_z_and_actions(env, world_model):
    actions = some_actions(20)
    for seed in (4, 5):  # h is zero again in the second episode
        observations, _ = drive(env, seed, actions)
        assert not observations[0, Z:].any()
        expected = reference_hidden(world_model, observations[:, :Z], actions)
        np.testing.assert_allclose(observations[:, Z:], expected, atol=1e-5)


def test_h_follows_the_action_of_the_same_step(world_model_folder, world_model):
    env = RNNHiddenObservation(VAELatentObservation(Camera(), world_model_folder))
    actions = some_actions(4)
    observations, _ = drive(env, 0, actions)
    for t in range(4):
        changed = actions.copy()
        changed[t] = 1
        differs, _ = drive(env, 0, changed)
        assert np.array_equal(differs[:, :Z], observations[:, :Z])
        same = (differs[:, Z:] == observations[:, Z:]).all(axis=1)
        assert same.tolist() == [step <= t for step in range(5)]
        expected = reference_hidden(world_model, observations[:, :Z], changed)
        np.testing.assert_allclose(differs[:, Z:], expected, atol=1e-5)


# --- actions -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_a_bad_action_is_named_and_nothing_happens(env):
    actions = some_actions(8)
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


def test_the_env_below_gets_float32(world_model_folder):
    env = RNNHiddenObservation(VAELatentObservation(Camera(), world_model_folder))
    env.reset(seed=0)
    env.step([0, 1, 0])
    (action,) = env.unwrapped.actions
    assert action.dtype == np.float32
    assert action.tolist() == [0, 1, 0]


# --- envs that do not fit ------------------------------------------------------------------------------------------


def test_latents_need_frames(world_model_folder):
    with pytest.raises(TypeError, match=r"96, 96, 3"):
        VAELatentObservation(gym.make("CartPole-v1"), world_model_folder)


def test_latents_need_whole_number_frames(world_model_folder):
    camera = Camera()
    camera.observation_space = gym.spaces.Box(0, 1, (96, 96, 3), np.float32)
    with pytest.raises(TypeError, match="float32"):
        VAELatentObservation(camera, world_model_folder)


def test_the_memory_needs_latents(world_model_folder):
    with pytest.raises(TypeError, match=r"\(32,\)"):
        RNNHiddenObservation(Camera(), world_model=world_model_folder)


def test_the_memory_needs_carracings_actions(world_model_folder):
    discrete = VAELatentObservation(gym.make("CarRacing-v3", continuous=False), world_model_folder)
    with pytest.raises(TypeError, match="Discrete"):
        RNNHiddenObservation(discrete)


def test_a_missing_world_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        VAELatentObservation(Camera(), tmp_path / "nowhere")


# --- rollout -------------------------------------------------------------------------------------------------------


def test_rollout_gives_the_same_scores_in_one_env_in_lanes_and_in_processes(world_model_folder):
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
        make_lanes(ID, 2, **kwargs),
    ):
        results.append(sorted(rollout(env, driver, seeds), key=lambda result: result.index))
        env.close()
    for result in results:
        assert [episode.seed for episode in result] == seeds
        assert [(episode.steps, episode.terminated, episode.finished) for episode in result] == [(6, False, False)] * 3
        assert [episode.score for episode in result] == pytest.approx([episode.score for episode in results[0]])
    assert len({episode.score for episode in results[0]}) == 3


def test_lanes_in_processes_leave_this_process_its_threads(world_model_folder):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        make_lanes(ID, 2, world_model=world_model_folder).close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_rollout_refuses_lanes_that_reset_themselves(world_model_folder):
    envs = gym.make_vec(ID, 1, vectorization_mode="sync", world_model=world_model_folder)
    with pytest.raises(ValueError, match="DISABLED"):
        next(rollout(envs, Controller(), [1]))
    envs.close()
