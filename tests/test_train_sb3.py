"""Agents of Stable-Baselines3, sb3-contrib, rl_zoo3 and others train on dream and real through the same ids."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world_model
from torch.nn.utils import parameters_to_vector

from training import gradient, hyperparameters, train_sb3
from training.checkpoints import read_log
from training.seeds import VALIDATION_SEEDS
from wm_gym.car_racing import CAR_RACING
from wm_gym.policies import load_policy
from wm_gym.sb3 import ALGORITHMS, algorithm

DREAM, REAL = "DreamCarRacing-v0", "LatentCarRacing-v0"

NAMES = [name.lower() for names in ALGORITHMS.values() for name in names if not name.endswith("DQN")]
SMALL = {
    "ars": {"n_delta": 1},
    "ppo": {"n_steps": 32, "batch_size": 32, "n_epochs": 1},
    "trpo": {"n_steps": 32, "batch_size": 32},
    "recurrentppo": {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "policy": "MlpLstmPolicy"},
}
"""Settings that let an algorithm learn something within the tests' few steps."""


@pytest.fixture
def small(monkeypatch):
    """Hyperparameters for a training of seconds."""

    def settings(algo, env, actions):
        early = (
            {"learning_starts": 150, "buffer_size": 1000}
            if issubclass(algorithm(algo), train_sb3.OffPolicyAlgorithm)
            else {}
        )
        policy = {"policy": "LinearPolicy" if algo == "ars" else "MlpPolicy"}
        return {"n_envs": 1 if env == REAL else 2, "n_timesteps": 200, **policy, **early, **SMALL.get(algo, {})}

    monkeypatch.setattr(train_sb3, "hyperparameters", settings)


def training(world_model_folder, out, **kwargs):
    settings = {"steps": 200, "evaluations": 1, "tracks": 1, "workers": 1, "max_steps": 30, "track": False}
    return train_sb3.Args(world_model=world_model_folder, out=out, **{**settings, **kwargs})


@pytest.mark.parametrize("env", [DREAM, REAL])
@pytest.mark.parametrize("algo", NAMES)
def test_every_algorithm_trains_saves_and_loads(small, monkeypatch, world_model_folder, tmp_path, algo, env):
    pytest.importorskip("sb3_contrib")
    agents, began = [], []
    learn = algorithm(algo).learn

    def watch(self, *args, **kwargs):
        agents.append(self)
        began.append(parameters_to_vector(self.policy.parameters()).detach().clone())
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(algorithm(algo), "learn", watch)
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    best = train_sb3.main(training(world_model_folder, tmp_path, algo=algo, env=env))
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["steps"] >= 200 and line["real"]["episodes"] == line["dream"]["episodes"] == 1
    learnt = algorithm(algo).load(best).policy.parameters()
    assert not torch.equal(parameters_to_vector(learnt), began[0])
    spaces = gym.make(DREAM, world_model=world_model_folder)
    policy = load_policy(str(best), spaces)
    with pytest.raises(ValueError, match="knows the latents of another world model"):
        load_policy(str(best), gym.make(DREAM))
    observations = np.stack([spaces.observation_space.sample() for _ in range(4)])
    theirs, _ = agents[0].predict(observations, deterministic=True)
    mine, _ = policy.predict(observations, deterministic=True)
    box = spaces.action_space
    np.testing.assert_allclose(mine, box.low + (theirs.clip(-1, 1) + 1) / 2 * (box.high - box.low), atol=1e-6)


@pytest.mark.parametrize("algo", ["ppo", "sac", "ars"])
def test_a_stopped_training_goes_on(small, monkeypatch, world_model_folder, tmp_path, algo):
    pytest.importorskip("sb3_contrib")
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    settings = {"algo": algo, "evaluations": 2}
    train_sb3.main(training(world_model_folder, tmp_path, steps=200, **settings))
    first = read_log(tmp_path / "log.jsonl")
    assert len(first) == 2
    train_sb3.main(training(world_model_folder, tmp_path, steps=200, **settings))  # nothing is left to do
    assert read_log(tmp_path / "log.jsonl") == first

    kept = algorithm(algo).load(tmp_path / f"{algo}.zip").policy.state_dict()
    began = []
    learn = algorithm(algo).learn

    def watch(self, *args, **kwargs):
        parts = {name: value.clone() for name, value in self.policy.state_dict().items()}
        size = self.replay_buffer.size() if algo == "sac" else None
        began.append((parts, size, self.weights.clone() if algo == "ars" else None))
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(algorithm(algo), "learn", watch)
    train_sb3.main(training(world_model_folder, tmp_path, steps=400, **settings))
    lines = read_log(tmp_path / "log.jsonl")
    assert lines[:2] == first and len(lines) == 3 and lines[-1]["steps"] >= 400
    assert lines[-1]["minutes"] > first[-1]["minutes"]
    ((weights, size, flat),) = began
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    assert size is None or size >= 99  # rows of two lanes
    assert flat is None or flat.abs().sum() > 0


