"""What does each part do? One round of training.loop again and again, each time with one thing changed.

    python -m benchmarks.controls --base runs/mine

All controls begin with the first drives of one run of the laptop preset, and its V and M where these are not what is
changed. Then a round: six controllers are sought, hard dreams choose four, ten validation tracks choose one of these,
which drives all 100 validation tracks. An interrupted command goes on; W&B is told nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from benchmarks.report import RESULTS, command, write_report
from training import loop
from training.checkpoints import load_checkpoint, read_log
from training.files import keep_settings
from training.presets import parse
from training.seeds import VALIDATION_SEEDS

KEPT = ("rollouts", "vae", "latents", "rnn", "rnn-1")
"""Folders of a run before its first round, in the order of the stages; each control makes again what it changes."""

CONTROLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "as it is": ("", KEPT),
    "no doubt": ("--memories 1 --controller.objective.doubt 0", KEPT),
    "no mirror": ("--no-mirror", KEPT[:3]),
    "z only": ("--controller.z-only", KEPT),
    "mode": ("--controller.sampling mode", KEPT),
    "untrained memory": ("--rnn.epochs 0", KEPT[:3]),
    "transformer": ("--rnn.memory transformer", KEPT[:3]),
    "ensemble": ("--rnn.memory ensemble --rnn.ensemble.hidden-size 408", KEPT[:3]),
    "from scratch": ("--scripted-episodes 0 --random-episodes 160 --random-steps 1000", ()),
}
"""What is changed, and what is taken from the base."""

ROUND = "--rounds 1 --finalists 1 --own-episodes 4"
"""All of them: own drives are data for a next round, and there is none."""


@dataclass
class Args:
    """What to compare."""

    base: Path = Path("runs/base")
    """run of the laptop preset whose first drives, V and M the controls share, as they are before its first round"""
    seed: int = 0
    """of that run"""
    controls: tuple[str, ...] = tuple(CONTROLS)
    """which; the JSON file keeps the others' lines"""
    runs: Path = Path("runs/controls")
    """folder for their runs"""
    out: Path = RESULTS / "controls.json"
    """JSON file"""
    workers: int = 2
    """processes that drive the real env"""


def begin(base: Path, run: Path, kept: tuple[str, ...]) -> None:
    """Give a new run the first folders of another, all or none; files are linked, but for logs, which grow in place.

    Raises:
        FileNotFoundError: when the base lacks one of them.
        ValueError: when the base has come too far: its M knows drives of its own controllers.
    """
    if read_log(base / "rounds.jsonl"):
        raise ValueError(f"{base} has finished a round; give a copy of a run made before its first round")
    temporary = run.with_name(f".{run.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in kept:
        shutil.copytree(
            base / name,
            temporary / name,
            copy_function=lambda source, target: (
                shutil.copy2(source, target) if source.endswith(".jsonl") else os.link(source, target)
            ),
            ignore=shutil.ignore_patterns(".lock"),
        )
    temporary.rename(run)


def main(args: Args) -> None:
    """Run the controls, and write each one's scores as it ends.

    Raises:
        ValueError: for an unknown control, or a file or a folder whose controls had another base.
    """
    encoder = load_checkpoint(args.base / "latents" / "vae.pt")["fingerprint"]
    former: dict[str, Any] = {"base": encoder, "controls": {}}
    if args.out.is_file():
        former = json.loads(args.out.read_text())
    if former.get("base") != encoder:
        raise ValueError(f"{args.out} holds controls of another base than {args.base}: choose another --out")
    lines = former["controls"]
    if unknown := set(args.controls) - set(CONTROLS):
        raise ValueError(f"no such controls: {sorted(unknown)}; expected some of {list(CONTROLS)}")
    for name in args.controls:
        flags, kept = CONTROLS[name]
        run = args.runs / name.replace(" ", "-")
        if not run.exists():
            begin(args.base, run, kept)
        keep_settings(run / "base.json", {"base": encoder})
        how = f"--seed {args.seed} {ROUND} --workers {args.workers} --no-track --run {run}"
        settings = parse(f"--preset laptop {how} {flags}".split())
        final = loop.main(settings)
        (line,) = read_log(run / "rounds.jsonl")
        lines[name] = {
            "flags": flags,
            "seed": args.seed,
            "real": final["real"],
            "dream": final["dream"],
            "candidates": [
                {"temperature": each["temperature"], "hard_dreams": each["hard_dreams"], "real": each["real"]["mean"]}
                for each in read_log(run / "candidates.jsonl")
            ],
            "frames": line["collected_frames"],
            "seconds": line["seconds"],
        }
        print(name, {key: round(lines[name][key]["mean"], 1) for key in ("real", "dream")})
        seeds = [VALIDATION_SEEDS[0], VALIDATION_SEEDS[-1]]
        record = {
            "command": command("controls", replace(args, controls=Args.controls)),
            "base": encoder,
            "seeds": seeds,
        }
        write_report(args.out, {**record, "controls": lines})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
