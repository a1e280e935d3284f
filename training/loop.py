"""The whole pipeline in rounds: collect, V, encode, M, C in the dream, validate on the real car, collect with C, ...

    python -m training.loop --preset smoke --run runs/smoke      # minutes
    python -m training.loop --preset laptop --run runs/laptop    # two cores, hours
    python -m training.loop --preset paper --run runs/paper      # Ha & Schmidhuber's sizes

Each stage reads and writes folders of the run and is a no-op for what is there already, so the same command goes on
where the last one was stopped, however it was stopped. Frames and latents are caches: a run's folder without them goes
on too, on another machine, once `collect` has drawn the frames again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from training import closed_loop, collect, encode, gradient, open_loop, train_controller, train_rnn, train_vae
from training.checkpoints import append_log, read_log
from training.closed_loop import VALIDATION_SEEDS
from training.files import write_json
from training.pictures import draw_progress, draw_round
from training.rollouts import Episode, episode_files
from training.tracking import track, tracking
from wm_gym.models.controller import Controller
from wm_gym.world_model import WorldModel


@dataclass
class Args:
    """A run. The paths inside the stages' settings are set by --run; --track and --tf32 are one switch for all."""

    preset: str = "laptop"
    """the defaults of all other settings: smoke, laptop or paper"""
    run: Path = Path("runs/default")
    """folder of the run"""
    rounds: int = 12
    """of collecting, training and evolving"""
    random_episodes: int = 30
    """first data: drives of held random actions"""
    random_steps: int = 500
    """length of these drives"""
    scripted_episodes: int = 70
    """first data: drives of scripted, privileged drivers with bursts of random actions; 0 trains from scratch"""
    own_episodes: int = 24
    """drives a round after the first: half by the controller, half by members of the last population or scouts"""
    own_patience: int = 150
    """an own drive is over after so many steps without a new tile"""
    own_burst_rate: float = 0.01
    """probability a step that a burst of one random action disturbs an own drive"""
    vae_epochs: int = 1
    """more epochs of V in a round after the first whose frames V does not know (vae.epochs is the first round's)"""
    vae_tolerance: float = 3.0
    """V knows frames that it reconstructs with at most so many times the error of all frames before them"""
    rnn_epochs: int = 10
    """more epochs of M in each round after the first (rnn.epochs is the first round's)"""
    generations: int = 20
    """more generations of C in each round after the first (controller.generations is the first round's)"""
    real_generations: int = 0
    """evolve a controller on the real env too, for so many generations, after the last round"""
    validation_tracks: int = 20
    """real validation tracks that a round's controller drives, and as many dreams"""
    finalists: int = 2
    """the best rounds, which drive all validation tracks at last: the best of them is the run's result"""
    max_steps: int = 1000
    """steps of a real drive at most"""
    workers: int = 2
    """processes that drive the real env"""
    tf32: bool = False
    """let CUDA round products and convolutions to TF32 in all training; the stages' own switches do not count"""
    track: bool = True
    """log to Weights & Biases (offline unless logged in); --no-track logs to log.jsonl alone"""
    vae: train_vae.Args = field(default_factory=train_vae.Args)
    """V"""
    rnn: train_rnn.Args = field(default_factory=train_rnn.Args)
    """M"""
    controller: train_controller.Args = field(default_factory=train_controller.Args)
    """C"""


PRESETS = {
    "smoke": Args(
        preset="smoke",
        rounds=2,
        random_episodes=3,
        random_steps=80,
        scripted_episodes=5,
        own_episodes=2,
        rnn_epochs=1,
        generations=1,
        real_generations=1,
        validation_tracks=2,
        finalists=1,
        max_steps=150,
        vae=train_vae.Args(epochs=2, batch=64),
        rnn=train_rnn.Args(epochs=3, held_out=4),
        controller=train_controller.Args(
            generations=2, population=6, rollouts=2, max_steps=50, gradient=gradient.Args(steps=2, scouts=2, walkers=4)
        ),
    ),
    "laptop": Args(
        rounds=8,
        own_episodes=32,
        generations=3,
        rnn_epochs=8,
        validation_tracks=10,
        vae=train_vae.Args(epochs=4, batch=128),
        rnn=train_rnn.Args(epochs=120),
        controller=train_controller.Args(
            generations=3,
            sigma=0.03,
            max_steps=400,
            temperature=2.2,
            starts="any",
            gradient=gradient.Args(steps=60, scouts=4),
        ),
    ),
    "paper": Args(
        preset="paper",
        rounds=1,
        random_episodes=10_000,
        random_steps=1000,
        scripted_episodes=0,
        vae=train_vae.Args(epochs=10, batch=100, learning_rate=1e-4, free_bits=0.5),
        rnn=train_rnn.Args(epochs=20, batch=100, chunk=1000, learning_rate=1e-3),
        controller=train_controller.Args(generations=1800, population=64, rollouts=16),
        validation_tracks=100,
    ),
}


