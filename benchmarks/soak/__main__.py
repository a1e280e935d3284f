"""What can one rely on? The long form of the tests of reliability, and its figures.

    make soak                                       # all of it, about half an hour on two cores
    python -m benchmarks.soak --parts kills steps   # some of it; the JSON file keeps the others' figures

Exits with 1 when anything was lost, came out wrong, or left its bounds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.report import RESULTS, machine, write_report
from benchmarks.soak import kills, mutations, steps, users
from training.files import leaves

PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "kills": lambda seed: kills.soak(anywhere=30, inside=30, seed=seed),
    "mutations": lambda seed: mutations.run(1500, seed),
    "users": lambda seed: users.run(12_000, seed),
    "steps": lambda seed: steps.run(10_000_000, 1000, seed),
}

WRONG = (
    "lost",
    "different",
    "left",
    "wrong",
    "not_finite",
    "out_of_bounds",
    "outside_the_space",
    "beyond_reach",
    "leaks",
)
"""Figures that must be empty or zero."""


@dataclass
class Args:
    """What to try."""

    parts: tuple[str, ...] = tuple(PARTS)
    """of kills, mutations, users, steps"""
    seed: int = 0
    """of all that is drawn"""
    out: Path = RESULTS / "soak.json"
    """JSON file"""


def main(args: Args) -> list[str]:
    """Run the parts, write the figures of each as it ends, and return what went wrong.

    Raises:
        ValueError: for an unknown part.
    """
    if unknown := set(args.parts) - set(PARTS):
        raise ValueError(f"no such parts: {sorted(unknown)}; expected some of {list(PARTS)}")
    figures: dict[str, Any] = json.loads(args.out.read_text())["parts"] if args.out.is_file() else {}
    for name in args.parts:
        figures[name] = PARTS[name](args.seed) | {"seed": args.seed, "machine": machine()}
        write_report(args.out, {"command": "python -m benchmarks.soak", "parts": figures})
        print(name, {key: value for key, value in figures[name].items() if not isinstance(value, dict)})
    return [f"{name} {value}" for name, value in leaves(figures) if name.split(".")[-1] in WRONG and value]


if __name__ == "__main__":
    if failures := main(tyro.cli(Args, description=__doc__)):
        sys.exit("\n".join(failures))
