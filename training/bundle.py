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
from training.files import leaves
from training.presets import PRESETS
from training.selection import keep_best
from wm_gym.artifact import PRETRAINED
from wm_gym.card import data_label
from wm_gym.models.controller import Controller
from wm_gym.world_model import WorldModel

ALIKE = ("run", "workers", "ray", "track")
"""Settings with which a run comes to the same."""


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
    """Return the command that comes to a run's result: its preset, and all settings that differ, but for `ALIKE`."""
    preset = settings["preset"]
    given, usual = (
        dict(leaves(each)) for each in (settings, json.loads(json.dumps(asdict(PRESETS[preset]), default=str)))
    )
    flags = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in given.items()
        if name in usual and value != usual[name] and name not in ALIKE
    ]
    return " ".join([f"python -m training.loop --preset {preset}", *flags])


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
        "label": data_label(model.config.training["episodes"]),
        "real_frames": rounds[-1]["collected_frames"] + sum(line["frames"] for line in candidates + finalists),
        "rounds": rounds,
        "candidates": candidates,
        "finalists": finalists,
    }
    model.config = replace(model.config, training=training)
    model.push_to_hub(folder, Controller.from_pretrained(args.run / "best" / "controller"), args.results, args.note)
    drawn = Path("rounds") / f"{best['round']:03d}"
    for picture in ("rounds.png", "curves.png", drawn / "strip.png", drawn / "gap.png"):
        shutil.copy(args.run / picture, args.results)
    return folder


if __name__ == "__main__":
    print(main(tyro.cli(Args, description=__doc__)))
