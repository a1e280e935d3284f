"""Play: an agent or a person drives, in a window on a virtual display, or into a video without any display."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pygame
import pytest
from moviepy import VideoFileClip

import wm_gym
from wm_gym import play

ENVS = ["DreamCarRacing-v0", "LatentCarRacing-v0"]
SEED = 1_000_000
MISSING = [program for program in ("Xvfb", "xdotool") if shutil.which(program) is None]
NO_DISPLAY = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")}

LOGGED = """
import tyro
from wm_gym import play

class Logged(play.Keyboard):
    def predict(self, *args):
        action, state = super().predict(*args)
        print(action[0].tolist(), flush=True)
        return action, state

play.Keyboard = Logged
play.main(tyro.cli(play.Args))
"""


@pytest.fixture(scope="module")
def display():
    """A virtual display of its own: the environment variables of a program that is shown on it."""
    if MISSING:
        pytest.skip(f"real key events need a virtual display: install {' and '.join(MISSING)}")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield {**NO_DISPLAY, "DISPLAY": f":{int(server.stdout.readline())}"}
        server.terminate()


class Drive:
    """A person's drive: play with its actions printed, and the person's fingers."""

    def __init__(self, display, folder, *arguments):
        self.display, self.errors = display, folder / "stderr"
        self.actions = [[]]
        self.results = []
        command = [sys.executable, "-c", LOGGED, "--hands", *map(str, arguments)]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=display, text=True)

    def key(self, event, *keys):
        subprocess.run(["xdotool", event, *keys], env=self.display, check=True)

    def read(self):
        """Take in a line: an action, or what an episode came to. False at the end."""
        line = self.process.stdout.readline()
        if line.startswith("["):
            self.actions[-1].append(json.loads(line))
        elif line.startswith("seed"):
            self.results.append(line.strip())
            self.actions.append([])
        return bool(line)

    def drives(self, action, steps=3):
        """Read on until the last steps all took an action; fail if that does not happen in good time."""
        for _ in range(steps + 200):
            assert self.read(), self.errors.read_text()
            last = self.actions[-1][-steps:]
            if len(last) == steps and np.allclose(last, action):
                return
        pytest.fail(f"the keys should give {action}, but the last actions were {last}")

    def end(self):
        while self.read():
            pass
        assert self.process.wait() == 0, self.errors.read_text()
        assert "Traceback" not in self.errors.read_text()


class ClientMessage(ctypes.Structure):
    """Xlib's XClientMessageEvent, padded to an XEvent."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("padding", ctypes.c_long * 24),
    )


