"""The score of a policy: 100 test seeds of the real env, such as gymnasium's own CarRacing-v3, and as many dreams.

For example:

    python -m benchmarks.score                      # the bundled controller
    python -m benchmarks.score --further            # does it hold on 100 other tracks?
    python -m benchmarks.score --policy random --out random.json      # the bottom of the ladder
    python -m benchmarks.score --policy mine/best/controller --world-model mine/best/world_model --out mine.json
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import tyro

from benchmarks.report import RESULTS, command, write_report
from training.driving import drive
from training.pictures import save_figure
from training.seeds import FURTHER_SEEDS, TEST_SEEDS
from wm_gym.evaluate import EpisodeResult, summarize
from wm_gym.models.controller import Controller
from wm_gym.policies import load_policy
from wm_gym.registration import env_ids, task_of
from wm_gym.world_model import WorldModel


@dataclass
class Args:
    """What to score."""

    policy: str = "car_racing"
    """as wm_gym.load_policy takes it: a bundled name, "random", a controller's folder, a Stable-Baselines3 zip (which
    holds pickles, and they can run any code: only from whom you trust)"""
    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub: what the policy sees, and the dream that scores it"""
    further: bool = False
    """drive 100 further tracks instead, on which few controllers were scored; the default JSON file is another then"""
    out: Path | None = None
    """JSON file; of the bundled controller benchmarks/results/score.json by default; the picture goes beside it"""
    workers: int = 2
    """processes that drive the real env"""
    ray: str | None = None
    """Ray cluster that drives instead: "auto" for this machine's, its head's host:port, or "local" for a new one"""

    @property
    def seeds(self) -> range:
        """Of the tracks."""
        return FURTHER_SEEDS if self.further else TEST_SEEDS


def drives(env_id: str, lanes: int, args: Args, **kwargs: object) -> list[EpisodeResult]:
    """Drive one whole episode for each test seed, in the order of the seeds."""
    driven = drive(env_id, args.policy, args.world_model, args.seeds, lanes, args.ray, **kwargs)
    return [each.result for each in driven]


def controller_training(args: Args) -> dict[str, Any] | None:
    """Return what a controller's config says of its training, by which its card knows it; None for other policies."""
    env = gym.make(env_ids(args.world_model)[0], world_model=args.world_model)
    policy = load_policy(args.policy, env)
    return policy.config.training if isinstance(policy, Controller) else None


def main(args: Args) -> None:
    """Measure, print and write the score.

    Raises:
        ValueError: for another policy or world model than the bundled ones without a file of its own.
    """
    if args.out is None and (args.policy, args.world_model) != (Args.policy, Args.world_model):
        raise ValueError(f"benchmarks/results has the bundled controller's score: give {args.policy} a file, --out")
    out = args.out or RESULTS / ("score_further.json" if args.further else "score.json")
    (dream_id, real_id), solved = env_ids(args.world_model), task_of(args.world_model).solved
    real = drives(real_id, args.workers, args, fast=False)
    dream = drives(dream_id, len(args.seeds), args)
    content = {
        "command": command("score", args),
        "policy": args.policy,
        "controller": controller_training(args),
        "seeds": [args.seeds.start, args.seeds.stop - 1],
        "env": real_id,
        "real": summarize(real, solved),
        "dream": summarize(dream, solved),
        "training": WorldModel.from_pretrained(args.world_model).config.training,
        "real_episodes": [asdict(episode) for episode in real],
        "dream_episodes": [asdict(episode) for episode in dream],
    }
    write_report(out, content)
    for name, episodes in (("real", real), ("dream", dream)):
        print(name, {key: round(value, 2) for key, value in summarize(episodes, solved).items()})

    figure, axes = plt.subplots(figsize=(6, 3))
    both = [episode.score for episode in (*real, *dream)]
    bins = np.linspace(min(both) - 1, max(both) + 1, 47).tolist()
    for name, episodes in (("real", real), ("dream", dream)):
        scores = [episode.score for episode in episodes]
        axes.hist(scores, bins=bins, alpha=0.6, label=f"{name}: {np.mean(scores):.0f} ± {np.std(scores, ddof=1):.0f}")
    axes.set(
        xlabel="score of an episode", ylabel="episodes", title=f"{args.policy}: 100 seeds of {real_id} and 100 dreams"
    )
    axes.legend()
    save_figure(figure, out.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
