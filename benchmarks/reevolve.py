"""Is the dream good, or was one controller lucky? C again, from zero, in the bundled world model alone.

    python -m benchmarks.reevolve

Gradients, as in the laptop preset of training.loop, from several seeds, then CMA-ES from the one that dreams pay best
until the time is over; no real drive chooses anything. Then the 100 test tracks of gymnasium's own CarRacing-v3.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from benchmarks import score
from benchmarks.report import RESULTS, TEST_SEEDS, write_report
from training import train_controller
from training.checkpoints import read_log
from training.presets import PRESETS
from wm_gym.evaluate import summarize
from wm_gym.world_model import WorldModel

GENERATIONS = 5
"""Of CMA-ES between two looks at the clock."""


@dataclass
class Args:
    """What to evolve."""

    world_model: str = "car_racing"
    """bundled name or folder"""
    minutes: float = 15.0
    """time to evolve"""
    temperature: float = 2.2
    """τ of the dreams that C evolves in"""
    ascents: int = 8
    """how often gradients begin at zero"""
    seed: int = 1
    """of starts and noise of the first ascent; the others count up"""
    run: Path = Path("runs/reevolve")
    """new folder for the controllers"""
    out: Path = RESULTS / "reevolve.json"
    """JSON file"""
    workers: int = 2
    """processes that drive the real env"""


def main(args: Args) -> None:
    """Evolve, drive, print and write the score.

    Raises:
        FileExistsError: when the folder exists: C must start at zero.
    """
    if args.run.exists():
        raise FileExistsError(f"{args.run}: exists, but C must start at zero; choose another --run or remove it")
    preset = PRESETS["laptop"].controller
    settings = replace(preset, world_model=args.world_model, temperature=args.temperature, generations=1)
    ascents = [replace(settings, out=args.run / str(i), seed=args.seed + i) for i in range(args.ascents)]
    start, pay = time.monotonic(), []
    for each in ascents:
        train_controller.main(each)
        pay.append(read_log(each.out / "log.jsonl")[0]["population_score"])
    best, generations = ascents[int(np.argmax(pay))], 1
    while time.monotonic() - start < 60 * args.minutes:
        generations += GENERATIONS
        train_controller.main(replace(best, generations=generations))
    minutes = (time.monotonic() - start) / 60
    scored = score.Args(policy=str(best.out / "controller"), world_model=args.world_model, workers=args.workers)
    real = score.drives(train_controller.REAL, args.workers, scored, fast=False)
    dream = score.drives(train_controller.DREAM, len(TEST_SEEDS), scored)
    content = {
        "command": "python -m benchmarks.reevolve",
        "minutes": minutes,
        "ascents": dict(zip((each.seed for each in ascents), pay, strict=True)),
        "seed": best.seed,
        "generations": generations,
        "seeds": [TEST_SEEDS.start, TEST_SEEDS.stop - 1],
        "real": summarize(real),
        "dream": summarize(dream),
        "training": WorldModel.from_pretrained(args.world_model).config.training,
        "real_episodes": [asdict(episode) for episode in real],
    }
    write_report(args.out, content)
    for name in ("real", "dream"):
        print(name, content[name])


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
