"""Train an agent of Stable-Baselines3 or sb3-contrib, in the dream or on the real env, and validate it on the real one.

    python -m training.train_sb3 --algo ppo --out runs/ppo-dream
    python -m training.train_sb3 --algo sac --env LatentCarRacing-v0 --minutes 60 --out runs/sac-real

The same command goes on where the last one was stopped, from its last validation. What was trained is
``<out>/<algo>.zip``, what validated best ``<out>/best/<algo>.zip``, and each validation's agent is kept as
``<out>/checkpoints/<steps>/<algo>.zip``; `wm_gym.load_policy` takes all of them. A zip holds pickles, and so does the
replay buffer beside it: go on only with a folder that you trust.
"""

from __future__ import annotations

import math
import pickle
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from torch.nn.utils import parameters_to_vector
from tqdm import tqdm

from training import gradient
from training.checkpoints import append_log, read_log
from training.device import choose_device
from training.files import alone, copy_atomic, keep_settings, write_atomic
from training.filming import film, write_video
from training.hyperparameters import hyperparameters
from training.presets import MOST_CANDIDATES
from training.seeds import TRAINING_SEEDS, VALIDATION_SEEDS, take
from training.shaping import Tremble, make_weighed
from training.tracking import track, track_video, tracking
from wm_gym.evaluate import EpisodeResult, make_lanes, rollout, summarize
from wm_gym.policies import check_world_model, load_policy
from wm_gym.registration import env_ids, task_of
from wm_gym.sb3 import SB3VecEnv, algorithm
from wm_gym.world_model import WorldModel


@dataclass
class Args:
    """What to train, where, and for how long."""

    algo: str = "ppo"
    """a2c, ddpg, dqn, ppo, sac, td3 of Stable-Baselines3; ars, crossq, qrdqn, recurrentppo, tqc, trpo of sb3-contrib"""
    env: str = ""
    """id of the world model's dream, which is the default, or of its real env, as LatentCarRacing-v0"""
    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    out: Path = Path("runs/sb3")
    """folder for the agent, the best agent and the log"""
    steps: int = 0
    """of the env, over all lanes; 0 for what the hyperparameter file says, or a million"""
    minutes: float = 0.0
    """of training, without validation; a rollout that has begun is finished. 0 for no limit"""
    lanes: int = 0
    """0 for what the hyperparameter file says; on the real env each is a process"""
    temperature: float = 1.0
    """of the dream"""
    starts: Literal["episode", "any"] = "any"
    """dreams start at the first frame of an "episode", or from "any" stored moment"""
    objective: gradient.Objective = field(default_factory=gradient.Objective)
    """what of a dream's pay counts"""
    disturbance: float = 0.0
    """standard deviation of a tremble of actions in the dream, as a share of half their range"""
    max_steps: int = 0
    """steps of an episode at most; 0 for the real env's own limit, or 1000 where it has none"""
    evaluations: int = 10
    """validations on the real env, spread evenly over the training, between rollouts; the best agent of them is kept"""
    tracks: int = 10
    """real validation tracks of each, and as many dreams"""
    workers: int = 2
    """processes that drive the real env to validate"""
    device: str = "cpu"
    """where dream and agent run: a torch device; "auto" is CUDA where there is one, else the CPU"""
    tf32: bool = False
    """let CUDA round products to TF32"""
    seed: int = 0
    """of the agent and its lanes"""
    track: bool = True
    """log to Weights & Biases (offline unless logged in); --no-track logs to log.jsonl alone"""


DISCRETE_ONLY, CONTINUOUS_ONLY = ("dqn", "qrdqn"), ("crossq", "ddpg", "sac", "td3", "tqc")
"""Algorithms for choices alone, and for continuous actions alone."""

NORMALIZED = "vecnormalize.pkl"
"""What the rewards were scaled by."""


class Tracked(KVWriter):
    """Sends what an algorithm logs (losses, returns of its lanes) to Weights & Biases."""

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Log one line of values."""
        numbers = {name: value for name, value in key_values.items() if not isinstance(value, str)}
        track("sb3", {"steps": step, **numbers})

    def close(self) -> None:
        """Nothing is open."""


class Finished(Exception):
    """Ends a training from within; some algorithms don't ask whether to go on."""


