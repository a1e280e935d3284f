"""What does dreaming buy? Agents of several kinds, trained for the same time in the dream and on the real env.

    python -m benchmarks.agents
    python -m benchmarks.agents --learners ppo --worlds dream --seeds 0

Each agent has the same minutes to train in, and all cores that the command has (one after `OMP_NUM_THREADS=1
taskset -c 0`); what validates it is not counted, nor what the world model cost. Of Stable-Baselines3's agents real
validation tracks choose among ten moments of their training. A "controller" is linear:
in the dream many are sought as training.loop seeks them (gradients, then a generation of CMA-ES) and hard dreams choose
one; on the real env, through which no gradients flow, it is CMA-ES's last. Then the 100 test tracks, drawn as all real
drives in training are. An interrupted command goes on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks import score
from benchmarks.reevolve import price, seek
from benchmarks.report import RESULTS, command, write_report
from training import gradient, train_controller, train_sb3
from training.checkpoints import read_log
from training.files import keep_settings
from training.loop import Timer
from training.presets import PRESETS
from training.seeds import TEST_SEEDS
from wm_gym.evaluate import summarize
from wm_gym.registration import env_ids
from wm_gym.weights import fingerprint
from wm_gym.world_model import WorldModel


@dataclass
class Args:
    """What to train, and for how long."""

    learners: tuple[str, ...] = ("ppo", "controller", "sac", "tqc")
    """algorithms of training.train_sb3, and linear controllers"""
    worlds: tuple[str, ...] = ("dream", "real")
    """where"""
    seeds: tuple[int, ...] = (0, 1)
    """each"""
    minutes: float = 60.0
    """of training"""
    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    temperature: float = 2.0
    """τ of the dreams"""
    doubt: float = 30.0
    """price of the dreams' disagreement, where the world model has doubters or is an ensemble"""
    disturbance: float = 0.2
    """standard deviation of a tremble of actions in the dreams"""
    beyond: float = -0.3
    """what counts of a dream's pay beyond what any car could earn, for agents of Stable-Baselines3; all of it where
    there is no lap"""
    runs: Path = Path("runs/agents")
    """folder for the agents"""
    out: Path = RESULTS / "agents.json"
    """JSON file; it keeps the other agents' lines, and several commands may share it, each with agents of its own"""
    workers: int = 2
    """processes that drive the real env"""


def train_agent(args: Args, learner: str, env: str, seed: int, out: Path) -> dict[str, Any]:
    """Train an agent of Stable-Baselines3; return where the best is, the steps of the hour, and those of the best."""
    settings = train_sb3.Args(algo=learner, env=env, world_model=args.world_model, out=out, seed=seed, track=False)
    settings = replace(settings, minutes=args.minutes, steps=sys.maxsize, workers=args.workers)
    dreams = env == env_ids(args.world_model)[0]
    if dreams:
        settings = replace(settings, temperature=args.temperature, disturbance=args.disturbance)
        paced = WorldModel.from_pretrained(args.world_model).config.reward.goal is not None
        beyond = args.beyond if paced else 1.0
        objective = gradient.Objective(beyond=beyond, doubt=price(args.world_model, args.doubt))
        settings = replace(settings, objective=objective)
    policy = train_sb3.main(settings)
    lines = read_log(out / "log.jsonl")
    frames = sum(line["frames"] for line in lines) + (0 if dreams else lines[-1]["steps"])
    best = max(lines, key=lambda line: line["real"]["mean"])
    return {"policy": str(policy), "steps": lines[-1]["steps"], "best_steps": best["steps"], "real_frames": frames}


def evolve(args: Args, env: str, seed: int, out: Path) -> dict[str, Any]:
    """Evolve a controller; return where it is and how many controllers or generations the time was enough for."""
    preset = PRESETS["laptop"].controller
    if env == env_ids(args.world_model)[0]:
        settings = replace(preset, world_model=args.world_model, temperature=args.temperature, seed=1000 * (seed + 1))
        settings = replace(settings, objective=replace(preset.objective, doubt=price(args.world_model, args.doubt)))
        settings = replace(settings, gradient=replace(preset.gradient, disturbance=args.disturbance))
        best, paid = seek(settings, args.minutes, out)
        return {"policy": str(best), "sought": len(paid), "real_frames": 0}
    settings = train_controller.Args(env=env, world_model=args.world_model, out=out, seed=seed, lanes=args.workers)
    settings = replace(settings, population=16, rollouts=2, diagonal=True)
    timer, generations = Timer(out / "seconds.json"), len(read_log(out / "log.jsonl"))
    while not generations or timer.seconds.get("train", 0.0) < 60 * args.minutes:
        generations += 1
        with timer("train"):
            train_controller.main(replace(settings, generations=generations))
    frames = sum(line["frames"] for line in read_log(out / "log.jsonl"))
    return {"policy": str(out / "controller"), "generations": generations, "real_frames": frames}


def written(args: Args, common: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the agents' lines in the file as it is now: another command may write its own, too.

    Raises:
        ValueError: for a file whose agents had other settings.
    """
    if not args.out.is_file():
        return []
    kept = json.loads(args.out.read_text())
    if {key: kept.get(key) for key in common} != common:
        raise ValueError(
            f"{args.out} holds agents of other settings or another world model: choose another --out and other --runs"
        )
    return kept["agents"]


def main(args: Args) -> None:
    """Train and score what is missing, and write each agent's line as it is there.

    Raises:
        ValueError: for an unknown world or algorithm, or a file or a folder of agents of other settings.
    """
    if unknown := set(args.worlds) - {"dream", "real"}:
        raise ValueError(f"agents are trained in the dream or on the real env, not {sorted(unknown)}")
    model = WorldModel.from_pretrained(args.world_model)
    made_by = {key: model.config.training.get(key) for key in ("command", "real_frames")}
    common: dict[str, Any] = {
        "command": command(
            "agents", replace(args, learners=Args.learners, worlds=Args.worlds, seeds=Args.seeds, out=Args.out)
        ),
        **{name: getattr(args, name) for name in ("minutes", "temperature", "doubt", "disturbance", "beyond")},
        "threads": torch.get_num_threads(),
        "seeds": [TEST_SEEDS.start, TEST_SEEDS.stop - 1],
        "world_model": {"vae": fingerprint(model.vae), "memory": fingerprint(model.memory), **made_by},
    }
    for learner, world, seed in ((a, b, c) for c in args.seeds for a in args.learners for b in args.worlds):
        if (learner, world, seed) in {(line["learner"], line["world"], line["seed"]) for line in written(args, common)}:
            continue
        dream_id, real_id = env_ids(args.world_model)
        env, out = dream_id if world == "dream" else real_id, args.runs / f"{learner}-{world}-{seed}"
        keep_settings(out / "agent.json", common)
        made = evolve(args, env, seed, out) if learner == "controller" else train_agent(args, learner, env, seed, out)
        scored = score.Args(policy=made["policy"], world_model=args.world_model, workers=args.workers)
        real, dream = score.drives(real_id, args.workers, scored), score.drives(dream_id, 100, scored)
        solved = model.config.task.solved
        scores = {"real": summarize(real, solved), "dream": summarize(dream, solved)}
        line = {"learner": learner, "world": world, "seed": seed, **made, **scores}
        line["real_episodes"] = [asdict(episode) for episode in real]
        write_report(args.out, {**common, "agents": [*written(args, common), line]})
        print(learner, world, seed, {name: round(each["mean"], 1) for name, each in scores.items()})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
