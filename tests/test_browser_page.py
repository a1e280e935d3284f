"""The page in a real browser."""

import os
import shutil
import subprocess
import sys

import pytest
from playwright.sync_api import expect, sync_playwright

from wm_gym.browser.session import HANDS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
