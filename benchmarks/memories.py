"""An LSTM, a Transformer and an ensemble of LSTMs as the memory, at equal parameters and equal time of training.

    python -m benchmarks.memories --latents runs/mine/latents

Each is trained by `training.train_rnn` on the same drives and held against the same held-out ones: the NLL of each next
latent, open-loop errors (`training.open_loop`), the speed of its training and its dreams, and whether it knows where it
errs: the rank correlation of its error along the drives with the spread that it expects, and of an ensemble with its
members' disagreement. How far controllers get in their dreams is a round of training.loop each:
``python -m benchmarks.controls --base runs/base --controls "as it is" transformer ensemble``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import wm_gym  # noqa: F401  (registers the ids)
from benchmarks.report import RESULTS, command, write_report
from benchmarks.throughput import Step, contest, dreamt, seconds
from training import train_rnn
from training.checkpoints import load_checkpoint
from training.latents import LatentEpisode, Sequences, draw, load_latents, split
from training.open_loop import HORIZONS, open_loop
from training.pictures import save_figure
from wm_gym.models.ensemble import EnsembleConfig
from wm_gym.models.kinds import KINDS, Kind
from wm_gym.models.memory import mixture_mean, mixture_nll, mixture_spread
from wm_gym.world_model import WorldModel


def equals() -> train_rnn.Args:
    """Return settings of training whose three memories have the same number of parameters, to 1 %.

    The ensemble's h is longer for that, and so are its observations: 32 + 408 values.
    """
    return train_rnn.Args(ensemble=EnsembleConfig(hidden_size=408), track=False)


@dataclass
class Args:
    """What to compare."""

    latents: Path = Path("runs/default/latents")
    """folder of encoded episodes"""
    seconds: float = 600.0
    """of each training, in whole epochs"""
    seeds: int = 1
    """trainings of each memory"""
    rnn: train_rnn.Args = field(default_factory=equals)
    """sizes, and how to train; epochs, memory, seed, latents and out do not count"""
    horizons: tuple[int, ...] = HORIZONS
    """steps of dreams after which they are compared with real drives"""
    moments: int = 500
    """of real drives to dream on from"""
    lanes: int = 1024
    """of the dreams whose speed is measured"""
    turns: int = 9
    """of dreaming"""
    turn: float = 0.3
    """seconds of each memory in a turn"""
    out: Path = RESULTS / "memories.json"
    """JSON file; the picture goes beside it"""


def train(kind: Kind, seed: int, args: Args, episodes: Sequence[LatentEpisode], run: Path) -> dict[str, Any]:
    """Train a memory for ``args.seconds``, as many whole epochs as fit, and return how that went.

    The time of reading latents and writing artifacts, that of no epoch, does not count.
    """
    rnn = replace(args.rnn, latents=args.latents, memory=kind, seed=seed)
    # the first run warms up
    _, idle, two = (seconds(train_rnn.main, replace(rnn, out=run / f"{n} epochs", epochs=n)) for n in (1, 0, 2))
    epochs = max(1, round(args.seconds / max((two - idle) / 2, 1e-3)))
    spent = seconds(train_rnn.main, replace(rnn, out=run / "rnn", epochs=epochs)) - idle
    steps = sum(len(episode.actions) for episode in split(episodes, rnn.held_out)[0])
    return {"epochs": epochs, "seconds": spent, "training_steps_per_second": epochs * steps / spent}


@torch.inference_mode()
def along_drives(model: WorldModel, episodes: Sequence[LatentEpisode], seed: int = 0) -> dict[str, float | None]:
    """Predict each next latent of real drives, given all before it.

    Args:
        model: the world model.
        episodes: held-out real drives, encoded by its V.
        seed: of the latents' noise.

    Returns:
        The mean ``nll`` in nats, the RMSE of the mixture's mean against the real mu, and rank correlations of each
        step's RMSE with the ``spread`` that was expected and with the ``disagreement`` (None of a lone memory): of the
        RMSE against the z that was drawn, which the memory learns to expect, and, as "..._mean_...", against mu.
    """
    memory, generator, found = model.memory, torch.Generator().manual_seed(seed), []
    for episode in episodes:
        part = Sequences.of([episode], model.device, model.config.reward)
        z = draw(part, model.config.latent, generator)
        hidden, _ = memory.unroll(z[:, :-1], part.actions, memory.initial_state(1))
        prediction = memory.predict(hidden)
        mean = mixture_mean(prediction)
        errors = [(mean - real[:, 1:]).square().mean(-1).sqrt() for real in (part.mu, z)]
        columns = [mixture_nll(prediction, z[:, 1:]), *errors, mixture_spread(prediction).mean(-1)]
        columns += [] if prediction.disagreement is None else [prediction.disagreement]
        found.append(torch.cat(columns).cpu().numpy())
    nll, error, missed, *doubts = np.concatenate(found, axis=1)
    told: dict[str, float | None] = {"nll": float(nll.mean()), "z_rmse": float(np.sqrt(np.square(error).mean()))}
    for kind, each in (("", missed), ("_mean", error)):
        correlations = [float(spearmanr(doubt, each).statistic) for doubt in doubts]
        told[f"spread{kind}_correlation"] = correlations[0]
        told[f"disagreement{kind}_correlation"] = correlations[1] if doubts[1:] else None
    return told


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the open-loop errors of each memory, the mean over seeds."""
    drawn, panels = plt.subplots(1, 2, figsize=(8, 3.2))
    for axes, key, label in zip(panels, ("z_rmse", "gain_rmse"), ("RMSE of z", "RMSE of tiles visited"), strict=True):
        for kind in KINDS:
            lines = [row["open_loop"] for row in rows if row["memory"] == kind]
            steps = [line["steps"] for line in lines[0]]
            axes.plot(steps, np.mean([[line[key] for line in each] for each in lines], axis=0), "o-", label=kind)
        axes.set(xscale="log", xlabel="steps of the dream", ylabel=label)
        axes.legend()
    return drawn


def main(args: Args) -> dict[str, Any]:
    """Train, compare, print, draw and write."""
    episodes = load_latents(args.latents, load_checkpoint(args.latents / "vae.pt")["fingerprint"])
    (trained, held_out), rows = split(episodes, args.rnn.held_out), []
    dreams: dict[str, Step] = {}
    with TemporaryDirectory() as name:
        for seed in range(args.seeds):
            for kind in KINDS:
                run = Path(name) / f"{kind} {seed}"
                training = train(kind, seed, args, episodes, run)
                folder = run / "rnn" / "world_model"
                model = WorldModel.load(folder)
                parameters = sum(weights.numel() for weights in model.memory.parameters())
                row = {"memory": kind, "seed": seed, "parameters": parameters, **training}
                row |= along_drives(model, held_out)
                row["open_loop"] = open_loop(model, held_out, args.horizons, args.moments)["horizons"]
                rows.append(row)
                dreams[kind] = dreamt(args.lanes, str(folder))
                print({key: value for key, value in row.items() if key != "open_loop"})
                print({line["steps"]: round(line["z_rmse"], 3) for line in row["open_loop"]})
        speeds = contest(dreams, args.turns, args.turn)
    content = {
        "command": command("memories", args),
        "drives": {"trained": len(trained), "held_out": len(held_out)},
        "torch_threads": torch.get_num_threads(),
        "rows": rows,
        "lane_steps_per_second": {kind: args.lanes * speed["per_second"] for kind, speed in speeds.items()},
    }
    write_report(args.out, content)
    save_figure(figure(rows), args.out.with_suffix(".png"))
    print(content["lane_steps_per_second"])
    return content


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
