"""Another env than CarRacing: what its artifact says of it, its dream and its real env."""

import json
import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ACROBOT, ANOTHER, Z, another_task, make_world_model
from gymnasium.utils.env_checker import check_env
from safetensors.numpy import load_file, save_file

import wm_gym
from training import gradient, train_controller
from wm_gym.actions import ActionConfig
from wm_gym.artifact import FORMAT_VERSION
from wm_gym.car_racing import CAR_RACING
from wm_gym.frames import encoder_input
from wm_gym.registration import env_ids, task_of
from wm_gym.tasks import TaskConfig, make_env
from wm_gym.world_model import WorldModel

pytestmark = [pytest.mark.usefixtures("no_display")]


# --- the artifact --------------------------------------------------------------------------------------------------


def test_an_env_says_what_must_be_known_of_it():
    assert TaskConfig.of("Acrobot-v1") == ACROBOT
    lander = TaskConfig.of("LunarLander-v3", continuous=True)
    assert (lander.frame, lander.kwargs, lander.solved) == ((400, 600), {"continuous": True}, 200)
    assert lander.actions == ActionConfig((-1.0, -1.0), (1.0, 1.0))
    assert TaskConfig.of("CarRacing-v3") == CAR_RACING
    assert TaskConfig.of("CarRacing-v3", continuous=False).actions.space == gym.spaces.Discrete(5)


def test_an_episode_is_as_long_as_asked_for_or_as_the_env_says():
    endless = replace(ACROBOT, max_episode_steps=None)
    assert [ACROBOT.limit(30), ACROBOT.limit(), endless.limit(30), endless.limit()] == [30, 500, 30, 1000]
    with pytest.raises(ValueError, match=r"at least one step, or 0 for the limit of Acrobot-v1, got -1"):
        ACROBOT.limit(-1)


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


@pytest.fixture
def format_1(tmp_path):
    """A world model as the first format kept it: of CarRacing alone, which it does not name, with its own words."""
    made = tmp_path / "format_1"
    make_world_model().save(made)
    config = json.loads((made / "config.json").read_text())
    del config["task"], config["doubters"], config["memory"]["counts"]
    reward = config["reward"]
    reward |= {"failure": reward.pop("end"), "lap_tiles": reward.pop("goal")}
    (made / "config.json").write_text(json.dumps(config | {"format_version": 1}))
    starts = load_file(made / "starts.safetensors")
    starts["tiles"] = starts.pop("gained")
    save_file(starts, made / "starts.safetensors")
    return made


def test_the_artifact_keeps_its_task_and_needs_no_weights_to_tell(acrobot_folder, format_1):
    assert WorldModel.load(acrobot_folder).config.task == task_of(acrobot_folder) == ACROBOT
    assert task_of(format_1) == WorldModel.load(format_1).config.task == CAR_RACING


@pytest.mark.parametrize("field", ["reward", "memory"])
@pytest.mark.parametrize("broken", [[1], None, "x", 5])
def test_a_spoilt_artifact_of_format_1_is_refused_by_name(format_1, field, broken):
    config = json.loads((format_1 / "config.json").read_text())
    (format_1 / "config.json").write_text(json.dumps(config | {field: broken}))
    with pytest.raises(wm_gym.ArtifactError, match=r"format_1.config\.json"):
        WorldModel.load(format_1)


def test_an_artifact_of_format_1_is_saved_again_as_what_it_is(format_1, tmp_path):
    model, made = WorldModel.load(format_1), make_world_model()
    model.save(tmp_path / "again")
    again = WorldModel.load(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["format_version"] == FORMAT_VERSION == 2
    assert again.config == model.config == made.config
    assert again.config.reward.goal == made.config.reward.goal > 0
    assert np.array_equal(again.starts.gained, model.starts.gained) and model.starts.gained.max() == 20


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


# --- the real env --------------------------------------------------------------------------------------------------


def test_the_real_env_is_acrobot_as_it_renders_itself(acrobot_folder):
    model = WorldModel.from_pretrained(acrobot_folder)
    real, stock = (
        gym.make(env_ids(acrobot_folder)[1], world_model=acrobot_folder),
        gym.make("Acrobot-v1", render_mode="rgb_array"),
    )
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
def test_the_real_env_passes_gymnasiums_check(acrobot_folder):
    check_env(gym.make(env_ids(acrobot_folder)[1], world_model=acrobot_folder).unwrapped, skip_render_check=True)


def test_the_dream_goes_on_from_a_real_moment(acrobot_folder):
    dream, real = (gym.make(env_id, world_model=acrobot_folder) for env_id in env_ids(acrobot_folder))
    observation, _ = real.reset(seed=0)
    for action in (2, 0, 0):
        observation, *_ = real.step(action)
    assert np.array_equal(dream.reset(options={"state": real.get_wrapper_attr("get_state")()})[0], observation)
    dream.step(1)


def test_the_real_env_renders_its_own_frames_and_no_window(acrobot_folder):
    env = gym.make(env_ids(acrobot_folder)[1], world_model=acrobot_folder, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (500, 500, 3)
    env.close()
    with pytest.raises(ValueError, match="render_mode must be one of"):
        gym.make(env_ids(acrobot_folder)[1], world_model=acrobot_folder, render_mode="human")


def test_an_env_that_is_another_one_here_is_refused(acrobot_folder):
    task = replace(ACROBOT, frame=(400, 600))
    with pytest.raises(
        TypeError, match=r"Acrobot-v1 observes .* but the world model was trained on frames of \(400, 600"
    ):
        make_env(task)
    with pytest.raises(TypeError, match=r"takes Discrete\(3\).*Discrete\(2\)"):
        make_env(replace(ACROBOT, actions=ActionConfig((0.0, 0.0), (1.0, 1.0), discrete=True)))


@another_task
def test_the_small_world_model_is_of_acrobot(world_model):
    assert world_model.config.task == ACROBOT


def test_no_gradient_flows_through_a_choice(acrobot_folder, tmp_path):
    args = train_controller.Args(world_model=acrobot_folder, out=tmp_path, gradient=gradient.Args(steps=1))
    with pytest.raises(ValueError, match=r"choice of actions: use --gradient\.steps 0"):
        train_controller.main(replace(args, population=4, rollouts=1, track=False))
    with pytest.raises(ValueError, match="--env must be DreamAcrobot-v0 or LatentAcrobot-v0, got 'DreamCarRacing-v0'"):
        train_controller.main(replace(args, env="DreamCarRacing-v0"))
