"""The whole pipeline, killed again and again: nothing is lost, and it ends as an unkilled run does, all of it there."""

import json
import os
import shutil
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from benchmarks.soak import kills
from training import train_controller
from training.checkpoints import read_log
from training.presets import parse
from training.rollouts import Episode, episode_files, open_frames
from training.seeds import VALIDATION_SEEDS
from training.train_controller import hard_dreams
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel

DREAM, REAL = "DreamCarRacing-v0", "LatentCarRacing-v0"
ARGUMENTS = "--preset smoke --random-episodes 2 --random-steps 30 --scripted-episodes 4 --max-steps 30"
SETTINGS = parse(ARGUMENTS.split())
FIRST_DRIVES = SETTINGS.random_episodes + SETTINGS.scripted_episodes


def collecting(run):
    """Some drives are unfinished."""
    return len(episode_files(run / "rollouts")) > SETTINGS.random_episodes


def training_v(run):
    """One epoch of two is over."""
    return (run / "vae" / "checkpoint.pt").is_file()


def in_the_last_rounds_drives(run):
    return len(episode_files(run / "rollouts")) > FIRST_DRIVES + (SETTINGS.rounds - 1) * SETTINGS.own_episodes


def moved(kill):
    """A kill after which the run goes on without what another machine would not get."""

    def kill_and_move(folder, arguments):
        killed = kill(folder, arguments)
        for cache in (*(folder / kills.RUN / "rollouts").glob("frames-*"), folder / kills.RUN / "latents"):
            shutil.rmtree(cache)
        return killed

    return kill_and_move


KILLS = [
    kills.when(collecting),
    kills.in_write(9),
    kills.when(training_v),
    kills.in_write(25),
    moved(kills.when(in_the_last_rounds_drives)),
]


def test_what_a_kill_spoils_is_named(tmp_path, monkeypatch):
    def write(folder, content):
        path = folder / kills.RUN / "rollouts" / "0.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return True

    def end(folder, arguments):
        write(folder, b"right" if folder.name == "straight" else b"wrong")
        if folder.name != "straight":
            (folder / kills.RUN / ".drive.7.tmp.mp4").touch()
        return False

    monkeypatch.setattr(kills, "never", end)
    report = kills.run([lambda folder, arguments: write(folder, b"right")], tmp_path)
    assert (report["kills"], report["runs"], report["files_compared"]) == (1, 1, 1)
    for spoilt, name in (("lost", "0.npz"), ("different", "0.npz"), ("left", ".drive.7.tmp.mp4")):
        assert [path.rpartition("/")[2] for path in report[spoilt]] == [name]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def report(place):
    """What became of a killed run, beside an unkilled one."""
    with pytest.MonkeyPatch.context() as patch:  # for the finalist, too, few validation tracks will do
        few = "import training.seeds\ntraining.seeds.VALIDATION_SEEDS = training.seeds.VALIDATION_SEEDS[:4]\n"
        patch.setattr(kills, "DEADLY", few + kills.DEADLY)
        return kills.run(KILLS, place, ARGUMENTS.split())


@pytest.fixture(scope="module")
def run(place, report):
    """The folder of the killed run, after its end."""
    return place / "0" / kills.RUN


@pytest.fixture(scope="module")
def episodes(run):
    return [Episode.load(path) for path in episode_files(run / "rollouts")]


def test_a_killed_run_loses_nothing_and_comes_to_the_end_of_an_unkilled_one(report):
    assert (report["kills"], report["runs"]) == (len(KILLS), 1)
    assert report["files_compared"] > 20
    assert sum(report["last_written"].values()) == len(KILLS)
    assert {"rollouts", "vae"} <= report["last_written"].keys()
    assert (report["lost"], report["different"], report["left"]) == ([], [], [])


def test_no_drive_and_no_frame_is_missing(run, episodes):
    labels = ["random"] * SETTINGS.random_episodes + ["privileged"] * SETTINGS.scripted_episodes
    labels += ["own"] * SETTINGS.rounds * SETTINGS.own_episodes
    assert [episode.seed for episode in episodes] == list(range(len(labels)))
    assert [episode.driver.label for episode in episodes] == labels
    for episode in episodes:
        assert len(open_frames(run / "rollouts", episode.seed, SETTINGS.vae.frames)) == len(episode.actions) + 1


def test_each_round_has_its_line_its_figures_and_its_pictures(run, episodes):
    rounds = read_log(run / "rounds.jsonl")
    assert [line["round"] for line in rounds] == list(range(SETTINGS.rounds))
    assert rounds[-1]["collected_frames"] == sum(len(episode.actions) + 1 for episode in episodes)
    assert {path.name for path in run.glob("*.png")} == {"curves.png", "rounds.png"}
    for folder in sorted((run / "rounds").iterdir()):
        assert {"closed_loop.json", "closed_loop.png", "open_loop.json", "seconds.json"} <= set(os.listdir(folder))
    assert len(list(run.glob("rounds/*/drive.mp4"))) == 1


def test_the_best_rounds_world_model_and_controller_load(run):
    finalists = read_log(run / "finalists.jsonl")
    assert len(finalists) == SETTINGS.finalists == 1
    assert finalists[0]["real"]["episodes"] == 4
    best = run / "rounds" / f"{finalists[0]['round']:03d}"
    model = WorldModel.load(run / "best" / "world_model")
    config = WorldModel.load(best / "world_model").config
    assert replace(model.config, training=config.training) == config
    record = model.config.training
    assert record.items() >= config.training.items() and record["finalists"] == finalists
    assert record["command"].startswith("python -m training.loop --preset smoke")
    controller = Controller.from_pretrained(run / "best" / "controller")
    same = Controller.from_pretrained(best / "controller")
    assert controller.config.observation_size == model.config.observation_size
    assert np.array_equal(controller.parameters, same.parameters)