class Timer:
    """Seconds spent in each stage of a round, kept in a file so that a resumed round knows of its finished stages.

    What a stage had spent when it was killed is not counted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.monotonic()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 1)
        write_json(self.path, self.seconds)


def first_drives(args: Args) -> list[collect.Args]:
    """Return what to collect before there is a controller."""
    common = collect.Args(out=args.run / "rollouts", workers=args.workers, frames=args.vae.frames)
    random = args.random_episodes
    scripted = random + args.scripted_episodes // 2
    return [
        replace(common, episodes=random, burst_rate=1.0, burst_length=40, max_steps=args.random_steps),
        replace(common, episodes=scripted, policy="scripted", burst_rate=0.02, max_steps=args.max_steps),
        replace(
            common,
            episodes=random + args.scripted_episodes,
            policy="scripted-varied",
            burst_rate=0.05,
            burst_length=40,
            max_steps=args.max_steps,
        ),
    ]


def own_drives(args: Args, number: int) -> list[collect.Args]:
    """Return what to collect with the controller of the round before ``number``."""
    before = args.run / "rounds" / f"{number - 1:03d}"
    total = args.random_episodes + args.scripted_episodes + (number - 1) * args.own_episodes
    common = collect.Args(
        out=args.run / "rollouts",
        world_model=before / "world_model",
        burst_rate=args.own_burst_rate,
        max_steps=args.max_steps,
        patience=args.own_patience,
        workers=args.workers,
        frames=args.vae.frames,
    )
    return [
        replace(common, episodes=total + args.own_episodes // 2, policy=str(before / "controller")),
        replace(
            common,
            episodes=total + args.own_episodes,
            policy=str(before / "population"),
            members=args.controller.gradient.scouts or args.own_episodes - args.own_episodes // 2,
        ),
    ]


def vae_epochs(args: Args, number: int) -> int:
    """Return how many epochs V is trained for by round ``number``: more where it does not know the newest frames."""
    if number == 0 or not args.own_episodes:
        return args.vae.epochs
    note = args.run / "rounds" / f"{number:03d}" / "vae.json"
    if not note.is_file():
        ratio = train_vae.novelty(args.run / "rollouts", args.run / "vae", args.own_episodes)
        more = args.vae_epochs + args.vae.decoder_epochs if ratio > args.vae_tolerance else 0
        write_json(note, {"novelty": ratio, "epochs": vae_epochs(args, number - 1) + more})
    return json.loads(note.read_text())["epochs"]


def validate(args: Args, folder: Path, tracks: int) -> dict[str, Any]:
    """Drive a round's controller on real validation tracks and in as many dreams; return and draw the comparison."""
    controller, model = Controller.from_pretrained(folder / "controller"), folder / "world_model"
    real, dream = (
        closed_loop.drive(env, controller, model, VALIDATION_SEEDS[:tracks], lanes, max_episode_steps=args.max_steps)
        for env, lanes in ((train_controller.REAL, args.workers), (train_controller.DREAM, tracks))
    )
    compared = closed_loop.report(real, dream, WorldModel.from_pretrained(model).config.reward, folder)
    frames = sum(each.result.steps + 1 for each in real)
    return {**{key: compared[key] for key in ("real", "dream", "kinder_since", "alarms")}, "frames": frames}


