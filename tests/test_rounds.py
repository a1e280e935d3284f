"""What the loop decides between its stages: more of V, which round is the best, and what a bundle says of a run."""

import shlex
from dataclasses import asdict, replace

import numpy as np
import pytest
from conftest import make_world_model

from training import bundle, loop, selection, train_vae
from training.checkpoints import append_log, read_log
from training.files import write_json
from training.presets import PRESETS, parse, settled
from training.rollouts import Driver, Episode
from wm_gym.car_racing import CAR_RACING
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel

SMOKE = PRESETS["smoke"]


@pytest.fixture
def run(tmp_path):
    """A run of three rounds whose controllers tell who they are by their first parameter, 10 · round + candidate."""
    for number, means in enumerate(((100.0, 150.0), (290.0, 300.0), (350.0, 200.0))):
        data = {"frames": 50, "episodes": {"random": 2, "own": 1}, "seeds": [4, 6]}
        make_world_model(training=data).save(tmp_path / "rounds" / f"{number:03d}" / "world_model")
        for i, mean in enumerate(means):
            make_candidate(tmp_path, number, i)
            scores = {"real": {"mean": mean, "std": 5.0, "episodes": 2}, "dream": {"mean": 123.0}}
            line = {"round": number, "candidate": i, **scores, "frames": 7}
            append_log(tmp_path / "candidates.jsonl", line)
        append_log(tmp_path / "rounds.jsonl", line | {"collected_frames": 50, "seconds": {"vae": 90.0}})
    write_json(tmp_path / "args.json", asdict(replace(SMOKE, run=tmp_path)))
    return tmp_path


def make_candidate(run, number, i):
    folder = run / "rounds" / f"{number:03d}" / "candidates" / str(i)
    training = {"temperature": 2.0, "refined": False, "hard_dreams": 800.0}
    Controller(np.full(867, 10 * number + i), ControllerConfig(training=training)).save(folder / "controller")
    for name in ("closed_loop.json", "closed_loop.png"):
        (folder / name).write_text(f"{number} {i}")


def best(run):
    return Controller.from_pretrained(run / "best" / "controller").parameters[0]


def test_v_is_continued_where_frames_are_foreign_to_it_and_the_decision_is_kept(tmp_path, monkeypatch):
    args = replace(SMOKE, run=tmp_path, vae_epochs=2, vae_tolerance=3.0)
    args.vae = replace(args.vae, epochs=4, decoder_epochs=1)
    known = {1: 2.9, 2: 3.1, 3: 1.0, 4: 9.0}
    asked = []

    def novelty(*_):
        asked.append(len(asked) + 1)
        return known[asked[-1]]

    monkeypatch.setattr(train_vae, "novelty", novelty)
    assert [loop.vae_epochs(args, number) for number in range(5)] == [4, 4, 7, 7, 10]
    assert [loop.vae_epochs(args, number) for number in range(5)] == [4, 4, 7, 7, 10]  # as after a kill
    assert asked == [1, 2, 3, 4]


def test_each_round_drives_its_own_episodes_whatever_else_the_folder_has(tmp_path):
    args = replace(SMOKE, run=tmp_path, own_episodes=4)

    def episode(seed, policy):
        numbers = {"actions": np.zeros((2, 3), np.float32), "rewards": np.zeros(2, np.float32)}
        numbers |= {"counts": np.zeros(2, np.int16), "goal": 300, "terminated": False, "finished": False}
        Episode(seed, driver=Driver(policy, "own"), **numbers).save(tmp_path / "rollouts")

    for seed in range(500):  # imported ones, many more than the run's own
        episode(seed, "someone")
    for seed in range(500, 503):  # three of the four were driven before a kill
        episode(seed, str(tmp_path / "rounds/000/population"))
    assert loop.own_drives(args, 0).episodes == 504
    episode(503, str(tmp_path / "rounds/000/population"))
    assert loop.own_drives(args, 0).episodes == 504
    assert loop.own_drives(args, 1).episodes == 508


def drives(monkeypatch, scores):
    """Let candidates score what is given for them, their round and the number of tracks; return who drove, in order."""
    driven = []

    def validate(args, number, candidate, tracks):
        driven.append((number, candidate, tracks))
        if isinstance(scores[driven[-1]], type):
            raise scores[driven[-1]]
        real = {"mean": scores[driven[-1]], "std": 5.0, "episodes": tracks}
        return {"round": number, "candidate": candidate, "real": real, "dream": {"mean": 123.0}, "frames": 7}

    monkeypatch.setattr(selection, "validate", validate)
    return driven


