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
from benchmarks.report import RESULTS, command, write_report
from training import train_controller
from training.loop import Timer
from training.presets import PRESETS
from training.seeds import TEST_SEEDS
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


def price(world_model: str, doubt: float) -> float:
    """Return the price of doubt in a world model's dreams: none where nothing doubts them."""
    return doubt if WorldModel.from_pretrained(world_model).config.doubted else 0.0


def seek(settings: train_controller.Args, minutes: float, run: Path) -> tuple[Path, dict[int, float]]:
    """Seek controllers, seed after seed from the settings' on, until the time is over, and let hard dreams choose one.

    Returns:
        Its folder, and what hard dreams paid the controller of each seed.
    """
    timer, found = Timer(run / "seconds.json"), list[Controller]()
    while not found or (run / str(len(found))).is_dir() or timer.seconds["seek"] < 60 * minutes:
        out, seed = run / str(len(found)), settings.seed + len(found)
        with timer("seek"):
            train_controller.main(replace(settings, out=out, seed=seed))
        found.append(Controller.from_pretrained(out / "controller"))
    parameters = np.stack([each.parameters for each in found])
    pay = train_controller.hard_dreams(str(settings.world_model), parameters, found[0].config, settings.max_steps)
    return run / str(int(pay.argmax())) / "controller", dict(enumerate(pay.tolist(), settings.seed))


def main(args: Args) -> None:
    """Evolve, drive, print and write the score.

    Raises:
        FileExistsError: when the folder exists: C must start at zero.
    """
    if args.run.exists():
        raise FileExistsError(f"{args.run}: exists, but C must start at zero; choose another --run or remove it")
    preset, start = PRESETS["laptop"].controller, time.monotonic()
    settings = replace(preset, world_model=args.world_model, temperature=args.temperature, seed=args.seed)
    objective = replace(preset.objective, doubt=price(args.world_model, preset.objective.doubt))
    best, paid = seek(replace(settings, objective=objective), args.minutes, args.run)
    minutes = (time.monotonic() - start) / 60
    scored = score.Args(policy=str(best), world_model=args.world_model, workers=args.workers)
    dream_id, real_id = env_ids(args.world_model)
    real = score.drives(real_id, args.workers, scored, fast=False)
    dream = score.drives(dream_id, len(TEST_SEEDS), scored)
    content = {
        "command": command("reevolve", args),
        "minutes": minutes,
        "hard_dreams": paid,
        "seed": max(paid, key=lambda seed: paid[seed]),
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
