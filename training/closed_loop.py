"""Is a dream kinder than reality? One controller drives the real env and dreams, and the drives are compared.

    python -m training.closed_loop --world-model runs/mine/best/world_model --controller runs/mine/best/controller \
        --out runs/mine/instruments

Writes ``closed_loop.json`` and ``closed_loop.png``, and warns of dreams that claim more than reality can pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from scipy import stats

from training.driving import Array, Drive, drive
from training.files import write_json
from training.pictures import save_figure
from training.seeds import VALIDATION_SEEDS, take
from wm_gym.car_racing import CAR_RACING
from wm_gym.evaluate import summarize
from wm_gym.models.controller import Controller
from wm_gym.registration import env_ids
from wm_gym.reward import RewardConfig
from wm_gym.tasks import TaskConfig
from wm_gym.world_model import WorldModel, WorldModelConfig

CHANGE = 20
"""Steps between the latents whose difference is a change."""
BIN = 50
"""Steps over which pay is averaged."""
TOP_SPEED, TILE = 100.0, 3.5
"""Of CarRacing's car, m/s, and from one tile of the road to the next, m."""
LAP_STEPS = 684
"""Steps of its lap on the best racing line, as the car's grip allows."""


@dataclass
class Args:
    """What to compare."""

    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    controller: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    out: Path = Path("runs/instruments")
    """folder for closed_loop.json and closed_loop.png"""
    tracks: int = 20
    """real validation seeds to drive"""
    dreams: int = 50
    """dreams to drive"""
    max_steps: int = 0
    """steps of an episode at most; 0 for the real env's own limit, or 1000 where it has none"""
    temperature: float = 1.0
    """of the dreams"""
    workers: int = 2
    """processes that drive the real env"""
    ray: str | None = None
    """Ray cluster that drives instead: "auto" for this machine's, its head's host:port, or "local" for a new one"""


def scores(drives: Sequence[Drive], task: TaskConfig = CAR_RACING) -> dict[str, float]:
    """Return the summary of the scores, and the shares of drives that ended, with success and with failure.

    An env that does not say which has neither.
    """
    shares = {
        "terminated": float(np.mean([each.result.terminated for each in drives])),
        "finished": float(np.mean([each.result.finished is True for each in drives])),
        "failed": float(np.mean([each.failed for each in drives])),
    }
    return {**summarize([each.result for each in drives], task.solved), **shares}


def spread(real: Array, dream: Array) -> dict[str, Any]:
    """Compare the distribution of each latent (or of its changes) in dreams with the real one.

    Args:
        real: ``(n, Z)``.
        dream: ``(m, Z)``.

    Returns:
        For each measure, its least, median and greatest value, and all latents': the ratio of standard deviations,
        dream / real; excess kurtosis, 0 for a Gaussian; the 99 % quantile of the absolute value. Also the "worst"
        latents, those whose standard deviations are farthest apart.
    """
    ratio = dream.std(axis=0) / real.std(axis=0)
    measures = {"std_ratio": ratio}
    for name, values in (("real", real), ("dream", dream)):
        measures[f"kurtosis_{name}"] = stats.kurtosis(values, axis=0)
        measures[f"q99_{name}"] = np.quantile(np.abs(values), 0.99, axis=0)
    report = {
        name: dict(zip(("min", "median", "max"), np.quantile(values, (0, 0.5, 1)).tolist(), strict=True))
        | {"latents": values.tolist()}
        for name, values in measures.items()
    }
    return {**report, "worst": np.argsort(-np.abs(np.log(ratio)))[:5].tolist()}


def pay_by_time(drives: Sequence[Drive]) -> list[Array]:
    """Return for each `BIN` steps of time the mean reward per step of each drive that ran all through them."""
    paid = [each.rewards[: len(each.rewards) - each.failed] for each in drives]  # without the price of a failure
    ends = range(BIN, max(map(len, paid)) + 1, BIN)
    return [np.array([each[end - BIN : end].mean() for each in paid if len(each) >= end]) for end in ends]


def _mean(pay: Array) -> dict[str, Any]:
    """Return the mean over drives, its standard error, and the number of drives."""
    mean, error = float(pay.mean()) if len(pay) else None, float(stats.sem(pay)) if len(pay) > 1 else None
    return {"mean": mean, "error": error, "drives": len(pay)}


def _kinder(real: Array, dream: Array) -> bool:
    """Return whether dreams pay more than reality, by two standard errors of the difference."""
    few = min(len(real), len(dream)) < 2
    return not few and bool(dream.mean() - real.mean() > 2 * np.hypot(stats.sem(real), stats.sem(dream)))


def compare(real: Sequence[Drive], dream: Sequence[Drive], task: TaskConfig = CAR_RACING) -> dict[str, Any]:
    """Hold dreams against real drives of the same controller.

    Returns:
        JSON-able: scores; `spread` of the latents and of their changes over `CHANGE` steps (None where no drive lasts
        so long); pay per step by time; "kinder": whether dreams' scores are greater than real ones by two standard
        errors of the difference, and "kinder_since": the first step from which on their pay is, in two successive bins
        (one alone may be chance); else None; and the "worst_track", the seed of the worst real drive.
    """
    changes = [
        [each.z[CHANGE:] - each.z[:-CHANGE] for each in drives if len(each.z) > CHANGE] for drives in (real, dream)
    ]
    bins = list(zip_longest(pay_by_time(real), pay_by_time(dream), fillvalue=np.zeros(0)))
    kinder = [_kinder(*each) for each in bins]
    since = [i * BIN for i in range(len(bins) - 1) if kinder[i] and kinder[i + 1]]
    earned, dreamt = (np.array([each.result.score for each in drives]) for drives in (real, dream))
    return {
        "real": scores(real, task),
        "dream": scores(dream, task),
        "latents": spread(*(np.concatenate([each.z for each in drives]) for drives in (real, dream))),
        "changes": spread(*map(np.concatenate, changes)) if all(changes) else None,
        "pay": [{"step": i * BIN, "real": _mean(r), "dream": _mean(d)} for i, (r, d) in enumerate(bins)],
        "kinder": _kinder(earned, dreamt),
        "kinder_since": since[0] if since else None,
        "worst_track": min(real, key=lambda each: each.result.score).result.seed,
    }


