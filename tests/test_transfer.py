"""The transfer benchmark: its measures on scores and world models whose truth is known, and the whole command."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world_model
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import agreement, calibration, transfer
from training import driving
from training.latents import LatentEpisode
from wm_gym.models.controller import Controller
from wm_gym.models.memory import sample_mixture
from wm_gym.models.vae import VAE
from wm_gym.registration import task_of
from wm_gym.weights import fingerprint
from wm_gym.world_model import WorldModel

scores = st.lists(st.integers(-100, 900), min_size=2, max_size=12, unique=True).map(lambda each: np.array(each, float))


@settings(deadline=None)
@given(scores)
def test_a_dream_that_orders_as_reality_does_violates_no_rank(real):
    assert agreement.mmrv(real, real) == agreement.mmrv(real, real * 0.5 + 40) == 0


@settings(deadline=None)
@given(scores)
def test_a_dream_that_reverses_the_order_violates_every_rank(real):
    farthest = [max(abs(each - other) for other in real) for each in real]
    assert agreement.mmrv(real, -real) == pytest.approx(np.mean(farthest))


def test_rank_violations_of_an_example():
    real, dream = np.array([100.0, 300.0, 800.0]), np.array([200.0, 900.0, 850.0])
    assert agreement.mmrv(real, dream) == pytest.approx((0 + 500 + 500) / 3)  # the dream swaps the last two


def test_agreement_of_an_example():
    real, dream = np.array([0.0, 200.0, 400.0, 900.0]), np.array([50.0, 250.0, 950.0, 900.0])
    found = agreement.agreement(real[:, None], dream[:, None], "abcd")
    assert found["spearman"]["value"] == pytest.approx(0.8)
    assert found["spearman"]["low"] <= 0.8 <= found["spearman"]["high"]
    assert found["regret"] == 500 and found["gap"] == pytest.approx((50 + 50 + 550 + 0) / 4)
    assert found["mmrv"] == 250  # the last two are swapped, 500 points apart
    assert found["repeats"] == {"real": None, "dream": None}
    for few in (
        agreement.agreement(real[:2, None], dream[:2, None], "ab"),
        agreement.agreement(real[:, None], np.ones((4, 1)), "abcd"),
    ):
        assert few["pearson"] is few["spearman"] is None


def test_scores_that_do_not_repeat_are_told_from_those_that_do():
    rng = np.random.default_rng(0)
    skill, noise = 100.0 * np.arange(20)[:, None], rng.normal(0, 30, (20, 40))
    found = agreement.agreement(skill + noise, noise, range(20))
    assert found["repeats"]["real"] > 0.99 and found["repeats"]["dream"] < 0.6
    few, many = (
        agreement.agreement(skill[:, :1] + each, skill[:, :1] + each, range(20))
        for each in (noise[:, :2] * 40, noise * 40)
    )
    width = [found["spearman"]["high"] - found["spearman"]["low"] for found in (few, many)]
    assert width[1] < width[0]  # more episodes tell more


def test_policies_that_are_kin_tell_less_than_as_many_others():
    rng = np.random.default_rng(0)
    real = np.repeat(rng.normal(size=6), 5)[:, None] + rng.normal(0, 0.01, (30, 40))
    dream = np.repeat(rng.normal(size=6), 5)[:, None] + real  # five alike of each of six kinds
    apart, kin = (agreement.agreement(real, dream, groups) for groups in (range(30), np.repeat(range(6), 5)))
    assert (apart["groups"], kin["groups"]) == (30, 6)
    assert apart["spearman"]["value"] == kin["spearman"]["value"]
    width = [found["spearman"]["high"] - found["spearman"]["low"] for found in (apart, kin)]
    assert width[1] > 1.5 * width[0]
    alone = agreement.agreement(real, dream, ["one"] * 30)["pearson"]
    assert alone["value"] == kin["pearson"]["value"] and alone["low"] is alone["high"] is None


def test_intervals_are_of_95_percent():
    rng = np.random.default_rng(0)
    real = rng.normal(size=200)
    dream = 0.5 * real + 0.75**0.5 * rng.normal(size=200)
    found = agreement.agreement(real[:, None], dream[:, None], range(200))["pearson"]
    expected = 2 * 1.96 * (1 - found["value"] ** 2) / 200**0.5
    assert found["high"] - found["low"] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("spread", [4.0, 10.0])
def test_how_well_scores_repeat_is_what_new_episodes_show(spread):
    rng = np.random.default_rng(1)
    skill = rng.normal(0, spread, (400, 1))
    drawn, again = (skill + rng.normal(0, 60, (400, 100)) for _ in range(2))
    repeated = agreement.correlation("spearman", drawn.mean(1), again.mean(1))
    assert agreement.repeat(drawn) == pytest.approx(repeated, abs=0.06)


def dreamt(model: WorldModel, steps: int, shift: float = 0.0) -> LatentEpisode:
    """An episode whose latents the memory itself dreamt, so that its mixture is calibrated; or shifted from that."""
    generator = torch.Generator().manual_seed(1)
    state, z = model.memory.initial_state(1), torch.zeros(1, 32)
    latents, actions = [z], torch.rand(steps, 3, generator=generator)
    for action in actions:
        state = model.memory.step(z, action.unsqueeze(0), state)
        prediction = model.memory.predict(model.memory.hidden(state))
        uniform, normal = torch.rand(1, 32, generator=generator), torch.randn(1, 32, generator=generator)
        z = sample_mixture(prediction, 1.0, uniform, normal) + shift
        latents.append(z)
    mu = torch.cat(latents).numpy()
    gains = np.zeros(steps, np.float32)
    return LatentEpisode(
        0, fingerprint(model.vae), mu, np.full_like(mu, -60), actions.numpy(), gains, 300, True, "random"
    )


@torch.inference_mode()
def test_calibration_knows_a_calibrated_mixture_from_a_shifted_one():
    model = make_world_model()
    good, bad = (calibration.calibration(model, [dreamt(model, 200, shift)]) for shift in (0.0, 1.0))
    assert good["pit"]["distance"] < 0.03 < 0.2 < bad["pit"]["distance"]
    assert sum(good["pit"]["shares"]) == pytest.approx(1)
    drive = dreamt(model, 200)
    z, actions = (torch.from_numpy(each).unsqueeze(0) for each in (drive.mu[:-1], drive.actions))
    hidden, _ = model.memory.unroll(z, actions, model.memory.initial_state(1))
    p = model.memory.predict(hidden).end_logit.sigmoid()[0]
    assert good["end"]["ends"] == 1
    assert good["end"]["recall"] == pytest.approx(p[-1].item(), rel=1e-3)
    assert good["end"]["false_alarms"] == pytest.approx(p[:-1].mean().item(), rel=1e-3)


def test_all_members_of_a_population_drive(tmp_path):
    Controller(np.arange(3 * 867.0).reshape(3, 867)).save(tmp_path / "population")
    population = Controller.from_pretrained(tmp_path / "population")
    found = transfer.members("some/population", population)
    assert list(found) == ["some/population/0", "some/population/1", "some/population/2"]
    assert [each.parameters[0] for each in found.values()] == [0, 867, 2 * 867]
    assert transfer.members("one", population.member(1))["one"].parameters[0] == 867


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("runs/ppo/checkpoints/100/ppo.zip", "runs/ppo/checkpoints/200/ppo.zip", True),
        ("runs/ppo/checkpoints/100/ppo.zip", "runs/ppo/best/ppo.zip", True),
        ("runs/ppo/checkpoints/100/ppo.zip", "runs/sac/checkpoints/100/sac.zip", False),
        ("sought/0", "sought/1", True),
        ("sought/0", "found/0", False),
        ("constant: coast", "constant: full gas", True),
        ("constant: coast", "random", False),
    ],
)
def test_policies_of_a_kind_are_drawn_together(one, other, together):
    assert (transfer.group(one) == transfer.group(other)) is together


def test_the_command_measures_draws_and_goes_on(world_model_folder, tmp_path, monkeypatch):
    out = tmp_path / "transfer.json"
    chosen = ("constant: straight on", "linear: random 0")
    simple = transfer.simple_policies
    monkeypatch.setattr(transfer, "simple_policies", lambda env: {name: simple(env)[name] for name in chosen})
    for module in (driving, transfer):
        monkeypatch.setattr(module, "task_of", lambda name: replace(task_of(name), max_episode_steps=200))
    twins = tuple(str(tmp_path / name) for name in ("one", "twin"))
    for twin in twins:
        Controller(Controller.from_pretrained().parameters).save(twin)
    args = transfer.Args(world_model=world_model_folder, policies=twins, tracks=2, drives=3, out=out)
    with pytest.raises(ValueError, match="can't drive 101 of them"):
        transfer.main(replace(args, tracks=101))
    transfer.main(args)
    content = json.loads(out.read_text())
    assert [line["policy"] for line in content["policies"]] == [*chosen, twins[0]]
    assert (
        content["dream"]["all"]["policies"] == 3
        and "wary" not in content
        and len(content["open_loop"]["horizons"]) == 5
    )
    assert content["calibration"]["end"]["ends"] == 1  # the drive at half gas
    assert all(out.with_suffix(end).stat().st_size > 1000 for end in (".png", ".worst.png"))
    monkeypatch.setattr(transfer, "measure", lambda *_: pytest.fail("measured again"))
    transfer.main(args)
    other = str(tmp_path / "other")
    make_world_model().save(other)
    with pytest.raises(ValueError, match="give --policies"):
        transfer.main(transfer.Args(world_model=other, out=out))
    with pytest.raises(ValueError, match="car_racing knows the latents of another world model"):
        transfer.main(replace(args, policies=("car_racing",)))
    with pytest.raises(ValueError, match=r"bundled one's page: give .*other a file, --out"):
        transfer.main(transfer.Args(world_model=other, policies=twins))
    named = [(name, policy) for name, policy in simple(gym.make("DreamCarRacing-v0")).items()]
    assert len({transfer.identity(*each, WorldModel.from_pretrained(other)) for each in named}) == len(named)


def test_scores_are_kept_for_a_policy_and_all_that_its_dreams_come_from():
    model, policy = make_world_model(doubters=1), Controller.from_pretrained("car_racing")
    parts = [model.config, model.vae, model.memory, model.starts, model.doubters]

    def known(name: str = "a", driver: Controller = policy, **changed) -> str:
        config, vae, memory, starts, doubters = (
            changed.get(part, old)
            for part, old in zip(("config", "vae", "memory", "starts", "doubters"), parts, strict=True)
        )
        return transfer.identity(name, driver, WorldModel(config, vae, memory, starts, doubters))

    assert known("b", config=replace(model.config, training={"seed": 7})) == known()  # a controller is its weights
    others = [
        known(driver=Controller(policy.parameters + 1, policy.config)),
        known(config=replace(model.config, reward=replace(model.config.reward, per_step=-0.2))),
        known(vae=VAE()),
        known(memory=model.doubters[0]),
        known(starts=replace(model.starts, gained=model.starts.gained + 1)),
        known(doubters=[model.memory]),
    ]
    assert len({known(), *others}) == 7


def test_wary_dreams_of_a_model_with_doubters_charge_for_what_they_do_not_know(tmp_path):
    make_world_model(doubters=1).save(tmp_path / "model")
    args = transfer.Args(world_model=str(tmp_path / "model"), tracks=2, workers=1)
    found = transfer.measure(args, "driver", Controller(Controller.from_pretrained().parameters))
    assert [len(found["scores"][kind]) for kind in ("real", "dream", "wary")] == [2, 2, 2]
    assert found["wary"]["mean"] < found["dream"]["mean"]
    lines = [found | {"policy": "a"}, {"policy": "b", "scores": {kind: [9.0, 9.0] for kind in found["scores"]}}]
    told = {kind: transfer.agreements(lines, kind, np.array([True, False])) for kind in ("dream", "wary")}
    assert told["wary"]["all"]["gap"] < told["dream"]["all"]["gap"]
    assert told["wary"]["good"]["policies"] == told["wary"]["best"]["policies"] == 1
    assert "1 policies" in transfer.words(told)
