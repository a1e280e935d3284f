"""The whole pipeline in rounds: collect, V, encode, M, C in the dream, validate on the real env, collect with C, ...

    python -m training.loop --preset smoke --run runs/smoke      # minutes
    python -m training.loop --preset laptop --run runs/laptop    # one core, two hours
    python -m training.loop --preset paper --run runs/paper      # Ha & Schmidhuber's sizes
    python -m training.loop --preset acrobot --run runs/acrobot  # another env

Each stage reads and writes folders of the run and is a no-op for what is there already, so the same command goes on
where the last one was stopped, however it was stopped. Frames and latents are caches: a run's folder without them goes
on too, on another machine, once `collect` has drawn the frames again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from training import collect, encode, gradient, open_loop, train_controller, train_rnn, train_vae
from training.checkpoints import append_log, read_log
from training.checks import check
from training.files import alone, keep_settings, write_json
from training.pictures import draw_progress, draw_round, round_folder
from training.presets import FREE, SEED_TRACKS, Args, parse, settled
from training.rollouts import Episode, episode_files
from training.seeds import VALIDATION_SEEDS
from training.selection import choose, final, keep_best
from training.tracking import track, tracking
from wm_gym.models.controller import Controller
from wm_gym.registration import env_ids
from wm_gym.world_model import WorldModel

MEMORY_SEEDS = 1000
"""From the seed of one of a run's Ms to that of the next."""


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


def drives(args: Args, **settings: Any) -> collect.Args:
    """Return how to collect drives of a run, with further settings of `collect`."""
    return collect.Args(
        out=args.run / "rollouts",
        env=args.env,
        env_kwargs=args.env_kwargs,
        first_seed=args.seed * SEED_TRACKS,
        workers=args.workers,
        ray=args.ray,
        frames=args.vae.frames,
        **settings,
    )


def first_drives(args: Args) -> list[collect.Args]:
    """Return what to collect before there is a controller."""
    random, steps, patience = args.random_episodes, args.max_steps, args.own_patience
    scripted = {"policy": "scripted-varied", "burst_rate": 0.01, "max_steps": steps, "patience": patience}
    return [
        drives(args, episodes=random, burst_rate=1.0, burst_length=args.random_hold, max_steps=args.random_steps),
        drives(args, episodes=random + args.scripted_episodes, **scripted),
    ]


def make_world_model(args: Args) -> WorldModel:
    """Return the world model of the run's Ms: the first one's dreams, which the others doubt."""
    first, *others = (WorldModel.load(folder / "world_model") for folder in memories(args))
    config = replace(first.config, doubters=len(others))
    return WorldModel(config, first.vae, first.memory, first.starts, [other.memory for other in others])


def memories(args: Args) -> list[Path]:
    """Return the folders that the run's Ms are trained in."""
    return [args.run / "rnn", *(args.run / f"rnn-{i}" for i in range(1, args.memories))]


def own_drives(args: Args, number: int) -> collect.Args:
    """Return what the candidates of round ``number`` are to drive, in turn."""
    folder = round_folder(args.run, number)
    others = len(episode_files(args.run / "rollouts")) - len(driven_seeds(args, number))
    return drives(
        args,
        episodes=others + args.own_episodes,
        policy=str(folder / "population"),
        members=args.candidates,
        own=True,
        world_model=folder / "world_model",
        burst_rate=args.own_burst_rate,
        max_steps=args.max_steps,
        patience=args.own_patience,
    )


def find_candidates(args: Args, number: int) -> None:
    """Seek controllers in a round's dream; those that hard dreams pay best, and all refined ones, are a population."""
    folder = round_folder(args.run, number)
    model, found = str(folder / "world_model"), []
    refined = args.refined if number else 0
    if refined:
        keep_best(args.run)  # again: a kill may have come before the last round did
    others = args.sought - refined
    temperatures = np.geomspace(args.coolest, args.hottest, others).round(3).tolist()
    temperatures += np.geomspace(args.coolest, args.hottest, refined + 2)[1:-1].round(3).tolist()
    for i, temperature in enumerate(temperatures):
        out, seed = folder / "sought" / str(i), args.seed * SEED_TRACKS + number * args.sought + i
        seeking = replace(args.controller, world_model=model, out=out, temperature=temperature, seed=seed)
        if i >= others:
            seeking = replace(seeking, parent=str(args.run / "best" / "controller"), gradient=args.refine)
        train_controller.main(replace(seeking, tf32=args.tf32))
        found.append(Controller.from_pretrained(out / "controller"))
    parameters = np.stack([each.parameters for each in found])
    paid = train_controller.hard_dreams(model, parameters, found[0].config, args.max_steps)
    best = [*np.argsort(-paid[:others])[: args.candidates - refined].tolist(), *range(others, args.sought)]
    for place, i in enumerate(best):
        training = found[i].config.training | {"hard_dreams": float(paid[i])}
        config = replace(found[i].config, training=training)
        Controller(parameters[i], config).save(folder / "candidates" / str(place) / "controller")
    Controller(parameters[best], replace(found[0].config, training={})).save(folder / "population")


