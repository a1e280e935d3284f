"""The session of a page: a dream and the real car, side by side."""

import json
import struct
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from wm_gym.browser.frame import describe, draw
from wm_gym.browser.server import COMMANDS, obey
from wm_gym.browser.session import BRANCHES, HANDS, Session

SEED = 1_000_000


@pytest.fixture
def session(world_model_folder):
    session = Session(world_model_folder, ["random", "scripted"], SEED)
    yield session
    session.close()


def ticks(session, steps):
    for _ in range(steps):
        session.tick()


def observations(session):
    return session.dream.observation.copy(), session.real.observation.copy()


def test_both_drives_take_the_same_actions(session, world_model_folder):
    assert session.driver == "random"
    ticks(session, 3)
    moment = session.dream.env.unwrapped.get_state()
    ticks(session, 10)
    dream = gym.make("DreamCarRacing-v0", world_model=world_model_folder)
    real = gym.make("LatentCarRacing-v0", world_model=world_model_folder)
    dream.reset(options={"state": moment})
    real.reset(seed=SEED)
    assert len(session.actions) == session.clock == 13
    for clock, action in enumerate(session.actions):
        in_real = real.step(np.array(action, np.float32))[0]
        if clock >= 3:
            in_dream = dream.step(np.array(action, np.float32))[0]
    np.testing.assert_array_equal(session.dream.observation, in_dream)
    np.testing.assert_array_equal(session.real.observation, in_real)
    assert len(set(session.actions)) == 13


def test_the_dream_goes_on_from_what_is_real(session):
    np.testing.assert_array_equal(session.dream.observation, session.real.observation)
    session.press(False, False, True, False)
    ticks(session, 12)
    dream, real = observations(session)
    assert not np.allclose(dream, real)
    session.dream_on()
    np.testing.assert_array_equal(session.dream.observation, real)
    assert session.dream.score == session.real.score
    assert draw(session).figures["gap"] == 0
    assert session.parted == 12
    session.tick()
    assert draw(session).figures["gap"] > 0


def test_a_stored_start_leaves_the_real_car_alone(session):
    ticks(session, 5)
    _, real = observations(session)
    z, (h, _) = session.simulator.world_model.start_states
    session.start_dream(15)
    np.testing.assert_array_equal(session.dream.observation, np.concatenate([z[15].numpy(), h[15].numpy()]))
    np.testing.assert_array_equal(session.real.observation, real)
    figures = draw(session).figures
    assert figures["gap"] is None, "two moments that have nothing to do with each other"
    assert figures["score"][0] == 0


def test_a_branch_brings_both_drives_back(session):
    session.press(True, False, True, False)
    ticks(session, 10)
    session.branch()
    moment, score = observations(session), (session.dream.score, session.real.score)
    ticks(session, 9)
    future = observations(session)
    for other in (False, True):
        (branch,) = session.branches
        session.go_back(branch, other)
        np.testing.assert_array_equal(session.dream.observation, moment[0])
        while session.replay:
            session.tick()
        assert session.clock == 10
        np.testing.assert_array_equal(session.real.observation, moment[1])
        assert (session.dream.score, session.real.score) == pytest.approx(score)
        ticks(session, 9)
        dream, real = observations(session)
        assert np.array_equal(dream, future[0]) is not other
        np.testing.assert_array_equal(real, future[1])


def test_to_return_where_it_stands_the_real_car_need_not_drive(session):
    ticks(session, 4)
    session.branch()
    session.hold(3, 2.0)
    session.release(3)
    session.go_back(1, False)
    assert not session.replay
    assert session.dream.observation[3] != 2


def test_the_oldest_of_too_many_branches_makes_room(session):
    for _ in range(BRANCHES + 2):
        session.branch()
    assert list(session.branches) == list(range(3, BRANCHES + 3))


def test_a_held_latent_keeps_its_value_and_changes_the_picture(session):
    session.pause(True)
    before, real = draw(session), session.real.observation.copy()
    session.hold(7, 5.0)
    after = draw(session)
    assert not np.array_equal(before.dream, after.dream)
    assert np.array_equal(before.real, after.real)
    assert after.figures["z"][7] == session.dream.observation[7] == 5
    session.pause(False)
    ticks(session, 3)
    assert session.dream.observation[7] == 5
    assert not np.array_equal(session.real.observation, real)
    session.release(7)
    session.tick()
    assert session.dream.observation[7] != 5


def test_keys_take_the_wheel_until_a_policy_gets_it_back(session):
    session.tick()
    session.press(False, True, False, True)
    session.tick()
    assert session.driver == HANDS
    np.testing.assert_allclose(session.action, [1, 0, 0.8], rtol=1e-6)
    session.press(False, False, False, False)
    session.tick()
    assert session.action.tolist() == [0, 0, 0]
    session.drive("random")
    session.tick()
    assert session.action.tolist() != [0, 0, 0]