class Course(BaseCallback):
    """Watches the clock, validates now and then, and keeps what was trained.

    Args:
        args: of the training.
        agent: what is trained.
        steps: of the env, to the end.
    """

    def __init__(self, args: Args, agent: Any, steps: int) -> None:
        super().__init__()
        self.args, self.agent, self.steps, self.log = args, agent, steps, args.out / "log.jsonl"
        self.num_timesteps = agent.num_timesteps
        lines = read_log(self.log)
        self.seconds, self.since = 60 * getattr(agent, "minutes", 0.0), time.monotonic()
        self.validated = self.share(lines[-1]["steps"], lines[-1]["minutes"]) if lines else 0
        if len(lines) - self.validated + args.evaluations > MOST_CANDIDATES:
            raise ValueError(
                f"{args.out} has {len(lines)} validations: with --evaluations {args.evaluations} there would be more "
                f"than the {MOST_CANDIDATES} that a run may choose among"
            )
        self.bar = tqdm(
            desc=f"{args.algo} {args.env}", total=steps, initial=self.num_timesteps, unit="step", unit_scale=True
        )

    def share(self, steps: int, minutes: float) -> int:
        """Return how many of the validations are due after so many steps and minutes."""
        done = max(steps / self.steps, minutes / self.args.minutes if self.args.minutes else 0.0)
        return int(min(done, 1.0) * self.args.evaluations)

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.n)
        return True

    def _on_rollout_start(self) -> None:  # the agent has learnt from all steps then
        due = self.share(self.num_timesteps, (self.seconds + time.monotonic() - self.since) / 60)
        if due > self.validated:
            self.validated = due
            self.keep()
        if due == self.args.evaluations:
            raise Finished

    def _on_training_end(self) -> None:
        self._on_rollout_start()

    def keep(self) -> None:
        """Save the agent, validate it, log what came out, and keep it as the best one if it is."""
        self.seconds += time.monotonic() - self.since
        args, name = self.args, f"{self.args.algo}.zip"
        self.agent.minutes = self.seconds / 60  # saved with it
        if isinstance(self.agent, OffPolicyAlgorithm):
            write_atomic(args.out / "replay_buffer.pkl", lambda file: self.agent.save_replay_buffer(file))
        if (normalized := self.agent.get_vec_normalize_env()) is not None:
            write_atomic(args.out / NORMALIZED, lambda file: pickle.dump(normalized, file))
        write_atomic(args.out / name, self.agent.save)
        checkpoint = args.out / "checkpoints" / str(self.num_timesteps) / name
        copy_atomic(args.out / name, checkpoint)
        lanes, solved = (args.tracks, args.workers), task_of(args.world_model).solved
        dream, real = (validate(args, self.agent, *each) for each in zip(env_ids(args.world_model), lanes, strict=True))
        line: dict[str, Any] = {"steps": self.num_timesteps, "minutes": self.agent.minutes}
        line |= {"real": summarize(real, solved), "dream": summarize(dream, solved)}
        line["frames"] = sum(each.steps + 1 for each in real)
        if line["real"]["mean"] > max((each["real"]["mean"] for each in read_log(self.log)), default=-math.inf):
            copy_atomic(args.out / name, args.out / "best" / name)
        append_log(self.log, line)
        track("sb3", line)
        tqdm.write(f"{self.num_timesteps:,} steps: real {line['real']['mean']:.0f}, dream {line['dream']['mean']:.0f}")
        self.since = time.monotonic()


def validate(args: Args, agent: BaseAlgorithm, env: str, lanes: int) -> list[EpisodeResult]:
    """Drive validation tracks, real or dreamt."""
    envs = make_lanes(env, lanes, world_model=args.world_model, max_episode_steps=args.max_steps)
    results = list(rollout(envs, agent, take(VALIDATION_SEEDS, args.tracks)))
    envs.close()
    return results


def scale_rewards(envs: VecEnv, normalize: dict[str, Any], kept: Path) -> VecNormalize:
    """Return envs whose rewards are divided by the running deviation of returns, that of a kept file if there is one.

    Raises:
        ValueError: for observations that are to be normalised: an agent is saved without what it would need to drive.
    """
    if normalize.get("norm_obs", True):
        raise ValueError(f"only rewards can be normalised: set norm_obs to false, got {normalize}")
    return VecNormalize.load(str(kept), envs) if kept.is_file() else VecNormalize(envs, **normalize)


def film_best(args: Args) -> None:
    """Film the best agent on the first validation track beside its dream."""
    kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": args.max_steps}
    sides = []
    for env_id in reversed(env_ids(args.world_model)):
        env = gym.make(env_id, **kwargs)
        policy = load_policy(str(args.out / "best" / f"{args.algo}.zip"), env)
        sides.append(film(env, policy, VALIDATION_SEEDS[0], f"film {env_id}").frames)
        env.close()
    config = WorldModel.from_pretrained(args.world_model).config
    write_video(args.out / "drive.mp4", sides[0], sides[1], config)
    track_video("sb3", args.out / "drive.mp4")


