"""How smooth is the page? Frames that a browser draws in a second, and how long a key takes to reach the picture.

    python -m benchmarks.browser

Starts ``wm_gym.play --browser`` and looks at its page in headless Chromium, which draws 60 times a second at most. A
key is followed from its event in the page to the first drawn frame whose action it made.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from playwright.sync_api import Page, sync_playwright

from benchmarks.report import RESULTS, command, write_report

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WATCH = """
window.watched = { shown: [], pressed: null, latencies: [] };
let lastClock;
addEventListener("keydown", ({ timeStamp }) => { watched.pressed = timeStamp; }, true);
requestAnimationFrame(function look() {
  const clock = document.getElementById("clock").value, now = performance.now();
  if (clock !== lastClock) watched.shown.push(now);
  lastClock = clock;
  const share = document.querySelector("[data-pad='0']").style.getPropertyValue("--share");
  if (watched.pressed !== null && share === "1.00") {
    watched.latencies.push(now - watched.pressed);
    watched.pressed = null;
  }
  requestAnimationFrame(look);
});
"""
"""Notes when another moment is drawn, and when a press of the left key is; runs after the page's own drawing."""


@dataclass
class Args:
    """How long to look."""

    seconds: float = 14.0
    """of frames to count: less than a lap takes"""
    presses: int = 40
    """of a key"""
    out: Path = RESULTS / "browser.json"
    """JSON file; a picture of the page goes beside it"""


@contextmanager
def opened() -> Iterator[Page]:
    """Start the server and open its page.

    Raises:
        SystemExit: where there is no Chromium.
    """
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        raise SystemExit(f"needs a browser: install one of {', '.join(CHROMIUM)}")
    command = [sys.executable, "-m", "wm_gym.play", "--browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            assert server.stdout is not None
            options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
            browser = playwright.chromium.launch(executable_path=program, args=options)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(server.stdout.readline().split()[-1])
            page.wait_for_timeout(2000)
            yield page
        finally:
            server.terminate()


def quantiles(values: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and greatest value."""
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95)), "max": max(values)}


def measure(page: Page, args: Args) -> dict[str, Any]:
    """Count frames while the controller drives, then press keys."""
    page.evaluate(WATCH)
    page.wait_for_timeout(1000 * args.seconds)
    shown = page.evaluate("watched.shown")
    page.keyboard.press("r")  # a new lap, which lasts for all presses
    page.wait_for_timeout(500)
    for _ in range(args.presses):
        page.keyboard.down("ArrowLeft")
        page.wait_for_timeout(150)
        page.keyboard.up("ArrowLeft")
        page.wait_for_timeout(150)
    return {
        "frames_per_second": (len(shown) - 1) / (shown[-1] - shown[0]) * 1000,
        "between_frames_ms": quantiles(np.diff(shown).tolist()),
        "key_to_picture_ms": quantiles(page.evaluate("watched.latencies")),
    }


def picture(page: Page, path: Path) -> None:
    """Let the controller drive on from a branch, and take a picture of the page."""
    for key, seconds in (("r", 0.5), ("p", 3), ("b", 1.5)):
        page.keyboard.press(key)
        page.wait_for_timeout(1000 * seconds)
    page.screenshot(path=path)


def main(args: Args) -> None:
    """Measure, print and write."""
    with opened() as page:
        content = {"command": command("browser", args), "goal_frames_per_second": 25, **measure(page, args)}
        picture(page, args.out.with_suffix(".png"))
    write_report(args.out, content)
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
