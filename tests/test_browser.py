"""The page: its session alone, its server, and both in a real browser."""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from wm_gym.browser import server
from wm_gym.browser.frame import describe, draw
from wm_gym.browser.server import COMMANDS, PAGE, create_app, obey
from wm_gym.browser.session import BRANCHES, HANDS, Session
from wm_gym.policies import RandomPolicy

SEED = 1_000_000
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
        ('["hold", 32, 0]', "a latent from 0 to 31"),
        ('["hold", 0, Infinity]', "a finite value"),
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


# --- the server ----------------------------------------------------------------------------------------------------

HOST = "127.0.0.1:8000"
OWN = {"host": HOST, "origin": f"http://{HOST}"}


@pytest.fixture
def client(world_model_folder):
    app = create_app(partial(Session, world_model_folder, ["random"], SEED))
    with TestClient(app, base_url=f"http://{HOST}") as client:
        yield client


def test_the_page_is_all_that_is_served(client):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        response = client.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
    for path in ("/page.html", "/session.py", "/..%2fsession.py", "/page.js/../session.py", "/drive"):
        assert client.get(path).status_code == 404


def test_the_page_asks_for_nothing_from_outside():
    page, style, script = (Path(server.__file__).with_name(name).read_text() for name in PAGE.values())
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,", "/page.css", "/page.js"}
    assert re.findall(r"\w+://[^/]*", page + style + script) == ["ws://${location.host}"]
    assert not re.findall(r"@import|url\(", style)


@pytest.mark.parametrize("host", ["wm-gym.example", "127.0.0.1.example:8000", "", "0.0.0.0:8000"])
def test_a_foreign_host_is_refused(host, client):
    assert client.get("/", headers={"host": host}).status_code == 403
    headers = {"host": host, "origin": f"http://{host}"}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/drive", headers=headers):
        pass


@pytest.mark.parametrize("origin", ["http://wm-gym.example", "http://127.0.0.1:9000", f"https://{HOST}", "null", None])
def test_a_foreign_page_can_not_open_the_socket(origin, client):
    headers = {"host": HOST} if origin is None else {"host": HOST, "origin": origin}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/drive", headers=headers):
        pass


def figures_of(message):
    (length,) = struct.unpack("<I", message[:4])
    return json.loads(message[4 : 4 + length])


def until(socket, wanted):
    """Read on until a frame's figures are as wanted."""
    for _ in range(500):
        message = socket.receive()
        if "bytes" in message and wanted(figures := figures_of(message["bytes"])):
            return figures
    pytest.fail("no such frame came")


def test_commands_go_in_and_frames_come_out(client):
    with client.websocket_connect("/drive", headers=OWN) as socket:
        assert socket.receive_json()["drivers"] == [HANDS, "random"]
        first = until(socket, lambda figures: figures["clock"] == 5)
        assert first["driver"] == "random"
        socket.send_json(["press", True, False, False, False])
        assert until(socket, lambda figures: figures["action"] == [-1, 0, 0])["driver"] == HANDS
        socket.send_json(["pause", True])
        paused = until(socket, lambda figures: figures["paused"])
        socket.send_json(["advance"])
        assert until(socket, lambda figures: True)["clock"] == paused["clock"] + 1
        socket.send_json(["start_dream", 24])
        assert "starts go from 0 to 23" in socket.receive_json()["error"]
        assert until(socket, lambda figures: True)["clock"] == paused["clock"] + 1


def test_each_page_has_a_session_of_its_own_that_ends_with_it(world_model_folder):
    closed = SimpleQueue()

    class Watched(Session):
        def close(self):
            super().close()
            closed.put(self)

    app = create_app(partial(Watched, world_model_folder, ["random"], SEED))
    with TestClient(app, base_url=f"http://{HOST}") as client:
        with client.websocket_connect("/drive", headers=OWN) as one:
            until(one, lambda figures: figures["clock"] == 3)
            with client.websocket_connect("/drive", headers=OWN) as two:
                until(two, lambda figures: figures["clock"] == 1)
            first = closed.get(timeout=60)
            until(one, lambda figures: figures["clock"] == 6)
        assert closed.get(timeout=60) is not first


