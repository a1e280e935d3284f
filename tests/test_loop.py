"""The whole pipeline of the smoke preset, killed again and again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from training.checkpoints import read_log
from training.presets import PRESETS
from training.rollouts import Episode, episode_files, open_frames
from training.train_controller import hard_dreams
from wm_gym.models.controller import Controller
from wm_gym.world_model import WorldModel

DREAM, REAL = "DreamCarRacing-v0", "LatentCarRacing-v0"
REPOSITORY = Path(__file__).parents[1]
SMOKE = PRESETS["smoke"]

MOMENTS = {
    "collecting, some drives unfinished": lambda run: len(episode_files(run / "rollouts")) > SMOKE.random_episodes,
    "training V, one epoch of two": lambda run: (run / "vae" / "checkpoint.pt").is_file(),
    "in the second round's drives": lambda run: (
        len(episode_files(run / "rollouts")) > first_drives() + SMOKE.own_episodes
    ),
}


def first_drives():
    return SMOKE.random_episodes + SMOKE.scripted_episodes


def start(run, log):
    """Start the loop in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "training.loop", "--preset", "smoke", "--run", str(run)],
        cwd=REPOSITORY,
        env={**os.environ, "WANDB_MODE": "disabled"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_when(process, reached):
    """Wait for the moment, then kill the loop and its workers at once."""
    try:
        while not reached():
            assert process.poll() is None, "the loop ended before the moment to kill it"
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finished_episodes(run):
    """What the file of every finished episode holds and when it was written."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in episode_files(run / "rollouts")}


def test_a_run_killed_at_any_moment_goes_on_where_it_stopped(tmp_path):
    run, kept = tmp_path / "run", {}
    with (tmp_path / "log").open("w+") as log:
        for reached in MOMENTS.values():
            kill_when(start(run, log), lambda reached=reached: reached(run))
            episodes = finished_episodes(run)
            assert kept.items() <= episodes.items()
            kept = episodes
        rounds_before = (run / "rounds.jsonl").read_bytes()
        for cache in (*(run / "rollouts").glob("frames-*"), run / "latents"):  # what another machine would not get
            shutil.rmtree(cache)
        last = start(run, log)
        try:
            status = last.wait()
        finally:
            if last.poll() is None:
                os.killpg(last.pid, signal.SIGKILL)
        log.seek(0)
        assert status == 0, log.read()[-5000:]

    # the rollouts: all that was finished before a kill is as it was, and nothing is missing
    assert kept.items() <= finished_episodes(run).items()
    episodes = [Episode.load(path) for path in episode_files(run / "rollouts")]
    labels = ["random"] * SMOKE.random_episodes + ["privileged"] * SMOKE.scripted_episodes
    labels += ["own"] * SMOKE.rounds * SMOKE.own_episodes
    assert [episode.seed for episode in episodes] == list(range(len(labels)))
    assert [episode.driver.label for episode in episodes] == labels
    for episode in episodes:
        assert len(open_frames(run / "rollouts", episode.seed, SMOKE.vae.frames)) == len(episode.actions) + 1

    # the rounds: one line each, the first as the killed run had written it
    rounds = read_log(run / "rounds.jsonl")
    assert [line["round"] for line in rounds] == list(range(SMOKE.rounds))
    assert (run / "rounds.jsonl").read_bytes().startswith(rounds_before)
    assert rounds[-1]["collected_frames"] == sum(len(episode.actions) + 1 for episode in episodes)

    # what the instruments and the pictures say of them
    assert {path.name for path in run.glob("*.png")} == {"curves.png", "rounds.png"}
    for folder in sorted((run / "rounds").iterdir()):
        assert {"closed_loop.json", "closed_loop.png", "open_loop.json", "seconds.json"} <= set(os.listdir(folder))
    assert len(read_log(run / "finalists.jsonl")) == SMOKE.finalists
    assert len(list(run.glob("rounds/*/drive.mp4"))) == 1

    # the best round's world model and controller load
    (finalist,) = read_log(run / "finalists.jsonl")
    best = finalist["round"]
    model = WorldModel.load(run / "best" / "world_model")
    assert model.config == WorldModel.load(run / "rounds" / f"{best:03d}" / "world_model").config
    controller = Controller.from_pretrained(run / "best" / "controller")
    same = Controller.from_pretrained(run / "rounds" / f"{best:03d}" / "controller")
    assert controller.config.observation_size == model.config.observation_size
    assert np.array_equal(controller.parameters, same.parameters)

    # each round's candidates drove in turn, then all of them were validated: the best of them is the round's controller
    validated = read_log(run / "candidates.jsonl")
    for number, line in enumerate(rounds):
        folder, own = run / "rounds" / f"{number:03d}", episodes[first_drives() :][number * SMOKE.own_episodes :]
        own = own[: SMOKE.own_episodes]
        assert [episode.driver.member for episode in own] == [episode.seed % SMOKE.candidates for episode in own]
        for member, candidate in enumerate(line["candidates"]):
            scores = [episode.rewards.sum() for episode in own if episode.driver.member == member]
            assert len(scores) == candidate["drives"] > 0
            np.testing.assert_allclose(np.mean(scores), candidate["mean"])
        driven = max(range(SMOKE.candidates), key=lambda member: line["candidates"][member]["mean"])
        others = {each["candidate"]: each["real"]["mean"] for each in validated if each["round"] == number}
        assert sorted([driven, *others]) == list(range(SMOKE.candidates))
        means = {driven: line["real"]["mean"], **others}
        chosen = max(means, key=means.get)
        for name, member in (("controller", chosen), ("population", slice(None))):
            kept_controller = Controller.from_pretrained(folder / name)
            found = [Controller.from_pretrained(path) for path in sorted(folder.glob("candidates/*/controller"))]
            expected = np.stack([each.parameters for each in found])[member]
            assert np.array_equal(kept_controller.parameters, expected)
        assert len(np.unique(expected, axis=0)) == SMOKE.candidates

        # they are those of the sought controllers that hard dreams pay best
        sought = np.stack(
            [Controller.from_pretrained(path).parameters for path in sorted(folder.glob("sought/*/controller"))]
        )
        assert len(sought) == SMOKE.sought
        paid = hard_dreams(str(folder / "world_model"), sought, controller.config, SMOKE.max_steps)
        best_paid = np.argsort(-paid)[: SMOKE.candidates]
        assert np.array_equal(expected, sought[best_paid])
        assert np.array_equal([candidate["dream"] for candidate in line["candidates"]], paid[best_paid])

    # controllers evolved in the dream and on the real env, each generation once
    evolved = [(folder, DREAM, SMOKE.controller.generations) for folder in sorted(run.glob("rounds/*/sought/*"))]
    assert len(evolved) == SMOKE.rounds * SMOKE.sought
    for folder, env, generations in (*evolved, (run / "controller-real", REAL, SMOKE.real_generations)):
        lines = read_log(folder / "log.jsonl")
        assert [(line["env"], line["generation"]) for line in lines] == [(env, g + 1) for g in range(generations)]
        assert Controller.from_pretrained(folder / "controller").config.training["env"] == env
