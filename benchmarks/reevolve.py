"""Is the dream good, or was one controller lucky? C again, from zero, in the bundled world model alone.

    python -m benchmarks.reevolve

Controllers are sought as in the laptop preset of training.loop, seed after seed until the time is over; hard dreams
choose one of them, no real drive does. Then the 100 test tracks of gymnasium's own CarRacing-v3.
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
from training.presets import PRESETS
from wm_gym.evaluate import summarize
from wm_gym.models.controller import Controller
from wm_gym.registration import env_ids
from wm_gym.world_model import WorldModel


@dataclass
class Args:
    """What to evolve."""

    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    minutes: float = 15.0
    """time to evolve"""
    temperature: float = 2.0
    """τ of the dreams that C evolves in"""
    seed: int = 1000
    """of starts and noise of the first controller; the others count up"""
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
    settings = replace(preset, world_model=args.world_model, temperature=args.temperature)
    found: list[Controller] = []
    start = time.monotonic()
    while not found or time.monotonic() - start < 60 * args.minutes:
        out = args.run / str(len(found))
        train_controller.main(replace(settings, out=out, seed=args.seed + len(found)))
        found.append(Controller.from_pretrained(out / "controller"))
    parameters = np.stack([each.parameters for each in found])
    pay = train_controller.hard_dreams(args.world_model, parameters, found[0].config, settings.max_steps)
    best = int(pay.argmax())
    minutes = (time.monotonic() - start) / 60
    scored = score.Args(
        policy=str(args.run / str(best) / "controller"), world_model=args.world_model, workers=args.workers
    )
    dream_id, real_id = env_ids(args.world_model)
    real = score.drives(real_id, args.workers, scored, fast=False)
    dream = score.drives(dream_id, len(TEST_SEEDS), scored)
    content = {
        "command": "python -m benchmarks.reevolve",
        "minutes": minutes,
        "hard_dreams": dict(enumerate(pay.tolist(), args.seed)),
        "seed": args.seed + best,
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