def driven_seeds(args: Args, number: int) -> set[int]:
    """Return the tracks that the candidates of round ``number`` drove."""
    episodes = (Episode.load(path) for path in episode_files(args.run / "rollouts"))
    population = round_folder(Path(), number) / "population"  # the run's folder may have been moved since
    return {each.seed for each in episodes if Path(each.driver.policy).parts[-3:] == population.parts}


def vae_epochs(args: Args, number: int) -> int:
    """Return how many epochs V is trained for by round ``number``: more where it does not know the newest frames."""
    if number == 0:
        return args.vae.epochs
    note = round_folder(args.run, number) / "vae.json"
    if not note.is_file():
        ratio = train_vae.novelty(args.run / "rollouts", args.run / "vae", driven_seeds(args, number - 1))
        more = args.vae_epochs + args.vae.decoder_epochs if ratio > args.vae_tolerance else 0
        write_json(note, {"novelty": ratio, "epochs": vae_epochs(args, number - 1) + more})
    return json.loads(note.read_text())["epochs"]


def train_models(args: Args, number: int, timer: Timer) -> None:
    """Collect the first drives, draw what frames are missing, and train V and the Ms for a round."""
    run = args.run
    with timer("collect"):
        for first in first_drives(args):
            collect.main(first)
        collect.main(drives(args, replay=True))
    with timer("vae"):
        vae = replace(args.vae, rollouts=run / "rollouts", out=run / "vae", epochs=vae_epochs(args, number))
        train_vae.main(replace(vae, tf32=args.tf32, seed=args.seed))
    with timer("encode"):
        encoding = encode.Args(run / "rollouts", run / "vae", run / "latents")
        encode.main(replace(encoding, mirror=args.mirror, device=args.vae.device))
    with timer("rnn"):
        rnn = replace(args.rnn, latents=run / "latents", epochs=args.rnn.epochs + number * args.rnn_epochs)
        rnn = replace(rnn, learning_rate=args.rnn_learning_rate if number else args.rnn.learning_rate)
        for i, out in enumerate(memories(args)):
            seed = args.seed + i * MEMORY_SEEDS
            train_rnn.main(replace(rnn, out=out, seed=seed, mirror=args.mirror, tf32=args.tf32))


def run_round(args: Args, number: int) -> dict[str, Any]:
    """Run one round, or what is missing of it, and return its line of the log."""
    run, kept = args.run, round_folder(args.run, number)
    timer = Timer(kept / "seconds.json")
    train_models(args, number, timer)
    # the population is saved last: once it is there, its drives must not change the dream that it came from
    if not (kept / "population").is_dir():
        model = kept / "world_model"
        make_world_model(args).save(model)
        with timer("validate"):
            open_loop.main(open_loop.Args(str(model), latents=run / "latents", held_out=args.rnn.held_out, out=kept))
        with timer("controller"):
            find_candidates(args, number)
    with timer("drive"):
        collect.main(own_drives(args, number))
    with timer("validate"):
        best = choose(args, number)
    collected = sum(len(Episode.load(path).actions) + 1 for path in episode_files(run / "rollouts"))
    return {**best, "collected_frames": collected, "seconds": timer.seconds}


def main(args: Args) -> dict[str, Any]:
    """Run all rounds that are not done, and return the line of the best finalist, a candidate of one of them.

    Raises:
        ValueError: for what `check` refuses, a limit of steps below 0, or other settings than the run was begun with.
    """
    args = settled(args, check(args))
    keep_settings(args.run / "args.json", asdict(args), FREE)
    log = args.run / "rounds.jsonl"
    for number in range(len(read_log(log)), args.rounds):
        line = run_round(args, number)
        append_log(log, line)
        for state in round_folder(args.run, number).glob(f"sought/*/{train_controller.STATE}"):
            state.unlink()  # megabytes, of use to an interrupted round only
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
                env=env_ids(args.run / "best" / "world_model")[1],
                gradient=gradient.Args(),
                objective=gradient.Objective(),
                sigma=train_controller.Args.sigma,
                world_model=str(args.run / "best" / "world_model"),
                out=args.run / "controller-real",
                seed=args.seed,
                generations=args.real_generations,
                lanes=args.workers,
                ray=args.ray,
            )
        )
    return best


if __name__ == "__main__":
    arguments = parse(description=__doc__)
    with alone(arguments.run), tracking(arguments.run, arguments.track, asdict(arguments)):
        main(arguments)