def test_a_rounds_world_model_has_a_doubter_of_other_first_weights(run):
    model = WorldModel.load(run / "best" / "world_model")
    assert SETTINGS.memories == 2 and len(model.doubters) == model.config.doubters == 1
    first, other = (WorldModel.load(run / name / "world_model").memory for name in ("rnn", "rnn-1"))
    assert not torch.equal(first.heads.weight, other.heads.weight)
    if read_log(run / "finalists.jsonl")[0]["round"] == SETTINGS.rounds - 1:
        assert torch.equal(model.memory.heads.weight, first.heads.weight)
        assert torch.equal(model.doubters[0].heads.weight, other.heads.weight)


def candidates_of(run, number):
    return [line for line in read_log(run / "candidates.jsonl") if line["round"] == number]


def parameters(folders):
    return np.stack([Controller.from_pretrained(folder / "controller").parameters for folder in sorted(folders)])


@pytest.mark.parametrize("number", range(SETTINGS.rounds))
def test_a_rounds_candidates_drive_in_turn_are_validated_and_the_best_is_its_controller(number, run, episodes):
    line, folder = read_log(run / "rounds.jsonl")[number], run / "rounds" / f"{number:03d}"
    own = episodes[FIRST_DRIVES + number * SETTINGS.own_episodes :][: SETTINGS.own_episodes]
    for first in range(0, len(own), SETTINGS.candidates):
        turn = own[first : first + SETTINGS.candidates]
        assert sorted(episode.driver.member for episode in turn) == list(range(SETTINGS.candidates))
    validated = candidates_of(run, number)
    assert [each["candidate"] for each in validated] == list(range(SETTINGS.candidates))
    best = max(validated, key=lambda each: each["real"]["mean"])
    assert all(line[key] == value for key, value in best.items() if key != "frames")
    assert line["frames"] == sum(each["frames"] for each in validated)
    candidates = parameters(folder.glob("candidates/*"))
    assert len(np.unique(candidates, axis=0)) == SETTINGS.candidates
    chosen = Controller.from_pretrained(folder / "controller").parameters
    assert np.array_equal(chosen, candidates[best["candidate"]])
    assert np.array_equal(Controller.from_pretrained(folder / "population").parameters, candidates)


@pytest.mark.parametrize("number", range(SETTINGS.rounds))
def test_a_rounds_candidates_are_the_refined_and_those_others_that_hard_dreams_pay_best(number, run):
    validated, folder = candidates_of(run, number), run / "rounds" / f"{number:03d}"
    sought = parameters(folder.glob("sought/*"))
    assert len(sought) == SETTINGS.sought
    config = Controller.from_pretrained(folder / "controller").config
    paid = hard_dreams(str(folder / "world_model"), sought, config, SETTINGS.max_steps)
    refined = SETTINGS.refined if number else 0
    others = SETTINGS.sought - refined
    best = [*np.argsort(-paid[:others])[: SETTINGS.candidates - refined], *range(others, SETTINGS.sought)]
    assert SETTINGS.refined == 1
    assert [candidate["refined"] for candidate in validated] == [i >= others for i in best]
    assert np.array_equal(parameters(folder.glob("candidates/*")), sought[best])
    assert np.array_equal([candidate["hard_dreams"] for candidate in validated], paid[best])


@pytest.mark.parametrize("number", range(SETTINGS.rounds))
def test_each_round_trains_m_on_with_the_drives_before_it(number, run):
    folder = run / "rounds" / f"{number:03d}"
    told = WorldModel.load(folder / "world_model").config.training
    assert told["memory_epochs"] == SETTINGS.rnn.epochs + number * SETTINGS.rnn_epochs
    assert told["episodes"].get("own", 0) == number * SETTINGS.own_episodes
    assert json.loads((folder / "closed_loop.json").read_text())["worst_track"] in VALIDATION_SEEDS


def test_hard_dreams_are_hot(world_model_folder, monkeypatch):
    made = Mock(wraps=train_controller.make_lanes)
    monkeypatch.setattr(train_controller, "make_lanes", made)
    hard_dreams(world_model_folder, np.zeros((2, 867)), ControllerConfig(), 5)
    assert made.call_args.args[1] == 2 * train_controller.HARD_DREAMS
    assert made.call_args.kwargs.items() >= {"temperature": 2.0, "max_episode_steps": 5}.items()


def test_controllers_evolve_in_the_dream_and_on_the_real_env_each_generation_once(run):
    sought = sorted(run.glob("rounds/*/sought/*"))
    assert len(sought) == SETTINGS.rounds * SETTINGS.sought
    evolved = [(folder, DREAM, SETTINGS.controller.generations) for folder in sought]
    for folder, env, generations in (*evolved, (run / "controller-real", REAL, SETTINGS.real_generations)):
        lines = read_log(folder / "log.jsonl")
        assert [(line["env"], line["generation"]) for line in lines] == [(env, g + 1) for g in range(generations)]
        assert Controller.from_pretrained(folder / "controller").config.training["env"] == env