def test_all_candidates_of_a_round_drive_validation_tracks_once_and_the_best_is_its_controller(run, monkeypatch):
    args = replace(SMOKE, run=run, candidates=3, validation_tracks=2)
    for i in range(3):
        make_candidate(run, 3, i)
    scores = {(3, 0, 2): 10.0, (3, 1, 2): 30.0, (3, 2, 2): KeyboardInterrupt}
    driven = drives(monkeypatch, scores)
    with pytest.raises(KeyboardInterrupt):
        selection.choose(args, 3)
    scores[3, 2, 2] = 20.0
    best = selection.choose(args, 3)
    assert driven == [(3, 0, 2), (3, 1, 2), (3, 2, 2), (3, 2, 2)]
    assert (best["candidate"], best["frames"], best["hard_dreams"]) == (1, 3 * 7, 800.0)
    assert Controller.from_pretrained(run / "rounds/003/controller").parameters[0] == 31
    assert (run / "rounds/003/closed_loop.json").read_text() == "3 1"


def test_the_best_candidates_of_all_rounds_drive_all_validation_tracks(run, monkeypatch):
    scores = {(2, 0, 100): 260.0, (1, 1, 100): 240.0, (1, 0, 100): 280.0}
    driven = drives(monkeypatch, scores)
    args = replace(SMOKE, run=run, finalists=3)
    assert selection.keep_best(run)["round"] == 2
    assert best(run) == 20  # round 2, candidate 0
    for _ in range(2):  # the second time nothing is driven again
        line = selection.final(args)
        assert (line["round"], line["candidate"]) == (1, 0)
        assert driven == list(scores)
        assert best(run) == 10
    assert Controller.from_pretrained(run / "rounds/001/controller").parameters[0] == 10
    assert (run / "rounds/001/closed_loop.png").read_text() == "1 0"
    assert [line["round"] for line in read_log(run / "finalists.jsonl")] == [2, 1, 1]


def test_what_was_drawn_of_a_candidate_that_lost_to_another_of_its_round_is_drawn_again(run, monkeypatch):
    drives(monkeypatch, {(1, 1, 100): 240.0, (1, 0, 100): 280.0})
    args, drawn = (
        replace(SMOKE, run=run, finalists=1),
        [run / "rounds/001" / name for name in ("drive.mp4", "strip.png")],
    )
    lines = [line for line in read_log(run / "candidates.jsonl") if line["round"] == 1]
    (run / "candidates.jsonl").write_text("")
    for line in lines:
        append_log(run / "candidates.jsonl", line)
    for finalists, there in ((1, True), (2, False)):
        selection.final(replace(args, finalists=1))
        for path in drawn:
            path.touch()
        selection.final(replace(args, finalists=finalists))
        assert [path.is_file() for path in drawn] == [there, there]


def test_a_run_that_is_not_over_is_not_bundled(run):
    with pytest.raises(FileNotFoundError, match=r"finalists\.jsonl.*training\.loop"):
        bundle.main(bundle.Args(run=run))


def test_the_drives_of_a_round_are_known_by_who_drove(tmp_path):
    zeros = {"rewards": np.zeros(1, np.float32), "counts": np.zeros(1, np.int16), "goal": 300}
    for seed, policy in enumerate(("scripted", "runs/a/rounds/000/population", "elsewhere/rounds/001/population")):
        driver = Driver(policy, "own")
        episode = Episode(seed, np.zeros((1, 3), np.float32), **zeros, terminated=False, finished=False, driver=driver)
        episode.save(tmp_path / "rollouts")
    assert [loop.driven_seeds(replace(SMOKE, run=tmp_path), number) for number in range(3)] == [{1}, {2}, set()]


