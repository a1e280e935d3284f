"""How long is a dream true? Dream on from moments of held-out real drives, with the real actions, and compare.

    python -m training.open_loop --world-model runs/mine/best/world_model --latents runs/mine/latents \
        --out runs/mine/instruments

Writes ``open_loop.json`` and ``open_loop.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from training.files import write_json
from training.latents import LatentEpisode, Sequences, draw, load_latents, split
from training.pictures import save_figure
from wm_gym.car_racing import CAR_RACING
from wm_gym.dream import Dream
from wm_gym.frames import CAR_RACING_FRAME, INPUT_SIZE, kept_size
from wm_gym.models.memory import mixture_mean, put, select
from wm_gym.reward import RewardConfig
from wm_gym.weights import fingerprint
from wm_gym.world_model import WorldModel

HORIZONS = (1, 5, 15, 50, 100)
"""Steps of dreams after which they are compared."""


@dataclass
class Args:
    """What to compare."""

    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    latents: Path = Path("runs/default/latents")
    """folder of encoded episodes"""
    held_out: int = 20
    """every so many-th episode is used, as in training.train_rnn: M was not trained on those"""
    out: Path = Path("runs/instruments")
    """folder for open_loop.json and open_loop.png"""
    horizons: tuple[int, ...] = HORIZONS
    """steps of dreams after which they are compared"""
    moments: int = 500
    """of real drives to dream on from"""
    seed: int = 0
    """of the moments and the noise"""


def on_road(frames: npt.NDArray[np.uint8], version: str) -> npt.NDArray[np.bool_]:
    """Return whether CarRacing's car is on the road, as the pixels beside it show it, not green.

    Args:
        frames: of the encoder's size, uint8 ``(..., 64, 64, 3)``.
        version: of the frames.

    Returns:
        bool ``(...)``: whether at least one wheel is on the road. Right for 99 % of real frames, but not in the first
        second of an episode, while the camera comes down.
    """
    height, _ = kept_size(version, CAR_RACING_FRAME)
    top, bottom = (round(row * INPUT_SIZE / height) for row in (66, 76))
    beside = frames[..., top:bottom, [29, 34], :].astype(np.float32)  # the car covers columns 30 to 33
    green = beside[..., 1] - (beside[..., 0] + beside[..., 2]) / 2
    return (green < 50).mean(axis=(-2, -1)) > 0.1


@torch.inference_mode()
def _decode(model: WorldModel, z: Tensor) -> npt.NDArray[np.uint8]:
    """Decode latents ``(n, Z)`` to frames ``(n, 64, 64, 3)``."""
    return np.concatenate([model.vae.frames(part) for part in z.split(64)])


def rmse(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    """Return the root of the mean squared difference of two arrays of pixels, in grey levels."""
    return float(np.sqrt(np.square(first.astype(np.float32) - second.astype(np.float32)).mean()))


@torch.inference_mode()
def open_loop(
    model: WorldModel,
    episodes: Sequence[LatentEpisode],
    horizons: Sequence[int] = HORIZONS,
    moments: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Dream on from moments of real drives, with the real actions, and compare with what really followed.

    The memory has seen each drive from its first frame. A copy of mu is a hard mark for the first steps: a memory that
    was trained on samples never saw it. All moments are followed to the longest horizon that any drive
    is long enough for.

    Args:
        model: the world model.
        episodes: held-out real drives, encoded by its V.
        horizons: steps after which to compare.
        moments: how many, drawn from all drives alike, fewer if there are not so many.
        seed: of the moments and all noise.

    Returns:
        JSON-able, a line for each horizon: the RMSE of z, predicted (the mixture's mean) and by copying the moment's
        frame, both against the real mu, and their ratio; the RMSE of what these decode to, in grey
        levels; what was gained since the moment, real and dreamt (mean), with the RMSE and the correlation (None for a
        constant): tiles, or rewards of an env that counts nothing; of CarRacing the share with road under the car, real
        and dreamt, and the shares in which the dream, or a copy of the moment's frame, agrees with reality on it.

    Raises:
        ValueError: when no drive is as long as the shortest horizon.
    """
    longest = max(len(episode.actions) for episode in episodes)
    horizons = sorted(horizon for horizon in horizons if horizon <= longest)
    if not horizons:
        raise ValueError(
            f"the longest of {len(episodes)} drives has {longest} steps: give a shorter horizon or longer drives"
        )
    last = horizons[-1]
    starts = [(i, t) for i, episode in enumerate(episodes) for t in range(len(episode.actions) + 1 - last)]
    rng = np.random.default_rng(seed)
    chosen = np.array(starts)[rng.permutation(len(starts))[:moments]]
    drives, times = torch.from_numpy(chosen.T)
    counting, on_track = model.config.reward.goal is not None, model.config.task.env == CAR_RACING.env
    # what is not counted is compared as rewards
    part = Sequences.of(episodes, model.device, model.config.reward if counting else RewardConfig(1.0, 0.0))
    z = draw(part, model.config.latent, torch.Generator().manual_seed(seed))

    state, memory = model.memory.initial_state(len(episodes)), model.memory.initial_state(len(chosen))
    for t in range(int(times.max()) + 1):
        here = torch.nonzero(times == t).squeeze(1)
        memory = put(memory, here, select(state, drives[here]))
        state = model.memory.step(z[:, t], part.actions[:, t], state)
    dream = Dream(model, len(chosen))
    moment = replace(dream.get_state(), z=z[drives, times], memory=memory, gained=np.zeros(len(chosen), np.float32))
    dream.reset(np.arange(len(chosen)), list(rng.spawn(len(chosen))), state=moment)

    copied = part.mu[drives, times]
    copied_frames, lines = _decode(model, copied), []
    gained, paid = np.zeros(len(chosen)), np.zeros(len(chosen))
    for step in range(1, last + 1):
        paid += dream.step(part.actions[drives, times + step - 1].cpu().numpy())[0]
        gained += part.gains[drives, times + step - 1].cpu().numpy()
        if step not in horizons:
            continue
        following, prediction = (
            part.mu[drives, times + step],
            model.memory.predict(model.memory.hidden(dream.memory_state)),
        )
        expected = mixture_mean(prediction)
        error, copy_error = (float((each - following).square().mean().sqrt()) for each in (expected, copied))
        dreamt = dream.gained.astype(np.float64) if counting else paid
        constant = min(np.ptp(dreamt), np.ptp(gained)) == 0
        frames, real_frames = _decode(model, expected), _decode(model, following)
        line: dict[str, Any] = {
            "steps": step,
            "z_rmse": error,
            "copy_rmse": copy_error,
            "ratio": error / copy_error if copy_error else None,
            "frame_rmse": rmse(frames, real_frames),
            "copy_frame_rmse": rmse(copied_frames, real_frames),
            "gain_real": float(gained.mean()),
            "gain_dream": float(dreamt.mean()),
            "gain_rmse": float(np.sqrt(np.mean((dreamt - gained) ** 2))),
            "gain_correlation": None if constant else float(np.corrcoef(dreamt, gained)[0, 1]),
        }
        if on_track:
            road, real_road, copied_road = (
                on_road(each, model.config.frames) for each in (_decode(model, dream.z), real_frames, copied_frames)
            )
            line |= {
                "road_real": float(real_road.mean()),
                "road_dream": float(road.mean()),
                "road_agrees": float((road == real_road).mean()),
                "road_copy_agrees": float((copied_road == real_road).mean()),
            }
        lines.append(line)
    return {"drives": len(episodes), "moments": len(chosen), "horizons": lines}


