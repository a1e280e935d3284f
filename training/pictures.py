"""The pictures and videos of a run, in the one style of all pictures of this project.

`draw_round` writes into a run's folder: ``curves.png`` and ``rounds.png``; for the last round and the best one,
``rounds/<number>/reconstructions.png`` and ``strip.png``; for the best one ``drive.mp4`` and ``gap.png`` too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.checkpoints import read_log
from training.files import write_atomic
from training.filming import COLUMNS, GAP_EVERY, STRIP_EVERY, Frames, branch, film, gap, write_video
from training.tracking import track_video
from wm_gym.car_racing import CAR_RACING
from wm_gym.models.controller import Controller
from wm_gym.registration import env_ids
from wm_gym.world_model import WorldModel

plt.rcParams.update(
    {
        "figure.dpi": 120,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "figure.constrained_layout.use": True,
    }
)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    write_atomic(path, lambda file: figure.savefig(file, format="png"))
    plt.close(figure)


# --- figures -------------------------------------------------------------------------------------------------------


def picture_rows(rows: dict[str, Sequence[npt.NDArray[Any]]], captions: Sequence[str]) -> Figure:
    """Draw named rows of pictures, and what to write below each column; a row may be shorter than the longest."""
    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(columns + 0.3, len(rows) * 1.05 + 0.2), squeeze=False, gridspec_kw={"wspace": 0.02}
    )
    for row, (name, pictures) in enumerate(rows.items()):
        axes[row, 0].set_ylabel(name)
        for column, axis in enumerate(axes[row]):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
            if column < len(pictures):
                axis.imshow(pictures[column])
    for axis, caption in zip(axes[-1], captions, strict=False):
        axis.set_xlabel(caption)
    return figure


@torch.inference_mode()
def reconstructions(model: WorldModel, frames: Frames | npt.NDArray[np.uint8]) -> Figure:
    """Draw frames, evenly chosen, above what z keeps of them: decode(mu)."""
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, COLUMNS).astype(int)]
    mu, _ = model.vae.encode(torch.from_numpy(np.stack(chosen)).to(model.device))
    return picture_rows({"frame": chosen, "decode(μ)": list(model.vae.decode(mu).cpu().numpy())}, ())


def strip(
    real: Frames,
    dream: Frames,
    every: int = STRIP_EVERY,
    names: tuple[str, str] = ("real", "dream"),
    fps: int = CAR_RACING.fps,
) -> Figure:
    """Draw a stretch of a real drive over a dream, as `branch` and `gap` return them, one frame of ``every`` steps."""
    captions = [f"{step / fps:.2f} s" for step in range(0, len(real), every)]
    return picture_rows(dict(zip(names, (real[::every], dream[::every]), strict=True)), captions)


PANELS = {
    "vae": {
        "weighted squared error": {"squared_error": "training"},
        "KL of a frame (nats)": {"kl": "training"},
    },
    "rnn": {
        "−log p(z) of a step (nats)": {"z": "training", "held_out_z": "held out"},
        "loss of the gain": {"gain": "training", "held_out_gain": "held out"},
        "loss of the end (nats)": {"end": "training", "held_out_end": "held out"},
    },
    "controller": {
        "score in the dream, as it counts": {"best": "best member", "population_score": "mean of the population"},
        "σ of CMA-ES": {"sigma": "σ"},
    },
}
"""Panels of the curves by stage: the axis's label, then names in the stage's log and what to call them."""

STAGES = {
    "vae": ("V", "epoch", "vae/log.jsonl"),
    "rnn": ("M", "epoch", "rnn/log.jsonl"),
    "controller": ("C", "generation of the rounds' sought controllers", "rounds/*/sought/*/log.jsonl"),
}
"""Each stage's name, what its logs count, and where they are in a run's folder."""


def curves(run: Path) -> Figure:
    """Draw what the logs of V, M and C in a run's folder hold, one row each."""
    figure = plt.figure(figsize=(10, 7.5))
    grid = figure.add_gridspec(len(PANELS), 6)
    for row, (stage, panels) in enumerate(PANELS.items()):
        name, counted, logs = STAGES[stage]
        lines = [line for path in sorted(run.glob(logs)) for line in read_log(path)]
        width = 6 // len(panels)
        for column, (label, series) in enumerate(panels.items()):
            axes = figure.add_subplot(grid[row, column * width : (column + 1) * width])
            for key, legend in series.items():
                steps = range(1, len(lines) + 1)
                axes.plot(steps, [line[key] for line in lines], marker="." if len(lines) < 20 else "", label=legend)
            axes.set(xlabel=counted, ylabel=label)
            axes.set_title(name if column == 0 else "", loc="left", weight="bold")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if len(series) > 1:
                axes.legend()
    return figure


