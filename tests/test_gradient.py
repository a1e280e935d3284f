"""Controllers that follow the gradient of what dreams pay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import EPISODE_STARTS, MEMORIES, make_world_model

from training import gradient, train_controller
from training.shaping import Tremble
from wm_gym.car_racing import lap_reward
from wm_gym.doubt import Doubters
from wm_gym.evaluate import make_lanes
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.models.memory import mixture_mean, mixture_spread, put, select
from wm_gym.starts import Starts


def test_pay_beyond_the_pace_counts_against_a_controller():
    pay = np.array([-100.0, -0.1, 0.0, 1.0, 1.15, 1.25, 2.15])
    expected = [-100.0, -0.1, 0.0, 1.0, 1.15, 1.13, 0.95]
    slow = gradient.Objective(pace=1.15, beyond=-0.2)
    np.testing.assert_allclose(slow.weigh(pay), expected)
    np.testing.assert_allclose(slow.weigh(torch.from_numpy(pay)), expected)
    np.testing.assert_array_equal(gradient.Objective().weigh(pay), pay)


def test_the_ascent_in_the_mode_has_no_noise_of_its_own(tmp_path):
    """Only the starts are drawn, and with one start nothing is: the temperature changes nothing."""
    model, config = make_world_model(), ControllerConfig()
    model.starts = Starts(*(each[:1] for each in vars(model.starts).values()))
    args = gradient.Args(steps=2, walkers=4, acting=3, coasting=2)
    zeros = np.zeros(config.parameters)
    cool, hot, noisy, quiet = (
        gradient.ascend(model, zeros, config, args, gradient.Objective(), temperature, 0, sampling)
        for temperature, sampling in ((0.5, "mode"), (3.0, "mode"), (3.0, "sample"), (0.5, "sample"))
    )
    np.testing.assert_array_equal(cool, hot)
    assert not np.array_equal(hot, noisy) and not np.array_equal(noisy, quiet)
    with pytest.raises(ValueError, match="sampling must be"):
        gradient.ascend(model, zeros, config, args, gradient.Objective(), 1.0, 0, "mean")


@pytest.mark.parametrize("disturbance", [0.0, 0.3])
def test_a_disturbance_trembles_actions_by_its_share_of_half_their_range(disturbance, monkeypatch):
    model, config = make_world_model(), ControllerConfig()
    model.start_states  # noqa: B018 (their steps are not watched)
    taken, step = [], model.memory.step

    def watch(z, action, state):
        taken.append(action.detach())
        return step(z, action, state)

    monkeypatch.setattr(model.memory, "step", watch)
    args = gradient.Args(steps=1, walkers=2000, acting=40, coasting=0, disturbance=disturbance)
    gradient.ascend(model, np.zeros(config.parameters), config, args, gradient.Objective(), 1.0, 0)
    steering = torch.stack(taken)[..., 0]  # of weights zero, so all of it is tremble; gas and brake are cut off at zero
    assert steering.shape == (40, 2000)
    assert steering[-1].std().item() == pytest.approx(disturbance, rel=0.05)
    assert torch.stack(taken).amin() >= -1
    assert torch.stack(taken)[..., 1:].amin() == 0
    if disturbance:
        assert torch.corrcoef(steering[-2:])[0, 1].item() == pytest.approx(gradient.TREMBLE, abs=0.03)
        assert torch.stack(taken)[-1, :, 1].amax().item() < 4.5 * disturbance / 2
    with pytest.raises(ValueError, match="disturbance"):
        gradient.ascend(model, np.zeros(867), config, replace(args, disturbance=-0.1), gradient.Objective(), 1.0, 0)


def test_lanes_tremble_as_gradients_do(world_model_folder):
    dreams = make_lanes("DreamCarRacing-v0", 4000, world_model=world_model_folder)
    lanes, still = Tremble(dreams, 0.3, alike=2000), np.zeros((4000, 3), np.float32)
    actions = np.stack([lanes.actions(still) for _ in range(60)])
    lanes.close()
    assert np.array_equal(actions[:, :2000], actions[:, 2000:])
    assert actions[-1, :, 0].std() == pytest.approx(0.3, rel=0.06)
    assert np.corrcoef(actions[-2:, :, 0])[0, 1] == pytest.approx(gradient.TREMBLE, abs=0.02)
    assert actions[..., 1:].min() == 0
    assert 0.45 < actions[-1, :, 1].max() < 0.15 * 5  # of gas and brake, half the range is 0.5
    assert np.abs(lanes.actions(still + 1)).max() == 1


@pytest.mark.parametrize("rows", [1.0, 0.03])
@pytest.mark.parametrize("config", [ControllerConfig(), ControllerConfig(288, (-2.0, -0.5), (2.0, 3.0))])
def test_the_policy_with_a_gradient_is_the_controller(rows, config):
    rng = np.random.default_rng(0)
    parameters, observations = rng.normal(0, rows, config.parameters), rng.standard_normal((7, 288), np.float32)
    policy = gradient.LinearPolicy(parameters, config, torch.device("cpu"))
    action, _ = policy(torch.from_numpy(observations), policy.rows)
    expected, _ = Controller(parameters, config).predict(observations)
    np.testing.assert_allclose(action.detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", MEMORIES)
def test_gradients_raise_what_dreams_pay(kind, tmp_path):
    model = make_world_model(kind)
    with torch.no_grad():  # a memory whose tiles depend strongly on what it remembers
        model.memory.heads.weight[..., -2, :].normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        model.memory.heads.bias[..., -1] = -20
    model.save(tmp_path / "model")
    config = ControllerConfig()
    args = gradient.Args(steps=30, walkers=16, acting=8, coasting=4, length=20, learning_rate=0.02)
    zeros, objective = np.zeros(config.parameters), gradient.Objective()
    found = gradient.ascend(model, zeros, config, args, objective, temperature=1.0, seed=0)
    envs = make_lanes("DreamCarRacing-v0", 64, world_model=str(tmp_path / "model"), max_episode_steps=12, starts="any")
    seeds = np.arange(32)
    before, after = train_controller.evaluate(envs, np.stack([np.zeros_like(found), found]), seeds, config)
    envs.close()
    assert after > before + 1


def test_gradients_lead_away_from_what_ends_dreams(tmp_path):
    model = make_world_model()
    model.memory.heads.weight[-1].normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    model.memory.lstm.weight_ih_l0[:, 32:] *= 10  # what is done matters most
    model.memory.heads.weight[-2], model.memory.heads.bias[-2:] = 0, torch.tensor([-20.0, -3.0])
    model.save(tmp_path / "model")
    config, zeros = ControllerConfig(), np.zeros(867)
    args = gradient.Args(steps=30, walkers=32, acting=8, coasting=4, length=20, learning_rate=0.02)
    found = gradient.ascend(model, zeros, config, args, gradient.Objective(), temperature=1.0, seed=0)
    envs = make_lanes("DreamCarRacing-v0", 64, world_model=str(tmp_path / "model"), max_episode_steps=12, starts="any")
    before, after = train_controller.evaluate(envs, np.stack([zeros, found]), np.arange(32), config)
    envs.close()
    assert before < -10 and after > before / 2


def test_a_finished_lap_is_over_and_another_dream_begins(monkeypatch):
    model = make_world_model(reward=lap_reward(5.0))
    model.memory.heads.weight[-2:], model.memory.heads.bias[-2:] = 0, torch.tensor([0.6, -20.0])  # a tile a step
    model.starts = Starts(*(each[:EPISODE_STARTS] for each in vars(model.starts).values()))
    starts, seen, step = model.start_states[0], [], model.memory.step
    monkeypatch.setattr(model.memory, "step", lambda z, *others: seen.append(z.detach()) or step(z, *others))
    args = gradient.Args(steps=3, walkers=6, acting=8, coasting=0, length=10_000)
    gradient.ascend(model, np.zeros(867), ControllerConfig(), args, gradient.Objective(), 1.0, 0)
    for z in seen[::8]:  # where each look ahead begins
        assert (torch.cdist(z, starts).amin(1) < 1e-6).all()


def doubted(kind="lstm", *changes):
    """A world model whose doubters are its memory, but for noise of these sizes on all weights."""
    model, rng = make_world_model(kind, doubters=len(changes)), torch.Generator().manual_seed(1)
    for doubter, change in zip(model.doubters, changes, strict=True):
        doubter.load_state_dict(model.memory.state_dict())
        for weights in doubter.parameters():
            weights += change * torch.randn(weights.shape, generator=rng)
    return model


def test_doubt_is_the_disagreement_of_memories_that_follow_the_same_dreams():
    model = doubted("lstm", 0.05, 0.1)
    every, start, lanes = [model.memory, *model.doubters], torch.tensor([0, 12, 23]), torch.tensor([0, 1, 3])
    doubters, rng = Doubters(model.doubters), torch.Generator().manual_seed(0)
    state = put(doubters.initial_state(4), lanes, select(model.doubter_states, start))
    mine = [select(model.run_up(memory), start) for memory in every]
    for _ in range(3):
        z, action = torch.randn(4, 32, generator=rng), torch.rand(4, 3, generator=rng)
        state = doubters.step(z, action, state)
        mine = [memory.step(z[lanes], action[lanes], state) for memory, state in zip(every, mine, strict=True)]
        predictions = [memory.predict(state[0]) for memory, state in zip(every, mine, strict=True)]
        means = np.stack([mixture_mean(each).numpy() for each in predictions])
        spreads = np.stack([mixture_spread(each).numpy() for each in predictions])
        expected = (means.var(axis=0, ddof=1) / (spreads**2).mean(axis=0)).mean(axis=-1)
        assert (expected > 1e-4).all()
        whole = model.memory.predict(torch.zeros(4, 256).index_put((lanes,), mine[0][0]))
        np.testing.assert_allclose(doubters.disagreement(whole, state)[lanes], expected, rtol=1e-3)


@pytest.mark.parametrize("kind", MEMORIES)
def test_memories_of_one_mind_have_no_doubts(kind):
    config, zeros, objective = ControllerConfig(), np.zeros(867), gradient.Objective()
    args = gradient.Args(steps=2, walkers=6, acting=5, coasting=3)
    wary = gradient.Objective(doubt=100.0)
    alone = gradient.ascend(make_world_model(kind), zeros, config, args, objective, 1.0, 0)
    same = gradient.ascend(doubted(kind, 0.0, 0.0), zeros, config, args, wary, 1.0, 0)
    np.testing.assert_allclose(same, alone, atol=1e-4)
    other = gradient.ascend(doubted(kind, 0.05), zeros, config, args, wary, 1.0, 0)
    assert np.abs(other - alone).max() > 1e-3


def test_the_price_of_doubt_leads_away_from_what_memories_disagree_about():
    """They differ in what an action does, so to do nothing is what they agree about; it pays nothing either."""
    model, config = doubted("lstm", 0.0), ControllerConfig()
    for memory in (model.memory, *model.doubters):
        memory.heads.bias[-2:] = torch.tensor([-20.0, -20.0])
    model.doubters[0].lstm.weight_ih_l0[:, 32:] += 0.5
    args = gradient.Args(steps=30, walkers=8, acting=8, coasting=0, learning_rate=0.05, saturation=0.0)
    begun, found = np.zeros((3, 289)), {}
    begun[:, -1] = 0.5
    for doubt in (0.0, 200.0):
        ascended = gradient.ascend(model, begun.ravel(), config, args, gradient.Objective(doubt=doubt), 1.0, 0)
        found[doubt], _ = Controller(ascended, config).predict(np.zeros((1, 288), np.float32))
    assert np.abs(found[200.0]).sum() < 0.5 * np.abs(found[0.0]).sum()


def test_a_steps_doubt_costs_what_a_dream_charges_for_it(monkeypatch):
    """Where it is worth as much as half a step's pay, its price of two eats that up, and more leads downhill."""
    model = doubted("lstm", 0.1)
    model.memory.heads.weight[-1], model.memory.heads.bias[-1] = 0, -20  # an end that nothing changes
    scale, args = model.config.reward.scale, gradient.Args(steps=1, walkers=64, acting=8, coasting=0)
    monkeypatch.setattr(Doubters, "disagreement", lambda self, prediction, state: scale * prediction.gain)
    plain, half, twice = (
        gradient.ascend(model, np.zeros(867), ControllerConfig(), args, gradient.Objective(doubt=doubt), 1.0, 0)
        for doubt in (0.0, 0.5, 2.0)
    )
    assert (plain * half).sum() > 0 > (plain * twice).sum()


