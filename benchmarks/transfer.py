"""Can the dream be trusted? Policies of every skill drive dreams and the real env, and the two are compared.

    python -m benchmarks.transfer
    python -m benchmarks.transfer --world-model runs/mine/best/world_model \
        --policies runs/mine/best/controller runs/ppo/*.zip --out runs/mine/transfer.json

Each policy must have learnt on this world model's latents: a round's controllers know those of that round alone. Where
the world model has doubters or is an ensemble, policies drive wary dreams, too: hot ones that charge for disagreement.

Then the world model alone is held against real drives: how long its dreams stay true, whether its mixture knows what
it does not know, and whether it sees failures coming. What a policy scored in each episode is kept in
``<out>.drives.jsonl`` beside the JSON, so that a stopped measurement goes on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import tyro
from matplotlib.figure import Figure

from benchmarks.agreement import agreement
from benchmarks.calibration import BINS, calibration, real_drives
from benchmarks.report import RESULTS, command, write_report
from training import closed_loop, open_loop
from training.checkpoints import append_log, read_log
from training.driving import drive
from training.filming import GAP_EVERY, gap
from training.pictures import save_figure, strip
from training.seeds import TEST_SEEDS, VALIDATION_SEEDS, take
from wm_gym.car_racing import CAR_RACING
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.policies import Policy, RandomPolicy, load_policy
from wm_gym.registration import env_ids, task_of
from wm_gym.weights import fingerprint
from wm_gym.world_model import WorldModel

GOOD = 300.0
"""Real score of CarRacing's trained policies among which the comparison is made again: those that drive. Of another env
it is the mean of the worst and the best real score."""


@dataclass
class Args:
    """What to compare."""

    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    policies: tuple[str, ...] = ()
    """folders of controllers and of populations, all of whose members drive, and Stable-Baselines3 zips (they hold
    pickles, which can run any code: only from whom you trust); by default the bundled one; untrained ones are added"""
    tracks: int = 100
    """real test seeds that each policy drives, and as many dreams"""
    drives: int = 30
    """real validation seeds that the world model alone is held against"""
    out: Path | None = None
    """JSON file; the pictures go beside it. Without one it is the bundled world model's in benchmarks/results"""
    workers: int = 2
    """processes that drive the real env"""
    ray: str | None = None
    """Ray cluster that drives instead: "auto" for this machine's, its head's host:port, or "local" for a new one"""


WARY: dict[str, Any] = {"temperature": 2.0, "disagreement_penalty": 30.0}
"""Of wary dreams."""

CONSTANTS = {
    "coast": (0.0, 0.0, 0.0),
    "straight on": (0.0, 0.3, 0.0),
    "half gas": (0.0, 0.55, 0.0),
    "full gas": (0.0, 3.0, 0.0),
}
"""Biases of constant drivers of a car; of other tasks there is one for each action."""


# --- policies ------------------------------------------------------------------------------------------------------


def simple_policies(env: gym.Env) -> dict[str, Policy]:
    """Return drivers that nobody trained: random, constant and random linear ones."""
    config = ControllerConfig.for_spaces(env.observation_space, env.action_space)
    driving = config.actions == CAR_RACING.actions
    constants = CONSTANTS if driving else {f"action {i}": row for i, row in enumerate(np.eye(config.action_size))}
    found: dict[str, Policy] = {"random": RandomPolicy(env.observation_space, env.action_space, 0)}
    for name, biases in constants.items():
        rows = np.zeros((config.action_size, config.observation_size + 1))
        rows[:, -1] = biases
        found[f"constant: {name}"] = Controller(rows.ravel(), config)
    for seed in range(3):
        rows = np.random.default_rng(seed).normal(0, 0.05, (config.action_size, config.observation_size + 1))
        if driving:
            rows[1, -1] += 0.5  # some gas, or nothing happens
        found[f"linear: random {seed}"] = Controller(rows.ravel(), config)
    return found


def members(name: str, policy: Policy) -> dict[str, Policy]:
    """Return a policy by its name, or all members of a population."""
    if isinstance(policy, Controller) and policy.parameters.ndim == 2:
        return {f"{name}/{i}": policy.member(i) for i in range(len(policy.parameters))}
    return {name: policy}


def group(name: str) -> str:
    """Return which policies a policy is drawn with: those of one kind, or one after the other in one training."""
    kind = re.split("/checkpoints/|/best/|:", name)[0]
    return kind if kind != name else name.rpartition("/")[0] or name


