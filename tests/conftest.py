"""A small world model of random weights, for everything that does not depend on what was learned, and its dreams."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from training import collect
from wm_gym.models.kinds import KINDS, make_memory
from wm_gym.models.vae import VAE
from wm_gym.world_model import Starts, WorldModel, WorldModelConfig

MEMORIES = tuple(KINDS)
every_memory = pytest.mark.parametrize("world_model_folder", MEMORIES, indirect=True)
"""For contracts that hold for each kind of memory."""

EPISODE_STARTS, ALL_STARTS, WINDOW = 10, 24, 6
ID = "DreamCarRacing-v0"
Z = 32
COAST = np.zeros(3, np.float32)
FRAMES = "gauges96"


def make_world_model(kind: str = "lstm", **config) -> WorldModel:
    """Random weights of the real sizes, a rare end, ten episode starts and fourteen in mid-drive."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sizes = KINDS[kind][0]()
    vae, memory = VAE(), make_memory(sizes)
    with torch.no_grad():
        memory.heads.weight[..., :-2, :].mul_(3)  # uneven mixtures
        memory.heads.bias[..., -1] = -4
    length = np.zeros(ALL_STARTS, np.int64)
    length[EPISODE_STARTS:] = rng.integers(1, WINDOW + 1, ALL_STARTS - EPISODE_STARTS)
    starts = Starts(
        z=rng.standard_normal((ALL_STARTS, WINDOW + 1, 32)).astype(np.float32),
        actions=rng.uniform([-1, 0, 0], [1, 1, 1], (ALL_STARTS, WINDOW, 3)).astype(np.float32),
        length=length,
        gained=np.where(length > 0, 20.0, 0.0).astype(np.float32),
    )
    return WorldModel(WorldModelConfig(memory=sizes, **config), vae, memory, starts)


@pytest.fixture(scope="session")
def world_model_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """The folder of a saved small world model, of an LSTM unless `every_memory` asks; use it as ``world_model=``."""
    folder: Path = tmp_path_factory.mktemp("artifact") / "world_model"
    make_world_model(getattr(request, "param", "lstm")).save(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Tests run side by side; none gains from more threads."""
    torch.set_num_threads(1)


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are not shown."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="session")
def make(world_model_folder: str) -> Callable[..., gym.Env]:
    """Makes a dream of the small world model."""
    return lambda **kwargs: gym.make(ID, **{"world_model": world_model_folder, **kwargs})


@pytest.fixture(scope="session")
def make_vec(world_model_folder: str) -> Callable[..., gym.vector.VectorEnv]:
    """Makes so many lanes of it."""
    return lambda lanes, **kwargs: gym.make_vec(ID, lanes, world_model=world_model_folder, **kwargs)


@pytest.fixture(scope="module")
def env(make: Callable[..., gym.Env]) -> gym.Env:
    """A dream that tests share."""
    return make()


@pytest.fixture(scope="module")
def world_model(world_model_folder: str) -> WorldModel:
    """The small world model, to look into."""
    return WorldModel.from_pretrained(world_model_folder)


@pytest.fixture
def make_kind(world_model_folder: str) -> Callable[..., Any]:
    """Makes an env by its kind: "dream", "dreams" (two lanes) or "real"."""

    def make_kind(kind: str, **kwargs: Any) -> Any:
        kwargs = {"world_model": world_model_folder, **kwargs}
        if kind == "dreams":
            return gym.make_vec(ID, **{"num_envs": 2, **kwargs})
        return gym.make(ID if kind == "dream" else "LatentCarRacing-v0", **kwargs)

    return make_kind


@pytest.fixture(scope="session")
def box2d() -> None:
    """Box2D's bindings warn once, when they are loaded: after this they have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gym.make("CarRacing-v3").close()


@pytest.fixture(scope="module")
def car_racing(box2d: None) -> Iterator[gym.Env]:
    """A CarRacing at the start of a track; the scripted driver reads it."""
    env = gym.make("CarRacing-v3")
    env.reset(seed=0)
    yield env
    env.close()


def collecting(out: Path, **changes: Any) -> collect.Args:
    """Settings of two short drives."""
    return replace(collect.Args(out=out, episodes=2, burst_rate=0.2, max_steps=30), **changes)


@pytest.fixture(scope="session")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short drives of the real CarRacing."""
    folder = tmp_path_factory.mktemp("drives") / "rollouts"
    collect.main(collecting(folder))
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What every file of a folder holds and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def some_actions(*shape: int, seed: int = 0) -> np.ndarray:
    """Random actions for so many steps, or so many steps of so many lanes."""
    return np.random.default_rng(seed).uniform([-1, 0, 0], [1, 1, 1], (*shape, 3)).astype(np.float32)


def gentle_actions(steps: int, seed: int = 0) -> np.ndarray:
    """Random actions with gas and little braking, which keep the real car on its way for some steps."""
    return np.random.default_rng(seed).uniform([-1, 0.3, 0], [1, 1, 0.2], (steps, 3)).astype(np.float32)


def drive(env: gym.Env, seed: int, actions: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """All observations and all rewards of a drive that does not end."""
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not (terminated or truncated)
        observations.append(observation)
        rewards.append(float(reward))
    return np.stack(observations), rewards


def trace(env: gym.Env, actions: np.ndarray) -> list:
    """Everything the env returns for these actions, over as many episodes as they last; comparable bit for bit."""
    steps: list = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append((observation.tobytes(), reward, terminated, truncated, tuple(info.items())))
        if terminated or truncated:
            steps.append(env.reset()[0].tobytes())
    return steps


def drive_to_the_end(env: gym.Env, seed: int) -> tuple:
    """Coast until the episode ends; the state before the last step, and what that step returned."""
    env.reset(seed=seed)
    while True:
        state = env.unwrapped.get_state()
        step = env.step(COAST)
        if step[2] or step[3]:
            return state, step


def stream(env: gym.Env) -> dict[str, Any]:
    """The state of an env's random stream."""
    return env.unwrapped.np_random.bit_generator.state


def stepped_once(envs: gym.vector.VectorEnv, **reset: Any) -> np.ndarray:
    """What lanes show after a reset and a step of random actions."""
    envs.reset(**reset)
    return envs.step(some_actions(1, envs.num_envs)[0])[0]


def assert_infos_agree(infos: dict, expected: dict) -> None:
    assert infos.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_infos_agree(infos[key], value)
        elif key == "final_obs":
            for mine, its in zip(infos[key], value, strict=True):
                assert (mine is None) == (its is None)
                if its is not None:
                    assert mine.dtype == its.dtype
                    np.testing.assert_allclose(mine, its, atol=1e-4)
        else:
            assert infos[key].dtype == value.dtype
            np.testing.assert_allclose(infos[key], value, atol=1e-4 if key == "disagreement" else 0)


def assert_steps_equal(step: tuple, expected: tuple) -> None:
    for mine, its in zip(step[:-1], expected[:-1], strict=True):
        np.testing.assert_array_equal(mine, its)
    assert_infos_agree(step[-1], expected[-1])


def assert_warns_only_of(markers: set[str], check: Callable[[], object]) -> None:
    """Each warning has one of these markers in it, and there is one for each of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    messages = {str(warning.message) for warning in caught}
    assert {marker for marker in markers if any(marker in message for message in messages)} == set(markers)
    assert [message for message in messages if not any(marker in message for marker in markers)] == []
