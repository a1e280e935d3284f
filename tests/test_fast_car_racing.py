"""FastCarRacing gives CarRacing's own observations, byte for byte, wherever the car may go."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pygame
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.car_racing import ScriptedDriver
from wm_gym.envs import fast_car_racing
from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.policies import ActionBursts, Policy


class Twins:
    """CarRacing and FastCarRacing, driven side by side; every difference is an AssertionError."""

    def __init__(self, **kwargs: Any) -> None:
        self.stock, self.fast = CarRacing(**kwargs), FastCarRacing(**kwargs)

    def reset(self, seed: int, **kwargs: Any) -> np.ndarray:
        frame, info = self.fast.reset(seed=seed, **kwargs)
        expected, expected_info = self.stock.reset(seed=seed, **kwargs)
        assert_equal(frame, expected)
        assert info == expected_info
        return frame

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        frame, *rest = self.fast.step(action)
        expected, *expected_rest = self.stock.step(action)
        assert_equal(frame, expected)
        assert rest == expected_rest
        return frame, *rest

    def drive(self, seed: int, policy: Policy, steps: int) -> dict[str, Any]:
        """Reset, drive to the end or for ``steps``, and return the last info."""
        frame, info = self.reset(seed), {}
        for _ in range(steps):
            frame, _, terminated, _, info = self.step(policy.predict(frame)[0])
            if terminated:
                break
        return info

    def change(self, edit: Callable[[CarRacing], None]) -> None:
        """Do something to both envs."""
        edit(self.stock)
        edit(self.fast)


def assert_equal(frame: np.ndarray, expected: np.ndarray) -> None:
    assert frame.dtype == expected.dtype
    assert frame.shape == expected.shape
    assert np.count_nonzero(frame != expected) == 0


@pytest.fixture(scope="module")
def twins() -> Twins:
    """One pair for many tests: nothing of a track may be left on the next one's frames."""
    return Twins()


@pytest.mark.parametrize("seed", [0, 17, 1234])
def test_scripted_drive(twins, seed):
    twins.drive(seed, ScriptedDriver(twins.fast), 200)


@pytest.mark.parametrize("seed", [1, 18])
def test_random_actions(twins, seed):
    random = ActionBursts(ScriptedDriver(twins.fast), twins.fast.action_space, rate=1, length=20, seed=seed)
    twins.drive(seed, random, 150)


def test_mistakes_and_recoveries(twins):
    disturbed = ActionBursts(ScriptedDriver(twins.fast), twins.fast.action_space, rate=0.1, length=30, seed=2)
    twins.drive(2, disturbed, 200)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), rate=st.floats(0, 1), length=st.integers(1, 40))
def test_any_track_and_driver(twins, seed, rate, length):
    twins.drive(seed, ActionBursts(ScriptedDriver(twins.fast), twins.fast.action_space, rate, length, seed), 70)


def test_spinning(twins):
    twins.reset(3)
    angles = []
    for _ in range(180):
        twins.step(np.array([1, 1, 0], np.float32))
        angles.append(twins.fast.car.hull.angle)
    assert np.ptp(angles) > 2 * np.pi  # all directions


def test_off_the_road_and_off_the_playfield(twins):
    twins.reset(4)
    for _ in range(600):
        _, reward, terminated, _, info = twins.step(np.array([0, 0.7, 0], np.float32))
        if terminated:
            break
    assert (reward, info) == (-100, {"lap_finished": False})
    for _ in range(60):  # nothing keeps the car from driving on into the black
        twins.step(np.array([0, 1, 0], np.float32))


def test_end_of_a_lap(twins):
    twins.reset(5)

    def visit_all_but_the_next_tiles(env: CarRacing) -> None:
        for tile in env.road[20:]:
            if not tile.road_visited:
                tile.road_visited = True
                env.tile_visited_count += 1

    twins.change(visit_all_but_the_next_tiles)
    driver = ScriptedDriver(twins.fast)
    for _ in range(200):
        _, _, terminated, _, info = twins.step(driver.predict(twins.fast.state)[0])
        if terminated:
            break
    assert info == {"lap_finished": True}


def test_random_colors():
    twins = Twins(domain_randomize=True)
    driver = ScriptedDriver(twins.fast)
    for seed, options in [(6, None), (7, {"randomize": False}), (8, {"randomize": True})]:
        frame = twins.reset(seed, options=options)
        for _ in range(70):
            frame = twins.step(driver.predict(frame)[0])[0]


def test_discrete_actions():
    twins = Twins(continuous=False)
    twins.reset(9)
    actions = np.random.default_rng(9).choice(5, size=100, p=[0.2, 0.1, 0.1, 0.5, 0.1])
    for action in np.repeat(actions, 2)[:100]:
        twins.step(action)


@pytest.mark.parametrize("mode", ["state_pixels", "rgb_array"])
def test_render(mode):
    twins = Twins(render_mode=mode)
    assert twins.fast.render() is twins.stock.render() is None  # before the first reset
    twins.reset(10)
    for _ in range(60):
        twins.step(np.array([1, 1, 0], np.float32))  # leaves skid marks
        assert_equal(twins.fast.render(), twins.stock.render())


def test_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    windows, frames = [], []
    for kind in CarRacing, FastCarRacing:
        env = kind(render_mode="human")
        env.reset(seed=11)
        frames.append([env.step(np.array([0, 1, 0], np.float32))[0] for _ in range(20)])
        windows.append(pygame.surfarray.array3d(env.screen))
        env.close()
    assert_equal(np.array(frames[1]), np.array(frames[0]))
    assert_equal(windows[1], windows[0])


def test_gauges_beyond_their_scale(twins):
    twins.drive(12, ScriptedDriver(twins.fast), 60)

    def spin_the_wheels(env: CarRacing) -> None:
        env.car.wheels[0].omega = 700.0

    for _ in range(3):
        twins.change(spin_the_wheels)
        twins.step(np.zeros(3, np.float32))
    for _ in range(60):
        twins.step(np.array([0, 0, 1], np.float32))


def test_negative_scores(twins):
    twins.reset(13)
    for reward in -0.3, -0.5, -0.6, -9.96, -104.7, 999.6, 12345.6:

        def set_score(env: CarRacing, reward: float = reward) -> None:
            env.reward = reward

        twins.change(set_score)
        twins.step(np.zeros(3, np.float32))


def test_pygame_quit_by_another_env(twins):
    twins.reset(14)
    pygame.quit()
    for _ in range(3):
        twins.step(np.zeros(3, np.float32))


def test_another_drawing_is_an_error(monkeypatch):
    monkeypatch.setattr(fast_car_racing, "ZOOM", 2.0)
    with pytest.raises(RuntimeError, match="use CarRacing instead"):
        FastCarRacing().reset(seed=0)