def test_a_training_killed_before_its_last_validation_is_logged_makes_it_again(
    small, monkeypatch, world_model_folder, tmp_path
):
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    with monkeypatch.context() as patch:
        patch.setattr(train_sb3, "append_log", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_sb3.main(training(world_model_folder, tmp_path))
    best = train_sb3.main(training(world_model_folder, tmp_path))
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["steps"] >= 200 and best.is_file()


def test_minutes_of_an_agent_that_was_killed_while_it_was_validated_count(
    small, monkeypatch, world_model_folder, tmp_path
):
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    settings = training(world_model_folder, tmp_path, steps=10**9, minutes=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(train_sb3, "append_log", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_sb3.main(settings)
    monkeypatch.setattr(algorithm("ppo"), "learn", lambda *_, **__: pytest.fail("trained on"))
    train_sb3.main(settings)
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["minutes"] >= 0.05


def test_hands_tremble_in_the_dream_alone(small, monkeypatch, world_model_folder, tmp_path):
    made = Mock(side_effect=train_sb3.SB3VecEnv)
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    monkeypatch.setattr(train_sb3, "SB3VecEnv", made)
    train_sb3.main(training(world_model_folder, tmp_path, disturbance=0.2))
    ((envs,),) = (call.args for call in made.call_args_list)
    low, high = envs.action_space.low, envs.action_space.high
    disturbed = envs.actions((low + high) / 2)
    assert len(np.unique(disturbed)) > 1 and ((low <= disturbed) & (disturbed <= high)).all()
    with pytest.raises(ValueError, match="--disturbance 0 on the real env"):
        train_sb3.main(training(world_model_folder, tmp_path / "real", env=REAL, disturbance=0.2))


def test_scaled_rewards_keep_their_statistics_when_a_training_goes_on(small, monkeypatch, world_model_folder, tmp_path):
    given = train_sb3.hyperparameters
    monkeypatch.setattr(
        train_sb3, "hyperparameters", lambda *args: {**given(*args), "normalize": {"norm_obs": False}, "gamma": 0.9}
    )
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    counts, learn = [], algorithm("ppo").learn

    def count(self, *args, **kwargs):
        scaled = self.get_vec_normalize_env()
        assert scaled.gamma == 0.9
        counts.append(scaled.ret_rms.count)
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(algorithm("ppo"), "learn", count)
    for steps in (200, 400):
        train_sb3.main(training(world_model_folder, tmp_path, algo="ppo", steps=steps))
    steps = read_log(tmp_path / "log.jsonl")[0]["steps"]
    assert counts[0] < 1 and counts[1] == pytest.approx(steps, abs=1)
    monkeypatch.setattr(train_sb3, "hyperparameters", lambda *args: {**given(*args), "normalize": {"norm_obs": True}})
    with pytest.raises(ValueError, match="norm_obs to false"):
        train_sb3.main(training(world_model_folder, tmp_path / "other", algo="ppo"))


@pytest.mark.parametrize(("algo", "steps", "learnt"), [("ppo", 64, 1), ("sac", 152, 1), ("ars", 30, 1)])
def test_what_is_validated_has_learnt_from_all_steps(
    small, monkeypatch, world_model_folder, tmp_path, algo, steps, learnt
):
    pytest.importorskip("sb3_contrib")
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    updates, validate = [], train_sb3.validate

    def watch(args, agent, env, lanes):
        updates.append((agent.num_timesteps, agent._n_updates))
        return validate(args, agent, env, lanes)

    monkeypatch.setattr(train_sb3, "validate", watch)
    train_sb3.main(training(world_model_folder, tmp_path, algo=algo, steps=steps, evaluations=1))
    (taken, dreaming), (_, driving) = updates
    assert taken >= steps and dreaming == driving == learnt


def test_dreams_are_those_asked_for_and_as_long_as_the_real_ones(small, monkeypatch, world_model_folder, tmp_path):
    made = Mock(side_effect=train_sb3.make_weighed)
    monkeypatch.setattr(train_sb3, "make_weighed", made)
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    monkeypatch.setattr(train_sb3, "task_of", lambda name: replace(CAR_RACING, max_episode_steps=12))
    drives = Mock(side_effect=train_sb3.rollout)
    monkeypatch.setattr(train_sb3, "rollout", drives)
    how = {"temperature": 1.7, "starts": "episode", "objective": gradient.Objective(beyond=0.5)}
    train_sb3.main(training(world_model_folder, tmp_path, max_steps=0, **how))
    assert made.call_args.args[2] == how.pop("objective")
    assert made.call_args.kwargs.items() >= {**how, "max_episode_steps": 12}.items()
    assert [call.args[2] for call in drives.call_args_list] == [VALIDATION_SEEDS[:1]] * 2
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["frames"] == 13


def test_a_folder_of_another_training_is_refused(small, monkeypatch, world_model_folder, tmp_path):
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    train_sb3.main(training(world_model_folder, tmp_path))
    for changed in ({"algo": "a2c"}, {"env": REAL}, {"seed": 1}, {"temperature": 2.0}):
        with pytest.raises(ValueError, match=f"begun with another .*{next(iter(changed))}"):
            train_sb3.main(training(world_model_folder, tmp_path, **changed))


def test_a_training_does_not_go_on_in_another_world_model(small, monkeypatch, tmp_path):
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    model = make_world_model()
    model.save(tmp_path / "model")
    train_sb3.main(training(str(tmp_path / "model"), tmp_path / "out"))
    with torch.no_grad():
        model.memory.heads.bias += 1
    model.save(tmp_path / "model")
    monkeypatch.setattr(algorithm("ppo"), "learn", lambda *_, **__: pytest.fail("trained on"))
    with pytest.raises(ValueError, match=r"ppo\.zip knows the latents of another world model"):
        train_sb3.main(training(str(tmp_path / "model"), tmp_path / "out", steps=400))


def test_the_clock_ends_a_training(small, monkeypatch, world_model_folder, tmp_path):
    monkeypatch.setattr(train_sb3, "film_best", lambda args: None)
    train_sb3.main(training(world_model_folder, tmp_path, steps=10**9, minutes=0.05))
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["minutes"] >= 0.05 and line["steps"] < 10**6


def test_the_best_agent_is_kept_and_filmed(small, monkeypatch, world_model_folder, tmp_path):
    scores = iter([3.0, 5.0, 4.0])
    saved = []

    def summary(results, solved):
        return {"mean": summary.mean}

    def validated(args, agent, env, lanes):
        if env == REAL:
            summary.mean = next(scores)
            saved.append((args.out / "ppo.zip").read_bytes())  # written before it is validated
        return []

    monkeypatch.setattr(train_sb3, "validate", validated)
    monkeypatch.setattr(train_sb3, "summarize", summary)
    best = train_sb3.main(training(world_model_folder, tmp_path, steps=300, evaluations=3))
    assert best.read_bytes() == saved[1] != saved[2]
    kept = [tmp_path / "checkpoints" / str(line["steps"]) / "ppo.zip" for line in read_log(tmp_path / "log.jsonl")]
    assert [path.read_bytes() for path in kept] == saved
    assert (tmp_path / "drive.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algo": "sarsa"}, "no algorithm 'sarsa'"),
        ({"algo": "dqn"}, r"dqn is not for the actions of DreamCarRacing-v0, Box.*give another --algo"),
        ({"env": "CarRacing-v3"}, "--env must be"),
        ({"evaluations": 51}, "1 to 50 times"),
        ({"tracks": 101}, "there are 100 tracks.*can't drive 101"),
        ({"env": REAL, "seed": 1_000_000}, "lanes begin on training tracks.*got --seed 1000000"),
        ({"seed": -1}, "lanes begin on training tracks.*got --seed -1"),
    ],
)
def test_what_can_not_be_trained_is_refused(world_model_folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train_sb3.main(training(world_model_folder, tmp_path, **settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", sorted(hyperparameters.FOLDER.glob("*.yml")), ids=lambda file: file.stem)
def test_rl_zoo3_reads_the_hyperparameter_files(file, tmp_path):
    if find_spec("rl_zoo3") is None:  # not imported: it changes gymnasium's TimeLimit
        pytest.skip("needs rl_zoo3")
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", file.stem, "--env", DREAM, "--gym-packages", "wm_gym"]
    command += ["--conf-file", str(file), "--log-folder", str(tmp_path), "--n-timesteps", "64", "--eval-freq", "-1"]
    command += ["--verbose", "0", "--hyperparams", "n_envs:1"]
    command += ["n_steps:32"] if file.stem == "ppo" else ["learning_starts:50", "buffer_size:1000"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=alone)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(Path(tmp_path).glob(f"{file.stem}/{DREAM}_1/{DREAM}.zip"))
