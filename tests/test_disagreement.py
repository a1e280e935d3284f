"""Dreams of an ensemble, and dreams that doubters follow: disagreement is told, paid and cut off."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import COAST, ID, make_world_model
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from wm_gym.models.kinds import KINDS
from wm_gym.models.memory import mixture_mean, mixture_spread, select

START = 15
"""A start from the middle of a drive, which memories have run up to."""
TOLD = {"disagreement_limit": np.inf}
"""Arguments with which a dream tells its disagreement and does nothing else about it."""


@pytest.fixture(scope="module", params=["ensemble", "doubters"])
def folder(tmp_path_factory, request):
    made = tmp_path_factory.mktemp(request.param) / "world_model"
    (make_world_model("ensemble") if request.param == "ensemble" else make_world_model(doubters=2)).save(made)
    return str(made)


def test_a_dream_tells_how_much_its_memories_disagree(folder):
    """Doubters see the same z and actions from the same start on, and their predictions are held against M's."""
    env = gym.make(ID, world_model=folder, starts="any", **TOLD)
    observation, info = env.reset(seed=0, options={"start": START})
    assert info == {}
    model, rng = env.unwrapped.dream.world_model, np.random.default_rng(0)
    states = [select(model.run_up(doubter), torch.tensor([START])) for doubter in model.doubters]
    for _ in range(5):
        action = rng.uniform([-1, 0, 0], [1, 1, 1]).astype(np.float32)
        inputs = torch.from_numpy(observation[None, :32]), torch.from_numpy(action[None])
        states = [doubter.step(*inputs, state) for doubter, state in zip(model.doubters, states, strict=True)]
        observation, _, terminated, _, info = env.step(action)
        assert type(info["disagreement"]) is float
        mine = model.memory.predict(torch.from_numpy(observation[None, 32:]))
        if model.doubters:
            every = [mine, *(m.predict(m.hidden(state)) for m, state in zip(model.doubters, states, strict=True))]
            means = np.stack([mixture_mean(each).numpy() for each in every])
            spreads = np.stack([mixture_spread(each).numpy() for each in every])
            expected = (means.var(axis=0, ddof=1) / (spreads**2).mean(axis=0)).mean()
        else:
            expected = mine.disagreement.item()
        assert info["disagreement"] == pytest.approx(expected, rel=1e-4)
        assert not terminated


def test_the_penalty_is_paid_and_changes_nothing_else(folder):
    plain, wary = (gym.make(ID, world_model=folder, **how) for how in (TOLD, {"disagreement_penalty": 0.5}))
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
    plain = gym.make(ID, world_model=folder, sampling="mode", **TOLD)
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
    plain = gym.make_vec(ID, 50, **how, **TOLD)
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
def test_a_memory_that_nothing_doubts_does_not_disagree(tmp_path, kind, make):
    make_world_model(kind).save(tmp_path / "model")
    for wrong in ({"disagreement_penalty": 1.0}, {"disagreement_limit": 1.0}):
        with pytest.raises(ValueError, match="doubters"):
            make(ID, world_model=str(tmp_path / "model"), **wrong)
    env = make(ID, world_model=str(tmp_path / "model"))
    env.reset(seed=0)
    assert "disagreement" not in env.step(np.zeros(env.action_space.shape, np.float32))[4]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_doubters_that_are_not_asked_change_nothing_and_their_states_go_on(tmp_path, make):
    make_world_model(doubters=2).save(tmp_path / "model")
    how = {"world_model": str(tmp_path / "model")}
    asked, plain = make(ID, disagreement_penalty=2.0, **how), make(ID, **how)
    for env in (asked, plain):
        env.reset(seed=3)
    coast = np.broadcast_to(COAST, asked.action_space.shape)
    for _ in range(3):
        assert np.array_equal(asked.step(coast)[0], plain.step(coast)[0])
    assert "disagreement" not in plain.step(coast)[4]
    state = asked.unwrapped.get_state()
    first = asked.step(coast)
    asked.step(coast)
    asked.reset(options={"state": state})
    again = asked.step(coast)
    assert np.array_equal(first[0], again[0]) and first[1:] == again[1:]
    for env, other in ((plain, state), (asked, plain.unwrapped.get_state())):
        with pytest.raises(ValueError, match=r"memory must be a tuple of \d tensors, got \d; a dream that doubters"):
            env.reset(options={"state": other})


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