def figure(report: dict[str, Any]) -> Figure:
    """Draw what `open_loop` says."""
    columns = {key: [line[key] for line in report["horizons"]] for key in report["horizons"][0]}
    road = {"road_agrees": "dream", "road_copy_agrees": "copy of the moment"}
    panels = {
        "RMSE of z": {"z_rmse": "dream", "copy_rmse": "copy of the moment"},
        "gained (tiles, or reward)": {"gain_dream": "dream", "gain_real": "real", "gain_rmse": "RMSE of the dream"},
        **({"right about road under the car": road} if "road_agrees" in columns else {}),
    }
    drawn, row = plt.subplots(1, len(panels), figsize=(11, 3.2))
    for axes, (label, series) in zip(row, panels.items(), strict=True):
        for key, name in series.items():
            axes.plot(columns["steps"], columns[key], "o-", label=name)
        axes.set(xscale="log", xlabel="steps of the dream", ylabel=label)
        axes.set_xticks(columns["steps"], columns["steps"], minor=False)
        axes.minorticks_off()
        axes.legend()
    return drawn


def report(model: WorldModel, episodes: Sequence[LatentEpisode], out: Path, **settings: Any) -> dict[str, Any]:
    """Write ``open_loop.json`` and ``open_loop.png`` into ``out``, and return what `open_loop` says."""
    compared = open_loop(model, episodes, **settings)
    write_json(out / "open_loop.json", compared)
    save_figure(figure(compared), out / "open_loop.png")
    return compared


def main(args: Args) -> dict[str, Any]:
    """Compare and return the report."""
    model = WorldModel.from_pretrained(args.world_model)
    _, held_out = split(load_latents(args.latents, fingerprint(model.vae)), args.held_out)
    compared = report(model, held_out, args.out, horizons=args.horizons, moments=args.moments, seed=args.seed)
    print(f"{compared['moments']} moments of {compared['drives']} drives")
    print(f"{'steps':>6} {'z error / copying':>18} {'gained dreamt':>14} {'real':>8}")
    for line in compared["horizons"]:
        road = "road right {road_agrees:.0%}, copying {road_copy_agrees:.0%}" if "road_agrees" in line else ""
        print(
            f"{line['steps']:>6} {line['ratio'] or float('nan'):>18.2f} {line['gain_dream']:>14.2f} "
            f"{line['gain_real']:>8.2f}  {road.format(**line)}"
        )
    print(f"{args.out / 'open_loop.png'}: all horizons")
    return compared


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
