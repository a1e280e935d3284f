"""The pictures and videos of a run show what they claim to."""

from unittest.mock import Mock

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from moviepy import VideoFileClip

from training import filming, pictures
from training.checkpoints import append_log, read_log
from training.files import write_atomic, write_json
from wm_gym.envs.rendering import enlarge
from wm_gym.frames import encoder_input
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel, WorldModelConfig

SEED = 1_000_000


@pytest.fixture
def controller():
    """One that gives gas and steers as it sees."""
    return Controller(np.random.default_rng(0).normal(0.05, 0.1, ControllerConfig().parameters))


@pytest.fixture
def envs(world_model_folder):
    """A function that makes the real env and the dream, with a time limit."""
    made = []

    def make(steps):
        for name in ("LatentCarRacing-v0", "DreamCarRacing-v0"):
            made.append(gym.make(name, world_model=world_model_folder, max_episode_steps=steps))
        return made

    yield make
    for env in made:
        env.close()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def shown(axes):
    """The pictures in some axes, without those that hold none."""
    return [axis.images[0].get_array() for axis in axes if axis.images]


def test_a_strip_shows_the_real_frames_above_the_dream_given_the_same_actions(envs, controller):
    real, dream = envs(1000)
    stretch = filming.branch(real, dream, controller, SEED)
    figure = pictures.strip(*stretch)

    def frame():
        return encoder_input(real.unwrapped.state, real.get_wrapper_attr("world_model").config.frames)

    observation, _ = real.reset(seed=SEED)
    for _ in range(filming.STRIP_START):
        observation, *_ = real.step(controller.predict(observation)[0])
    dream.reset(seed=0, options={"state": real.get_wrapper_attr("get_state")()})
    frames, dreamt, over = [frame()], [dream.unwrapped.dream.frames()[0]], False
    for _ in range(54):
        action = controller.predict(observation)[0]
        observation, *_ = real.step(action)
        frames.append(frame())
        if not over:
            over = dream.step(action)[2]
            dreamt.append(dream.unwrapped.dream.frames()[0])
    np.testing.assert_array_equal(stretch[0], frames)
    np.testing.assert_array_equal(stretch[1], dreamt)

    top, bottom = figure.axes[:10], figure.axes[10:]
    np.testing.assert_array_equal(shown(top), frames[::6])
    np.testing.assert_array_equal(shown(bottom), dreamt[::6])
    assert (top[0].get_ylabel(), bottom[0].get_ylabel()) == ("real", "dream")
    assert [axis.get_xlabel() for axis in bottom[:3]] == ["0.00 s", "0.12 s", "0.24 s"]


def test_a_gap_shows_a_failing_drive_above_what_the_same_controller_dreams_from_there(envs, controller):
    real, dream = envs(150)
    on_track, dreamt, earned, paid = filming.gap(real, dream, controller, SEED)

    def drive(env, observation, steps):
        rewards = []
        for _ in range(steps):
            observation, reward, terminated, truncated, _ = env.step(controller.predict(observation)[0])
            rewards.append(reward)
            if terminated or truncated:
                break
        return observation, rewards

    total = np.cumsum(np.array(drive(real, real.reset(seed=SEED)[0], 150)[1]) + 0.1).round(6)  # of tiles
    start = max(int(total.argmax()) + 1 - filming.GAP_BEFORE, 0)
    observation, _ = drive(real, real.reset(seed=SEED)[0], start)
    np.testing.assert_array_equal(on_track[0], filming.picture(real))
    state = real.get_wrapper_attr("get_state")()
    _, rewards = drive(real, observation, len(on_track) - 1)
    assert earned == pytest.approx(sum(rewards))
    np.testing.assert_array_equal(on_track[-1], filming.picture(real))
    _, rewards = drive(dream, dream.reset(seed=0, options={"state": state})[0], len(on_track) - 1)
    assert paid == pytest.approx(sum(rewards))
    assert len(dreamt) == len(rewards) + 1
    np.testing.assert_array_equal(dreamt[-1], filming.picture(dream))


