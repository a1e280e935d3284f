"""Is a world model as sure as it should be? What it expects along real drives, and what came."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

from training.encode import encoded
from training.latents import LatentEpisode, Sequences, draw
from training.rollouts import Driver, FrameRecorder
from training.workers import here, map_jobs, weights_of
from wm_gym.car_racing import CAR_RACING, ScriptedDriver
from wm_gym.policies import ActionBursts, RandomPolicy
from wm_gym.tasks import make_env
from wm_gym.weights import fingerprint
from wm_gym.world_model import WorldModel

BINS = 20
"""Of the histogram of the probability integral transform."""


def real_drives(world_model: str, seeds: Sequence[int], workers: int, ray: str | None = None) -> list[LatentEpisode]:
    """Drive a world model's real env, and encode what was seen.

    CarRacing is driven in three ways in turn: a scripted driver with bursts of random actions shows road and recovery,
    one at half gas straight on leaves the playfield, and random actions of up to a second show grass. Other envs get
    held random actions, each drive longer ones than the one before, up to a second.

    Args:
        world_model: bundled name, folder, or user/name on the Hugging Face Hub.
        seeds: one episode each.
        workers: number of processes.
        ray: address of a Ray cluster to drive on instead.
    """
    alone, weights = partial(real_drive, world_model), weights_of(None, world_model)
    results = map_jobs(alone, list(enumerate(seeds)), workers, ray, weights)
    with closing(results), tqdm(results, total=len(seeds), desc="drive", unit="drive") as bar:
        return sorted(bar, key=lambda each: each.seed)


def real_drive(world_model: str, job: tuple[int, int]) -> LatentEpisode:
    """Drive and encode the episode ``(i, seed)``, on a worker."""
    i, seed = job
    model = WorldModel.from_pretrained(here(world_model, "world_model"))
    task = model.config.task
    env = FrameRecorder(gym.wrappers.TimeLimit(make_env(task), task.limit()), model.config.frames)
    observation, _ = env.reset(seed=seed)
    driving = task.env == CAR_RACING.env
    half_gas = np.array([0.0, 0.5, 0.0], np.float32)  # at full gas the wheels spin, and the car stays
    if driving:
        bursts = ActionBursts(ScriptedDriver(env), env.action_space, rate=(0.02, 0.0, 1.0)[i % 3], length=50, seed=i)
    else:
        random = RandomPolicy(env.observation_space, env.action_space, i)
        bursts = ActionBursts(random, env.action_space, rate=1.0, length=1 + i % task.fps, seed=i)
    over = False
    while not over:
        action = half_gas if driving and i % 3 == 1 else bursts.predict(observation)[0]
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
    with torch.inference_mode():
        parts = [model.vae.encode(part) for part in torch.from_numpy(np.stack(env.frames)).split(256)]
    mu, logvar = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
    driver = Driver("transfer", "privileged" if driving else "random")
    env.close()
    return encoded(env.episode(seed, driver), task, mu, logvar, fingerprint(model.vae))


@torch.inference_mode()
def calibration(model: WorldModel, episodes: Sequence[LatentEpisode]) -> dict[str, Any]:
    """Return whether M's predictions of the next step are as sure as they should be, along real drives.

    Returns:
        JSON-able. "pit": the share of each of `BINS` equal bins of the probability integral transform of z under the
        mixture (all 1 / BINS if it is calibrated), and Kolmogorov and Smirnov's distance from that. "end": the mean
        probability of an end at steps that ended (recall) and at all others (false alarms).
    """
    part = Sequences.of(episodes, model.device, model.config.reward)
    z = draw(part, model.config.latent, torch.Generator().manual_seed(0))
    transforms, ending, others = [], list[float](), list[float]()
    for i, episode in enumerate(episodes):
        steps = len(episode.actions)
        state = model.memory.initial_state(1)
        hidden, _ = model.memory.unroll(z[i : i + 1, :steps], part.actions[i : i + 1, :steps], state)
        prediction = model.memory.predict(hidden[0])
        standard = (z[i, 1 : steps + 1].unsqueeze(-1) - prediction.mu) * (-prediction.log_sigma).exp()
        below = (prediction.logits.softmax(-1) * torch.special.ndtr(standard)).sum(-1)
        transforms.append(below.flatten().numpy())
        p = prediction.end_logit.sigmoid().numpy()
        ending += p[-1:].tolist() if episode.ended else []
        others += (p[:-1] if episode.ended else p).tolist()
    pit = np.concatenate(transforms)
    counts, _ = np.histogram(pit, BINS, (0, 1))
    return {
        "pit": {"shares": (counts / counts.sum()).tolist(), "distance": float(stats.kstest(pit, "uniform").statistic)},
        "end": {
            "ends": len(ending),
            "recall": float(np.mean(ending)) if ending else None,
            "false_alarms": float(np.mean(others)),
        },
    }
