"""Long runs: numbers that stay numbers, memory that stays flat."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import COAST, ID

from benchmarks.soak import steps
from wm_gym.world_model import WorldModel

pytestmark = [pytest.mark.usefixtures("box2d", "no_display"), pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("temperature", [0.001, 1000])
def test_dreams_of_extreme_temperatures_are_finite(make_kind, temperature):
    envs = make_kind("dreams", temperature=temperature)
    envs.reset(seed=0)
    for _ in range(200):
        observation, reward, *_ = envs.step(envs.action_space.sample())
        assert np.isfinite(observation).all() and np.isfinite(reward).all()
    envs.reset(options={"state": envs.get_state()})  # the env's own states are never refused


def test_a_dream_comes_back_from_a_latent_far_out():
    env = gym.make(ID).unwrapped
    env.reset(seed=0)
    real = abs(steps.real_latents(env.dream.world_model.starts)).max()
    for far in (10 * real, 1e6):
        state = env.get_state()
        env.reset(options={"state": replace(state, z=torch.full_like(state.z, far))})
        for _ in range(20):
            assert abs(env.step(COAST)[0][:32]).max() < steps.REACH * real


def test_a_long_run_stays_in_its_bounds(world_model_folder):
    figures = steps.run(lane_steps=20_000, resets=4, seed=0, world_model=world_model_folder)
    dreams = figures["dreams"]
    assert dreams["lane_steps"] >= 20_000
    assert dreams["episodes"] > 100
    assert (dreams["not_finite"], dreams["out_of_bounds"]) == (0, 0)
    for name, resets in figures["resets"].items():
        assert resets["resets"] == 4, name
        assert resets["outside_the_space"] == 0, name
    for run in (dreams, *figures["resets"].values()):
        assert 50 < run["memory"]["after_warm_up_mb"] < 5000
        assert run["memory"]["growth"] < 0.05  # a long run's limit is 0.01, of more


def test_latents_of_the_bundled_world_model_stay_near_real_ones(monkeypatch):
    monkeypatch.setattr(steps, "LANES", 32)
    figures = steps.dream(steps.Dreams(lane_steps=8_000, seed=1, world_model="car_racing"))
    real = steps.real_latents(WorldModel.from_pretrained("car_racing").starts)
    assert figures["latents"]["real"] == {"range": [real.min(), real.max()], "numbers": real.size}
    assert (figures["not_finite"], figures["out_of_bounds"]) == (0, 0)
    for temperature in steps.TEMPERATURES:
        seen = figures["latents"][f"temperature {temperature}"]
        assert seen["beyond_reach"] == 0
        assert seen["share_beyond_real"] < (1e-3 if temperature < 3 else 1e-2)
        assert seen["range"][0] < -3 and seen["range"][1] > 3  # dreams do move


def test_memory_that_grows_beyond_gymnasiums_own_is_a_leak(monkeypatch):
    grows = {"dream": 0.0, "LatentCarRacing-v0": 10.0, "CarRacing-v3": 10.0}

    def run(function, jobs, *_):
        name = getattr(jobs[0], "env_id", "dream")
        return iter([{"memory": {"after_warm_up_mb": 500.0, "at_the_end_mb": 500.0 + grows[name]}}])

    monkeypatch.setattr(steps, "map_jobs", run)
    assert steps.run(1, 1, 0)["leaks"] == []
    grows |= {"dream": 6.0, "LatentCarRacing-v0": 16.0}
    assert steps.run(1, 1, 0)["leaks"] == ["dreams", "LatentCarRacing-v0"]


def test_what_leaves_its_bounds_is_counted(world_model_folder, monkeypatch):
    """The counters of a long run see a latent far out and a number that is none."""
    monkeypatch.setattr(steps, "LANES", 8)
    job = steps.Dreams(lane_steps=32, seed=0, world_model=world_model_folder)
    monkeypatch.setattr(steps, "REACH", 0.1)
    assert steps.dream(job)["latents"]["temperature 1.0"]["beyond_reach"] > 100
    for broken, counter in ((torch.nan, "not_finite"), (1e30, "beyond_reach")):
        monkeypatch.setattr(
            "wm_gym.dream.sample_mixture",
            lambda prediction, *_, value=broken, **__: torch.full_like(prediction.mu[..., 0], value),
        )
        figures = steps.dream(job)
        assert {**figures, **figures["latents"]["temperature 1.0"]}[counter] >= 8 * 32