def identity(name: str, policy: Policy, model: WorldModel) -> str:
    """Return a short hash of a policy and of all that a world model's dreams come from: scores are kept under it."""
    digest = hashlib.sha256(json.dumps(replace(model.config, training={}).to_dict()).encode())
    for module in (model.vae, model.memory, *model.doubters):
        digest.update(fingerprint(module).encode())
    for array in vars(model.starts).values():
        digest.update(array.tobytes())
    if isinstance(policy, Controller):
        digest.update(policy.parameters.tobytes())
    else:
        digest.update(Path(name).read_bytes() if name.endswith(".zip") else name.encode())
    return digest.hexdigest()[:16]


def measure(args: Args, name: str, policy: Policy) -> dict[str, Any]:
    """Return what a policy scores on real tracks, in dreams and in wary ones, and what the alarm says of the dreams."""
    seeds, config = take(TEST_SEEDS, args.tracks), WorldModel.from_pretrained(args.world_model).config
    driver = policy if isinstance(policy, Controller) else name  # others are loaded where they drive
    dream_id, real_id = env_ids(args.world_model)
    dream = (dream_id, driver, args.world_model, seeds, len(seeds), args.ray)
    drives = {"real": drive(real_id, driver, args.world_model, seeds, args.workers, args.ray), "dream": drive(*dream)}
    if config.doubted:
        drives["wary"] = drive(*dream, **WARY)
    return {
        **{kind: closed_loop.scores(each, config.task) for kind, each in drives.items()},
        "scores": {kind: [episode.result.score for episode in each] for kind, each in drives.items()},
        "worst_track": min(drives["real"], key=lambda each: each.result.score).result.seed,
        "alarms": closed_loop.alarms(drives["dream"], config.reward),
    }


