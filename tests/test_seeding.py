"""Random streams: repeatable, one for each use, and none that tells of the env's."""

from itertools import combinations

import gymnasium as gym
import numpy as np
import pytest
from scipy.stats import spearmanr

from wm_gym import VAELatentObservation
from wm_gym.car_racing import CAR_RACING, ScriptedDriver
from wm_gym.seeding import stream

SEEDS = range(300)
STRANGE = 0.3
"""A correlation that chance reaches once in five million times."""


def strangest(one, other):
    """Return the greatest rank correlation of a column of one array with a column of another."""
    return np.abs(spearmanr(one, other).statistic[: one.shape[1], one.shape[1] :]).max()


def test_a_stream_repeats_and_is_another_one_for_another_seed_or_use():
    draws = [stream(seed, use).random(4).tolist() for seed in (0, 1) for use in ("z", "driver")]
    assert draws[0] == stream(0, "z").random(4).tolist()
    assert all(one != other for one, other in combinations(draws, 2))
    assert stream(None, "z").random() != stream(None, "z").random()


@pytest.mark.parametrize("use", ["z", "driver", "tremor", "bursts", "random actions", "tremble"])
def test_a_stream_tells_nothing_of_the_env_with_its_seed(use):
    tracks = np.array([np.random.default_rng(seed).uniform(size=8) for seed in SEEDS])
    uniform = np.array([stream(seed, use).uniform(size=8) for seed in SEEDS])
    normal = np.abs([stream(seed, use).standard_normal(8, dtype=np.float32) for seed in SEEDS])
    assert strangest(tracks, uniform) < STRANGE and strangest(tracks, normal) < STRANGE


class Grey(gym.Env):
    """Always shows one frame."""

    observation_space = gym.spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = CAR_RACING.actions.space

    def reset(self, *, seed=None, options=None):
        return np.full((96, 96, 3), 90, np.uint8), {}


def test_neither_z_nor_the_driver_tells_of_the_track(world_model_folder, car_racing):
    tracks = np.array([np.random.default_rng(seed).uniform(size=8) for seed in SEEDS])
    env = VAELatentObservation(Grey(), world_model_folder)
    z = np.array([env.reset(seed=seed)[0][:8] for seed in SEEDS])
    drivers = [ScriptedDriver.varied(car_racing, seed) for seed in SEEDS]
    names = ("top_speed", "grip", "braking", "offset", "horizon", "bend_gas", "tremor")
    habits = np.array([[getattr(each, name) for name in names] for each in drivers])
    for drawn in (np.abs(z - z.mean(axis=0)), habits):
        assert drawn.std(axis=0).min() > 0
        assert strangest(tracks, drawn) < STRANGE
