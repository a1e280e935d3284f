"""The dream as a single Gymnasium env, as Gymnasium, Stable-Baselines3 and wrappers want it."""

import os
import pickle
import subprocess
import sys
from hashlib import sha256

import gymnasium as gym
import numpy as np
import pytest
from conftest import COAST, assert_warns_only_of, every_dream, every_task, make_world_model, trace
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, RescaleAction
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from wm_gym.registration import env_ids, task_of

pytestmark = pytest.mark.usefixtures("no_display")
UNBOUNDED = {"observation space minimum value is -infinity", "observation space maximum value is infinity"}


# --- what Gymnasium and SB3 ask of an env -------------------------------------------------------------------------


@every_dream
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_passes_gymnasiums_check(make, render_mode):
    env = make(render_mode=render_mode)
    assert_warns_only_of(UNBOUNDED, lambda: check_env(env.unwrapped))


@every_dream
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_passes_sb3s_check(make, render_mode):
    env = make(render_mode=render_mode)
    asymmetric = ["symmetric and normalized Box action space"] * isinstance(env.action_space, gym.spaces.Box)
    assert_warns_only_of(set(asymmetric), lambda: check_env_for_sb3(env, True, False))


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


@every_dream
def test_spaces_are_those_of_the_real_task(env, world_model_folder):
    real = gym.make(env_ids(world_model_folder)[1], world_model=world_model_folder)
    stock = gym.make(task_of(world_model_folder).env)
    assert env.observation_space == real.observation_space == gym.spaces.Box(-np.inf, np.inf, (288,), np.float32)
    assert env.action_space == real.action_space == stock.action_space
    real.close()
    stock.close()


@every_dream
@pytest.mark.parametrize("change", ["to_json", "pickle"])
def test_is_made_again_from_its_spec(make, change, random_actions):
    env = make(temperature=1.3, sampling="mode", starts="any", max_episode_steps=9)
    spec = env.spec
    spec = EnvSpec.from_json(spec.to_json()) if change == "to_json" else pickle.loads(pickle.dumps(spec))
    again = gym.make(spec)
    assert again.unwrapped.dream.temperature == 1.3
    assert np.array_equal(env.reset(seed=5)[0], again.reset(seed=5)[0])
    assert trace(env, random_actions(20)) == trace(again, random_actions(20))


# --- wrappers ------------------------------------------------------------------------------------------------------


@every_task
def test_time_limit_truncates(make, coast):
    env = make(max_episode_steps=4, sampling="mode")
    env.reset(seed=0)
    assert [env.step(coast)[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]


@every_task
def test_the_registered_time_limit_is_the_real_tasks(env, world_model_folder):
    assert env.spec.max_episode_steps == gym.spec(task_of(world_model_folder).env).max_episode_steps


@every_task
def test_record_episode_statistics(make, coast):
    env = RecordEpisodeStatistics(make(max_episode_steps=30))
    env.reset(seed=0)
    rewards, over = [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(coast)
        rewards.append(reward)
        over = terminated or truncated
    assert info["episode"]["r"] == pytest.approx(sum(rewards))
    assert info["episode"]["l"] == len(rewards)


@every_task
def test_flatten_observation_changes_nothing(make, env, random_actions):
    flat = FlattenObservation(make())
    env.reset(seed=0)
    flat.reset(seed=0)
    assert trace(flat, random_actions(10)) == trace(env, random_actions(10))


def test_rescaled_actions(make, env):
    rescaled = RescaleAction(make(), np.float32(-1), np.float32(1))
    rescaled.reset(seed=0)
    env.reset(seed=0)
    actions = np.array([[-1, -1, 1], [0.5, 0, -1], [1, 1, 1]], np.float32)
    inside = np.array([[-1, 0, 1], [0.5, 0.5, 0], [1, 1, 1]], np.float32)
    assert trace(rescaled, actions) == trace(env, inside)


@pytest.mark.parametrize(("logit", "ends"), [(0.1, True), (-0.1, False)])
def test_mode_ends_where_an_end_is_likelier_than_not(logit, ends, tmp_path):
    model = make_world_model()
    model.memory.heads.weight[-1], model.memory.heads.bias[-1] = 0, logit
    model.save(tmp_path / "model")
    env = gym.make("DreamCarRacing-v0", world_model=str(tmp_path / "model"), sampling="mode")
    env.reset(seed=0)
    for _ in range(20):
        _, reward, terminated, _, _ = env.step(COAST)
        assert terminated == ends and (reward == -100) == ends
        if ends:
            break