def alarms(dream: Sequence[Drive], reward: RewardConfig) -> list[str]:
    """Return a sentence for each way in which dreams, paid by ``reward``, claim more than reality can pay.

    No car earns more over a lap than `LAP_STEPS` steps allow, nor in any stretch more than `TOP_SPEED` does. Both hold
    for dreams of any length. Of other tasks no limits are known.
    """
    if reward.goal is None:
        return []
    pace = reward.scale * reward.goal / LAP_STEPS + reward.per_step
    score = np.mean([each.result.score for each in dream])
    ceiling = pace * np.mean([min(each.result.steps, LAP_STEPS) for each in dream])
    found = []
    if score > ceiling:
        found.append(
            f"dreams score {score:.0f} on average, but the best racing line earns {ceiling:.0f} in as many steps "
            f"({pace:.2f} a step): their rewards are no guide to the real car"
        )
    limit = reward.scale * TOP_SPEED / TILE / CAR_RACING.fps + reward.per_step
    pay = [each.mean() for each in pay_by_time(dream)]
    beyond = [i * BIN for i, each in enumerate(pay) if each > limit]
    if beyond:
        found.append(
            f"dreams pay up to {max(pay):.2f} a step, first beyond reach at steps {beyond[0]} to {beyond[0] + BIN}: "
            f"at its top speed of {TOP_SPEED:.0f} m/s the car earns {limit:.2f}"
        )
    return found


def figure(real: Sequence[Drive], dream: Sequence[Drive], report: dict[str, Any]) -> Figure:
    """Draw the scores of drives, and what `compare` says of their pay by time and of the spread of their latents."""
    drawn, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2))
    sides = (("real", real, "C0"), ("dream", dream, "C1"))
    for column, (name, drives, color) in enumerate(sides):
        values = [each.result.score for each in drives]
        left.scatter(column + np.linspace(-0.2, 0.2, len(values)), values, s=12, color=color)
        left.hlines(np.mean(values), column - 0.3, column + 0.3, color=color)
        pay = [line | line[name] for line in report["pay"] if line[name]["drives"] > 1]
        steps, mean, error = (np.array([line[key] for line in pay]) for key in ("step", "mean", "error"))
        middle.plot(steps + BIN / 2, mean, color=color, label=f"{name}, mean ± 2 standard errors")
        middle.fill_between(steps + BIN / 2, mean - 2 * error, mean + 2 * error, color=color, alpha=0.2, lw=0)
    left.set(xticks=(0, 1), xticklabels=[f"{name} ({len(drives)})" for name, drives, _ in sides], ylabel="score")
    if report["kinder_since"] is not None:
        middle.axvline(report["kinder_since"], color="grey", ls=":", label="kinder since")
    middle.set(xlabel="step", ylabel=f"reward per step, mean of {BIN}")
    middle.legend(fontsize=7)
    for key, name in (("latents", "z"), ("changes", f"change of z in {CHANGE} steps")):
        if report[key]:
            right.plot(sorted(report[key]["std_ratio"]["latents"]), ".", label=name)
    right.axhline(1, color="grey", lw=1)
    right.set(yscale="log", xlabel="latent, sorted", ylabel="standard deviation, dream / real")
    right.legend(fontsize=7)
    return drawn


def report(real: Sequence[Drive], dream: Sequence[Drive], config: WorldModelConfig, out: Path) -> dict[str, Any]:
    """Write ``closed_loop.json`` and ``.png`` into ``out`` and return what `compare` says, with the "alarms"."""
    compared = {**compare(real, dream, config.task), "alarms": alarms(dream, config.reward)}
    write_json(out / "closed_loop.json", compared)
    save_figure(figure(real, dream, compared), out / "closed_loop.png")
    return compared


def main(args: Args) -> dict[str, Any]:
    """Drive, compare and return the report."""
    controller = Controller.from_pretrained(args.controller)
    config, seeds = WorldModel.from_pretrained(args.world_model).config, take(VALIDATION_SEEDS, args.tracks)
    common: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": config.task.limit(args.max_steps)}
    dream_id, real_id = env_ids(args.world_model)
    real = drive(real_id, controller, seeds=seeds, lanes=args.workers, ray=args.ray, **common)
    settings = {"lanes": args.dreams, "temperature": args.temperature, **common}
    dream = drive(dream_id, controller, seeds=range(args.dreams), **settings)
    compared = report(real, dream, config, args.out)
    for name in ("real", "dream"):
        shares = "{terminated:.0%} ended, {finished:.0%} with success, {failed:.0%} with failure"
        print(("{0:>5}: {mean:.0f} ± {std:.0f}, " + shares).format(name, **compared[name]))
    since = compared["kinder_since"]
    if min(args.tracks, args.dreams) < 2:
        print("too few drives to tell whether the dream is kinder")
    elif since is not None:
        print(f"the dream is kinder than reality since step {since}")
    else:
        print("the dream is kinder in all, but at no time" if compared["kinder"] else "the dream is not kinder")
    for sentence in compared["alarms"]:
        print(f"ALARM: {sentence}")
    print(f"{args.out / 'closed_loop.png'}: scores, pay by time, spread of the latents")
    return compared


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
