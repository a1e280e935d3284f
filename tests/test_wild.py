"""Wild users: clear errors that change nothing, whatever is called with whatever in whatever order."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ALL_STARTS, COAST, every_task, nothing
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from benchmarks.soak import users
from wm_gym.dream_state import NOISE_BLOCK
from wm_gym.envs.latent import LatentEnv

pytestmark = [pytest.mark.usefixtures("box2d", "no_display"), pytest.mark.filterwarnings("ignore")]


def coast(env):
    """What an env returns for five steps of doing nothing."""
    action = nothing(env.action_space)
    return [np.asarray(part).tobytes() for _ in range(5) for part in env.step(action)[:-1]]


# --- users ---------------------------------------------------------------------------------------------------------


def test_wild_users_get_clear_errors_and_change_nothing(world_model_folder):
    figures = users.run(400, seed=0, world_model=world_model_folder)
    assert figures["wrong"] == []
    assert figures["cases"] == 400 == sum(figures["by_kind_and_env"].values())
    assert len(figures["by_kind_and_env"]) == 15
    assert figures["accepted"] > 40
    assert {"ValueError", "TypeError", "ResetNeeded", "ClosedEnvironmentError", "Error"} <= figures["refused"].keys()


@every_task
@pytest.mark.parametrize("kind", ["dream", "dreams", "real"])
@pytest.mark.parametrize("options", [5, "start", ["start"], [], 0, np.zeros(2)], ids=repr)
def test_options_that_are_no_dict_change_nothing(make_kind, kind, options):
    wild, calm = make_kind(kind), make_kind(kind)
    for env in (wild, calm):
        env.reset(seed=3)
    with pytest.raises(TypeError, match="reset options must be None or a dict"):
        wild.reset(seed=4, options=options)
    assert coast(wild) == coast(calm)


@every_task
@pytest.mark.parametrize("kind", ["dream", "dreams"])
def test_unknown_options_of_mixed_types_are_named(make_kind, kind):
    with pytest.raises(ValueError, match=r"unknown reset options \['begin', 7, None\]: expected some of .*'start'"):
        make_kind(kind).reset(options={"begin": 1, 7: 2, None: 3})


@every_task
@pytest.mark.parametrize("seed", [-1, 1.5, "1", [1, 2]])
def test_a_wrong_seed_leaves_the_real_env_as_it_was(make_kind, seed):
    wild, calm = make_kind("real"), make_kind("real")
    for env in (wild, calm):
        env.reset(seed=3)
    with pytest.raises(gym.error.Error, match="Seed must be"):
        wild.reset(seed=seed)
    assert coast(wild) == coast(calm)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("options", [{"randomize": np.zeros(2)}, {"randomize": 1}, {"randomise": True}, {"start": 3}])
def test_an_option_of_carracing_is_refused_before_the_track_is_gone(make_kind, options, fast):
    wild, calm = (make_kind("real", domain_randomize=True, fast=fast) for _ in range(2))
    for env in (wild, calm):
        env.reset(seed=3)
    with pytest.raises(ValueError, match="randomize"):
        wild.reset(seed=4, options=options)
    assert coast(wild) == coast(calm)


@every_task
@pytest.mark.parametrize("kind", ["dream", "dreams", "real"])
def test_an_action_that_numpy_cannot_read_changes_nothing(make_kind, kind):
    wild, calm = make_kind(kind), make_kind(kind)
    for env in (wild, calm):
        env.reset(seed=3)
    for action in ([[1], [2, 3]], torch.zeros(env.action_space.shape, requires_grad=True)):
        with pytest.raises(ValueError, match="expected an action that numpy can read"):
            wild.step(action)
    assert coast(wild) == coast(calm)


# --- states --------------------------------------------------------------------------------------------------------


SPOILT = {
    "noise shape": (lambda state: replace(state, noise=state.noise[:, :-1]), r"state\.noise must be a ndarray"),
    "noise type": (lambda state: replace(state, noise=state.noise.astype(float)), r"got float64"),
    "noise nan": (lambda state: replace(state, noise=state.noise * np.float32(np.nan)), r"state\.noise must hold"),
    "cursor shape": (lambda state: replace(state, cursor=state.cursor[None]), r"state\.cursor must be a ndarray"),
    "cursor below": (lambda state: replace(state, cursor=state.cursor * 0 - 1), r"state\.cursor must hold"),
    "cursor above": (lambda state: replace(state, cursor=state.cursor * 0 + NOISE_BLOCK + 1), "from 0 to 32"),
    "gains shape": (lambda state: replace(state, gained=np.zeros(9, np.float32)), r"got float32 \(9,\)"),
    "gains beyond": (
        lambda state: replace(state, gained=state.gained * 0 + 296),
        r"state\.gained must hold numbers from 0 to",
    ),
    "gains below": (lambda state: replace(state, gained=state.gained - 1), r"state\.gained must hold"),
    "z type": (lambda state: replace(state, z=state.z.double()), r"state\.z must be a Tensor.*got torch\.float64"),
    "z array": (lambda state: replace(state, z=state.z.numpy()), r"state\.z must be a Tensor"),
    "z nan": (lambda state: replace(state, z=state.z * torch.nan), r"state\.z must hold numbers"),
    "z inf": (lambda state: replace(state, z=state.z + torch.inf), r"state\.z must hold numbers"),
    "memory nan": (lambda state: replace(state, memory=(state.memory[0], state.memory[1] * torch.nan)), r"memory\[1\]"),
    "memory part": (lambda state: replace(state, memory=state.memory[:1]), "tuple of 2 tensors"),
    "no memory": (lambda state: replace(state, memory=None), "tuple of 2 tensors, got None"),
    "no streams": (lambda state: replace(state, rngs=None), "list of numpy's random generators, got None"),
    "seeds": (lambda state: replace(state, rngs=[1] * len(state)), "list of numpy's random generators"),
}


@every_task
@pytest.mark.parametrize("seed", [None, 9])
@pytest.mark.parametrize("kind", ["dream", "dreams"])
@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_state_that_no_dream_has_is_refused_and_changes_nothing(make_kind, kind, spoilt, seed):
    spoil, message = SPOILT[spoilt]
    wild, calm = make_kind(kind), make_kind(kind)
    for env in (wild, calm):
        env.reset(seed=3)
    state = spoil(wild.unwrapped.get_state())
    with pytest.raises(ValueError, match=message):
        wild.reset(seed=seed, options={"state": state})
    assert coast(wild) == coast(calm)
    wild.reset(options={"state": calm.unwrapped.get_state()})
    assert coast(wild) == coast(calm)


# --- the order of calls --------------------------------------------------------------------------------------------


@every_task
def test_a_closed_vector_env_refuses_and_says_so(make_kind):
    env = make_kind("dreams")
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.step(nothing(env.action_space)), env.reset):
        with pytest.raises(ClosedEnvironmentError, match="closed: make a new one"):
            call()


@every_task
@pytest.mark.parametrize("kind", ["dream", "real"])
def test_a_closed_env_has_no_episode_until_it_is_reset(make_kind, kind):
    env, calm = make_kind(kind), make_kind(kind)
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(nothing(env.action_space))
    for each in (env, calm):  # as Stable-Baselines3's env checker does
        each.reset(seed=1)
    assert coast(env) == coast(calm)


def test_the_real_env_needs_a_reset_before_its_first_step_and_after_the_end(world_model_folder):
    wild, calm = (LatentEnv(world_model=world_model_folder) for _ in range(2))
    for call in (lambda: wild.step(COAST), wild.get_wrapper_attr("get_state")):
        with pytest.raises(ResetNeeded, match="call reset"):
            call()
    for env in (wild, calm):
        env.reset(seed=0)
        env.unwrapped.tile_visited_count = len(env.unwrapped.track)
        assert env.step(COAST)[2]
    with pytest.raises(ResetNeeded, match="call reset"):
        wild.step(COAST)
    for env in (wild, calm):
        env.reset()
    assert coast(wild) == coast(calm)


@every_task
@pytest.mark.parametrize("kind", ["dream", "dreams"])
def test_there_is_no_moment_before_the_first_reset(make_kind, kind):
    env = make_kind(kind).unwrapped
    with pytest.raises(ResetNeeded, match="call reset"):
        env.get_state()
    with pytest.raises(ValueError, match="starts go from 0"):
        env.reset(options={"start": ALL_STARTS})
    with pytest.raises(ResetNeeded, match="call reset"):
        env.get_state()
