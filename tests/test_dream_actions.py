"""What actions a dream takes, and that the same seed and actions give the same dream."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import (
    ALL_STARTS,
    COAST,
    Z,
    another_task,
    drive_to_the_end,
    every_dream,
    every_task,
    some_actions,
    stream,
    trace,
)
from hypothesis import given, settings
from hypothesis import strategies as st

# --- determinism ---------------------------------------------------------------------------------------------------


@every_dream
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_same_seed_and_actions_give_the_same_dream_bit_for_bit(world_model_folder, seed, random_actions, dream_id):
    one, other = (gym.make(dream_id, world_model=world_model_folder, starts="any") for _ in range(2))
    assert np.array_equal(one.reset(seed=seed)[0], other.reset(seed=seed)[0])
    first = trace(one, random_actions(40))
    assert trace(other, random_actions(40)) == first
    one.reset(seed=seed)  # and again in an env that has dreamt already
    assert trace(one, random_actions(40)) == first


@every_task
def test_another_seed_gives_another_dream(env, coast):
    dreams = set()
    for seed in range(5):
        env.reset(seed=seed, options={"start": 0})
        dreams.add(env.step(coast)[0].tobytes())
    assert len(dreams) == 5


@every_task
def test_another_action_gives_another_dream(env, actions, coast):
    observations = []
    for action in (coast, np.int64(2) if actions.discrete else np.array([0, 1, 0], np.float32)):
        env.reset(seed=0)
        observations.append(env.step(action)[0])
    assert not np.allclose(*observations)


@every_task
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


def check_that_nothing_happens(make, coast, actions, bad, message):
    disturbed, calm = make(), make()
    for env in (disturbed, calm):
        env.reset(seed=2)
        env.step(coast)
    before = stream(disturbed)
    with pytest.raises(ValueError, match=message):
        disturbed.step(bad)
    assert stream(disturbed) == before
    assert trace(disturbed, actions) == trace(calm, actions)


@pytest.mark.parametrize(("bad", "message"), BAD_ACTIONS)
@pytest.mark.filterwarnings("error")
def test_a_bad_action_is_named_and_nothing_happens(make, bad, message):
    check_that_nothing_happens(make, COAST, some_actions(10), bad, message)


@another_task
@pytest.mark.parametrize("convert", [int, np.int8, np.uint64, np.array, torch.tensor], ids=lambda each: each.__name__)
def test_choices_of_any_whole_type_are_taken(make, convert):
    one, other = make(), make()
    one.reset(seed=1, options={"start": 0})
    other.reset(seed=1, options={"start": 0})
    assert trace(one, [np.int64(2), np.int64(0)]) == trace(other, [convert(2), convert(0)])


BAD_CHOICES = [
    (3, "action is 3, expected a value from 0 to 2"),
    (-1, "action is -1, expected a value from 0 to 2"),
    (np.uint64(2**63), "action is 9223372036854775808"),
    (2**70, "whole numbers"),
    (1.0, "whole numbers"),
    (np.nan, "whole numbers"),
    (True, "whole numbers"),
    ("1", "whole numbers"),
    (None, "None"),
    ([1], r"shape \(\), got \(1,\)"),
    ([0, 1, 0], r"shape \(\), got \(3,\)"),
]


@another_task
@pytest.mark.parametrize(("bad", "message"), BAD_CHOICES)
@pytest.mark.filterwarnings("error")
def test_a_bad_choice_is_named_and_nothing_happens(make, random_actions, coast, bad, message):
    check_that_nothing_happens(make, coast, random_actions(10), bad, message)


@every_task
def test_step_before_reset_is_an_error(make, coast):
    env = make().unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(coast)
    with pytest.raises(ValueError, match="start"):
        env.reset(options={"start": ALL_STARTS})
    with pytest.raises(gym.error.ResetNeeded, match="reset"):  # a reset that failed began nothing
        env.step(coast)


@every_task
def test_step_after_the_end_is_an_error(env, coast):
    drive_to_the_end(env, seed=0)
    before = stream(env)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(coast)
    assert stream(env) == before
    env.reset()
    env.step(coast)
