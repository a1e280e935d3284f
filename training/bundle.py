"""Put a run's best world model and controller into the package, with a card that says where they come from.

    python -m training.bundle --run runs/laptop --name car_racing

Run again after the benchmarks: the card shows their figures.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

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


def main(args: Args) -> Path:
    """Copy the run's result and its pictures, write the card and return the bundle's folder.

    Raises:
        FileNotFoundError: for a run that is not over.
    """
    best = args.run / "best"
    if not (args.run / "finalists.jsonl").is_file():
        raise FileNotFoundError(
            f"{args.run}/finalists.jsonl: not there yet; let training.loop go on with this run first"
        )
    model, folder = WorldModel.load(best / "world_model"), PRETRAINED / args.name
    model.push_to_hub(folder, Controller.from_pretrained(best / "controller"), args.results, args.note)
    drawn = Path("rounds") / f"{model.config.training['round']:03d}"
    for picture in ("rounds.png", "curves.png", drawn / "strip.png", drawn / "gap.png"):
        shutil.copy(args.run / picture, args.results)
    return folder


if __name__ == "__main__":
    print(main(tyro.cli(Args, description=__doc__)))
