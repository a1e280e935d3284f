"""The two wrappers that LatentCarRacing-v0 is made of: frames become z, and z becomes [z, h]."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import Z, drive, gentle_actions, make_world_model

from wm_gym import RNNHiddenObservation, VAELatentObservation
from wm_gym.frames import encoder_input
from wm_gym.world_model import WorldModel

pytestmark = pytest.mark.usefixtures("box2d", "no_display")
GAS = np.array([0, 1, 0], np.float32)


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


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """Save a world model of another config and return its folder."""

    def save(**config):
        folder = tmp_path_factory.mktemp("variant") / "world_model"
        make_world_model(**config).save(folder)
        return str(folder)

    return save


# --- z -------------------------------------------------------------------------------------------------------------


def test_z_alone_is_an_observation(world_model_folder):
    env = VAELatentObservation(gym.make("CarRacing-v3"), world_model=world_model_folder)
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (Z,), np.float32)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert env.step(GAS)[0] in env.observation_space


def test_mean_latents_are_the_posterior_means_of_the_frames(variant):
    folder = variant(latent="mean")
    actions = gentle_actions(6)
    observations, _ = drive(gym.make("LatentCarRacing-v0", world_model=folder), 3, actions)
    frames, _ = drive(gym.make("CarRacing-v3"), 3, actions)
    mu, _ = WorldModel.from_pretrained(folder).vae.encode(torch.from_numpy(encoder_input(frames)))
    np.testing.assert_allclose(observations[:, :Z], mu, atol=1e-5)
    assert abs(np.diff(observations[:, :Z], axis=0)).max() > 1e-4  # frames do differ


@pytest.mark.parametrize("version", ["crop84", "full96"])
def test_frames_are_prepared_as_the_config_says(variant, version):
    folder = variant(latent="mean", frames=version)
    observations, _ = drive(VAELatentObservation(Camera(), folder), 0, gentle_actions(5))
    vae = WorldModel.from_pretrained(folder).vae
    np.testing.assert_allclose(
        observations, vae.encode(torch.from_numpy(encoder_input(Camera.frames, version)))[0], atol=1e-5
    )
    other = "full96" if version == "crop84" else "crop84"
    wrong, _ = vae.encode(torch.from_numpy(encoder_input(Camera.frames, other)))
    assert not np.allclose(observations, wrong, atol=1e-4)


def test_mean_latents_do_not_depend_on_the_seed(variant):
    env = VAELatentObservation(Camera(), variant(latent="mean"))
    assert np.array_equal(drive(env, 0, gentle_actions(5))[0], drive(env, 1, gentle_actions(5))[0])


def test_sampled_latents_follow_the_seed(world_model_folder):
    one, other = (VAELatentObservation(Camera(), world_model_folder) for _ in range(2))
    actions = gentle_actions(5)
    first, _ = drive(one, 0, actions)
    assert np.array_equal(drive(other, 0, actions)[0], first)
    assert np.array_equal(drive(one, 0, actions)[0], first)
    assert not np.allclose(drive(one, 1, actions)[0], first)
    assert not np.allclose(other.reset()[0], first[0])  # without a seed the stream goes on


def test_sampled_latents_have_the_posteriors_distribution(world_model, world_model_folder):
    env = VAELatentObservation(Camera(), world_model_folder)
    z, _ = drive(env, 0, gentle_actions(59))
    frames = torch.from_numpy(encoder_input(Camera.frames[np.arange(60) % 6]))
    mu, logvar = (part.numpy() for part in world_model.vae.encode(frames))
    noise = (z - mu) / np.exp(logvar / 2)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(2 * noise.size))
    assert len(np.unique(noise.round(4))) > 0.9 * noise.size  # fresh for every latent and step


# --- h -------------------------------------------------------------------------------------------------------------


def test_h_is_the_memory_unrolled_over_z_and_actions(world_model, world_model_folder):
    env = gym.make("LatentCarRacing-v0", world_model=world_model_folder)
    actions = gentle_actions(20)
    for seed in (4, 5):  # h is zero again in the second episode
        observations, _ = drive(env, seed, actions)
        assert not observations[0, Z:].any()
        expected = reference_hidden(world_model, observations[:, :Z], actions)
        np.testing.assert_allclose(observations[:, Z:], expected, atol=1e-5)


def test_h_follows_the_action_of_the_same_step(world_model_folder, world_model):
    env = RNNHiddenObservation(VAELatentObservation(Camera(), world_model_folder))
    actions = gentle_actions(4)
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
        RNNHiddenObservation(gym.wrappers.FrameStackObservation(VAELatentObservation(Camera(), world_model_folder), 2))
    with pytest.raises(TypeError, match="wrap it in VAELatentObservation first"):
        RNNHiddenObservation(Camera())


def test_the_memory_needs_carracings_actions(world_model_folder):
    discrete = VAELatentObservation(gym.make("CarRacing-v3", continuous=False), world_model_folder)
    with pytest.raises(TypeError, match="Discrete"):
        RNNHiddenObservation(discrete)


def test_a_missing_world_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        VAELatentObservation(Camera(), tmp_path / "nowhere")
