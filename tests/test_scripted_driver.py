"""The scripted driver, which reads the road from the env itself."""

import math

import numpy as np
import pytest

from wm_gym.car_racing import ScriptedDriver


@pytest.fixture
def driver(car_racing):
    car_racing.reset(seed=0)
    return ScriptedDriver(car_racing)


def test_the_scripted_driver_does_not_look_at_the_observation(driver):
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    assert np.array_equal(driver.predict(frames[0])[0], driver.predict(frames[1])[0])


@pytest.mark.parametrize("turned", [-0.6, 0.6])
def test_the_scripted_driver_steers_back_to_the_road(driver, turned):
    hull = driver.env.car.hull
    straight = driver.predict(np.zeros((96, 96, 3)))[0][0]
    hull.angle += turned  # to the left, counter-clockwise, where it is positive; steering left is negative
    assert math.copysign(1, driver.predict(np.zeros((96, 96, 3)))[0][0] - straight) == math.copysign(1, turned)


def test_the_scripted_driver_starts_with_gas_and_brakes_when_it_is_too_fast(driver):
    hull = driver.env.car.hull
    _, gas, brake = driver.predict(np.zeros((96, 96, 3)))[0]
    assert gas > 0 and brake == 0
    hull.linearVelocity = 3 * driver.top_speed * hull.GetWorldVector((0, 1))
    _, gas, brake = driver.predict(np.zeros((96, 96, 3)))[0]
    assert gas == 0 and brake > 0


@pytest.mark.parametrize(("horizon", "sees"), [(140.0, True), (35.0, False)])
def test_a_driver_with_a_short_horizon_does_not_know_the_road_beyond_it(car_racing, driver, horizon, sees):
    driver.horizon, driver.top_speed = horizon, 1000.0
    hull, frame = driver.env.car.hull, np.zeros((96, 96, 3))
    hull.linearVelocity = 80 * hull.GetWorldVector((0, 1))

    def bend(first):
        """Turn the road in a hairpin from so many tiles ahead on."""
        tiles = list(straight)
        for i in range(first, first + 12):
            alpha, heading, x, y = tiles[i]
            tiles[i] = (alpha, heading + 0.3 * (i - first), x, y)
        driver.env.track = tiles

    straight = [(alpha, driver.env.track[0][1], x, y) for alpha, _, x, y in driver.env.track]
    nearest = np.argmin([(x - hull.position[0]) ** 2 + (y - hull.position[1]) ** 2 for _, _, x, y in straight])
    driver.env.track = straight
    calm = driver.predict(frame)[0]
    bend(int(nearest) + 12)
    assert np.array_equal(driver.predict(frame)[0], calm) == (not sees)
    bend(int(nearest) + 1)
    assert driver.predict(frame)[0][2] > calm[2] == 0  # brakes for the bend that it sees


def test_varied_drivers_differ_and_repeat_with_their_seed(car_racing):
    car_racing.reset(seed=0)
    drives = []
    for seed in (1, 1, 2):
        driver = ScriptedDriver.varied(car_racing, seed)
        assert driver.horizon <= 37  # what a frame shows
        drives.append([driver.predict(np.zeros((96, 96, 3)))[0] for _ in range(5)])
    assert np.array_equal(drives[0], drives[1])
    assert not np.array_equal(drives[0], drives[2])
    assert len(np.unique(drives[0], axis=0)) == 5  # hands tremble
    assert all(action in car_racing.action_space for drive in drives for action in drive)


def test_the_scripted_driver_drives_along_the_road(car_racing, driver):
    observation, score, visited = np.zeros((96, 96, 3)), 0.0, []
    for _ in range(60):
        action, _ = driver.predict(observation)
        assert action in car_racing.action_space
        observation, reward, terminated, _, _ = car_racing.step(action)
        assert not terminated
        score += reward
        visited.append(car_racing.unwrapped.tile_visited_count)
    assert visited[-1] > visited[0] + 5  # not only the tiles it started on
    assert score == pytest.approx(1000 / len(car_racing.unwrapped.track) * visited[-1] - 6, abs=1e-3)
