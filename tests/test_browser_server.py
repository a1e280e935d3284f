"""The server of the page: what it serves, and to whom."""

import json
import re
import socket
import struct
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from unittest.mock import Mock

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from wm_gym.browser import server
from wm_gym.browser.server import PAGE, create_app
from wm_gym.browser.session import HANDS, Session
from wm_gym.policies import RandomPolicy

SEED = 1_000_000
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


def told(socket):
    """Read on until something is told; frames of the same moment may come twice."""
    while "text" not in (message := socket.receive()):
        pass
    return json.loads(message["text"])


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
        assert until(socket, lambda figures: figures["clock"] > paused["clock"])["clock"] == paused["clock"] + 1
        socket.send_json(["start_dream", 24])
        assert "starts go from 0 to 23" in told(socket)["error"]
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
