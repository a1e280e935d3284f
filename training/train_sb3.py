"""Train an agent of Stable-Baselines3 or sb3-contrib, in the dream or on the real env, and validate it on the real one.

    python -m training.train_sb3 --algo ppo --out runs/ppo-dream
    python -m training.train_sb3 --algo sac --env LatentCarRacing-v0 --minutes 60 --out runs/sac-real

The same command goes on where the last one was stopped, from its last validation. What was trained is
``<out>/<algo>.zip``, what validated best is ``<out>/best/<algo>.zip``; `wm_gym.load_policy` takes both. A zip holds
pickles, and so does the replay buffer beside it: go on only with a folder that you trust.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor
from tqdm import tqdm

from training.checkpoints import append_log, read_log
from training.closed_loop import VALIDATION_SEEDS
from training.device import choose_device
from training.files import write_atomic, write_json
from training.pictures import drive, write_video
from training.presets import MOST_CANDIDATES
from training.tracking import track, track_video, tracking
from training.train_controller import DREAM, REAL
from wm_gym.evaluate import EpisodeResult, make_lanes, rollout, summarize
from wm_gym.policies import load_policy
from wm_gym.sb3 import algorithm, make_sb3_vec
from wm_gym.world_model import WorldModel

HYPERPARAMETERS = Path(__file__).parent / "hyperparameters"
"""A file for each algorithm that was tuned, as rl_zoo3 reads them."""


@dataclass
class Args:
    """What to train, where, and for how long."""

    algo: str = "ppo"
    """a2c, ddpg, ppo, sac or td3 of Stable-Baselines3; ars, crossq, recurrentppo, tqc or trpo of sb3-contrib"""
    env: str = DREAM
    """DreamCarRacing-v0 or LatentCarRacing-v0"""
    world_model: str = "car_racing"
    """bundled name or folder"""
    out: Path = Path("runs/sb3")
    """folder for the agent, the best agent and the log"""
    steps: int = 0
    """of the env, over all lanes; 0 for what the hyperparameter file says, or a million"""
    minutes: float = 0.0
    """of training at most, validation not counted; 0 for no limit"""
    lanes: int = 0
    """0 for what the hyperparameter file says; on the real env each is a process"""
    temperature: float = 1.0
    """of the dream"""
    starts: str = "any"
    """dreams start at the first frame of an "episode", or from "any" stored moment"""
    max_steps: int = 1000
    """steps of an episode at most"""
    evaluations: int = 10
    """validations on the real env, spread evenly over the training; the best agent of them is kept"""
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


def hyperparameters(algo: str, env: str) -> dict[str, Any]:
    """Return what the file of an algorithm says for an env, in rl_zoo3's names; without a file, the algorithm's own."""
    file = HYPERPARAMETERS / f"{algo}.yml"
    if file.is_file():
        return yaml.safe_load(file.read_text())[env]
    policies = {"ars": "LinearPolicy", "recurrentppo": "MlpLstmPolicy"}
    return {
        "n_envs": 16 if env == DREAM else 2,
        "n_timesteps": 1_000_000,
        "policy": policies.get(algo, "MlpPolicy"),
    }


class Tracked(KVWriter):
    """Sends what an algorithm logs (losses, returns of its lanes) to Weights & Biases."""

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Log one line of values."""
        track(
            "sb3", {"steps": step, **{name: value for name, value in key_values.items() if not isinstance(value, str)}}
        )

    def close(self) -> None:
        """Nothing is open."""