def run_round(args: Args, number: int) -> dict[str, Any]:
    """Run one round, or what is missing of it, and return its line of the log."""
    run, kept = args.run, args.run / "rounds" / f"{number:03d}"
    timer = Timer(kept / "seconds.json")
    with timer("collect"):
        for drives in first_drives(args) if number == 0 else own_drives(args, number):
            collect.main(drives)
        collect.main(collect.Args(out=run / "rollouts", workers=args.workers, frames=args.vae.frames, replay=True))
    with timer("vae"):
        epochs = vae_epochs(args, number)
        train_vae.main(replace(args.vae, rollouts=run / "rollouts", out=run / "vae", epochs=epochs, tf32=args.tf32))
    with timer("encode"):
        encode.main(encode.Args(run / "rollouts", run / "vae", run / "latents", device=args.vae.device))
    with timer("rnn"):
        epochs = args.rnn.epochs + number * args.rnn_epochs
        rnn = replace(args.rnn, latents=run / "latents", out=run / "rnn", epochs=epochs, tf32=args.tf32)
        artifact = train_rnn.main(rnn)
    with timer("controller"):
        generations = args.controller.generations + number * args.generations
        evolved: dict[str, Any] = {"world_model": str(artifact), "out": run / "controller", "generations": generations}
        train_controller.main(replace(args.controller, **evolved, tf32=args.tf32))
    WorldModel.load(artifact).save(kept / "world_model")
    for name in ("controller", "population"):
        Controller.from_pretrained(run / "controller" / name).save(kept / name)
    with timer("validate"):
        scores = validate(args, kept, args.validation_tracks)
        open_loop.main(
            open_loop.Args(str(kept / "world_model"), latents=run / "latents", held_out=args.rnn.held_out, out=kept)
        )
    collected = sum(len(Episode.load(path).actions) + 1 for path in episode_files(run / "rollouts"))
    return {"round": number, **scores, "collected_frames": collected, "seconds": timer.seconds}


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


def final(args: Args) -> dict[str, Any]:
    """Let the best rounds drive all validation tracks, keep the best of them and return its line."""
    rounds = sorted(read_log(args.run / "rounds.jsonl"), key=lambda line: -line["real"]["mean"])[: args.finalists]
    log = args.run / "finalists.jsonl"
    done = {line["round"] for line in read_log(log)}
    for number in [line["round"] for line in rounds if line["round"] not in done]:
        folder = args.run / "rounds" / f"{number:03d}"
        append_log(log, {"round": number, **validate(args, folder, len(VALIDATION_SEEDS))})
    return keep_best(args.run, log.name)


def main(args: Args) -> dict[str, Any]:
    """Run all rounds that are not done, and return the line of the best finalist.

    Raises:
        ValueError: for no rounds or no finalists.
    """
    if args.rounds < 1 or args.finalists < 1:
        raise ValueError(f"a run needs a round and a finalist, got --rounds {args.rounds} --finalists {args.finalists}")
    write_json(args.run / "args.json", asdict(args))
    log = args.run / "rounds.jsonl"
    for number in range(len(read_log(log)), args.rounds):
        line = run_round(args, number)
        append_log(log, line)
        track("loop", line)
        tqdm.write(f"round {number}: real {line['real']['mean']:.0f}, dream {line['dream']['mean']:.0f}")
        for sentence in line["alarms"]:
            tqdm.write(f"ALARM: {sentence}")
        keep_best(args.run)
        draw_progress(args.run)
    best = final(args)
    draw_round(args.run, VALIDATION_SEEDS[0], args.max_steps, best["round"])
    if args.real_generations:
        train_controller.main(
            replace(
                args.controller,
                env=train_controller.REAL,
                gradient=gradient.Args(),
                sigma=train_controller.Args.sigma,
                world_model=str(args.run / "best" / "world_model"),
                out=args.run / "controller-real",
                generations=args.real_generations,
                lanes=args.workers,
            )
        )
    return best


def parse(arguments: list[str] | None = None) -> Args:
    """Read the command line: --preset chooses the defaults of all other flags."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="laptop")
    known, _ = parser.parse_known_args(arguments)
    return tyro.cli(Args, default=PRESETS[known.preset], args=arguments, description=__doc__)


if __name__ == "__main__":
    arguments = parse()
    with tracking(arguments.run, arguments.track, asdict(arguments)):
        main(arguments)