class Watched:
    """Counts its steps in its state, and keeps the counts it was asked with; gives gas."""

    def __init__(self):
        self.counts = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        count = 0 if state is None else int(state[0])
        assert bool(episode_start[0]) == (count == 0)
        self.counts.append(count)
        return np.array([0, 0.3, 0], np.float32), (np.array(count + 1),)


def test_a_policy_with_a_memory_takes_it_into_the_dream(envs):
    real, dream = envs(80)
    policy = Watched()
    on_track, dreamt, _, _ = filming.gap(real, dream, policy, SEED)
    start = 81 - len(on_track)
    assert start > 0
    assert policy.counts[:80] == list(range(80))
    assert policy.counts[80:] == list(range(start, start + len(dreamt) - 1))


def test_a_strip_of_a_short_drive_starts_with_it_and_ends_with_it(envs, controller):
    real, dream = envs(20)
    stretch = filming.branch(real, dream, controller, SEED)
    real.reset(seed=SEED)
    assert len(stretch[0]) == 21
    np.testing.assert_array_equal(stretch[0][0], filming.picture(real))
    assert len(shown(pictures.strip(*stretch).axes)) == 8


def test_reconstructions_show_frames_above_what_z_keeps_of_them(world_model_folder):
    model = WorldModel.from_pretrained(world_model_folder)
    frames = np.random.default_rng(0).integers(0, 256, (19, 64, 64, 3), np.uint8)
    axes = pictures.reconstructions(model, frames).axes
    np.testing.assert_array_equal(shown(axes[:10]), frames[::2])
    with torch.inference_mode():
        expected = model.vae.decode(model.vae.encode(torch.from_numpy(frames[::2]))[0])
    np.testing.assert_allclose(shown(axes[10:]), expected, atol=1e-6)


LOGS = {"vae": "vae/log.jsonl", "rnn": "rnn/log.jsonl", "controller": "rounds/000/sought/0/log.jsonl"}


def write_logs(run):
    """Logs of V, M and C of different lengths."""
    rng = np.random.default_rng(0)
    keys = {
        "vae": ("epoch", "squared_error", "kl"),
        "rnn": ("epoch", "z", "gain", "end", "held_out_z", "held_out_gain", "held_out_end"),
        "controller": ("generation", "population_score", "best", "std", "sigma"),
    }
    for length, (stage, (counted, *names)) in enumerate(keys.items(), start=3):
        for step in range(1, length + 1):
            append_log(run / LOGS[stage], {counted: step, **{name: rng.uniform() for name in names}})


def test_curves_are_those_of_the_logs(tmp_path):
    write_logs(tmp_path)
    panels = iter(pictures.curves(tmp_path).axes)
    drawn = {"vae": ["squared_error", "kl"], "rnn": ["z", "gain", "end"], "controller": ["score", "sigma"]}
    for stage, names in drawn.items():
        lines = read_log(tmp_path / LOGS[stage])
        counted = "generation of the rounds' sought controllers" if stage == "controller" else "epoch"
        for name in names:
            axes = next(panels)
            keys = {"score": ["best", "population_score"]}.get(name, [name])
            keys += [f"held_out_{name}"] if stage == "rnn" else []
            assert axes.get_xlabel() == counted
            assert axes.get_ylabel()
            assert len(axes.lines) == len(keys)
            for curve, key in zip(axes.lines, keys, strict=True):
                np.testing.assert_array_equal(curve.get_xdata(), np.arange(len(lines)) + 1)
                np.testing.assert_array_equal(curve.get_ydata(), [line[key] for line in lines])
    assert next(panels, None) is None