def test_a_round_stopped_while_its_candidates_drive_keeps_them_and_their_dream(tmp_path, monkeypatch):
    args, kept, found = replace(SMOKE, run=tmp_path), tmp_path / "rounds" / "000", []

    def train_rnn(args):
        model = make_world_model()
        model.starts.gained[:] = len(found)  # as starts of more drives are others
        model.save(args.out / "world_model")

    def find_candidates(args, number):
        found.append(number)
        Controller(np.full((2, 867), len(found))).save(kept / "population")

    def stop(drives):
        if drives.policy.endswith("population"):
            raise KeyboardInterrupt

    for stage in (train_vae, loop.encode, loop.open_loop):
        monkeypatch.setattr(stage, "main", lambda _: None)
    monkeypatch.setattr(loop.train_rnn, "main", train_rnn)
    monkeypatch.setattr(loop, "find_candidates", find_candidates)
    monkeypatch.setattr(loop.collect, "main", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            loop.run_round(args, 0)
    assert found == [0]
    assert (WorldModel.load(kept / "world_model").starts.gained == 0).all()
    assert (Controller.from_pretrained(kept / "population").parameters == 1).all()


def test_seconds_of_finished_stages_outlive_a_kill(tmp_path):
    with loop.Timer(tmp_path / "seconds.json")("vae"):
        pass
    with pytest.raises(KeyboardInterrupt), loop.Timer(tmp_path / "seconds.json")("rnn"):
        raise KeyboardInterrupt
    assert loop.Timer(tmp_path / "seconds.json").seconds.keys() == {"vae"}


def test_a_bundle_holds_the_best_of_a_run_and_its_card(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "PRETRAINED", tmp_path / "pretrained")
    drives(monkeypatch, {(2, 0, 100): 260.0, (1, 1, 100): 240.0})
    selection.final(replace(SMOKE, run=run, finalists=2))
    for picture in ("rounds.png", "curves.png", "rounds/002/strip.png", "rounds/002/gap.png"):
        (run / picture).touch()
    (tmp_path / "results").mkdir()
    made = bundle.main(bundle.Args(run, "snow", "Note.", tmp_path / "results"))
    assert made == tmp_path / "pretrained" / "snow"
    training = WorldModel.from_pretrained(made).config.training
    assert training["round"] == 2
    assert (training["label"], training["real_frames"]) == ("from scratch", 50 + 6 * 7 + 2 * 7)
    assert all(line["seconds"] >= 0 for line in training["finalists"])
    assert (Controller.from_pretrained(made).parameters == 20).all()
    card = (made / "README.md").read_text()
    for said in (
        "# snow\n",
        "by `python -m training.loop --preset smoke`.",
        "- Data: 2 random, 1 own episodes on tracks 4 to 6; 50 real frames. The whole run, its validation drives "
        "included, used 106.",
        "- Label: from scratch.",
        "- Note.",
        "| 2 | 50 | 123 | 200 ± 5 | 350, 200 | 1.5 |",
        "| 2 on 100 tracks | | 123 | 260 ± 5 | | |",
    ):
        assert said in card
    assert sum(path.suffix == ".png" for path in (tmp_path / "results").iterdir()) == 4


@pytest.mark.parametrize("preset", PRESETS)
def test_the_command_of_a_preset_names_no_settings(preset, run):
    write_json(run / "args.json", asdict(settled(PRESETS[preset], CAR_RACING)))
    selection.keep_best(run)
    assert selection.record(run, {"round": 2})["command"] == f"python -m training.loop --preset {preset}"


def test_the_command_of_a_run_names_the_settings_that_differ_from_the_preset_and_is_read_as_it_is_written(run):
    preset = PRESETS["acrobot"]
    model = replace(preset.vae.model, channels=(8, 8, 8, 8))
    changed = {"rounds": 7, "workers": 7, "track": False, "env_kwargs": '{"a": "b c"}'}
    settings = replace(preset, run=run, mirror=True, vae=replace(preset.vae, model=model), **changed)
    settings = replace(settings, controller=replace(preset.controller, diagonal=False))
    write_json(run / "args.json", asdict(settings))
    selection.keep_best(run)
    said = selection.record(run, {"round": 2})["command"]
    assert said.startswith("python -m training.loop --preset acrobot --env-kwargs ")
    again = parse(shlex.split(said)[3:])
    assert again == replace(settings, run=preset.run, workers=preset.workers, track=preset.track)


def test_the_refined_go_on_gently_from_the_best_so_far_and_all_of_them_drive(run, monkeypatch):
    """Round 2 is the best so far, by a candidate that `best` does not hold yet; round 3 seeks 21 + 3."""
    args = replace(SMOKE, run=run, sought=24, refined=3, candidates=5)
    begun = []

    def seek(args):
        parent = None if args.parent is None else Controller.from_pretrained(args.parent).parameters[0]
        begun.append((parent, args.gradient, args.temperature))
        config = ControllerConfig(training={"generation": 1})
        Controller(np.full(867, len(begun) - 1.0), config).save(args.out / "controller")

    monkeypatch.setattr(loop.train_controller, "main", seek)
    monkeypatch.setattr(loop.train_controller, "hard_dreams", lambda model, parameters, *_: parameters[:, 0] % 20)
    loop.find_candidates(args, 3)
    assert [each[:2] for each in begun] == [(None, args.controller.gradient)] * 21 + [(20.0, args.refine)] * 3
    assert (begun[0][2], begun[20][2]) == (args.coolest, args.hottest)
    assert args.coolest < begun[21][2] < begun[22][2] < begun[23][2] < args.hottest
    drive = [Controller.from_pretrained(run / f"rounds/003/candidates/{i}/controller").parameters[0] for i in range(5)]
    assert drive == [19, 18, 21, 22, 23]
    assert Controller.from_pretrained(run / "rounds/003/population").parameters[:, 0].tolist() == drive
    begun.clear()
    loop.find_candidates(args, 0)  # there is none so far
    assert [parent for parent, *_ in begun] == [None] * 24
