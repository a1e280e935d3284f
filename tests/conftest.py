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
from wm_gym.actions import ActionConfig, draw_action
from wm_gym.car_racing import CAR_RACING, lap_reward
from wm_gym.models.kinds import KINDS, make_memory
from wm_gym.models.vae import VAE
from wm_gym.registration import env_ids, task_of
from wm_gym.reward import RewardConfig
from wm_gym.starts import Starts
from wm_gym.tasks import TaskConfig
from wm_gym.world_model import WorldModel, WorldModelConfig

MEMORIES = tuple(KINDS)
ANOTHER = "acrobot"
"""A small world model of another task, with choices, frames of another size and rewards that nothing counts."""

every_memory, every_dream, every_task = (
    pytest.mark.parametrize("world_model_folder", kinds, indirect=True)
    for kinds in (MEMORIES, (*MEMORIES, ANOTHER), (MEMORIES[0], ANOTHER))
)
"""For contracts that hold for each kind of memory, for each task, or for both."""
another_task = pytest.mark.parametrize("world_model_folder", [ANOTHER], indirect=True)

EPISODE_STARTS, ALL_STARTS, WINDOW = 10, 24, 6
ID = "DreamCarRacing-v0"
Z = 32
COAST = np.zeros(3, np.float32)
FRAMES = "gauges96"
ACROBOT = TaskConfig(
    env="Acrobot-v1",
    actions=ActionConfig((0.0,) * 3, (1.0,) * 3, discrete=True),
    frame=(500, 500),
    max_episode_steps=500,
    fps=15,
    solved=-100.0,
)
OTHER_PAY = RewardConfig(scale=0.5, per_step=-1.0, end=0.0)


def make_world_model(kind: str = "lstm", **config) -> WorldModel:
    """Random weights of the real sizes, a rare end, ten episode starts and fourteen in mid-drive."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if kind == ANOTHER:
        kind, config = "lstm", {"frames": "whole", "task": ACROBOT, "reward": OTHER_PAY, **config}
    task, counts = config.get("task", CAR_RACING), config.get("reward", lap_reward()).goal is not None
    sizes = KINDS[kind][0](counts=counts)
    vae, memory = VAE(), make_memory(sizes)
    with torch.no_grad():
        memory.heads.weight[..., :-2, :].mul_(3)  # uneven mixtures
        memory.heads.bias[..., -1] = -4
    length = np.zeros(ALL_STARTS, np.int64)
    length[EPISODE_STARTS:] = rng.integers(1, WINDOW + 1, ALL_STARTS - EPISODE_STARTS)
    starts = Starts(
        z=rng.standard_normal((ALL_STARTS, WINDOW + 1, 32)).astype(np.float32),
        actions=task.actions.encode(draw_action(task.actions.space, rng, (ALL_STARTS, WINDOW))),
        length=length,
        gained=np.where(counts & (length > 0), 20.0, 0.0).astype(np.float32),
    )
    doubters = [make_memory(sizes) for _ in range(config.get("doubters", 0))]
    return WorldModel(WorldModelConfig(memory=sizes, **config), vae, memory, starts, doubters)


@pytest.fixture(scope="session")
def world_model_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """The folder of a saved small world model, an LSTM of CarRacing unless a mark asks; use it as ``world_model=``."""
    folder: Path = tmp_path_factory.mktemp("artifact") / "world_model"
    make_world_model(getattr(request, "param", "lstm")).save(folder)
    return str(folder)


@pytest.fixture(scope="session")
def acrobot_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a saved small world model of Acrobot."""
    folder = tmp_path_factory.mktemp("another") / "world_model"
    make_world_model(ANOTHER).save(folder)
    return str(folder)


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Forgets ids that a test registers."""
    before = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(before)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Tests run side by side; none gains from more threads."""
    torch.set_num_threads(1)


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are not shown."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="session")
def dream_id(world_model_folder: str) -> str:
    """The id of the small world model's dream."""
    return env_ids(world_model_folder)[0]


@pytest.fixture(scope="session")
def actions(world_model_folder: str) -> ActionConfig:
    """What the small world model's env takes."""
    return task_of(world_model_folder).actions


@pytest.fixture(scope="session")
def random_actions(actions: ActionConfig) -> Callable[..., np.ndarray]:
    """Draws actions for so many steps, or so many steps of so many lanes, as `some_actions` does CarRacing's."""
    return lambda *shape, seed=0: draw_action(actions.space, np.random.default_rng(seed), shape)


@pytest.fixture(scope="session")
def coast(actions: ActionConfig) -> np.ndarray:
    """The action that does nothing."""
    return nothing(actions.space)


@pytest.fixture(scope="session")
def make(world_model_folder: str, dream_id: str) -> Callable[..., gym.Env]:
    """Makes a dream of the small world model."""
    return lambda **kwargs: gym.make(dream_id, **{"world_model": world_model_folder, **kwargs})


@pytest.fixture(scope="session")
def make_vec(world_model_folder: str, dream_id: str) -> Callable[..., gym.vector.VectorEnv]:
    """Makes so many lanes of it."""
    return lambda lanes, **kwargs: gym.make_vec(dream_id, lanes, world_model=world_model_folder, **kwargs)


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
        kwargs, (dream, real) = {"world_model": world_model_folder, **kwargs}, env_ids(world_model_folder)
        if kind == "dreams":
            return gym.make_vec(dream, **{"num_envs": 2, **kwargs})
        return gym.make(dream if kind == "dream" else real, **kwargs)

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
    return replace(collect.Args(out=out, episodes=2, burst_rate=0.2, max_steps=30, workers=1), **changes)


@pytest.fixture(scope="session")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short drives of the real CarRacing."""
    folder = tmp_path_factory.mktemp("drives") / "rollouts"
    collect.main(collecting(folder, workers=2))
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What every file of a folder holds and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def some_actions(*shape: int, seed: int = 0) -> np.ndarray:
    """Random actions of CarRacing for so many steps, or so many steps of so many lanes."""
    return draw_action(CAR_RACING.actions.space, np.random.default_rng(seed), shape)


def nothing(space: gym.Space) -> np.ndarray:
    """The action that does nothing: zeros, the middle one of choices, or one for each lane."""
    if isinstance(space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
        return np.full(space.shape, ACROBOT.actions.size // 2)
    return np.zeros(space.shape, np.float32)


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
        step = env.step(nothing(env.action_space))
        if step[2] or step[3]:
            return state, step


def stream(env: gym.Env) -> dict[str, Any]:
    """The state of an env's random stream."""
    return env.unwrapped.np_random.bit_generator.state


def stepped_once(envs: gym.vector.VectorEnv, **reset: Any) -> np.ndarray:
    """What lanes show after a reset and a step of random actions."""
    envs.reset(**reset)
    rng = np.random.default_rng(0)
    return envs.step(draw_action(envs.single_action_space, rng, (envs.num_envs,)))[0]


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