def test_an_ensembles_own_disagreement_has_a_price():
    model, args = make_world_model("ensemble"), gradient.Args(steps=2, walkers=6, acting=5, coasting=3)
    plain, wary = (
        gradient.ascend(model, np.zeros(867), ControllerConfig(), args, gradient.Objective(doubt=doubt), 1.0, 0)
        for doubt in (0.0, 100.0)
    )
    assert np.abs(plain - wary).max() > 1e-3


def test_gradients_follow_the_objective():
    model, args = make_world_model(), gradient.Args(steps=2, walkers=4, acting=3, coasting=2)
    model.memory.heads.weight[-1] = 0  # an end that nothing changes
    flat, plain = (
        gradient.ascend(
            model, np.zeros(867), ControllerConfig(), args, gradient.Objective(pace=-1e3, beyond=beyond), 1.0, 0
        )
        for beyond in (0.0, 1.0)
    )
    assert not flat.any() and plain.any()


@pytest.mark.parametrize("doubt", [-1.0, float("nan")])
def test_doubt_has_no_negative_price(doubt):
    with pytest.raises(ValueError, match="price of doubt is 0 or more"):
        gradient.Objective(doubt=doubt)


def test_a_price_of_doubt_needs_a_doubter():
    args, objective = gradient.Args(steps=1), gradient.Objective(doubt=1.0)
    with pytest.raises(ValueError, match="world model with doubters"):
        gradient.ascend(make_world_model(), np.zeros(867), ControllerConfig(), args, objective, 1.0, 0)
