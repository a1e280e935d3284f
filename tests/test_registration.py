"""Registering the dreams of any world model, and which world model a name stands for."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import ACROBOT, ANOTHER, make_world_model

import wm_gym
from wm_gym.car_racing import CAR_RACING
from wm_gym.models.controller import Controller
from wm_gym.registration import env_ids
from wm_gym.world_model import WorldModel

pytestmark = [pytest.mark.usefixtures("no_display")]


def test_register_dream_registers_the_dream_its_lanes_and_the_real_env(acrobot_folder, clean_registry):
    real_id = wm_gym.register_dream("mine/DreamSwing-v3", acrobot_folder)
    assert real_id == "mine/LatentSwing-v3"
    dream, real, lanes = gym.make("mine/DreamSwing-v3"), gym.make(real_id), gym.make_vec("mine/DreamSwing-v3", 2)
    assert dream.observation_space == real.observation_space == lanes.single_observation_space
    assert dream.action_space == real.action_space == lanes.single_action_space == gym.spaces.Discrete(3)
    for each in (dream, real, lanes):
        assert each.spec.max_episode_steps == 500
        assert each.metadata["render_fps"] == 15
        each.reset(seed=0)
        each.close()


@pytest.mark.parametrize(
    "id", ["Acrobot-v0", "DreamAcrobot", "dreamAcrobot-v0", "Dream-v0", "mine/LatentFoo-v0", "", None]
)
def test_an_id_that_is_no_dreams_is_refused(acrobot_folder, id):
    with pytest.raises(ValueError, match="a dream's id begins with Dream and ends with a version"):
        wm_gym.register_dream(id, acrobot_folder)


def test_a_world_model_that_is_not_there_is_not_registered():
    with pytest.raises(wm_gym.ArtifactError, match="nowhere: no such world_model"):
        wm_gym.register_dream("DreamNowhere-v0", "nowhere")
    assert "DreamNowhere-v0" not in gym.registry


def test_ids_follow_from_the_task(acrobot_folder, clean_registry):
    assert env_ids("car_racing") == ("DreamCarRacing-v0", "LatentCarRacing-v0")
    assert env_ids(acrobot_folder) == env_ids(acrobot_folder) == ("DreamAcrobot-v0", "LatentAcrobot-v0")


def test_ids_of_a_namespace_keep_it_and_no_id_stands_for_two_tasks(acrobot_folder, tmp_path, clean_registry):
    for folder, task in (("mine", "mine/CarRacing-v0"), ("old", "CarRacing-v2")):
        make_world_model(task=replace(CAR_RACING, env=task)).save(tmp_path / folder)
    assert env_ids(tmp_path / "mine") == ("mine/DreamCarRacing-v0", "mine/LatentCarRacing-v0")
    with pytest.raises(ValueError, match=r"DreamCarRacing-v0 is the dream of CarRacing-v3 .* CarRacing-v2 in another"):
        env_ids(tmp_path / "old")


def test_a_dream_of_another_task_than_its_id_says_is_refused(acrobot_folder, clean_registry):
    wm_gym.register_dream("DreamSwing-v0", acrobot_folder)
    for env_id, model, message in (
        ("DreamCarRacing-v0", acrobot_folder, "a world model of Acrobot-v1, expected one of CarRacing-v3"),
        ("LatentCarRacing-v0", acrobot_folder, "a world model of Acrobot-v1, expected one of CarRacing-v3"),
        ("DreamSwing-v0", "car_racing", "a world model of CarRacing-v3, expected one of Acrobot-v1"),
    ):
        with pytest.raises(wm_gym.ArtifactError, match=message):
            gym.make(env_id, world_model=model)
    with pytest.raises(wm_gym.ArtifactError, match="expected one of CarRacing-v3"):
        gym.make_vec("DreamCarRacing-v0", 2, world_model=acrobot_folder)


def test_the_same_again_warns_of_nothing_and_another_world_model_does(acrobot_folder, clean_registry, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            wm_gym.register_dream("DreamSwing-v0", acrobot_folder)
    make_world_model(ANOTHER).save(tmp_path / "another")
    with pytest.warns(UserWarning, match="Overriding"):
        wm_gym.register_dream("DreamSwing-v0", tmp_path / "another")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_registered_folder_stays_the_same_one_wherever_the_process_goes(kind, clean_registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_world_model(ANOTHER).save(Path("runs/mine"))
    real_id = wm_gym.register_dream("DreamMine-v0", kind("runs/mine"))
    (tmp_path / "elsewhere").mkdir()
    os.chdir("elsewhere")
    for env_id in ("DreamMine-v0", real_id):
        env = gym.make(env_id)
        env.reset(seed=0)
        env.close()


def test_a_path_is_never_a_bundled_name(tmp_path, monkeypatch, clean_registry):
    monkeypatch.chdir(tmp_path)
    mine = Path("car_racing")
    make_world_model(ANOTHER).save(mine / "world_model")
    Controller().save(mine / "controller")
    assert WorldModel.from_pretrained(mine).config.task == ACROBOT
    assert not Controller.from_pretrained(mine).parameters.any()
    assert WorldModel.from_pretrained("car_racing").config.task.env == "CarRacing-v3"
    assert Controller.from_pretrained("car_racing").parameters.any()
    wm_gym.register_dream("DreamSwing-v0", mine)
    assert gym.make("DreamSwing-v0").action_space == gym.spaces.Discrete(3)


def test_without_a_goal_a_dream_tells_no_success(tmp_path):
    make_world_model(ANOTHER, task=replace(ACROBOT, finished="is_success")).save(tmp_path / "world_model")
    env = gym.make("DreamCarRacing-v0", world_model=str(tmp_path / "world_model"), task=None)
    envs = gym.make_vec(
        "DreamCarRacing-v0", 4, world_model=str(tmp_path / "world_model"), task=None, autoreset_mode="DISABLED"
    )
    env.reset(seed=0)
    envs.reset(seed=0)
    terminated, over = False, np.zeros(4, bool)
    while not terminated:
        *_, terminated, _, info = env.step(0)
    while not over.any():
        *_, over, _, infos = envs.step(np.zeros(4, int))
    assert "is_success" not in info
    assert "is_success" not in infos
