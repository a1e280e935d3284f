"""Actions that are one of some choices: as the networks see them, and policies that make them."""

import re
from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest
from conftest import ACROBOT, another_task, some_actions
from stable_baselines3 import DQN, PPO

from wm_gym.actions import ActionConfig
from wm_gym.car_racing import CAR_RACING
from wm_gym.evaluate import make_lanes, rollout, summarize
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.policies import ActionBursts, RandomPolicy, load_policy
from wm_gym.registration import env_ids
from wm_gym.sb3 import make_sb3_vec

# --- policies ------------------------------------------------------------------------------------------------------


def test_a_controller_takes_the_choice_of_its_greatest_output():
    config = ControllerConfig.for_spaces(gym.spaces.Box(-np.inf, np.inf, (2,)), gym.spaces.Discrete(3))
    assert (config.action_size, config.parameters, config.actions.space) == (3, 9, gym.spaces.Discrete(3))
    rows = [[1, 0, 0], [0, 1, 0], [0, 0, 0.5]]  # z[0], z[1], 0.5
    controller = Controller(np.ravel(rows), config)
    observations = np.array([[2, 1], [1, 2], [0, 0], [-5, -5]], np.float32)
    assert controller.predict(observations)[0].tolist() == [0, 1, 2, 2]
    alone = controller.predict(observations[0])[0]
    assert np.shape(alone) == () and gym.spaces.Discrete(3).contains(alone)
    population = Controller(np.stack([np.ravel(rows), np.ravel(rows[::-1])]), config)
    assert population.predict(observations[:2])[0].tolist() == [0, 1]
    assert population.member(1).predict(observations)[0].tolist() == [2, 1, 0, 0]


@another_task
def test_a_controller_of_choices_is_saved_and_knows_its_env(world_model_folder, tmp_path):
    dream = gym.make(env_ids(world_model_folder)[0], world_model=world_model_folder)
    config = ControllerConfig.for_spaces(dream.observation_space, dream.action_space)
    controller = Controller(np.random.default_rng(0).normal(size=config.parameters), config)
    controller.save(tmp_path / "controller")
    loaded = load_policy(tmp_path / "controller", dream)
    assert loaded.config == config
    (episode,) = rollout(dream, loaded, [3])
    assert np.isfinite(episode.score) and episode.finished is None
    with pytest.raises(ValueError, match=r"maps 288 observations to Discrete\(3\), but the env has .*Box"):
        load_policy(tmp_path / "controller", gym.make("DreamCarRacing-v0"))
    with pytest.raises(ValueError, match=r"to Box\(.*but the env has .*Discrete\(3\)"):
        load_policy("car_racing", dream)
    with pytest.raises(TypeError, match="a scripted driver needs CarRacing"):
        load_policy("scripted", dream)


@pytest.mark.parametrize("bursts", [False, True])
def test_random_choices_are_of_the_space_and_of_their_seed(bursts):
    observations, space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3)

    def drawn(seed):
        policy = RandomPolicy(observations, space, seed)
        policy = ActionBursts(policy, space, 1.0, 5, seed) if bursts else policy
        return [int(policy.predict(np.zeros(2))[0]) for _ in range(200)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert set(drawn(0)) == {0, 1, 2}
    held = np.mean(np.diff(drawn(0)) == 0)
    assert held > 0.6 if bursts else held < 0.5
    assert RandomPolicy(observations, space, 0).predict(np.zeros((7, 2)))[0].shape == (7,)


@another_task
def test_lanes_of_both_envs_roll_out_in_processes_too(world_model_folder):
    dream_id, real_id = env_ids(world_model_folder)
    config = ControllerConfig.for_spaces(gym.spaces.Box(-np.inf, np.inf, (288,)), gym.spaces.Discrete(3))
    controller = Controller(np.random.default_rng(1).normal(size=config.parameters), config)
    scores = {}
    for lanes in (1, 2):
        envs = make_lanes(real_id, lanes, world_model=world_model_folder, max_episode_steps=6)
        scores[lanes] = sorted((result.seed, result.score) for result in rollout(envs, controller, range(3)))
        envs.close()
    assert scores[1] == scores[2] == [(0, -6.0), (1, -6.0), (2, -6.0)]
    results = list(
        rollout(make_lanes(dream_id, 3, world_model=world_model_folder, max_episode_steps=6), controller, range(3))
    )
    assert len(results) == 3
    assert summarize(results, -100.0)["share_-100"] == 1.0
    assert not any(key.startswith("share") for key in summarize(results, None))


@another_task
@pytest.mark.parametrize("algo", [PPO, DQN])
def test_sb3_trains_on_choices_and_its_zip_is_a_policy(algo, world_model_folder, tmp_path):
    envs = make_sb3_vec(env_ids(world_model_folder)[0], 2, world_model=world_model_folder, max_episode_steps=9)
    assert envs.action_space == gym.spaces.Discrete(3)
    how = {"n_steps": 16, "n_epochs": 1} if algo is PPO else {"learning_starts": 8, "buffer_size": 100}
    agent = algo("MlpPolicy", envs, batch_size=16, seed=0, **how).learn(32)
    zipped = tmp_path / f"{algo.__name__.lower()}_dream.zip"
    agent.save(zipped)
    dream = gym.make(env_ids(world_model_folder)[0], world_model=world_model_folder, max_episode_steps=9)
    assert len(list(rollout(dream, load_policy(zipped, dream), range(2)))) == 2


# --- actions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3, start=1),
        gym.spaces.MultiDiscrete([2, 2]),
        gym.spaces.Box(-np.inf, 1, (2,)),
        gym.spaces.Box(-1, 1, (2, 2)),
        gym.spaces.Box(-1, 1, (2,), np.float64),
        gym.spaces.Box(0, 3, (2,), np.int64),
    ],
    ids=str,
)
def test_spaces_that_no_memory_takes_are_named(space):
    with pytest.raises(
        ValueError, match=f"flat, bounded Box of float32 or a Discrete from 0, got {re.escape(str(space))}"
    ):
        ActionConfig.of(space)


def test_actions_are_encoded_for_the_networks():
    choices = ActionConfig.of(gym.spaces.Discrete(3))
    assert ActionConfig(**{**asdict(choices)}) == choices == ACROBOT.actions
    assert np.array_equal(choices.encode(np.array([[2, 0], [1, 1]])), np.eye(3, dtype=np.float32)[[[2, 0], [1, 1]]])
    assert choices.encode(np.int64(1)).tolist() == [0, 1, 0]
    assert choices.encode(np.int64(1)).dtype == np.float32
    vectors = some_actions(4)
    assert CAR_RACING.actions.encode(vectors) is vectors
