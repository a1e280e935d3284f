"""What actions a dream takes, and that the same seed and actions give the same dream."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ALL_STARTS, COAST, ID, Z, drive_to_the_end, every_memory, some_actions, stream, trace
from hypothesis import given, settings
from hypothesis import strategies as st

# --- determinism ---------------------------------------------------------------------------------------------------


@every_memory
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_same_seed_and_actions_give_the_same_dream_bit_for_bit(world_model_folder, seed):
    one, other = (gym.make(ID, world_model=world_model_folder, starts="any") for _ in range(2))
    assert np.array_equal(one.reset(seed=seed)[0], other.reset(seed=seed)[0])
    first = trace(one, some_actions(40))
    assert trace(other, some_actions(40)) == first
    one.reset(seed=seed)  # and again in an env that has dreamt already
    assert trace(one, some_actions(40)) == first


def test_another_seed_gives_another_dream(env):
    dreams = set()
    for seed in range(5):
        env.reset(seed=seed, options={"start": 0})
        dreams.add(env.step(COAST)[0].tobytes())
    assert len(dreams) == 5


def test_another_action_gives_another_dream(env):
    observations = []
    for action in (COAST, np.array([0, 1, 0], np.float32)):
        env.reset(seed=0)
        observations.append(env.step(action)[0])
    assert not np.allclose(*observations)


def test_reset_without_a_seed_goes_on_with_the_stream(make):
    one, other = make(), make()
    one.reset(seed=0)
    other.reset(seed=0)
    starts = [one.reset()[0][:Z].tobytes() for _ in range(20)]
    assert len(set(starts)) > 1
    assert [other.reset()[0][:Z].tobytes() for _ in range(20)] == starts


# --- actions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [np.float64, np.float16, np.int8, np.int64, list, tuple, torch.from_numpy, lambda a: [int(x) for x in a]],
    ids=["float64", "float16", "int8", "int64", "list", "tuple", "tensor", "ints"],
)
def test_actions_of_any_real_type_are_taken(make, convert):
    corners = np.array([[-1, 1, 0], [1, 0, 1], [0, 0, 0]], np.float32)
    one, other = make(), make()
    one.reset(seed=1, options={"start": 0})
    other.reset(seed=1, options={"start": 0})
    assert trace(one, corners) == trace(other, [convert(action) for action in corners])


BAD_ACTIONS = [
    ([np.nan, 0, 0], r"action\[0\] is nan"),
    ([0, np.inf, 0], r"action\[1\] is inf"),
    ([0, 0, -np.inf], r"action\[2\] is -inf"),
    ([1.5, 0, 0], r"action\[0\] is 1\.5"),
    (np.array([0, -0.25, 0], np.float64), r"action\[1\] is -0\.25"),
    (np.array([0, 0, 1e300]), r"action\[2\] is 1e\+300"),
    ([0, 0, 2], r"action\[2\] is 2"),
    ([0, 0], r"shape \(3,\).*\(2,\)"),
    ([[0, 0, 0]], r"shape \(3,\).*\(1, 3\)"),
    (0.5, r"shape \(3,\)"),
    (["left", "gas", "brake"], "left"),
    ("left", "left"),
    ([0, 0, 1j], "1j"),
    (None, "None"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ACTIONS)
@pytest.mark.filterwarnings("error")
def test_a_bad_action_is_named_and_nothing_happens(make, bad, message):
    disturbed, calm = make(), make()
    for env in (disturbed, calm):
        env.reset(seed=2)
        env.step(COAST)
    before = stream(disturbed)
    with pytest.raises(ValueError, match=message):
        disturbed.step(bad)
    assert stream(disturbed) == before
    assert trace(disturbed, some_actions(10)) == trace(calm, some_actions(10))


def test_step_before_reset_is_an_error(make):
    env = make().unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(COAST)
    with pytest.raises(ValueError, match="start"):
        env.reset(options={"start": ALL_STARTS})
    with pytest.raises(gym.error.ResetNeeded, match="reset"):  # a reset that failed began nothing
        env.step(COAST)


def test_step_after_the_end_is_an_error(env):
    drive_to_the_end(env, seed=0)
    before = stream(env)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(COAST)
    assert stream(env) == before
    env.reset()
    env.step(COAST)
