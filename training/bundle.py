"""Put a run's best world model and controller into the package, with a card that says where they come from.

    python -m training.bundle --run runs/laptop --name car_racing

Run again after the benchmarks: the card shows their figures.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from training.checkpoints import read_log
from training.files import leaves, write_atomic
from training.loop import keep_best
from training.presets import PRESETS
from wm_gym.artifact import PRETRAINED
from wm_gym.models.controller import Controller
from wm_gym.world_model import WorldModel


@dataclass
class Args:
    """What to bundle."""

    run: Path = Path("runs/laptop")
    """folder of a run of training.loop"""
    name: str = "car_racing"
    """what users call it"""
    note: str = ""
    """what else the card should say of the run"""
    results: Path = Path("benchmarks/results")
    """folder of the benchmarks' JSON"""


def command(settings: dict[str, Any]) -> str:
    """Return the command that a run was last started with: its preset, and all settings that differ from it."""
    preset = settings["preset"]
    given, usual = (
        dict(leaves(each)) for each in (settings, json.loads(json.dumps(asdict(PRESETS[preset]), default=str)))
    )
    flags = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in given.items()
        if name in usual and value != usual[name] and name != "run"
    ]
    return " ".join([f"python -m training.loop --preset {preset}", *flags])


def card(name: str, training: dict[str, Any], results: Path, note: str = "") -> str:
    """Return the card's text."""
    episodes = ", ".join(f"{count} {label}" for label, count in training["episodes"].items())
    lines = [
        f"# {name}",
        "",
        "A world model of CarRacing-v3 (VAE, MDN-RNN, starts of dreams) and a linear controller that was evolved in",
        f"its dreams only, by `{training['command']}`.",
        "",
        f"- Data: {episodes} episodes on tracks {training['seeds'][0]} to {training['seeds'][1]}; "
        f"{training['frames']:,} real frames. The whole run, its validation drives included, used "
        f"{training['real_frames']:,}.",
        f"- Label: {training['label']}.",
        *([f"- {note}"] if note else []),
    ]
    for path, describe in (
        ("score.json", _score_line),
        ("reconstruction.json", _reconstruction_line),
        ("reevolve.json", _reevolve_line),
    ):
        if (results / path).is_file():
            lines.append(describe(json.loads((results / path).read_text())))
    lines += ["", "| round | real frames | dream score | real score (validation) | best candidate | minutes |"]
    lines += ["|---|---|---|---|---|---|"]
    for line in training["rounds"]:
        minutes = sum(line["seconds"].values()) / 60
        frames, dream = f"{line['collected_frames']:,}", f"{line['dream']['mean']:.0f}"
        others = [each["real"] for each in training["candidates"] if each["round"] == line["round"]]
        best = _mean_std(max([line["real"], *others], key=lambda scores: scores["mean"]))
        lines.append(f"| {line['round']} | {frames} | {dream} | {_mean_std(line['real'])} | {best} | {minutes:.1f} |")
    for line in training["finalists"]:
        tracks, dream = line["real"]["episodes"], f"{line['dream']['mean']:.0f}"
        lines.append(f"| {line['round']} on {tracks} tracks | | {dream} | | {_mean_std(line['real'])} | |")
    return "\n".join(lines) + "\n"


def _mean_std(scores: dict[str, float]) -> str:
    return f"{scores['mean']:.0f} ± {scores['std']:.0f}"


def _score_line(content: dict[str, Any]) -> str:
    real, dream = content["real"], content["dream"]
    return (
        f"- Score on the 100 test tracks (`{content['command']}`): {real['mean']:.0f} ± {real['std']:.0f}, median "
        f"{real['median']:.0f}, {real['share_900']:.0%} at 900 or more; in 100 dreams "
        f"{dream['mean']:.0f} ± {dream['std']:.0f}."
    )


def _reconstruction_line(content: dict[str, Any]) -> str:
    return (
        f"- Summed squared error of decode(mu) over {content['frames']:,} frames of validation tracks "
        f"(`{content['command']}`): {content['squared_error']:.2f}."
    )


def _reevolve_line(content: dict[str, Any]) -> str:
    return (
        f"- Another controller, evolved from zero in this world model for {content['minutes']:.0f} minutes "
        f"(`{content['command']}`): {_mean_std(content['real'])} on the 100 test tracks."
    )


def main(args: Args) -> Path:
    """Copy the run's result and its pictures, write the card and return the bundle's folder."""
    finalist = keep_best(args.run, "finalists.jsonl")
    rounds, candidates, finalists = (
        read_log(args.run / f"{name}.jsonl") for name in ("rounds", "candidates", "finalists")
    )
    best = rounds[finalist["round"]]
    folder = PRETRAINED / args.name
    model = WorldModel.load(args.run / "best" / "world_model")
    training = {
        **model.config.training,
        "command": command(json.loads((args.run / "args.json").read_text())),
        "round": best["round"],
        "label": "privileged" if model.config.training["episodes"].get("privileged") else "from scratch",
        "real_frames": rounds[-1]["collected_frames"] + sum(line["frames"] for line in rounds + candidates + finalists),
        "rounds": rounds,
        "candidates": candidates,
        "finalists": finalists,
    }
    model.config = replace(model.config, training=training)
    model.save(folder / "world_model")
    Controller.from_pretrained(args.run / "best" / "controller").save(folder / "controller")
    text = card(args.name, training, args.results, args.note)
    write_atomic(folder / "README.md", lambda file: file.write(text.encode()))
    drawn = Path("rounds") / f"{best['round']:03d}"
    for picture in ("rounds.png", "curves.png", drawn / "strip.png", drawn / "gap.png"):
        shutil.copy(args.run / picture, args.results)
    return folder


if __name__ == "__main__":
    print(main(tyro.cli(Args, description=__doc__)))
