"""Another env than CarRacing: what its artifact says of it, its dream and its real env, and what drives them."""

import json
import re
from dataclasses import asdict, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ACROBOT, ANOTHER, Z, another_task, make_world_model, some_actions
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO

import wm_gym
from wm_gym.actions import ActionConfig
from wm_gym.artifact import FORMAT_VERSION, PRETRAINED
from wm_gym.car_racing import CAR_RACING
from wm_gym.evaluate import make_lanes, rollout, summarize
from wm_gym.frames import encoder_input
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.policies import ActionBursts, RandomPolicy, load_policy
from wm_gym.registration import env_ids, task_of
from wm_gym.sb3 import make_sb3_vec
from wm_gym.tasks import TaskConfig, make_env
from wm_gym.world_model import WorldModel

pytestmark = [pytest.mark.usefixtures("no_display")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small world model of Acrobot."""
    folder = tmp_path_factory.mktemp("another") / "world_model"
    make_world_model(ANOTHER).save(folder)
    return str(folder)


@pytest.fixture
def clean_registry():
    before = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(before)


# --- the artifact --------------------------------------------------------------------------------------------------


def test_an_env_says_what_must_be_known_of_it():
    assert TaskConfig.of("Acrobot-v1") == ACROBOT
    lander = TaskConfig.of("LunarLander-v3", continuous=True)
    assert (lander.frame, lander.kwargs, lander.solved) == ((400, 600), {"continuous": True}, 200)
    assert lander.actions == ActionConfig((-1.0, -1.0), (1.0, 1.0))
    assert TaskConfig.of("CarRacing-v3") == CAR_RACING
    assert TaskConfig.of("CarRacing-v3", continuous=False).actions.space == gym.spaces.Discrete(5)


@pytest.mark.parametrize("env", ["NoSuchEnv-v0", "os:Acrobot-v1"])
def test_an_env_that_is_not_registered_is_refused(env):
    with pytest.raises(gym.error.Error, match=re.escape(env.split("-")[0])):
        TaskConfig.of(env)


@pytest.mark.parametrize("env", ["FrozenLake-v1", "Blackjack-v1"])
def test_an_env_with_a_toy_text_renders_frames_too(env):
    pytest.importorskip("pygame")
    assert len(TaskConfig.of(env).frame) == 2


def test_what_neither_shows_nor_takes_what_it_must_is_refused(clean_registry):
    class Blind(gym.Env):
        observation_space = gym.spaces.Box(0, 1, (2,))
        action_space = gym.spaces.Discrete(2)

    class Odd(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (8, 9, 3), np.uint8)
        action_space = gym.spaces.MultiBinary(3)

    gym.register("Blind-v0", Blind)
    gym.register("Odd-v0", Odd)
    with pytest.raises(TypeError, match=r"Blind-v0 neither observes pictures nor renders any"):
        TaskConfig.of("Blind-v0")
    with pytest.raises(ValueError, match=r"flat, bounded Box of float32 or a Discrete from 0, got MultiBinary"):
        TaskConfig.of("Odd-v0")


def test_the_artifact_keeps_its_task_and_needs_no_weights_to_tell(folder):
    assert WorldModel.load(folder).config.task == task_of(folder) == ACROBOT
    config = json.loads((PRETRAINED / "car_racing/world_model/config.json").read_text())
    assert (config["format_version"], "task" in config) == (1, False)
    assert task_of("car_racing") == WorldModel.from_pretrained("car_racing").config.task == CAR_RACING


def test_the_bundled_artifact_of_format_1_is_saved_again_as_what_it_is(tmp_path):
    model = WorldModel.load("car_racing")
    model.save(tmp_path / "again")
    again = WorldModel.load(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["format_version"] == FORMAT_VERSION == 2
    assert again.config == model.config
    assert (again.config.reward.end, again.config.reward.goal) == (-100, 294.109375)
    assert np.array_equal(again.starts.gained, model.starts.gained) and model.starts.gained.max() > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "os:system-v0"}, "expected the id of a registered env"),
        ({"env": "GymV26Environment-v0"}, "expected the id of a registered env"),
        ({"env": 3}, "expected the id of a registered env"),
        ({"kwargs": {"path": ["a"]}}, "kwargs are strings"),
        ({"kwargs": []}, "kwargs are strings"),
        ({"frame": [500]}, "frame"),
        ({"frame": [500, 0]}, "frame"),
        ({"fps": 1.5}, "fps"),
        ({"max_episode_steps": -1}, "max_episode_steps"),
        ({"solved": 1e300}, "solved"),
        ({"finished": 3}, "finished"),
        ({"actions": {"low": [0, 0], "high": [1, 1], "discrete": True}}, "action_size is 3, but Acrobot-v1 has 2"),
        ({"actions": {"low": [0, 0, 0], "high": [1, 1, 2], "discrete": True}}, "one-hot"),
        ({"actions": {"low": [0, 0, 0], "high": [1, 1, 1], "discrete": 1}}, "one-hot"),
        ({"actions": {"low": [0, 0, 0], "high": [1, 1, 1]}}, "discrete"),
        ({"actions": None}, "field"),
        ({"frame": [96, 96], "env": "CarRacing-v3", "more": 1}, "more"),
    ],
    ids=str,
)
def test_a_task_that_can_not_be_is_refused_by_name(tmp_path, change, message):
    make_world_model(ANOTHER).save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["task"].update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(wm_gym.ArtifactError, match=rf"config\.json: .*{message}"):
        WorldModel.load(tmp_path / "model")


@pytest.mark.parametrize("part", ["task", "reward", "memory"])
def test_no_part_of_a_new_format_is_made_up(tmp_path, part):
    make_world_model(ANOTHER).save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    whole = json.loads(path.read_text())
    for name in whole[part]:
        path.write_text(json.dumps({**whole, part: {key: whole[part][key] for key in whole[part] if key != name}}))
        with pytest.raises(wm_gym.ArtifactError, match=rf"config\.json: .*{name}"):
            WorldModel.load(tmp_path / "model")


def test_counts_and_a_goal_go_together():
    model = make_world_model(ANOTHER)
    with pytest.raises(ValueError, match="gains are counts where there is a goal"):
        replace(model.config, reward=replace(model.config.reward, goal=10.0))


# --- registering ---------------------------------------------------------------------------------------------------


def test_register_dream_registers_the_dream_its_lanes_and_the_real_env(folder, clean_registry):
    real_id = wm_gym.register_dream("mine/DreamSwing-v3", folder)
    assert real_id == "mine/LatentSwing-v3"
    dream, real, lanes = gym.make("mine/DreamSwing-v3"), gym.make(real_id), gym.make_vec("mine/DreamSwing-v3", 2)
    assert dream.observation_space == real.observation_space == lanes.single_observation_space
    assert dream.action_space == real.action_space == lanes.single_action_space == gym.spaces.Discrete(3)
    for each in (dream, real, lanes):
        assert each.spec.max_episode_steps == 500
        assert each.metadata["render_fps"] == 15
        each.reset(seed=0)
        each.close()


@pytest.mark.parametrize("id", ["Acrobot-v0", "DreamAcrobot", "dreamAcrobot-v0", "Dream-v0", "mine/LatentFoo-v0", ""])
def test_an_id_that_is_no_dreams_is_refused(folder, id):
    with pytest.raises(ValueError, match="a dream's id is"):
        wm_gym.register_dream(id, folder)


def test_a_world_model_that_is_not_there_is_not_registered():
    with pytest.raises(wm_gym.ArtifactError, match="nowhere: no such world_model"):
        wm_gym.register_dream("DreamNowhere-v0", "nowhere")
    assert "DreamNowhere-v0" not in gym.registry


def test_ids_follow_from_the_task(folder, clean_registry):
    assert env_ids("car_racing") == ("DreamCarRacing-v0", "LatentCarRacing-v0")
    assert env_ids(folder) == env_ids(folder) == ("DreamAcrobot-v0", "LatentAcrobot-v0")


def test_a_dream_of_another_task_than_its_id_says_is_refused(folder, clean_registry):
    wm_gym.register_dream("DreamSwing-v0", folder)
    for env_id, model, message in (
        ("DreamCarRacing-v0", folder, "a world model of Acrobot-v1, expected one of CarRacing-v3"),
        ("LatentCarRacing-v0", folder, "a world model of Acrobot-v1, expected one of CarRacing-v3"),
        ("DreamSwing-v0", "car_racing", "a world model of CarRacing-v3, expected one of Acrobot-v1"),
    ):
        with pytest.raises(wm_gym.ArtifactError, match=message):
            gym.make(env_id, world_model=model)
    with pytest.raises(wm_gym.ArtifactError, match="expected one of CarRacing-v3"):
        gym.make_vec("DreamCarRacing-v0", 2, world_model=folder)


# --- the real env --------------------------------------------------------------------------------------------------


def test_the_real_env_is_acrobot_as_it_renders_itself(folder):
    model = WorldModel.from_pretrained(folder)
    real, stock = gym.make(env_ids(folder)[1], world_model=folder), gym.make("Acrobot-v1", render_mode="rgb_array")
    observation, _ = real.reset(seed=4)
    stock.reset(seed=4)
    state = model.memory.initial_state(1)
    for action in np.random.default_rng(0).integers(0, 3, 8):
        frame = encoder_input(stock.render(), "whole")
        assert np.array_equal(real.get_wrapper_attr("frame"), frame)
        z, one_hot = torch.from_numpy(observation[None, :Z]), torch.eye(3)[[action]]
        state = model.memory.step(z, one_hot, state)
        observation, *rest = real.step(action)
        assert rest[:3] == list(stock.step(action)[1:4]) == [-1.0, False, False]
        np.testing.assert_allclose(observation[Z:], model.memory.hidden(state)[0], atol=1e-6)
    real.close()
    stock.close()


@pytest.mark.filterwarnings("ignore")
def test_the_real_env_passes_gymnasiums_check(folder):
    check_env(gym.make(env_ids(folder)[1], world_model=folder).unwrapped, skip_render_check=True)


def test_the_dream_goes_on_from_a_real_moment(folder):
    dream, real = (gym.make(env_id, world_model=folder) for env_id in env_ids(folder))
    observation, _ = real.reset(seed=0)
    for action in (2, 0, 0):
        observation, *_ = real.step(action)
    assert np.array_equal(dream.reset(options={"state": real.get_wrapper_attr("get_state")()})[0], observation)
    dream.step(1)


def test_the_real_env_renders_its_own_frames_and_no_window(folder):
    env = gym.make(env_ids(folder)[1], world_model=folder, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (500, 500, 3)
    env.close()
    with pytest.raises(ValueError, match="render_mode must be one of"):
        gym.make(env_ids(folder)[1], world_model=folder, render_mode="human")


def test_an_env_that_is_another_one_here_is_refused(folder):
    task = replace(ACROBOT, frame=(400, 600))
    with pytest.raises(
        TypeError, match=r"Acrobot-v1 observes .* but the world model was trained on frames of \(400, 600"
    ):
        make_env(task)
    with pytest.raises(TypeError, match=r"takes Discrete\(3\).*Discrete\(2\)"):
        make_env(replace(ACROBOT, actions=ActionConfig((0.0, 0.0), (1.0, 1.0), discrete=True)))


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


def test_a_controller_of_choices_is_saved_and_knows_its_env(folder, tmp_path):
    dream = gym.make(env_ids(folder)[0], world_model=folder)
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


def test_lanes_of_both_envs_roll_out_in_processes_too(folder):
    dream_id, real_id = env_ids(folder)
    config = ControllerConfig.for_spaces(gym.spaces.Box(-np.inf, np.inf, (288,)), gym.spaces.Discrete(3))
    controller = Controller(np.random.default_rng(1).normal(size=config.parameters), config)
    scores = {}
    for lanes in (1, 2):
        envs = make_lanes(real_id, lanes, world_model=folder, max_episode_steps=6)
        scores[lanes] = sorted((result.seed, result.score) for result in rollout(envs, controller, range(3)))
        envs.close()
    assert scores[1] == scores[2] == [(0, -6.0), (1, -6.0), (2, -6.0)]
    results = list(rollout(make_lanes(dream_id, 3, world_model=folder, max_episode_steps=6), controller, range(3)))
    assert len(results) == 3
    assert summarize(results, -100.0)["share_-100"] == 1.0
    assert not any(key.startswith("share") for key in summarize(results, None))


def test_sb3_trains_on_choices_and_its_zip_is_a_policy(folder, tmp_path):
    envs = make_sb3_vec(env_ids(folder)[0], 2, world_model=folder, max_episode_steps=9)
    assert envs.action_space == gym.spaces.Discrete(3)
    agent = PPO("MlpPolicy", envs, n_steps=16, batch_size=16, n_epochs=1, seed=0).learn(32)
    agent.save(tmp_path / "ppo_dream.zip")
    dream = gym.make(env_ids(folder)[0], world_model=folder, max_episode_steps=9)
    assert len(list(rollout(dream, load_policy(tmp_path / "ppo_dream.zip", dream), range(2)))) == 2


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


@another_task
def test_the_small_world_model_is_of_acrobot(world_model):
    assert world_model.config.task == ACROBOT
