"""Serves the page and its sessions, to browsers on this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from wm_gym.browser.frame import describe, draw
from wm_gym.browser.session import Session
from wm_gym.car_racing import CAR_RACING

HOSTS = ("127.0.0.1", "localhost")
PAGE = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
"""Path -> file beside this one; nothing else is read."""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

COMMANDS: dict[str, tuple[type, ...]] = {
    "press": (bool, bool, bool, bool),
    "drive": (str,),
    "watch": (str,),
    "sample": (float, str),
    "pause": (bool,),
    "advance": (),
    "start_track": (int,),
    "start_dream": (int,),
    "dream_on": (),
    "branch": (),
    "go_back": (int, bool),
    "hold": (int, float),
    "release": (int,),
}
"""Method of `Session` -> types of its arguments; a whole number is a float too."""

Result = TypeVar("Result")


def obey(session: Session, message: str) -> None:
    """Do what a message of the page says: a JSON list of a command and its arguments.

    Raises:
        ValueError: for what is no such list, and for what the session can't do.
    """
    try:
        command = json.loads(message, parse_int=lambda digits: int(digits) if len(digits) < 16 else float(digits))
    except RecursionError as error:
        raise ValueError("expected a list of a command and its values, got too many within another") from error
    match command:
        case [str(name), *values] if name in COMMANDS:
            kinds = COMMANDS[name]
        case _:
            raise ValueError(f"expected a list of a command and its values, commands are {list(COMMANDS)}: {message}")
    values = [float(v) if kind is float and type(v) is int else v for v, kind in zip(values, kinds, strict=False)]
    if [type(value) for value in values] != list(kinds):
        raise ValueError(f"{name} takes {[kind.__name__ for kind in kinds]}, got {message}")
    getattr(session, name)(*values)


class OwnPageOnly:
    """Lets in what asks for this machine by name and, on a WebSocket, comes from this very page.

    Another site's page can reach a local port: by its own name for this address (the Host tells), or by a WebSocket,
    which browsers let any page open (the Origin tells).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with 403."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        own = host.split(":")[0] in HOSTS
        if scope["type"] == "websocket":
            if own and origin == f"http://{host}":
                return await self.app(scope, receive, send)
            return await WebSocket(scope, receive, send).close(1008)
        if own:
            return await self.app(scope, receive, send)
        return await PlainTextResponse("this page is for this machine only", 403)(scope, receive, send)


async def page(request: Request) -> Response:
    """Serve a file of the page."""
    path = Path(__file__).with_name(PAGE[request.url.path])
    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=HEADERS)


def create_app(new_session: Callable[[], Session]) -> Starlette:
    """Return the application: the page, and a session of its own for each WebSocket at ``/drive``.

    Args:
        new_session: makes a session; it and all that follows runs in one thread, so that the event loop stays free.
    """
    worker = ThreadPoolExecutor(1)

    async def run(function: Callable[..., Result], *args: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(worker, partial(function, *args))

    async def drive(websocket: WebSocket) -> None:
        await websocket.accept()
        session = await run(new_session)
        changed = asyncio.Event()

        def tick() -> bytes:
            session.tick()
            return draw(session).pack()

        async def show() -> None:
            """Send frames at the envs' speed, or where that can't be had as they come; none while nothing moves."""
            clock = asyncio.get_running_loop()
            due = clock.time()
            while websocket.application_state is WebSocketState.CONNECTED:
                changed.clear()
                with contextlib.suppress(WebSocketDisconnect):  # `listen` ends by it
                    await websocket.send_bytes(await run(tick))
                if session.idle:
                    await changed.wait()
                due = max(due + 1 / CAR_RACING.fps, clock.time())
                await asyncio.sleep(due - clock.time())

        async def listen() -> None:
            async for message in websocket.iter_text():
                try:
                    await run(obey, session, message)
                except ValueError as error:
                    await websocket.send_json({"error": str(error)})
                changed.set()

        try:
            await websocket.send_json(await run(describe, session))
            async with asyncio.TaskGroup() as tasks:
                showing = tasks.create_task(show())
                await listen()
                showing.cancel()
        except* WebSocketDisconnect:
            pass
        finally:
            worker.submit(session.close)

    routes = [*(Route(path, page) for path in PAGE), WebSocketRoute("/drive", drive)]
    return Starlette(routes=routes, middleware=[Middleware(OwnPageOnly)])


def serve(new_session: Callable[[], Session], port: int = 0) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C, and open it where there is a display.

    Args:
        new_session: see `create_app`.
        port: 0 for a free one.

    Raises:
        SystemExit: when the port can't be had.
    """
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise SystemExit(f"port {port} can't be had ({error}): leave --port out to take a free one") from error
    with listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        print(f"the dream beside the real car: {url}\nCtrl-C ends", flush=True)
        if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            webbrowser.open(url)
        config = uvicorn.Config(
            create_app(new_session),
            log_level="warning",
            ws="websockets-sansio",
            ws_max_size=4096,
            ws_per_message_deflate=False,  # would cost more than the way is long
            timeout_graceful_shutdown=1,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