def rounds(lines: Sequence[dict[str, Any]]) -> Figure:
    """Draw dream and real score of each round, mean and standard deviation, over the real frames used by then.

    Args:
        lines: of ``rounds.jsonl``.
    """
    figure, axes = plt.subplots(figsize=(7, 3.5))
    numbers = [line["round"] for line in lines]
    for key, name, shift in (("real", "real validation tracks", -0.05), ("dream", "dreams", 0.05)):
        means, deviations = ([line[key][value] for line in lines] for value in ("mean", "std"))
        axes.errorbar(np.add(numbers, shift), means, deviations, marker="o", capsize=3, label=f"{name}, mean ± std")
    used = np.cumsum([line["frames"] for line in lines]) + [line["collected_frames"] for line in lines]
    labels = [f"{number}\n{frames / 1000:,.0f}k" for number, frames in zip(numbers, used, strict=True)]
    shown = slice(None, None, -(-len(lines) // 12))
    axes.set_xticks(numbers[shown], labels[shown])
    axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    axes.set(
        xlabel="round, and real frames used by then: collected and driven to validate", ylabel="score of an episode"
    )
    axes.legend()
    return figure


# --- a run ---------------------------------------------------------------------------------------------------------


def draw_drives(folder: Path, seed: int, steps: int, video: bool) -> None:
    """Draw what a round's world model and controller do, into the round's folder.

    Args:
        folder: holds ``world_model`` and ``controller``.
        seed: of the real track.
        steps: of a drive at most.
        video: write one too, and the gap between the worst real drive of ``closed_loop.json`` and its dream.
    """
    model = WorldModel.from_pretrained(folder / "world_model")
    controller = Controller.from_pretrained(folder / "controller")
    kwargs: dict[str, Any] = {"world_model": str(folder / "world_model"), "max_episode_steps": steps}
    dream, real = (gym.make(env_id, **kwargs) for env_id in env_ids(folder / "world_model"))
    fps = model.config.task.fps
    driven = film(real, controller, seed, f"draw real {seed}")
    save_figure(reconstructions(model, driven.frames), folder / "reconstructions.png")
    if video:
        worst = json.loads((folder / "closed_loop.json").read_text())["worst_track"]
        on_track, dreamt_on, earned, paid = gap(real, dream, controller, worst)
        names = (f"real: {earned:+.0f}", f"dream: {paid:+.0f}")
        save_figure(strip(on_track, dreamt_on, GAP_EVERY, names, fps), folder / "gap.png")
    save_figure(strip(*branch(real, dream, controller, seed), fps=fps), folder / "strip.png")
    if video:  # last: it says that all is there
        dreamt = film(dream, controller, seed, f"draw dream {seed}")
        write_video(folder / "drive.mp4", driven.frames, dreamt.frames, model.config)
    real.close()
    dream.close()


def round_folder(run: Path, number: int) -> Path:
    """Return the folder of a round of a run."""
    return run / "rounds" / f"{number:03d}"


def draw_progress(run: Path) -> None:
    """Draw the curves and the scores of a run so far."""
    save_figure(curves(run), run / "curves.png")
    save_figure(rounds(read_log(run / "rounds.jsonl")), run / "rounds.png")


def draw_round(run: Path, seed: int, steps: int, best: int) -> None:
    """Draw the curves and scores of a run, and what is missing of its last and its best round; log a new video.

    Args:
        run: the loop's folder, with at least one finished round.
        seed: of the real track to drive.
        steps: of a drive at most.
        best: number of the best round.
    """
    draw_progress(run)
    for number in sorted({best, read_log(run / "rounds.jsonl")[-1]["round"]}):
        folder = round_folder(run, number)
        video = number == best and not (folder / "drive.mp4").is_file()
        if video or not (folder / "strip.png").is_file():
            draw_drives(folder, seed, steps, video)
        if video:
            track_video("loop", folder / "drive.mp4")
