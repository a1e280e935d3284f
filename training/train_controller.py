"""Evolve C with CMA-ES, in the dream or on the real env (Ha & Schmidhuber 2018, appendix A.4).

    python -m training.train_controller --world-model runs/mine/rnn/world_model --out runs/mine/controller
    python -m training.train_controller --env LatentCarRacing-v0 --lanes 2 --generations 5

The population's members are lanes of one vector env, or drive the real env on workers. All members of a generation meet
the same starts and noise (common random numbers), so their scores differ by what they do. With --gradient.steps,
gradients through short dreams find C first (see training.gradient), and CMA-ES begins there.

CMA-ES's state is kept as ``<out>/cma.pkl``, a pickle: go on only with a folder that you trust. The controllers are
safetensors.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cma
import numpy as np
import numpy.typing as npt
import tyro
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from training import gradient
from training.checkpoints import append_log, cut_log, randn
from training.device import choose_device
from training.driving import drive_real
from training.files import alone, keep_settings, write_atomic
from training.seeds import TRAINING_SEEDS
from training.shaping import Tremble, make_weighed
from training.tracking import track, tracking
from wm_gym.evaluate import make_lanes, rollout
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.policies import check_world_model
from wm_gym.registration import env_ids, task_of
from wm_gym.world_model import WorldModel

STATE = "cma.pkl"
"""CMA-ES's state in the folder of C; a pickle, which can run any code when it is loaded."""

HARD_DREAMS = 50
"""Dreams of each member in `hard_dreams`."""

FREE = ("out", "generations", "lanes", "ray", "device", "tf32", "track")
"""Settings that may change when a training goes on."""


@dataclass
class Args:
    """How to evolve C."""

    env: str = ""
    """id of the world model's dream, which is the default, or of its real env, as LatentCarRacing-v0"""
    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    out: Path = Path("runs/default/controller")
    """folder for CMA-ES's state, the log, the controller (CMA-ES's mean) and the population (its last samples)"""
    generations: int = 100
    """in all; a folder evolved for fewer goes on"""
    population: int = 64
    """members of a generation"""
    rollouts: int = 16
    """episodes of each member"""
    sigma: float = 0.1
    """CMA-ES's first step size; C starts at zero or as --parent, or where the gradients lead from there"""
    z_only: bool = False
    """C's weights of h stay zero: how well does it drive without the memory?"""
    diagonal: bool = False
    """separable CMA-ES: learns a variance for each weight, no covariances"""
    max_steps: int = 0
    """steps of an episode at most; 0 for the real env's own limit, or 1000 where it has none"""
    temperature: float = 1.0
    """of the dream"""
    sampling: Literal["sample", "mode"] = "sample"
    """"sample", or "mode" for the deterministic dream"""
    starts: Literal["episode", "any"] = "episode"
    """dreams start at the first frame of an "episode", or from "any" stored moment"""
    lanes: int = 0
    """episodes at a time; 0 for all of a generation (the dream), or for as many processes as cores (the real env)"""
    ray: str | None = None
    """Ray cluster that drives instead: "auto" for this machine's, its head's host:port, or "local" for a new one"""
    device: str = "cpu"
    """where the dream runs: a torch device; "auto" is CUDA where there is one, else the CPU"""
    tf32: bool = False
    """let CUDA round products to TF32"""
    seed: int = 0
    """of CMA-ES, starts and noise"""
    track: bool = True
    """log to Weights & Biases (offline unless logged in); --no-track logs to log.jsonl alone"""
    objective: gradient.Objective = field(default_factory=gradient.Objective)
    """what pay counts"""
    gradient: gradient.Args = field(default_factory=gradient.Args)
    """first moves of C, in dreams that start anywhere"""
    parent: str | None = None
    """C begins as this controller and not at zero: bundled name, folder, or user/name on the Hugging Face Hub"""


def settled(args: Args) -> Args:
    """Return settings in which a limit of 0 says which it is."""
    return replace(args, max_steps=task_of(args.world_model).limit(args.max_steps))