FREE = ("out", "steps", "minutes", "evaluations", "workers", "device", "tf32", "track")
"""Settings that may change when a training goes on."""


def main(args: Args) -> Path:
    """Train until steps or minutes are used up, and return the zip of the agent that validated best.

    Raises:
        ValueError: for an unknown algorithm or env, an algorithm for other actions, a tremble on the real one, other
            settings or another world model than the folder was begun with, too many validations or tracks, or a seed
            beyond training tracks.
        ImportError: when the algorithm's package is not installed.
    """
    (dream, real), task = env_ids(args.world_model), task_of(args.world_model)
    args = replace(args, env=args.env or dream, max_steps=task.limit(args.max_steps))
    if args.env not in (dream, real):
        raise ValueError(f"--env must be {dream} or {real}, got {args.env!r}")
    if args.env == real and args.disturbance:
        raise ValueError("a tremble is for dreams: use --disturbance 0 on the real env")
    if not 1 <= args.evaluations <= MOST_CANDIDATES:
        raise ValueError(f"a run validates 1 to {MOST_CANDIDATES} times, got --evaluations {args.evaluations}")
    take(VALIDATION_SEEDS, args.tracks)
    kind = algorithm(args.algo)
    if args.algo in (CONTINUOUS_ONLY if task.actions.discrete else DISCRETE_ONLY):
        raise ValueError(f"{args.algo} is not for the actions of {args.env}, {task.actions.space}: give another --algo")
    found = hyperparameters(args.algo, args.env, task.actions.size)
    lanes, steps = args.lanes or found["n_envs"], args.steps or found["n_timesteps"]
    first_tracks = TRAINING_SEEDS[: 1 - lanes or None]  # each next lane begins on the next track
    if args.seed not in first_tracks:
        raise ValueError(f"{lanes} lanes begin on training tracks, {first_tracks}: got --seed {args.seed}")
    keep_settings(args.out / "args.json", asdict(args) | {"hyperparameters": found}, FREE)
    ours = ("n_envs", "n_timesteps", "env_wrapper", "normalize")
    settings = {name: value for name, value in found.items() if name not in ours}
    device = str(choose_device(args.device, args.tf32))
    kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": args.max_steps}
    if args.env == dream:
        kwargs |= {"temperature": args.temperature, "starts": args.starts, "device": device}
    weighed = make_weighed(args.env, lanes, args.objective, **kwargs)
    if args.disturbance:
        weighed = Tremble(weighed, args.disturbance, lanes, args.seed)
    envs: VecEnv = VecMonitor(SB3VecEnv(weighed))
    if "normalize" in found:
        envs = scale_rewards(envs, {"gamma": found.get("gamma", 0.99), **found["normalize"]}, args.out / NORMALIZED)
    saved, model = args.out / f"{args.algo}.zip", WorldModel.from_pretrained(args.world_model)
    agent: Any
    if saved.is_file():
        agent = kind.load(saved, envs, device=device)
        check_world_model(agent, model, saved)
        if isinstance(agent, OffPolicyAlgorithm):
            agent.load_replay_buffer(args.out / "replay_buffer.pkl")
        if args.algo == "ars":  # what it loads is the policy alone
            agent.weights = parameters_to_vector(agent.policy.parameters()).detach()
        agent.set_random_seed(int(np.random.default_rng((args.seed, agent.num_timesteps)).choice(first_tracks)))
    else:
        agent = kind(env=envs, seed=args.seed, device=device, **settings)
        agent.world_model_fingerprint = model.fingerprint  # for `wm_gym.load_policy`
    agent.set_logger(Logger(None, [Tracked()]))
    course = Course(args, agent, steps)
    if saved.is_file() and (due := course.share(agent.num_timesteps, agent.minutes)) > course.validated:
        course.validated = due  # killed before it was logged
        course.keep()
    if course.validated < args.evaluations:
        with suppress(Finished):
            agent.learn(steps - agent.num_timesteps, course, reset_num_timesteps=False)
    course.bar.close()
    envs.close()
    best, video = args.out / "best" / saved.name, args.out / "drive.mp4"
    if not video.is_file() or video.stat().st_mtime < best.stat().st_mtime:
        film_best(args)
    return best


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    with alone(arguments.out), tracking(arguments.out, arguments.track, asdict(arguments)):
        main(arguments)
