"""Which of a run's controllers is kept: real validation tracks choose among those that dreams made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training import closed_loop
from training.checkpoints import append_log, read_log
from training.closed_loop import VALIDATION_SEEDS
from training.driving import drive
from training.presets import Args
from wm_gym.models.controller import Controller
from wm_gym.registration import env_ids
from wm_gym.world_model import WorldModel


def validate(args: Args, folder: Path, tracks: int, candidate: str = "") -> dict[str, Any]:
    """Drive a round's controller on real validation tracks and in as many dreams; return and draw the comparison.

    Args:
        args: of the run.
        folder: of the round.
        tracks: number of them.
        candidate: folder in the round's of the controller and for what is drawn; the round's own by default.
    """
    controller, model = Controller.from_pretrained(folder / candidate / "controller"), folder / "world_model"
    dream, real = env_ids(model)
    seeds, steps = VALIDATION_SEEDS[:tracks], args.max_steps
    dreamt = drive(dream, controller, model, seeds, tracks, max_episode_steps=steps)
    driven = drive(real, controller, model, seeds, args.workers, args.ray, max_episode_steps=steps)
    compared = closed_loop.report(driven, dreamt, WorldModel.from_pretrained(model).config, folder / candidate)
    frames = sum(each.result.steps + 1 for each in driven)
    return {**{key: compared[key] for key in ("real", "dream", "kinder_since", "alarms")}, "frames": frames}


def keep_best(run: Path, log: str = "rounds.jsonl") -> dict[str, Any]:
    """Copy world model and controller of the round that validated best to ``best`` and return its line of a log.

    Raises:
        FileNotFoundError: for a run that has not come so far.
    """
    lines = read_log(run / log)
    if not lines:
        raise FileNotFoundError(f"{run / log}: nothing there yet; let training.loop go on with this run first")
    best = max(lines, key=lambda line: line["real"]["mean"])
    folder = run / "rounds" / f"{best['round']:03d}"
    WorldModel.load(folder / "world_model").save(run / "best" / "world_model")
    Controller.from_pretrained(folder / "controller").save(run / "best" / "controller")
    return best


def best_candidate(args: Args, line: dict[str, Any]) -> float:
    """Let a round's other candidates drive the validation tracks too, keep its best, and return its mean.

    The few drives that chose among them were disturbed by bursts, and of training tracks.

    Args:
        args: of the run.
        line: of the round's log.
    """
    folder, log = args.run / "rounds" / f"{line['round']:03d}", args.run / "candidates.jsonl"
    driven = [each["mean"] for each in line["candidates"]]
    means = {driven.index(max(driven)): line["real"]["mean"]}
    means |= {each["candidate"]: each["real"]["mean"] for each in read_log(log) if each["round"] == line["round"]}
    for i in range(len(driven)):
        if i not in means:
            scores = validate(args, folder, args.validation_tracks, f"candidates/{i}")
            append_log(log, {"round": line["round"], "candidate": i, **scores})
            means[i] = scores["real"]["mean"]
    best = max(means, key=lambda i: means[i])
    Controller.from_pretrained(folder / "candidates" / str(best) / "controller").save(folder / "controller")
    return means[best]


def final(args: Args) -> dict[str, Any]:
    """Let the best candidates of the best rounds drive all validation tracks, and keep and return the best of them."""
    means = {line["round"]: best_candidate(args, line) for line in read_log(args.run / "rounds.jsonl")}
    rounds = sorted(means, key=lambda number: -means[number])[: args.finalists]
    log = args.run / "finalists.jsonl"
    done = {line["round"] for line in read_log(log)}
    for number in [number for number in rounds if number not in done]:
        folder = args.run / "rounds" / f"{number:03d}"
        append_log(log, {"round": number, **validate(args, folder, len(VALIDATION_SEEDS))})
    return keep_best(args.run, log.name)
