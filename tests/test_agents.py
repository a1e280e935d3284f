"""The benchmark of agents: who is trained where, what is kept, and how long controllers are sought."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_world_model

from benchmarks import agents, reevolve, score
from training import gradient, loop, train_controller
from training.checkpoints import append_log
from wm_gym.evaluate import EpisodeResult
from wm_gym.models.controller import Controller


@pytest.fixture
def trained(monkeypatch):
    """What agents of Stable-Baselines3 were trained with; nothing is trained, and all drives score 7."""
    settings = []

    def train(args):
        settings.append(args)
        append_log(args.out / "log.jsonl", {"steps": 30, "frames": 1, "real": {"mean": 9.0}})
        append_log(args.out / "log.jsonl", {"steps": 50, "frames": 2, "real": {"mean": 8.0}})
        return args.out / "best" / "ppo.zip"

    def drives(env_id, lanes, args, **_):
        return [EpisodeResult(i, i, 7.0, 10, False, False) for i in range(2)]

    monkeypatch.setattr(agents.train_sb3, "main", train)
    monkeypatch.setattr(score, "drives", drives)
    return settings


def test_dreams_without_a_lap_have_no_pace(trained, acrobot_folder, tmp_path):
    how = {"world_model": acrobot_folder, "runs": tmp_path / "runs", "out": tmp_path / "agents.json"}
    agents.main(agents.Args(learners=("ppo",), worlds=("dream",), seeds=(0,), **how))
    assert [(each.env, each.objective.beyond) for each in trained] == [("DreamAcrobot-v0", 1.0)]


@pytest.mark.parametrize("doubters", [0, 1])
def test_each_agent_is_trained_once_in_its_world(trained, doubters, tmp_path):
    make_world_model(doubters=doubters).save(tmp_path / "model")
    how = {"world_model": str(tmp_path / "model"), "runs": tmp_path / "runs", "out": tmp_path / "agents.json"}
    args = agents.Args(learners=("ppo",), seeds=(0, 3), minutes=5.0, **how)
    for _ in range(2):
        agents.main(args)
    worlds = ["DreamCarRacing-v0", "LatentCarRacing-v0"] * 2
    assert [(each.env, each.seed) for each in trained] == list(zip(worlds, [0, 0, 3, 3], strict=True))
    assert all(each.minutes == 5.0 for each in trained)
    assert [each.objective.doubt for each in trained[:2]] == [30.0 * doubters, 0.0]
    assert [each.objective.beyond for each in trained[:2]] == [-0.3, 1.0]
    found = json.loads((tmp_path / "agents.json").read_text())["agents"]
    assert [(each["world"], each["real_frames"]) for each in found[:2]] == [("dream", 3), ("real", 53)]
    assert all(each["real"]["mean"] == 7.0 for each in found)
    assert {(each["steps"], each["best_steps"]) for each in found} == {(50, 30)}
    with pytest.raises(ValueError, match=r"agents\.json.*other settings"):
        agents.main(replace(args, minutes=6.0))
    with pytest.raises(ValueError, match="other settings"):
        agents.main(replace(args, temperature=2.5))
    with pytest.raises(ValueError, match=r"begun with another command .*--temperature"):
        agents.main(replace(args, temperature=2.5, out=tmp_path / "other.json"))
    with pytest.raises(ValueError, match=r"dream or on the real env.*moon"):
        agents.main(replace(args, worlds=("moon",)))


@pytest.mark.parametrize("doubters", [0, 1])
def test_controllers_are_sought_in_the_dreams_that_were_asked_for(trained, doubters, tmp_path, monkeypatch):
    sought = []

    def seek(settings, minutes, out):
        sought.append(settings)
        return out / "0" / "controller", {1000: 5.0}

    monkeypatch.setattr(agents, "seek", seek)
    make_world_model(doubters=doubters).save(tmp_path / "model")
    how = {"world_model": str(tmp_path / "model"), "runs": tmp_path / "runs", "out": tmp_path / "agents.json"}
    agents.main(agents.Args(("controller",), ("dream",), (0,), temperature=1.7, doubt=9.0, disturbance=0.4, **how))
    (settings,) = sought
    assert (settings.temperature, settings.gradient.disturbance) == (1.7, 0.4)
    assert settings.objective.doubt == 9.0 * doubters


def test_two_commands_may_write_one_file(trained, tmp_path, monkeypatch):
    make_world_model().save(tmp_path / "model")
    how = {"world_model": str(tmp_path / "model"), "runs": tmp_path / "runs", "out": tmp_path / "agents.json"}
    train = agents.train_sb3.main

    def train_beside_another(args):
        if args.seed == 0:
            agents.main(agents.Args(("ppo",), ("dream",), (1,), **how))
        return train(args)

    monkeypatch.setattr(agents.train_sb3, "main", train_beside_another)
    agents.main(agents.Args(("ppo",), ("dream",), (0, 1), **how))
    assert [each.seed for each in trained] == [1, 0]
    assert [line["seed"] for line in json.loads((tmp_path / "agents.json").read_text())["agents"]] == [1, 0]


def test_the_file_says_what_made_the_world_model(trained, tmp_path):
    make_world_model(training={"command": "loop", "real_frames": 70, "candidates": 3}).save(tmp_path / "model")
    how = {"world_model": str(tmp_path / "model"), "runs": tmp_path / "runs", "out": tmp_path / "agents.json"}
    agents.main(agents.Args(("ppo",), ("dream",), (0,), **how))
    written = json.loads((tmp_path / "agents.json").read_text())
    assert {"command": "loop", "real_frames": 70}.items() <= written["world_model"].items()


def test_controllers_are_sought_until_the_time_is_over_and_hard_dreams_choose(tmp_path, monkeypatch):
    make_world_model().save(tmp_path / "model")
    small = train_controller.Args(world_model=str(tmp_path / "model"), generations=1, population=4, rollouts=2)
    small = replace(small, max_steps=5, seed=7, gradient=gradient.Args())
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # a second a controller
    best, paid = reevolve.seek(small, 0.05, tmp_path / "run")
    assert list(paid) == [7, 8, 9]
    assert best == tmp_path / "run" / str(np.argmax(list(paid.values()))) / "controller"
    one, other = (Controller.from_pretrained(tmp_path / "run" / str(i) / "controller").parameters for i in (0, 1))
    assert not np.array_equal(one, other)
    again, same = reevolve.seek(small, 0.05, tmp_path / "run")  # as after a kill: what is there is taken
    assert (again, same) == (best, paid)