def evaluate(
    envs: VectorEnv, members: npt.NDArray[np.floating], seeds: npt.NDArray[np.int64], config: ControllerConfig
) -> npt.NDArray[np.float64]:
    """Return each member's mean score over the seeds, ``(M,)``, for parameters ``(M, P)``.

    All episodes, each member's over all seeds, run in batches of as many as there are lanes.
    """
    jobs = [(member, int(seed)) for member in range(len(members)) for seed in seeds]
    scores = np.zeros((len(members), len(seeds)))
    for first in range(0, len(jobs), envs.num_envs):
        batch = jobs[first : first + envs.num_envs]
        drivers = [member for member, _ in batch]
        drivers += [0] * (envs.num_envs - len(batch))
        for result in rollout(envs, Controller(members[drivers], config), [seed for _, seed in batch]):
            member, column = divmod(first + result.index, len(seeds))
            scores[member, column] = result.score
    return scores.mean(axis=1)


def evaluate_real(
    args: Args, members: npt.NDArray[np.floating], seeds: npt.NDArray[np.int64], config: ControllerConfig
) -> tuple[npt.NDArray[np.float64], int]:
    """Return each member's mean score over real tracks, ``(M,)``, for parameters ``(M, P)``, and the frames it took."""
    episodes = [(int(seed), member) for member in range(len(members)) for seed in seeds]
    workers, how = args.lanes or os.cpu_count() or 1, {"max_episode_steps": args.max_steps}
    drives = drive_real(Controller(members, config), args.world_model, episodes, workers, args.ray, **how)
    scores = np.array([each.result.score for each in drives]).reshape(len(members), len(seeds)).mean(axis=1)
    return scores, sum(each.result.steps + 1 for each in drives)


def hard_dreams(
    world_model: str, members: npt.NDArray[np.floating], config: ControllerConfig, max_steps: int
) -> npt.NDArray[np.float64]:
    """Return each member's mean score in dreams that are hot and tremble, ``(M,)``: who drives with a margin?

    Dreams at τ = 1 with a steady hand please almost everyone, so they can't tell who will drive on the road.

    Args:
        world_model: bundled name, folder, or user/name on the Hugging Face Hub.
        members: ``(M, P)``.
        config: of C.
        max_steps: of a dream; 0 for the real env's own limit.
    """
    dreams = make_lanes(
        env_ids(world_model)[0],
        len(members) * HARD_DREAMS,
        world_model=world_model,
        temperature=2.0,
        max_episode_steps=task_of(world_model).limit(max_steps),
    )
    paid = evaluate(Tremble(dreams, 0.3, alike=HARD_DREAMS), members, np.arange(HARD_DREAMS), config)
    dreams.close()
    return paid


def free_weights(args: Args, config: ControllerConfig) -> npt.NDArray[np.int64]:
    """Return which of C's parameters are sought: all, or those of z and the biases; the others stay zero."""
    sought = np.ones((config.action_size, config.observation_size + 1), dtype=bool)
    if args.z_only:
        sought[:, WorldModel.from_pretrained(args.world_model).config.vae.latent_size : -1] = False
    return np.flatnonzero(sought)


def begin(args: Args, config: ControllerConfig, free: npt.NDArray[np.int64]) -> cma.CMAEvolutionStrategy:
    """Return the evolution that is kept in ``args.out``, or a new one: from C's beginning, or where gradients lead.

    Raises:
        ValueError: for a parent of other observations or actions, or one that reads what is not sought.
    """
    state = args.out / STATE
    if state.is_file():
        return pickle.loads(state.read_bytes())
    mean: npt.NDArray[np.floating] = np.zeros(config.parameters)
    if args.parent is not None:
        parent = Controller.from_pretrained(args.parent)
        if replace(parent.config, training={}, world_model=config.world_model) != config:  # perhaps of an earlier round
            raise ValueError(f"--parent {args.parent}: made for other observations or actions, {parent.config}")
        mean = parent.parameters
        if np.delete(mean, free).any():
            raise ValueError(f"--parent {args.parent}: it reads h, and can't go on with --z-only")
    if args.gradient.steps:
        model = WorldModel.from_pretrained(args.world_model, str(choose_device(args.device, args.tf32)))
        how: dict[str, Any] = {"sampling": args.sampling, "z_only": args.z_only}
        mean = gradient.ascend(model, mean, config, args.gradient, args.objective, args.temperature, args.seed, **how)
    options: dict[str, Any] = {"popsize": args.population, "CMA_diagonal": args.diagonal, "verbose": -9}
    options |= {"seed": np.nan, "randn": randn}
    return cma.CMAEvolutionStrategy(mean[free], args.sigma, options)