def agreements(lines: Sequence[dict[str, Any]], kind: str, good: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return how well one kind of dreams tells real scores: over all policies, the good ones, and their better half."""
    real, dream = (np.array([line["scores"][each] for line in lines]) for each in ("real", kind))
    groups, means = np.array([group(line["policy"]) for line in lines]), real.mean(1)
    parts = {"all": np.ones(len(lines), bool), "good": good}
    if good.any():
        parts["best"] = good & (means >= np.median(means[good]))
    return {
        name: agreement(real[part], dream[part], groups[part].tolist()) if part.any() else None
        for name, part in parts.items()
    }


# --- the page ------------------------------------------------------------------------------------------------------


def words(content: dict[str, Any]) -> str:
    """Return the page's figures as lines of a table."""
    kinds = [kind for kind in ("dream", "wary") if kind in content]
    rows = [f"{'':24}" + "".join(f"{kind:>8}" for kind in kinds)]
    for which in ("all", "good", "best"):
        found = [content[kind].get(which) for kind in kinds]
        if found[0] is None:
            continue
        rows.append(f"\n{which}: {found[0]['policies']} policies")
        for name in ("pearson", "spearman", "mmrv", "regret", "gap"):
            values = [each[name]["value"] if isinstance(each[name], dict) else each[name] for each in found]
            shown = ("-" if each is None else f"{each:.2f}" if abs(each) <= 1 else f"{each:.0f}" for each in values)
            rows.append(f"  {name:22}" + "".join(f"{each:>8}" for each in shown))
    return "\n".join(rows)


def page(content: dict[str, Any]) -> Figure:
    """Draw the comparison: scores, gaps, errors of open-loop dreams, calibration, and the figures."""
    drawn, axes = plt.subplots(2, 3, figsize=(14, 7.5))
    (scatter, wary, gaps), (errors, histogram, table) = axes
    table.axis("off")
    table.text(0, 1, words(content), family="monospace", va="top")
    lines = content["policies"]
    groups = [group(line["policy"]) for line in lines]
    real = np.array([line["real"]["mean"] for line in lines])
    for kind, axis in (("dream", scatter), ("wary", wary)):
        if kind not in content:
            axis.axis("off")
            continue
        dream = np.array([line[kind]["mean"] for line in lines])
        for name in dict.fromkeys(groups):
            chosen = [i for i, each in enumerate(groups) if each == name]
            axis.plot(real[chosen], dream[chosen], "o", ms=4, label=name)
            if kind == "dream":
                gaps.plot(chosen, (dream - real)[chosen], "o-", ms=4)
        ends = [min(real.min(), dream.min()), max(real.max(), dream.max())]
        axis.plot(ends, ends, color="grey", lw=1, label="as real")
        axis.set(xlabel="real score", ylabel=f"{kind} score", xlim=(real.min() - 30, real.max() + 30))
    scatter.set(title=f"{len(lines)} policies, {content['tracks']} seeds each")
    scatter.legend(fontsize="x-small")
    if wary.axison:
        wary.set(title="hot dreams that charge for doubt")
    gaps.axhline(0, color="grey", lw=1)
    gaps.set(xlabel="policy, in the order given", ylabel="dream − real", title="how much too kind the dream is")
    horizons = content["open_loop"]["horizons"]
    steps = [line["steps"] for line in horizons]
    for key, name in (("z", "z"), ("frame", "decoded frame")):
        copied = [line["copy_rmse" if key == "z" else "copy_frame_rmse"] for line in horizons]
        ratio = [line[f"{key}_rmse"] / copy if copy else np.nan for line, copy in zip(horizons, copied, strict=True)]
        errors.plot(steps, ratio, "o-", label=name)
    errors.axhline(1, color="grey", lw=1)
    errors.set(xscale="log", xlabel="steps of the dream", ylabel="RMSE / RMSE of a copy", title="open-loop error")
    errors.set_xticks(steps, steps)
    errors.minorticks_off()
    errors.legend()
    shares = content["calibration"]["pit"]["shares"]
    histogram.bar((np.arange(BINS) + 0.5) / BINS, np.array(shares) * BINS, 1 / BINS, edgecolor="white")
    histogram.axhline(1, color="grey", lw=1)
    histogram.set(xlabel="probability integral transform of z", ylabel="density", title="is the mixture calibrated?")
    return drawn


def worst_dream(args: Args, policies: dict[str, Policy], lines: Sequence[dict[str, Any]]) -> Figure:
    """Draw the worst real drive of the policy whose dreams are too kind by most, above what it dreamt from there."""
    worst = max(lines, key=lambda line: line["dream"]["mean"] - line["real"]["mean"])
    task = task_of(args.world_model)
    kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": task.limit()}
    dream, real = (gym.make(env_id, **kwargs) for env_id in env_ids(args.world_model))
    on_track, dreamt, earned, paid = gap(real, dream, policies[worst["policy"]], worst["worst_track"])
    real.close()
    dream.close()
    return strip(on_track, dreamt, GAP_EVERY, (f"real: {earned:+.0f}", f"dream: {paid:+.0f}"), task.fps)


def main(args: Args) -> None:
    """Measure, print and write the comparison.

    Raises:
        ValueError: for another world model than the bundled one without policies or a file of its own, and for more
            tracks or drives than there are.
    """
    if args.out is None and args.world_model != Args.world_model:
        raise ValueError(f"benchmarks/results has the bundled one's page: give {args.world_model} a file, --out")
    validation = take(VALIDATION_SEEDS, args.drives)
    take(TEST_SEEDS, args.tracks)  # refused before anything drives
    model = WorldModel.from_pretrained(args.world_model)
    env = gym.make(env_ids(args.world_model)[0], world_model=args.world_model)
    names = args.policies
    if not names:
        if args.world_model != Args.world_model:
            raise ValueError(f"the bundled controllers know no latents of {args.world_model}: give --policies")
        names = ("car_racing",)
    simple = simple_policies(env)
    policies = dict(simple)
    for name in names:
        policies |= members(name, load_policy(name, env))
    out = args.out or RESULTS / "transfer.json"
    log, kept = out.with_suffix(".drives.jsonl"), dict[str, dict[str, Any]]()
    done = {
        (line["identity"], line["tracks"]): line for line in read_log(log) if "wary" in line or not model.config.doubted
    }
    for name, policy in policies.items():
        key = identity(name, policy, model)
        if key in kept:
            continue  # the same one by another name
        line = done.get((key, args.tracks))
        if line is None:
            line = {"identity": key, "tracks": args.tracks, **measure(args, name, policy)}
            append_log(log, line)
        kept[key] = {"policy": name, **line}
    lines = list(kept.values())
    real = np.array([line["real"]["mean"] for line in lines])
    drives = real_drives(args.world_model, validation, args.workers, args.ray)
    good_from = GOOD if model.config.task.env == CAR_RACING.env else float(real.min() + real.max()) / 2
    good = (real > good_from) & np.array([line["policy"] not in simple for line in lines])
    content: dict[str, Any] = {
        "command": command("transfer", args),
        "tracks": args.tracks,
        "good_from": good_from,
        "dream": agreements(lines, "dream", good),
        **({"wary": WARY | agreements(lines, "wary", good)} if model.config.doubted else {}),
        "alarm_rate": float(np.mean([bool(line["alarms"]) for line in lines])),
        "open_loop": open_loop.open_loop(model, drives),
        "calibration": calibration(model, drives),
        "policies": [{key: value for key, value in line.items() if key != "scores"} for line in lines],
    }
    write_report(out, content)
    save_figure(page(content), out.with_suffix(".png"))
    save_figure(worst_dream(args, policies, lines), out.with_suffix(".worst.png"))
    print(words(content))
    print(content["calibration"]["end"])


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