class Watcher:
    """Keeps what it sees."""

    def __init__(self):
        self.seen, self.states, self.starts = [], [], []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.seen.append(observation.copy())
        self.states.append(state)
        self.starts.append(episode_start.item())
        return np.zeros(3, np.float32), (np.array(len(self.seen)),)


def test_a_policy_sees_the_drive_it_watches_and_keeps_its_state(session):
    watcher = session.policies["watcher"] = Watcher()
    session.drive("watcher")
    ticks(session, 2)
    dream, real = observations(session)
    session.tick()
    session.watch("real")
    real_later = session.real.observation.copy()
    session.tick()
    np.testing.assert_array_equal(watcher.seen[2], dream)
    np.testing.assert_array_equal(watcher.seen[3], real_later)
    assert not np.array_equal(dream, real)
    assert watcher.states == [None, (1,), (2,), (3,)]
    assert watcher.starts == [True, False, False, False]
    session.dream_on()
    session.tick()
    assert watcher.states[-1] is None
    assert watcher.starts[-1]


def test_an_end_pauses_and_the_other_drive_can_go_on(session):
    watcher = session.policies["watcher"] = Watcher()
    session.drive("watcher")
    ticks(session, 2)
    session.simulator.gained[:] = session.simulator.reward.goal
    session.tick()
    assert session.dream.outcome == "finished the lap"
    assert session.idle
    dream, real = observations(session)
    session.pause(False)
    session.tick()
    np.testing.assert_array_equal(session.dream.observation, dream)
    np.testing.assert_array_equal(watcher.seen[-1], real)
    assert not np.array_equal(session.real.observation, real)
    with pytest.raises(ValueError, match="nothing branches off"):
        session.branch()
    session.real.outcome = "left the playfield"
    for impossible in (session.dream_on, partial(session.pause, False)):
        with pytest.raises(ValueError, match="over"):
            impossible()
    session.start_track(SEED + 1)
    assert (session.dream.outcome, session.real.outcome, session.clock) == (None, None, 0)


def test_a_paused_session_moves_by_single_steps(session):
    session.pause(True)
    ticks(session, 3)
    assert session.clock == 0
    session.advance()
    assert session.clock == 1
    assert session.idle


def test_figures_are_json_and_the_gauge_gives_the_dreams_speed():
    session = Session("car_racing", ["car_racing"], SEED)
    ticks(session, 60)
    frame = draw(session)
    figures = json.loads(json.dumps(frame.figures))
    assert figures["speed"][1] > 25
    assert figures["speed"][0] == pytest.approx(figures["speed"][1], abs=25)
    assert 0 <= figures["end"] < 0.5
    assert 0 < figures["spread"] < 2
    packed = frame.pack()
    (length,) = struct.unpack("<I", packed[:4])
    assert json.loads(packed[4 : 4 + length]) == figures
    assert packed[4 + length :] == frame.dream.tobytes() + frame.real.tobytes()
    sizes = describe(session)
    assert [list(picture.shape[:2]) for picture in (frame.dream, frame.real)] == [sizes["dream"], sizes["real"]]
    session.close()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("what?", "Expecting value"),
        ('{"press": true}', "expected a list of a command"),
        ('["close"]', "expected a list of a command"),
        ('["__init__"]', "expected a list of a command"),
        ('["press", true]', r"press takes \['bool', 'bool', 'bool', 'bool'\]"),
        ('["start_dream", 1.5]', r"start_dream takes \['int'\]"),
        ('["start_dream", 24]', "starts go from 0 to 23"),
        ('["start_track", -1]', "seeds from 0"),
        ('["drive", "/etc/passwd"]', "the driver must be one of"),
        ('["watch", "you"]', "watches 'dream' or 'real'"),
        ('["sample", 0, "sample"]', "a number from 0.001 to 1000"),
        ('["sample", NaN, "sample"]', "a number from 0.001 to 1000"),
        ('["sample", 1, "most"]', "sampling must be one of"),
        ('["hold", 32, 0]', "latent must be a number from 0 to 31"),
        ('["hold", 0, Infinity]', "value must be a number from -1e"),
        ('["hold", 0, 1e39]', "value must be a number from -1e"),
        (f'["hold", 0, {10**400}]', "value must be a number from -1e"),
        ("[" * 100_000, "a list of a command"),
        ('["go_back", 1, false]', "branches are"),
    ],
)
def test_what_can_not_be_done_is_said_and_changes_nothing(message, error, session):
    before = draw(session)
    with pytest.raises(ValueError, match=error):
        obey(session, message)
    after = draw(session)
    assert after.figures == before.figures
    assert np.array_equal(after.dream, before.dream)


def test_every_command_is_a_method_of_the_session(session):
    obey(session, '["sample", 2, "mode"]')
    assert (session.simulator.temperature, session.simulator.sampling) == (2.0, "mode")
    assert all(callable(getattr(session, name)) for name in COMMANDS)