def close_window(display, window):
    """Do what a window manager does when someone clicks on the cross."""
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    connection = ctypes.c_void_p(x11.XOpenDisplay(display["DISPLAY"].encode()))
    protocols, delete = (x11.XInternAtom(connection, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
    event = ClientMessage(type=33, window=window, message_type=protocols, format=32)
    event.data[0] = delete
    x11.XSendEvent(connection, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(event))
    x11.XCloseDisplay(connection)


def score_of(env_id, seed, actions):
    env = gym.make(env_id)
    env.reset(seed=seed)
    return sum(env.step(np.array(action, np.float32))[1] for action in actions)


@pytest.mark.parametrize("env_id", ENVS)
def test_a_person_drives_with_the_arrow_keys(env_id, display, tmp_path):
    video = tmp_path / "hands.mp4"
    drive = Drive(display, tmp_path, "--env", env_id, "--video", video)
    try:
        drive.drives([0, 0, 0], steps=1)
        begin = time.monotonic()
        drive.key("keydown", "Up")
        drive.drives([0, 1, 0], steps=80)
        assert time.monotonic() - begin > 1.5, "the window runs in real time: 80 steps take 1.6 s"
        drive.key("key", "r")
        while not drive.results:
            assert drive.read(), drive.errors.read_text()
        drive.drives([0, 1, 0])
        drive.key("keydown", "Left")
        drive.drives([-1, 1, 0])
        drive.key("keyup", "Up")
        drive.drives([-1, 0, 0])
        drive.key("keydown", "Right")
        drive.drives([0, 0, 0])
        drive.key("keyup", "Left")
        drive.drives([1, 0, 0])
        drive.key("keydown", "Down")
        drive.drives([1, 0, 0.8])
        drive.key("keyup", "Right")
        drive.drives([0, 0, 0.8])
        drive.key("keyup", "Down")
        drive.drives([0, 0, 0])
        drive.key("key", "Escape")
        drive.end()
    finally:
        drive.process.kill()
        drive.process.wait()
    first, second, after = drive.actions
    assert not after
    assert max(len(first), len(second)) < 500, "R and Esc end an episode"
    scores = [score_of(env_id, SEED + i, actions) for i, actions in enumerate((first, second))]
    assert scores[0] > 35, "80 steps of gas lead along the road"
    assert drive.results == [
        f"seed {SEED + i}: score {score:.1f} in {len(actions)} steps"
        for i, (score, actions) in enumerate(zip(scores, (first, second), strict=True))
    ]
    assert len(frames_of(video)) == len(first) + len(second) + 2  # each episode's first frame comes before its steps


@pytest.mark.parametrize("env_id", ENVS)
def test_closing_the_window_ends_the_show(env_id, display):
    command = [sys.executable, "-m", "wm_gym.play", "--render_mode", "human", "--env", env_id]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=display, **pipes) as process:
        try:
            find = ["xdotool", "search", "--sync", "--onlyvisible", "--class", "."]
            window = subprocess.run(find, env=display, capture_output=True, check=True, timeout=60).stdout
            close_window(display, int(window))
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    (line,) = output.splitlines()[-1:]
    assert line.startswith(f"seed {SEED}: score ")
    assert int(line.split()[-2]) < 500


def frames_of(video):
    with VideoFileClip(str(video)) as clip:
        assert clip.fps == 50
        return list(clip.iter_frames())


@pytest.mark.parametrize("env_id", ENVS)
def test_a_video_needs_no_display(env_id, tmp_path):
    video = tmp_path / "new" / "out.mp4"
    command = [
        sys.executable,
        "-m",
        "wm_gym.play",
        "--video",
        video,
        "--env",
        env_id,
        "--episodes",
        2,
        "--max_steps",
        15,
    ]
    result = subprocess.run(list(map(str, command)), env=NO_DISPLAY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

    env = gym.make(env_id, render_mode="rgb_array", max_episode_steps=15)
    policy = wm_gym.load_policy("car_racing", env)
    expected, lines = [], []
    for seed in (SEED, SEED + 1):
        observation, _ = env.reset(seed=seed)
        expected.append(env.render())
        score, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy.predict(observation)[0])
            expected.append(env.render())
            score, over = score + reward, terminated or truncated
        lines.append(f"seed {seed}: score {score:.1f} in 15 steps")
    assert [line for line in result.stdout.splitlines() if line.startswith("seed")] == lines
    frames = frames_of(video)
    assert len(frames) == len(expected) == 32
    error = np.abs(np.array(frames, np.float32) - np.array(expected, np.float32)).mean(axis=(1, 2, 3))
    assert error.max() < 6, "compression is all that may differ"
    assert [path.name for path in video.parent.iterdir()] == ["out.mp4"]


def test_a_video_that_fails_leaves_nothing_and_keeps_the_older_one(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    frame = np.zeros((64, 96, 3), np.uint8)
    with pytest.raises(ZeroDivisionError), play.Video(path, 50) as video:
        video.add(frame)
        raise ZeroDivisionError
    with pytest.raises(OSError), play.Video(path, 50) as video:
        video.add(frame)
        video.writer.proc.kill()
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"video": play.Path("out.avi")}, r"must name an \.mp4 file, got out\.avi"),
        ({"hands": True, "policy": "scripted"}, "--hands and --policy scripted exclude each other"),
        ({"hands": True, "render_mode": "rgb_array"}, "got --render_mode rgb_array"),
        ({}, r"a window needs a display.*--video out\.mp4"),
        ({"hands": True, "video": play.Path("out.mp4")}, "a window needs a display"),
        ({"world_model": "other", "video": play.Path("out.mp4")}, "other: no such world_model"),
        ({"seed": -1, "video": play.Path("out.mp4")}, "--seed must be at least 0, got -1"),
        ({"episodes": 0, "video": play.Path("out.mp4")}, "--episodes must be at least 1, got 0"),
        ({"policy": "nope", "video": play.Path("out.mp4")}, "nope: no such controller"),
        ({"browser": True, "policy": "nope"}, "nope: no such controller"),
        ({"browser": True, "world_model": "other"}, "other: no such world_model"),
        ({"browser": True, "hands": True}, "--browser and --hands exclude each other"),
        ({"browser": True, "env": "DreamCarRacing-v0"}, "--browser and --env exclude each other"),
    ],
)
def test_what_can_not_be_played_is_one_clear_message(arguments, message, monkeypatch):
    pygame.display.quit()
    for name in os.environ.keys() - NO_DISPLAY.keys():
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit, match=message):
        play.main(play.Args(**arguments))
    pygame.display.quit()


@pytest.mark.parametrize("env_id", ["LatentCarRacing-v0", "DreamCarRacing-v0"])
def test_the_bundled_controller_does_not_drive_another_world_model(env_id, world_model_folder, tmp_path):
    with pytest.raises(SystemExit, match="car_racing knows the latents of another world model"):
        play.main(play.Args(env_id, world_model=world_model_folder, video=tmp_path / "out.mp4"))
    assert not list(tmp_path.iterdir())


def test_the_page_of_another_world_model_has_no_bundled_driver(monkeypatch):
    served = Mock()
    monkeypatch.setattr("wm_gym.browser.server.serve", served)
    monkeypatch.setattr("wm_gym.browser.session.Session", Mock())
    for world_model, policy in (
        (play.Args.world_model, play.Args.policy),
        ("other", play.Args.policy),
        ("other", "mine"),
    ):
        play.main(play.Args(browser=True, world_model=world_model, policy=policy))
    policies = [call.args[0].args[1] for call in served.call_args_list]
    assert policies == [["car_racing", "scripted", "random"], ["scripted", "random"], ["mine", "scripted", "random"]]


@pytest.mark.parametrize(("package", "extra"), [("tyro", "train"), ("uvicorn", "browser")])
def test_without_the_extra_the_message_names_it(package, extra):
    run = "runpy.run_module('wm_gym.play', run_name='__main__', alter_sys=True)"
    code = f"import runpy, sys; sys.modules[{package!r}] = None; {run}"
    result = subprocess.run([sys.executable, "-c", code, "--browser"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f'pip install "wm-gym[{extra}]"' in result.stderr


def test_the_keyboard_gives_one_action_or_one_for_each_lane(monkeypatch):
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: defaultdict(bool, {pygame.K_LEFT: True, pygame.K_UP: True}))
    env = gym.make("DreamCarRacing-v0")
    keyboard = play.Keyboard(env.observation_space)
    assert isinstance(keyboard, wm_gym.Policy)
    observation, _ = env.reset(seed=0)
    action, _ = keyboard.predict(observation)
    assert action.tolist() == [-1, 1, 0]
    assert action in env.action_space
    actions, _ = keyboard.predict(np.stack([observation] * 3))
    assert actions.tolist() == [[-1, 1, 0]] * 3