class Course(BaseCallback):
    """Watches the clock, validates now and then, and keeps what was trained.

    Args:
        args: of the training.
        steps: of the env, to the end.
    """

    def __init__(self, args: Args, steps: int) -> None:
        super().__init__()
        self.args, self.steps, self.log = args, steps, args.out / "log.jsonl"
        last = (read_log(self.log) or [{"minutes": 0.0, "validated": 0}])[-1]
        self.validated: int = last["validated"]
        self.seconds, self.since = 60 * last["minutes"], time.monotonic()
        self.bar = tqdm(total=steps, desc=f"{args.algo} {args.env}", unit="step", unit_scale=True)

    def minutes(self) -> float:
        """Return how long was trained, validation not counted."""
        return (self.seconds + time.monotonic() - self.since) / 60

    def progress(self) -> float:
        """Return the share of the training that is done, 1 at its end."""
        shares = [self.num_timesteps / self.steps]
        if self.args.minutes:
            shares.append(self.minutes() / self.args.minutes)
        return min(max(shares), 1.0)

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.n)
        progress = self.progress()
        if progress * self.args.evaluations >= self.validated + 1:
            self.validated = int(progress * self.args.evaluations)
            self.keep()
        return progress < 1

    def keep(self) -> None:
        """Save the agent, validate it, log what came out, and keep it as the best one if it is."""
        self.seconds += time.monotonic() - self.since
        args, name = self.args, f"{self.args.algo}.zip"
        if isinstance(self.model, OffPolicyAlgorithm):
            write_atomic(args.out / "replay_buffer.pkl", self.model.save_replay_buffer)
        write_atomic(args.out / name, self.model.save)
        real, dream = (validate(args, env, lanes) for env, lanes in ((REAL, args.workers), (DREAM, args.tracks)))
        line = {"steps": self.num_timesteps, "minutes": self.seconds / 60, "validated": self.validated}
        line |= {"real": summarize(real), "dream": summarize(dream), "frames": sum(each.steps + 1 for each in real)}
        if line["real"]["mean"] > max((each["real"]["mean"] for each in read_log(self.log)), default=-float("inf")):
            (args.out / "best").mkdir(exist_ok=True)
            write_atomic(args.out / "best" / name, lambda file: file.write((args.out / name).read_bytes()))
        append_log(self.log, line)
        track("sb3", line)
        tqdm.write(f"{self.num_timesteps:,} steps: real {line['real']['mean']:.0f}, dream {line['dream']['mean']:.0f}")
        self.since = time.monotonic()


def validate(args: Args, env: str, lanes: int) -> list[EpisodeResult]:
    """Drive the agent that was saved last on validation tracks, real or dreamt."""
    envs = make_lanes(env, lanes, world_model=args.world_model, max_episode_steps=args.max_steps)
    policy = load_policy(str(args.out / f"{args.algo}.zip"), envs)
    results = list(rollout(envs, policy, VALIDATION_SEEDS[: args.tracks]))
    envs.close()
    return results


def film(args: Args) -> None:
    """Film the best agent on the first validation track beside its dream."""
    kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": args.max_steps}
    sides = []
    for env_id in (REAL, DREAM):
        env = gym.make(env_id, **kwargs)
        policy = load_policy(str(args.out / "best" / f"{args.algo}.zip"), env)
        sides.append(drive(env, policy, VALIDATION_SEEDS[0], f"film {env_id}").frames)
        env.close()
    version = WorldModel.from_pretrained(args.world_model).config.frames
    write_video(args.out / "drive.mp4", sides[0], sides[1], version)
    track_video("sb3", args.out / "drive.mp4")


def main(args: Args) -> Path:
    """Train until steps or minutes are used up, and return the zip of the agent that validated best.

    Raises:
        ValueError: for an unknown algorithm or env, or more validations than a run may choose among.
        ImportError: when the algorithm's package is not installed.
    """
    if args.env not in (DREAM, REAL):
        raise ValueError(f"--env must be {DREAM} or {REAL}, got {args.env!r}")
    if not 1 <= args.evaluations <= MOST_CANDIDATES:
        raise ValueError(f"a run validates 1 to {MOST_CANDIDATES} times, got --evaluations {args.evaluations}")
    kind, settings = algorithm(args.algo), hyperparameters(args.algo, args.env)
    lanes, steps = args.lanes or settings.pop("n_envs"), args.steps or int(settings.pop("n_timesteps"))
    settings = {name: value for name, value in settings.items() if name not in ("n_envs", "n_timesteps", "env_wrapper")}
    device = str(choose_device(args.device, args.tf32))
    kwargs: dict[str, Any] = {"world_model": args.world_model, "max_episode_steps": args.max_steps}
    if args.env == DREAM:
        kwargs |= {"temperature": args.temperature, "starts": args.starts, "device": device}
    envs = VecMonitor(make_sb3_vec(args.env, lanes, **kwargs))
    write_json(args.out / "args.json", asdict(args) | {"lanes": lanes, "steps": steps, "hyperparameters": settings})

    saved, buffer = args.out / f"{args.algo}.zip", args.out / "replay_buffer.pkl"
    agent: BaseAlgorithm
    if saved.is_file():
        agent = kind.load(saved, envs, device=device)
        if isinstance(agent, OffPolicyAlgorithm):
            agent.load_replay_buffer(buffer)
    else:
        agent = kind(env=envs, seed=args.seed, device=device, **settings)
    agent.set_logger(Logger(None, [Tracked()]))
    course = Course(args, steps)
    course.num_timesteps = agent.num_timesteps
    if course.progress() < 1:
        agent.learn(steps - agent.num_timesteps, course, reset_num_timesteps=False)
    course.bar.close()
    envs.close()
    if not (args.out / "drive.mp4").is_file():
        film(args)
    return args.out / "best" / saved.name


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    with tracking(arguments.out, arguments.track, asdict(arguments)):
        main(arguments)
