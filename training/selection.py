"""Which of a run's controllers is kept: real validation tracks choose among those that dreams made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from training import closed_loop
from training.checkpoints import append_log, read_log
from training.driving import drive
from training.files import copy_atomic, flags
from training.pictures import round_folder
from training.presets import PRESETS, Args, settled
from training.seeds import VALIDATION_SEEDS, take
from wm_gym.card import data_label
from wm_gym.models.controller import Controller
from wm_gym.registration import env_ids
from wm_gym.world_model import WorldModel

ALIKE = ("run", "workers", "ray", "track")
"""Settings with which a run comes to the same."""


def validate(args: Args, number: int, candidate: int, tracks: int) -> dict[str, Any]:
    """Drive a candidate of a round on real validation tracks and in as many dreams; return and draw the comparison.

    Args:
        args: of the run.
        number: of the round.
        candidate: of the round's.
        tracks: number of them.
    """
    kept, folder = round_folder(args.run, number), candidate_folder(args.run, number, candidate)
    controller, model = Controller.from_pretrained(folder / "controller"), kept / "world_model"
    dream, real = env_ids(model)
    seeds, steps = take(VALIDATION_SEEDS, tracks), args.max_steps
    dreamt = drive(dream, controller, model, seeds, tracks, max_episode_steps=steps)
    driven = drive(real, controller, model, seeds, args.workers, args.ray, max_episode_steps=steps)
    compared = closed_loop.report(driven, dreamt, WorldModel.from_pretrained(model).config, folder)
    frames = sum(each.result.steps + 1 for each in driven)
    scores = {key: compared[key] for key in ("real", "dream", "kinder_since", "alarms")}
    return {"round": number, "candidate": candidate, **scores, "frames": frames}


def candidate_folder(run: Path, number: int, candidate: int) -> Path:
    """Return the folder of a candidate of round ``number``."""
    return round_folder(run, number) / "candidates" / str(candidate)


def _best(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return max(lines, key=lambda line: line["real"]["mean"])


def _settle(run: Path, best: dict[str, Any]) -> None:
    """Make a candidate, given by its line of a log, its round's controller, with what was drawn of its drives."""
    folder = candidate_folder(run, best["round"], best["candidate"])
    kept, controller = folder.parent.parent, Controller.from_pretrained(folder / "controller")
    former = kept / "controller"
    if former.is_dir() and (Controller.from_pretrained(former).parameters != controller.parameters).any():
        for drawn in ("drive.mp4", "strip.png"):  # of the former one, and so are the others that come with them
            (kept / drawn).unlink(missing_ok=True)
    controller.save(former)
    for name in ("closed_loop.json", "closed_loop.png"):
        copy_atomic(folder / name, kept / name)


def choose(args: Args, number: int) -> dict[str, Any]:
    """Let all candidates of a round drive validation tracks, and make the best one the round's controller.

    Returns:
        The best one's line of ``candidates.jsonl``, but with the "frames" that all of them drove.
    """
    log = args.run / "candidates.jsonl"
    lines = {line["candidate"]: line for line in read_log(log) if line["round"] == number}
    for i in range(args.candidates):
        if i not in lines:
            training = Controller.from_pretrained(candidate_folder(args.run, number, i) / "controller").config.training
            origin = {key: training[key] for key in ("temperature", "refined", "hard_dreams")}
            lines[i] = {**validate(args, number, i, args.validation_tracks), **origin}
            append_log(log, lines[i])
    best = _best(lines.values())
    _settle(args.run, best)
    return {**best, "frames": sum(line["frames"] for line in lines.values())}


def keep_best(run: Path, log: str = "candidates.jsonl") -> dict[str, Any]:
    """Copy world model and controller of the candidate that validated best to ``best`` and return its line of a log.

    Raises:
        FileNotFoundError: for a run that has not come so far.
    """
    lines = read_log(run / log)
    if not lines:
        raise FileNotFoundError(f"{run / log}: nothing there yet; let training.loop go on with this run first")
    best = _best(lines)
    folder = candidate_folder(run, best["round"], best["candidate"])
    WorldModel.load(folder.parent.parent / "world_model").save(run / "best" / "world_model")
    Controller.from_pretrained(folder / "controller").save(run / "best" / "controller")
    return best


def record(run: Path, best: dict[str, Any]) -> dict[str, Any]:
    """Return what a run's result came from: command, data, real frames, seconds, and the scores of all candidates.

    Args:
        run: folder of a run that is over.
        best: the result's line of ``finalists.jsonl``.
    """
    settings = json.loads((run / "args.json").read_text())
    names = ("rounds", "candidates", "finalists")
    rounds, candidates, finalists = (read_log(run / f"{name}.jsonl") for name in names)
    config, preset = WorldModel.load(run / "best" / "world_model").config, settings["preset"]
    defaults = asdict(settled(PRESETS[preset], config.task))
    return {
        **config.training,
        "command": " ".join([f"python -m training.loop --preset {preset}", *flags(settings, defaults, ALIKE)]),
        "round": best["round"],
        "label": data_label(config.training["episodes"]),
        "real_frames": rounds[-1]["collected_frames"] + sum(line["frames"] for line in candidates + finalists),
        **dict(zip(names, (rounds, candidates, finalists), strict=True)),
    }


def final(args: Args) -> dict[str, Any]:
    """Let the best candidates of all rounds drive all validation tracks; keep the best of them, and return its line.

    Its world model says what it came from (see `record`).
    """
    lines = sorted(read_log(args.run / "candidates.jsonl"), key=lambda line: -line["real"]["mean"])
    log = args.run / "finalists.jsonl"
    done = {(line["round"], line["candidate"]) for line in read_log(log)}
    for line in lines[: args.finalists]:
        if (line["round"], line["candidate"]) not in done:
            start = time.monotonic()
            driven = validate(args, line["round"], line["candidate"], len(VALIDATION_SEEDS))
            append_log(log, {**driven, "seconds": round(time.monotonic() - start, 1)})
    best = keep_best(args.run, log.name)
    _settle(args.run, best)
    model = WorldModel.load(args.run / "best" / "world_model")
    model.config = replace(model.config, training=record(args.run, best))
    model.save(args.run / "best" / "world_model")
    return best