def test_a_policy_that_fails_ends_its_page_and_not_the_server(client, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("a policy's own")

    monkeypatch.setattr(RandomPolicy, "predict", fail)
    with pytest.raises(ExceptionGroup), client.websocket_connect("/drive", headers=OWN) as socket:
        until(socket, lambda figures: False)
    assert client.get("/").status_code == 200


def test_a_port_that_is_taken_is_one_clear_message():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="leave --port out"):
        server.serve(Mock(), taken.getsockname()[1])


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("a page is tested in a real browser: install chromium")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def process():
    """The command itself: its process and the address that it prints."""
    hidden = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "wm_gym.play", "--browser", "--policy", "scripted"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=hidden) as process:
        process.url = process.stdout.readline().split()[-1]
        yield process
        process.terminate()


def eventually(page, true):
    for _ in range(1500):
        if true():
            return
        page.wait_for_timeout(20)
    pytest.fail("what the page should show did not come")


def seconds(page):
    """The clock of the frame that is seen."""
    return float(page.inner_text("#clock").removesuffix(" s"))


@pytest.fixture
def page(browser, process):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    errors, asked = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(process.url)
    eventually(page, lambda: seconds(page) > 0.2)
    yield page
    assert not errors
    assert asked == [process.url, f"{process.url}page.css", f"{process.url}page.js"]
    page.close()


def pedal(page, index, share):
    """Wait until the action of the frame that is seen has such a share of steering left, right, gas or brake."""
    expect(page.locator(f"[data-pad='{index}']")).to_have_attribute("style", f"--share: {share:.2f};")


def test_a_person_drives_branches_and_returns_in_a_browser(page, process):
    def shown():
        return page.evaluate("document.getElementById('picture0').toDataURL()")

    def scores():
        return [page.inner_text("#score0"), page.inner_text("#score1")]

    clock, pause = page.locator("#clock"), page.locator("#pause")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#driver")).to_have_value("scripted")
    page.keyboard.down("ArrowLeft")
    pedal(page, 0, 1)
    expect(page.locator("#driver")).to_have_value(HANDS)
    page.keyboard.down("w")
    pedal(page, 2, 1)
    page.keyboard.up("ArrowLeft")
    pedal(page, 0, 0)
    page.keyboard.up("w")
    pedal(page, 2, 0)
    page.locator("[data-pad='3']").hover()
    page.mouse.down()
    pedal(page, 3, 0.8)
    page.mouse.up()
    pedal(page, 3, 0)

    page.select_option("#driver", "car_racing")
    expect(page.locator("#status")).to_contain_text("car_racing drives")
    page.focus("#temperature")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#temperature_value")).to_have_text("1.05")
    expect(page.locator("#driver")).to_have_value("car_racing")  # an arrow key on a slider is the slider's

    page.keyboard.press("Space")
    expect(pause).to_have_text("Go on")
    moment, clock_then = (clock.inner_text(), scores(), shown()), seconds(page)
    page.keyboard.press("b")
    expect(page.locator("#branches li")).to_have_count(1)
    page.keyboard.press("Space")
    eventually(page, lambda: seconds(page) > clock_then + 0.4)
    page.keyboard.press("Space")
    expect(pause).to_have_text("Go on")
    assert shown() != moment[2]
    page.keyboard.press("1")
    expect(clock).to_have_text(moment[0])
    expect(page.locator("#note1")).to_contain_text("track")  # the real car is there too
    assert (clock.inner_text(), scores(), shown()) == moment

    page.click("#latents summary")
    page.locator("#latents input").nth(7).focus()
    page.keyboard.press("End")
    eventually(page, lambda: shown() != moment[2])

    assert not page.is_visible("#gone")
    process.terminate()
    expect(page.locator("#gone")).to_be_visible()
    expect(page.locator("#gone")).to_contain_text("The server is gone")


def test_the_page_needs_no_mouse(page):
    page.evaluate("document.getElementById('latents').open = false")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.pad"))
    wanted = {"pause", "advance", "branch", "dream_on", "restart", "next", "driver", "watched", "temperature"}
    assert reached >= wanted | {"sampling", "start", "start_dream", "0", "1", "2", "3"}
    page.focus("[data-pad='2']")
    page.keyboard.down("Enter")
    pedal(page, 2, 1)
    page.keyboard.up("Enter")
    pedal(page, 2, 0)
