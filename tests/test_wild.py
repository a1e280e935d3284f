"""Wild users and long runs: clear errors that change nothing, numbers that stay numbers, memory that stays flat."""

import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ALL_STARTS
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from benchmarks.soak import steps, users
from wm_gym.dream import NOISE_BLOCK
from wm_gym.envs.latent import LatentEnv
from wm_gym.world_model import WorldModel

DREAM, REAL = "DreamCarRacing-v0", "LatentCarRacing-v0"
COAST = np.zeros(3, np.float32)
LANES = 2


@pytest.fixture(autouse=True)
def quiet():
    """No window; Box2D's bindings warn once, gymnasium of unbounded spaces."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def make(world_model_folder):
    """Makes an env by its kind: "dream", "dreams" (two lanes) or "real"."""

    def make(kind, **kwargs):
        kwargs = {"world_model": world_model_folder, **kwargs}
        if kind == "dreams":
            return gym.make_vec(DREAM, **{"num_envs": LANES, **kwargs})
        return gym.make(DREAM if kind == "dream" else REAL, **kwargs)

    return make


def coast(env):
    """What an env returns for five steps without steering or gas."""
    action = np.zeros(env.action_space.shape, np.float32)
    return [np.asarray(part).tobytes() for _ in range(5) for part in env.step(action)[:-1]]


# --- users ---------------------------------------------------------------------------------------------------------


def test_wild_users_get_clear_errors_and_change_nothing(world_model_folder):
    figures = users.run(400, seed=0, world_model=world_model_folder)
    assert figures["wrong"] == []
    assert figures["cases"] == 400 == sum(figures["by_kind_and_env"].values())
    assert len(figures["by_kind_and_env"]) == 15
    assert figures["accepted"] > 40
    assert {"ValueError", "TypeError", "ResetNeeded", "ClosedEnvironmentError", "Error"} <= figures["refused"].keys()


@pytest.mark.parametrize("kind", ["dream", "dreams", "real"])
@pytest.mark.parametrize("options", [5, "start", ["start"], [], 0, np.zeros(2)], ids=repr)
def test_options_that_are_no_dict_change_nothing(make, kind, options):
    wild, calm = make(kind), make(kind)
    for env in (wild, calm):
        env.reset(seed=3)
    with pytest.raises(TypeError, match="reset options must be None or a dict"):
        wild.reset(seed=4, options=options)
    assert coast(wild) == coast(calm)


@pytest.mark.parametrize("kind", ["dream", "dreams"])
def test_unknown_options_of_mixed_types_are_named(make, kind):
    with pytest.raises(ValueError, match=r"unknown reset options \['begin', 7, None\]: expected some of .*'start'"):
        make(kind).reset(options={"begin": 1, 7: 2, None: 3})


@pytest.mark.parametrize("seed", [-1, 1.5, "1", [1, 2]])
def test_a_wrong_seed_leaves_the_real_env_as_it_was(make, seed):
    wild, calm = make("real"), make("real")
    for env in (wild, calm):
        env.reset(seed=3)
    with pytest.raises(gym.error.Error, match="Seed must be"):
        wild.reset(seed=seed)
    assert coast(wild) == coast(calm)


@pytest.mark.parametrize("kind", ["dream", "dreams"])
@pytest.mark.parametrize("temperature", ["1", None, 1e300, 1e-300, 1j, [1.0], torch.tensor(1.0)], ids=repr)
def test_temperature_is_a_number_that_float32_can_stand(make, kind, temperature):
    with pytest.raises(ValueError, match=r"temperature must be a number from 0\.001 to 1000, got"):
        make(kind, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.001, 1000])
def test_dreams_of_extreme_temperatures_are_finite(make, temperature):
    envs = make("dreams", temperature=temperature)
    envs.reset(seed=0)
    for _ in range(200):
        observation, reward, *_ = envs.step(envs.action_space.sample())
        assert np.isfinite(observation).all() and np.isfinite(reward).all()
    envs.reset(options={"state": envs.get_state()})  # the env's own states are never refused


@pytest.mark.parametrize("num_envs", [2.5, 2.0, "2", 0, -1, None, True])
def test_num_envs_is_a_whole_number(make, num_envs):
    with pytest.raises(ValueError, match="num_envs must be a whole number of at least 1, got"):
        make("dreams", num_envs=num_envs)


@pytest.mark.parametrize("steps", [2.5, "9", 0, -2, None, np.nan, np.inf])
def test_max_episode_steps_of_lanes_is_a_whole_number(make, steps):
    with pytest.raises(ValueError, match=r"max_episode_steps.* must be a whole number of at least 1, got"):
        make("dreams", max_episode_steps=steps)


@pytest.mark.parametrize("kind", ["dream", "dreams", "real"])
@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"device": "gpu"}, ValueError, "device must be one that torch can use here"),
        ({"device": "meta"}, ValueError, "device must be one that torch can use here"),
        ({"world_model": 5}, TypeError, "a world_model is given as a bundled name or a folder, got 5"),
        ({"world_model": "**"}, ValueError, "no such world_model"),
        ({"world_model": "a" * 5000}, ValueError, "no such world_model"),
        ({"render_mode": "ansi"}, ValueError, "render_mode must be one of"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_arguments_are_named(make, kind, kwargs, error, message):
    with pytest.raises(error, match=message):
        make(kind, **kwargs)


@pytest.mark.parametrize("percent", ["0.9", None, 1.5, np.nan])
def test_lap_complete_percent_is_refused_before_carracing_reads_it(make, percent):
    with pytest.raises(ValueError, match="lap_complete_percent must be a number from 0 to 1, got"):
        make("real", lap_complete_percent=percent)


def test_an_option_of_carracing_is_refused_before_the_track_is_gone(make):
    wild, calm = make("real", domain_randomize=True), make("real", domain_randomize=True)
    for env in (wild, calm):
        env.reset(seed=3)
    with pytest.raises(ValueError, match="randomize"):
        wild.reset(seed=4, options={"randomize": np.zeros(2)})
    assert coast(wild) == coast(calm)


@pytest.mark.parametrize("kind", ["dream", "dreams", "real"])
def test_an_action_that_numpy_cannot_read_changes_nothing(make, kind):
    wild, calm = make(kind), make(kind)
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
    "tiles shape": (lambda state: replace(state, gained=np.zeros(9, np.float32)), r"got float32 \(9,\)"),
    "tiles beyond": (lambda state: replace(state, gained=state.gained * 0 + 296), r"state\.gained must hold .* 295"),
    "tiles below": (lambda state: replace(state, gained=state.gained - 1), r"state\.gained must hold"),
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


@pytest.mark.parametrize("seed", [None, 9])
@pytest.mark.parametrize("kind", ["dream", "dreams"])
@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_state_that_no_dream_has_is_refused_and_changes_nothing(make, kind, spoilt, seed):
    spoil, message = SPOILT[spoilt]
    wild, calm = make(kind), make(kind)
    for env in (wild, calm):
        env.reset(seed=3)
    state = spoil(wild.unwrapped.get_state())
    with pytest.raises(ValueError, match=message):
        wild.reset(seed=seed, options={"state": state})
    assert coast(wild) == coast(calm)
    wild.reset(options={"state": calm.unwrapped.get_state()})
    assert coast(wild) == coast(calm)


def test_a_dream_comes_back_from_a_latent_far_out():
    env = gym.make(DREAM).unwrapped
    env.reset(seed=0)
    real = abs(steps.real_latents(env.dream.world_model.starts)).max()
    for far in (10 * real, 1e6):
        state = env.get_state()
        env.reset(options={"state": replace(state, z=torch.full_like(state.z, far))})
        for _ in range(20):
            assert abs(env.step(COAST)[0][:32]).max() < steps.REACH * real


# --- the order of calls --------------------------------------------------------------------------------------------


def test_a_closed_vector_env_refuses_and_says_so(make):
    env = make("dreams")
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.step(np.zeros(env.action_space.shape)), env.reset):
        with pytest.raises(ClosedEnvironmentError, match="closed: make a new one"):
            call()


@pytest.mark.parametrize("kind", ["dream", "real"])
def test_a_closed_env_has_no_episode_until_it_is_reset(make, kind):
    env, calm = make(kind), make(kind)
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(COAST)
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


@pytest.mark.parametrize("kind", ["dream", "dreams"])
def test_there_is_no_moment_before_the_first_reset(make, kind):
    env = make(kind).unwrapped
    with pytest.raises(ResetNeeded, match="call reset"):
        env.get_state()
    with pytest.raises(ValueError, match="starts go from 0"):
        env.reset(options={"start": ALL_STARTS})
    with pytest.raises(ResetNeeded, match="call reset"):
        env.get_state()


# --- long runs -----------------------------------------------------------------------------------------------------


def test_a_long_run_stays_in_its_bounds(world_model_folder):
    figures = steps.run(lane_steps=20_000, resets=4, seed=0, world_model=world_model_folder)
    dreams = figures["dreams"]
    assert dreams["lane_steps"] >= 20_000
    assert dreams["episodes"] > 100
    assert (dreams["not_finite"], dreams["out_of_bounds"]) == (0, 0)
    for name, resets in figures["resets"].items():
        assert resets["resets"] == 4, name
        assert resets["outside_the_space"] == 0, name
    for run in (dreams, *figures["resets"].values()):
        assert 50 < run["memory"]["after_warm_up_mb"] < 5000
        assert run["memory"]["growth"] < 0.05  # a long run's limit is 0.01, of more


def test_latents_of_the_bundled_world_model_stay_near_real_ones(monkeypatch):
    monkeypatch.setattr(steps, "LANES", 32)
    figures = steps.dream(steps.Dreams(lane_steps=8_000, seed=1, world_model="car_racing"))
    real = steps.real_latents(WorldModel.from_pretrained("car_racing").starts)
    assert figures["latents"]["real"] == {"range": [real.min(), real.max()], "numbers": real.size}
    assert (figures["not_finite"], figures["out_of_bounds"]) == (0, 0)
    for temperature in steps.TEMPERATURES:
        seen = figures["latents"][f"temperature {temperature}"]
        assert seen["beyond_reach"] == 0
        assert seen["share_beyond_real"] < (1e-3 if temperature < 3 else 1e-2)
        assert seen["range"][0] < -3 and seen["range"][1] > 3  # dreams do move


def test_what_leaves_its_bounds_is_counted(world_model_folder, monkeypatch):
    """The counters of a long run see a latent far out and a number that is none."""
    monkeypatch.setattr(steps, "LANES", 8)
    job = steps.Dreams(lane_steps=32, seed=0, world_model=world_model_folder)
    monkeypatch.setattr(steps, "REACH", 0.1)
    assert steps.dream(job)["latents"]["temperature 1.0"]["beyond_reach"] > 100
    for broken, counter in ((torch.nan, "not_finite"), (1e30, "beyond_reach")):
        monkeypatch.setattr(
            "wm_gym.dream.sample_mixture",
            lambda prediction, *_, value=broken, **__: torch.full_like(prediction.mu[..., 0], value),
        )
        figures = steps.dream(job)
        assert {**figures, **figures["latents"]["temperature 1.0"]}[counter] >= 8 * 32