def main(args: Args) -> Path:
    """Evolve until ``args.generations`` and return the folder of the mean controller; each generation is kept.

    Raises:
        ValueError: for an unknown env, gradients through or weighed pay of the real one, a cluster for dreams, or a
            folder that was begun with another world model.
    """
    dream, real = env_ids(args.world_model)
    args = replace(settled(args), env=args.env or dream)
    if args.env not in (dream, real):
        raise ValueError(f"--env must be {dream} or {real}, got {args.env!r}")
    if args.env == real and args.gradient.steps:
        raise ValueError(f"only a dream has gradients: use --env {dream}, or --gradient.steps 0")
    if args.env == dream and args.ray is not None:
        raise ValueError(f"dreams are lanes of this process: --ray is for --env {real}")
    kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": args.max_steps}
    lanes = (args.lanes or args.population * args.rollouts) if args.env == dream else 1  # a real one for its spaces
    if args.env == dream:
        kwargs |= {"temperature": args.temperature, "sampling": args.sampling, "starts": args.starts}
        kwargs |= {"device": str(choose_device(args.device, args.tf32))}
    envs = make_weighed(args.env, lanes, args.objective, **kwargs)
    config = ControllerConfig.for_spaces(envs.single_observation_space, envs.single_action_space)
    model = WorldModel.from_pretrained(args.world_model)
    config = replace(config, world_model=model.fingerprint)
    if (args.out / "controller").is_dir():
        check_world_model(Controller.from_pretrained(args.out / "controller"), model, args.out / "controller")

    free = free_weights(args, config)

    def complete(samples: Sequence[npt.NDArray[np.floating]]) -> npt.NDArray[np.float64]:
        members = np.zeros((len(samples), config.parameters))
        members[:, free] = samples
        return members

    evolution = begin(args, config, free)
    done, log = evolution.countiter, args.out / "log.jsonl"
    cut_log(log, "generation", done)
    with tqdm(total=args.generations, initial=done, desc=f"CMA-ES {args.env}", unit="generation") as bar:
        for generation in range(done, args.generations):
            rng = np.random.default_rng((args.seed, generation))
            np.random.seed(rng.integers(2**32))  # cma draws from NumPy's global stream
            samples = evolution.ask()
            members = complete(samples)
            seeds = rng.choice(len(TRAINING_SEEDS), args.rollouts, replace=False)
            if args.env == dream:
                scores, frames = evaluate(envs, members, seeds, config), 0
            else:
                scores, frames = evaluate_real(args, members, seeds, config)
            evolution.tell(samples, list(-scores))
            training = {"env": args.env, "generation": generation + 1, "population_score": float(scores.mean())}
            how: dict[str, Any] = {"refined": args.parent is not None}
            if args.env == dream:
                how |= {"gradient_steps": args.gradient.steps, "temperature": args.temperature}
            mean = Controller(complete([evolution.result.xfavorite])[0], replace(config, training=training | how))
            mean.save(args.out / "controller")
            Controller(members, mean.config).save(args.out / "population")
            line = {
                **training,
                "best": float(scores.max()),
                "std": float(scores.std()),
                "sigma": float(evolution.sigma),
                "frames": frames,
            }
            append_log(log, line)
            write_atomic(args.out / STATE, lambda file: file.write(evolution.pickle_dumps()))
            track("controller" if args.env == dream else "controller-real", line)
            bar.set_postfix(mean=f"{scores.mean():.0f}", best=f"{scores.max():.0f}", sigma=f"{evolution.sigma:.3f}")
            bar.update()
    envs.close()
    return args.out / "controller"


if __name__ == "__main__":
    arguments = settled(tyro.cli(Args, description=__doc__))
    with alone(arguments.out), tracking(arguments.out, arguments.track, asdict(arguments)):
        keep_settings(arguments.out / "args.json", asdict(arguments), FREE)
        main(arguments)
