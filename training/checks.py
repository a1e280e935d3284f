"""What a run of `training.loop` can't be, said before it begins."""

from __future__ import annotations

from dataclasses import replace

import torch

from training.presets import MOST_CANDIDATES, SEED_TRACKS, Args
from training.rollouts import check_mirror, parse_task
from training.seeds import TRAINING_SEEDS, VALIDATION_SEEDS, take
from wm_gym.car_racing import CAR_RACING
from wm_gym.frames import kept_size
from wm_gym.models.kinds import make_memory
from wm_gym.starts import check_run_up
from wm_gym.tasks import TaskConfig
from wm_gym.world_model import MOST_DOUBTERS


def check(args: Args) -> TaskConfig:
    """Return the task of a run.

    Raises:
        ValueError: for no rounds, finalists or memories, none to doubt, too many or too few candidates, refined ones or
            validation tracks, a seed out of range, V and M of unlike sizes, more starts than a memory may be run over,
            or a mirror, patience, a pace or gradients where none are.
    """
    if not 0 <= args.seed < len(TRAINING_SEEDS) // SEED_TRACKS:
        raise ValueError(
            f"a run's seed is 0 to {len(TRAINING_SEEDS) // SEED_TRACKS - 1}, each with {SEED_TRACKS} tracks of "
            f"its own, got {args.seed}"
        )
    if min(args.rounds, args.finalists, args.memories) < 1 or args.memories > MOST_DOUBTERS + 1:
        raise ValueError(
            f"a run needs a round, a finalist and 1 to {MOST_DOUBTERS + 1} memories, got --rounds {args.rounds} "
            f"--finalists {args.finalists} --memories {args.memories}"
        )
    if (
        not 1 <= args.candidates <= min(args.sought, args.own_episodes)
        or args.rounds * args.candidates > MOST_CANDIDATES
    ):
        raise ValueError(
            f"a run chooses among at most {MOST_CANDIDATES} candidates, each of them sought and driven, got --rounds "
            f"{args.rounds} --sought {args.sought} --candidates {args.candidates} --own-episodes {args.own_episodes}"
        )
    if not 0 <= args.refined <= args.candidates:
        raise ValueError(f"of {args.candidates} candidates 0 to all are refined, got --refined {args.refined}")
    if args.memories == 1 and args.controller.objective.doubt and args.rnn.memory != "ensemble":
        raise ValueError("a lone memory has no one to doubt it: use --memories 2, or --controller.objective.doubt 0")
    take(VALIDATION_SEEDS, args.validation_tracks)
    if args.vae.model.latent_size != args.rnn.sizes.latent_size:
        raise ValueError(
            f"V makes latents of {args.vae.model.latent_size} numbers and M takes {args.rnn.sizes.latent_size}: give "
            "--vae.model.latent-size, and --rnn.model.latent-size (of the chosen memory), the same"
        )
    task = parse_task(args.env, args.env_kwargs)
    check_mirror(args.mirror, task)
    kept_size(args.vae.frames, task.frame)
    if args.scripted_episodes and task.env != CAR_RACING.env:
        raise ValueError(f"scripted drivers know CarRacing alone: {task.env} needs --scripted-episodes 0")
    if args.own_patience and task.env != CAR_RACING.env:
        raise ValueError(f"only CarRacing counts the progress to have patience for: {task.env} needs --own-patience 0")
    if args.controller.objective.beyond != 1 and task.env != CAR_RACING.env:
        raise ValueError(f"only a lap has a pace: {task.env} needs --controller.objective.beyond 1")
    if task.actions.discrete and (args.controller.gradient.steps or (args.refined and args.refine.steps)):
        raise ValueError(
            f"no gradient flows through the choices of {args.env}: use --controller.gradient.steps 0 --refined 0"
        )
    with torch.device("meta"):
        memory = make_memory(replace(args.rnn.sizes, action_size=task.actions.size))
    drives_in_all = args.random_episodes + args.scripted_episodes + args.rounds * args.own_episodes
    try:
        check_run_up(args.rnn.starts + min(args.rnn.starts, drives_in_all), args.rnn.window, memory, args.memories - 1)
    except ValueError as error:
        raise ValueError(f"{error}: use fewer --rnn.starts, or a smaller memory") from error
    return task
