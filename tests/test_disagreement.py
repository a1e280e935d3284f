"""Dreams of an ensemble: its members' disagreement is told, paid and cut off."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import COAST, ID, make_world_model
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from wm_gym.models.kinds import KINDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("ensemble") / "world_model"
    make_world_model("ensemble").save(made)
    return str(made)


def test_a_dream_tells_how_much_its_members_disagree(folder):
    env = gym.make(ID, world_model=folder)
    assert env.reset(seed=0)[1] == {}
    memory = env.unwrapped.dream.world_model.memory
    for _ in range(5):
        observation, _, terminated, _, info = env.step(COAST)
        assert type(info["disagreement"]) is float
        expected = memory.predict(torch.from_numpy(observation[None, 32:])).disagreement.item()
        assert info["disagreement"] == pytest.approx(expected, rel=1e-5)
        if terminated:
            env.reset()


def test_the_penalty_is_paid_and_changes_nothing_else(folder):
    plain, wary = gym.make(ID, world_model=folder), gym.make(ID, world_model=folder, disagreement_penalty=0.5)
    for env in (plain, wary):
        env.reset(seed=1)
    for _ in range(60):
        (mine, reward, *ends, info), (its, paid, *others, same) = plain.step(COAST), wary.step(COAST)
        assert np.array_equal(mine, its) and (ends, info) == (others, same)
        assert info["disagreement"] > 0
        assert paid == pytest.approx(reward - 0.5 * info["disagreement"], abs=1e-9)
        if any(ends):
            plain.reset(), wary.reset()


def test_an_episode_is_cut_where_members_disagree_beyond_the_limit(folder):
    plain = gym.make(ID, world_model=folder, sampling="mode")
    plain.reset(seed=0)
    doubts = [plain.step(COAST)[4]["disagreement"] for _ in range(30)]
    limit = sorted(doubts)[15]
    env = gym.make(ID, world_model=folder, sampling="mode", disagreement_limit=limit)
    env.reset(seed=0)
    first = next(i for i, doubt in enumerate(doubts) if doubt > limit)
    ends = [env.step(COAST)[2:4] for _ in range(first + 1)]
    assert ends == [(False, False)] * first + [(False, True)]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(COAST)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_lanes_are_cut_and_pay_as_single_envs(folder, mode):
    rng = np.random.default_rng(0)
    how = {"world_model": folder, "disagreement_penalty": 0.3, "starts": "any"}
    plain = gym.make_vec(ID, 50, **how)
    plain.reset(seed=0)
    doubts = [plain.step(np.zeros((50, 3)))[4]["disagreement"] for _ in range(5)]
    how["disagreement_limit"] = float(np.quantile(doubts, 0.9))
    native = gym.make_vec(ID, 4, autoreset_mode=mode, **how)
    sync = SyncVectorEnv([lambda: gym.make(ID, **how)] * 4, autoreset_mode=mode)
    native.reset(seed=0), sync.reset(seed=0)
    cut = 0
    for _ in range(30):
        actions = rng.uniform([-1, 0, 0], [1, 1, 1], (4, 3)).astype(np.float32)
        step, expected = native.step(actions), sync.step(actions)
        for mine, its in zip(step[:4], expected[:4], strict=True):
            np.testing.assert_allclose(mine, its, atol=1e-3)
        over = expected[2] | expected[3]
        cut += (expected[3] & ~expected[2]).sum()
        infos, its = step[4], expected[4]
        assert infos.keys() == its.keys()
        if "_disagreement" in its:
            assert np.array_equal(infos["_disagreement"], its["_disagreement"])
            np.testing.assert_allclose(infos["disagreement"], its["disagreement"], atol=1e-3)
        if "final_info" in its:
            final = infos["final_info"]["disagreement"]
            np.testing.assert_allclose(final, its["final_info"]["disagreement"], atol=1e-3)
            assert (final[over] > 0).all()
        if mode == AutoresetMode.DISABLED and over.any():
            for envs in (native, sync):
                envs.reset(options={"reset_mask": over.copy()})
    assert cut > 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ensemble"])
@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_only_an_ensemble_disagrees(tmp_path, kind, make):
    make_world_model(kind).save(tmp_path / "model")
    for wrong in ({"disagreement_penalty": 1.0}, {"disagreement_limit": 1.0}):
        with pytest.raises(ValueError, match="ensemble"):
            make(ID, world_model=str(tmp_path / "model"), **wrong)
    env = make(ID, world_model=str(tmp_path / "model"))
    env.reset(seed=0)
    assert "disagreement" not in env.step(np.zeros(env.action_space.shape, np.float32))[4]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
@pytest.mark.parametrize(
    "wrong",
    [
        {"disagreement_penalty": -1.0},
        {"disagreement_penalty": float("nan")},
        {"disagreement_penalty": float("inf")},
        {"disagreement_limit": -0.1},
        {"disagreement_limit": "0.5"},
        {"disagreement_limit": float("nan")},
    ],
)
def test_wrong_penalties_and_limits_are_named(folder, make, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        make(ID, world_model=folder, **wrong)
