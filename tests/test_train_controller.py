"""C: how evolution goes on, on which dreams, and for what pay."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ANOTHER, make_world_model
from conftest import ID as DREAM

from training import gradient, train_controller
from training.checkpoints import read_log
from training.seeds import TRAINING_SEEDS
from training.shaping import make_weighed
from wm_gym.evaluate import make_lanes
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel


def evolving(world_model, out, **changes):
    args = train_controller.Args(world_model=world_model, out=out, generations=3, population=4, rollouts=2, max_steps=8)
    return replace(args, **changes)


def test_evolution_stopped_and_gone_on_with_gives_the_result_of_one_run(world_model_folder, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train_controller.main(evolving(world_model_folder, straight))
    train_controller.main(evolving(world_model_folder, stopped, generations=1))
    first = Controller.from_pretrained(stopped / "controller")
    train_controller.main(evolving(world_model_folder, stopped))
    for name in ("controller", "population"):
        mine, its = (Controller.from_pretrained(run / name) for run in (straight, stopped))
        assert np.array_equal(mine.parameters, its.parameters)
        assert not np.array_equal(mine.parameters, first.parameters)
        assert its.world_model_fingerprint == WorldModel.from_pretrained(world_model_folder).fingerprint
    assert read_log(straight / "log.jsonl") == read_log(stopped / "log.jsonl")
    assert [line["generation"] for line in read_log(stopped / "log.jsonl")] == [1, 2, 3]


def test_evolution_does_not_go_on_in_another_world_model(tmp_path):
    model = make_world_model()
    model.save(tmp_path / "model")
    train_controller.main(evolving(str(tmp_path / "model"), tmp_path / "out", generations=1))
    with torch.no_grad():
        model.memory.heads.bias += 1
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="out/controller knows the latents of another world model"):
        train_controller.main(evolving(str(tmp_path / "model"), tmp_path / "out"))


def test_controllers_are_sought_in_the_dreams_asked_for(world_model_folder, tmp_path, monkeypatch):
    made, rose = Mock(wraps=make_weighed), Mock(wraps=gradient.ascend)
    monkeypatch.setattr(train_controller, "make_weighed", made)
    monkeypatch.setattr(gradient, "ascend", rose)
    how = {"temperature": 1.7, "sampling": "mode", "starts": "any"}
    short = gradient.Args(steps=1, walkers=2, acting=2, coasting=0)
    train_controller.main(evolving(world_model_folder, tmp_path, generations=1, gradient=short, **how))
    assert made.call_args.kwargs.items() >= how.items()
    assert rose.call_args.args[5] == 1.7 and rose.call_args.kwargs["sampling"] == "mode"


def test_a_pace_needs_something_that_is_counted(tmp_path):
    make_world_model(ANOTHER).save(tmp_path / "model")
    objective = gradient.Objective(beyond=-0.3)
    with pytest.raises(ValueError, match="only a lap has a pace"):
        train_controller.main(evolving(str(tmp_path / "model"), tmp_path / "out", objective=objective))


def test_all_members_meet_the_same_seeds(world_model_folder):
    config, seeds = ControllerConfig(), np.array([5, 9])
    one, other = np.random.default_rng(0).normal(0, 0.3, (2, config.parameters))
    members = np.stack([one, other, one, one])
    results = []
    for lanes in (8, 3, 1):  # all at once, with lanes left over, one after the other
        envs = make_lanes("DreamCarRacing-v0", lanes, world_model=world_model_folder, max_episode_steps=8)
        results.append(train_controller.evaluate(envs, members, seeds, config))
        apart = [train_controller.evaluate(envs, members[:2], seeds[[i]], config) for i in range(2)]
        envs.close()
        np.testing.assert_allclose(np.mean(apart, axis=0), results[-1][:2], rtol=1e-4)
        assert abs(apart[0] - apart[1]).min() > 1e-3
    for scores in results:
        np.testing.assert_allclose(scores, results[0], rtol=1e-4)
        np.testing.assert_allclose(scores[2:], scores[0], rtol=1e-4)
        assert abs(scores[1] - scores[0]) > 1e-3


def test_every_generation_has_seeds_of_its_own_for_all_members(world_model_folder, tmp_path, monkeypatch):
    evaluate = Mock(wraps=train_controller.evaluate)
    monkeypatch.setattr(train_controller, "evaluate", evaluate)
    train_controller.main(evolving(world_model_folder, tmp_path))
    members, seeds = zip(*(call.args[1:3] for call in evaluate.call_args_list), strict=True)
    assert [np.shape(each) for each in members] == [(4, 867)] * 3
    assert len(np.unique(seeds)) == 6
    assert all(seed in TRAINING_SEEDS for seed in np.ravel(seeds))


def test_evolution_after_gradients_stopped_and_gone_on_with_gives_the_result_of_one_run(
    world_model_folder, tmp_path, monkeypatch
):
    settings = {"gradient": gradient.Args(steps=3, walkers=4, acting=3, coasting=2)}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train_controller.main(evolving(world_model_folder, straight, **settings))
    with monkeypatch.context() as patch:
        patch.setattr(train_controller, "append_log", Mock(side_effect=[None, KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            train_controller.main(evolving(world_model_folder, stopped, **settings))
    ascend = Mock(wraps=gradient.ascend)
    monkeypatch.setattr(gradient, "ascend", ascend)
    train_controller.main(evolving(world_model_folder, stopped, **settings))
    assert not ascend.called
    mine, its = (Controller.from_pretrained(run / "controller").parameters for run in (straight, stopped))
    assert np.array_equal(mine, its)
    train_controller.main(evolving(world_model_folder, tmp_path / "another", **settings))
    (call,) = ascend.call_args_list
    assert not call.args[1].any()  # begins at zero


def test_cma_es_follows_the_objective(world_model_folder, tmp_path):
    """Of dreams that pay a lot for every step, nothing is left when it counts against a controller."""
    model = make_world_model()
    with torch.no_grad():
        model.memory.heads.weight[-2:].zero_()
        model.memory.heads.bias[-2:] = torch.tensor([1.0, -20.0])
    model.save(tmp_path / "model")
    tiles = float(torch.nn.functional.softplus(torch.tensor(1.0)))
    for beyond in (1.0, 0.0, -1.0):
        objective = gradient.Objective(pace=1.5, beyond=beyond)
        out = tmp_path / str(beyond)
        train_controller.main(evolving(str(tmp_path / "model"), out, objective=objective, generations=1, max_steps=7))
        (line,) = read_log(out / "log.jsonl")
        pay = tiles * 1000 / 295
        expected = 7 * (1.5 + beyond * (pay - 1.5) - 0.1)
        assert line["population_score"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("beyond", [1.0, -0.5])
def test_doubt_has_its_price_beside_what_pay_counts(beyond, tmp_path):
    """The doubt of lanes that get what an objective weighs is what plain ones tell, and it is not weighed itself."""
    make_world_model(doubters=1).save(tmp_path / "model")
    how = {"world_model": str(tmp_path / "model"), "starts": "any"}
    objective = gradient.Objective(pace=0.0, beyond=beyond, doubt=30.0)
    envs, plain = make_weighed(DREAM, 6, objective, **how), make_lanes(DREAM, 6, disagreement_limit=np.inf, **how)
    for each in (envs, plain):
        each.reset(seed=0)
    for _ in range(3):
        counted, paid = (each.step(np.zeros((6, 3), np.float32)) for each in (envs, plain))
        told = paid[4]["disagreement"]
        assert (told > 1e-4).all()
        np.testing.assert_allclose(counted[1], objective.weigh(paid[1] + 0.1) - 0.1 - 30 * told, rtol=1e-6)
    with pytest.raises(ValueError, match="doubters"):
        make_world_model().save(tmp_path / "lone")
        make_weighed(DREAM, 6, objective, str(tmp_path / "lone"))


@pytest.mark.parametrize("objective", [gradient.Objective(beyond=0.5), gradient.Objective(doubt=1.0)])
def test_the_real_env_has_no_gradients_and_pays_in_full(objective, world_model_folder, tmp_path):
    with pytest.raises(ValueError, match="weighed step by step"):
        train_controller.main(evolving(world_model_folder, tmp_path, env="LatentCarRacing-v0", objective=objective))
    with pytest.raises(ValueError, match="only a dream has gradients"):
        train_controller.main(
            evolving(world_model_folder, tmp_path, env="LatentCarRacing-v0", gradient=gradient.Args(steps=1))
        )


def test_a_controller_of_z_only_has_no_weights_of_h(world_model_folder, tmp_path):
    how = {"z_only": True, "gradient": gradient.Args(steps=3, walkers=4, acting=3, coasting=2)}
    train_controller.main(evolving(world_model_folder, tmp_path, **how))
    for name in ("controller", "population"):
        members = Controller.from_pretrained(tmp_path / name).parameters.reshape(-1, 3, 289)
        assert not members[:, :, 32:-1].any()
        assert members[:, :, :32].any() and members[:, :, -1].any()


@pytest.mark.parametrize("steps", [0, 3])
def test_c_goes_on_from_a_parent(steps, world_model_folder, tmp_path, monkeypatch):
    """A generation with a tiny step keeps to where it began."""
    config = ControllerConfig(world_model="of an earlier round")
    parent = Controller(np.random.default_rng(0).normal(0, 0.1, 867), config)
    parent.save(tmp_path / "parent")
    ascend = Mock(wraps=gradient.ascend)
    monkeypatch.setattr(gradient, "ascend", ascend)
    settings = {"parent": str(tmp_path / "parent"), "generations": 1, "sigma": 1e-9}
    settings["gradient"] = gradient.Args(steps=steps, walkers=4, acting=3, coasting=2, learning_rate=1e-3)
    train_controller.main(evolving(world_model_folder, tmp_path / "child", **settings))
    child = Controller.from_pretrained(tmp_path / "child" / "controller")
    away = np.abs(child.parameters - parent.parameters).max()
    assert away < 1e-6 if steps == 0 else 1e-4 < away < 3.1e-3  # Adam goes as far as its learning rate at a step
    assert child.config.training["refined"] is True
    assert not steps or np.array_equal(ascend.call_args.args[1], parent.parameters)


def test_parents_of_other_sizes_or_that_read_what_is_not_sought_are_refused(world_model_folder, tmp_path):
    Controller(np.zeros(66), ControllerConfig(observation_size=32, low=(-1, 0), high=(1, 1))).save(tmp_path / "other")
    Controller(np.ones(867)).save(tmp_path / "reads_h")
    with pytest.raises(ValueError, match="other observations or actions"):
        train_controller.main(evolving(world_model_folder, tmp_path / "out", parent=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="reads h"):
        settings = {"parent": str(tmp_path / "reads_h"), "z_only": True}
        train_controller.main(evolving(world_model_folder, tmp_path / "out", **settings))