def test_curves_of_a_run_without_logs_are_empty(tmp_path):
    pictures.save_figure(pictures.curves(tmp_path), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def round_line(number, real, dream):
    return {
        "round": number,
        "real": {"mean": real, "std": 10.0 * number},
        "dream": {"mean": dream, "std": 5.0},
        "frames": 9_000,
        "collected_frames": 100_000 + 20_000 * number,
    }


def test_rounds_shows_both_scores_over_the_real_frames_used():
    lines = [round_line(number, 100.0 * number, 500.0) for number in range(3)]
    axes = pictures.rounds(lines).axes[0]
    real, dream = axes.containers
    np.testing.assert_array_equal(real.lines[0].get_ydata(), [0, 100, 200])
    np.testing.assert_array_equal(dream.lines[0].get_ydata(), [500, 500, 500])
    (bars,) = real.lines[2]
    np.testing.assert_allclose([bar[:, 1] for bar in bars.get_segments()], [[0, 0], [90, 110], [180, 220]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0\n109k", "1\n138k", "2\n167k"]


def test_a_long_run_labels_some_of_its_rounds():
    lines = [round_line(number, 0.0, 0.0) for number in range(40)]
    labels = [label.get_text() for label in pictures.rounds(lines).axes[0].get_xticklabels()]
    assert [label.split()[0] for label in labels] == [str(number) for number in range(0, 40, 4)]


def test_a_video_has_every_frame_of_the_longer_drive_and_then_a_still(tmp_path):
    real = [np.full((64, 64, 3), 5 * i, np.uint8) for i in range(40)]
    dream = [np.full((64, 64, 3), 200, np.uint8), np.full((64, 64, 3), 50, np.uint8)]
    path = tmp_path / "folder" / "drive.mp4"
    filming.write_video(path, real, dream, WorldModelConfig())
    assert list(path.parent.iterdir()) == [path]
    with VideoFileClip(str(path)) as clip:
        frames = list(clip.iter_frames())
        assert clip.fps == 50
    assert len(frames) == 40
    assert frames[0].shape == np.hstack([enlarge(real[0], (84, 96))] * 2).shape
    for i, frame in enumerate(frames):
        left, right = np.hsplit(frame.astype(float), 2)
        assert left[:, 20:-20].mean() == pytest.approx(5 * i, abs=4)
        assert right[:, 20:-20].mean() == pytest.approx(200 if i == 0 else 50, abs=4)


def test_a_video_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "drive.mp4"
    write_atomic(path, lambda file: file.write(b"old"))
    with pytest.raises(IndexError):
        filming.write_video(path, [np.zeros((64, 64, 3), np.uint8)], [], WorldModelConfig())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_round_is_drawn_once_and_the_video_of_the_best_is_tracked(
    world_model_folder, controller, tmp_path, monkeypatch
):
    tracked = Mock()
    monkeypatch.setattr(pictures, "track_video", tracked)
    model, rounds = WorldModel.load(world_model_folder), tmp_path / "rounds"
    write_logs(tmp_path)

    def finish(number, score):
        model.save(rounds / f"{number:03d}" / "world_model")
        controller.save(rounds / f"{number:03d}" / "controller")
        write_json(rounds / f"{number:03d}" / "closed_loop.json", {"worst_track": SEED + 1})
        append_log(tmp_path / "rounds.jsonl", round_line(number, score, 0.0))
        pictures.draw_round(tmp_path, SEED, 15, best=0)

    finish(0, 100.0)
    best = [rounds / "000" / name for name in ("drive.mp4", "reconstructions.png", "gap.png", "strip.png")]
    tracked.assert_called_once_with("loop", best[0])
    for path in [*best[1:], tmp_path / "curves.png", tmp_path / "rounds.png"]:
        image = plt.imread(path)
        assert min(image.shape[:2]) > 200
        assert image[..., :3].std() > 0.02
    before = [path.stat().st_mtime_ns for path in best]

    finish(1, 50.0)
    assert (rounds / "001" / "strip.png").is_file()
    assert not (rounds / "001" / "drive.mp4").exists()
    assert [path.stat().st_mtime_ns for path in best] == before
    tracked.assert_called_once()

    best[0].unlink()  # as if it had been killed before the video was there
    pictures.draw_round(tmp_path, SEED, 15, best=0)
    assert best[0].is_file()
    assert tracked.call_count == 2

    pictures.draw_round(tmp_path, SEED, 15, best=1)
    assert (rounds / "001" / "drive.mp4").is_file()
    assert tracked.call_count == 3
