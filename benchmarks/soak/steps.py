"""Long runs: do numbers stay numbers, latents near real ones, and memory flat?"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import wm_gym
from training.workers import map_jobs
from wm_gym.dream_state import GOAL_TOLERANCE
from wm_gym.starts import Starts

TEMPERATURES = (1.0, 1.5, 2.0, 3.0)
"""Of the dreams, which share the steps equally."""

LANES = 256
"""Of each dream; one half takes random actions, the other the bundled controller's."""

REACH = 2.0
"""How many times the size of the greatest real latent a dreamt one may have."""

RESET_STEPS = 5
"""Steps after each real reset."""

GROWTH = 0.01
"""Share by which memory may grow after the warm-up, beyond what gymnasium's own env grows by."""

WARM_UP = 0.25
"""Share of a run after which memory should stay as it is."""


@dataclass(frozen=True)
class Dreams:
    """One worker's job: steps of dreams of all `TEMPERATURES`."""

    lane_steps: int
    seed: int
    world_model: str


@dataclass(frozen=True)
class Resets:
    """One worker's job: resets of an env on tracks from ``seed`` on, each with `RESET_STEPS` random steps."""

    resets: int
    seed: int
    env_id: str
    kwargs: dict[str, Any]


def run(lane_steps: int, resets: int, seed: int, world_model: str = "car_racing") -> dict[str, Any]:
    """Dream at least ``lane_steps`` steps and begin ``resets`` real episodes; return what was seen.

    CarRacing-v3 alone is reset as often, to tell its own appetite from this package's. Each of the three runs has a
    process of its own, whose resident memory is read from Linux's /proc.
    """
    real = Resets(resets, seed, "LatentCarRacing-v0", {"world_model": world_model})
    (dreams,) = map_jobs(dream, [Dreams(lane_steps, seed, world_model)], 1)
    (latent,) = map_jobs(reset, [real], 1)
    (stock,) = map_jobs(reset, [Resets(resets, seed, "CarRacing-v3", {})], 1)
    found = {"dreams": dreams, "resets": {"LatentCarRacing-v0": latent, "CarRacing-v3": stock}}
    parts = {"dreams": (dreams, grown(dreams)), "LatentCarRacing-v0": (latent, grown(latent) - grown(stock))}
    leaks = [name for name, (part, more) in parts.items() if more > GROWTH * part["memory"]["after_warm_up_mb"]]
    return found | {"leaks": leaks}


def grown(run: dict[str, Any]) -> float:
    """Return by how much a run's memory grew after its warm-up, in MB."""
    return run["memory"]["at_the_end_mb"] - run["memory"]["after_warm_up_mb"]


def dream(job: Dreams) -> dict[str, Any]:
    """Step dreams of all temperatures in turns; return counts, the range of latents, and memory."""
    driver = wm_gym.Controller.from_pretrained()
    worlds: list[Any] = [
        gym.make_vec(
            "DreamCarRacing-v0", LANES, world_model=job.world_model, temperature=temperature, starts="any"
        ).unwrapped
        for temperature in TEMPERATURES
    ]
    model = worlds[0].dream.world_model
    real, reward, latents = real_latents(model.starts), model.config.reward, model.config.vae.latent_size
    reach = REACH * abs(real).max()
    most_paid = reward.goal * reward.scale + reward.per_step
    rng, memory = np.random.default_rng(job.seed), Memory()
    observations = [envs.reset(seed=job.seed + i * LANES)[0] for i, envs in enumerate(worlds)]
    ranges = np.tile([np.inf, -np.inf], (len(worlds), 1))
    beyond_real, beyond_reach = np.zeros((2, len(worlds)), np.int64)
    not_finite = out_of_bounds = episodes = 0
    rounds = -(-job.lane_steps // (LANES * len(worlds)))
    for turn in range(rounds):
        for i, envs in enumerate(worlds):
            actions = driver.predict(observations[i])[0]
            actions[::2] = rng.uniform([-1, 0, 0], [1, 1, 1], (len(actions[::2]), 3))
            observations[i], paid, terminated, truncated, _ = envs.step(actions)
            z, h = observations[i][:, :latents], observations[i][:, latents:]
            not_finite += int((~np.isfinite(observations[i])).sum() + (~np.isfinite(paid)).sum())
            out_of_bounds += int((abs(h) > 1).sum() + ((paid < reward.end) | (paid > most_paid)).sum())
            out_of_bounds += int((envs.dream.gained > reward.goal + GOAL_TOLERANCE).sum())
            episodes += int((terminated | truncated).sum())
            ranges[i] = min(ranges[i, 0], z.min()), max(ranges[i, 1], z.max())
            beyond_real[i] += ((z < real.min()) | (z > real.max())).sum()
            beyond_reach[i] += (abs(z) > reach).sum()
        memory.note(turn + 1, rounds)
    seen = rounds * LANES * latents
    return {
        "lane_steps": rounds * LANES * len(worlds),
        "episodes": episodes,
        "not_finite": not_finite,
        "out_of_bounds": out_of_bounds,
        "latents": {
            "real": {"range": [float(real.min()), float(real.max())], "numbers": real.size},
            **{
                f"temperature {temperature}": {
                    "range": ranges[i].tolist(),
                    "share_beyond_real": beyond_real[i] / seen,
                    "beyond_reach": int(beyond_reach[i]),
                }
                for i, temperature in enumerate(TEMPERATURES)
            },
        },
        "memory": memory.report(),
    }


def reset(job: Resets) -> dict[str, Any]:
    """Begin episodes on one track after the other; return counts and memory."""
    env, memory = gym.make(job.env_id, **job.kwargs), Memory()
    env.action_space.seed(job.seed)
    outside = 0
    for i in range(job.resets):
        observation, _ = env.reset(seed=job.seed + i)
        outside += observation not in env.observation_space  # NaN is in no space
        for _ in range(RESET_STEPS):
            observation, paid, *_ = env.step(env.action_space.sample())
            outside += observation not in env.observation_space or not -100 <= float(paid) <= 1000
        memory.note(i + 1, job.resets)
    env.close()
    return {"resets": job.resets, "outside_the_space": outside, "memory": memory.report()}


def real_latents(starts: Starts) -> npt.NDArray[np.float32]:
    """Return the real latents that a world model keeps, ``(n, Z)``: those of its starts' windows."""
    return starts.z[np.arange(starts.z.shape[1]) <= starts.length[:, None]]


class Memory:
    """This process's resident memory, after a warm-up and at the end."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []

    def note(self, done: int, of: int) -> None:
        """Read the memory if the warm-up or the run is over with this step."""
        if done in (max(1, int(of * WARM_UP)), of):
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)

    def report(self) -> dict[str, float]:
        """Return both figures in MB, and the growth between them as a share of the first."""
        first, last = self.megabytes[0], self.megabytes[-1]
        return {"after_warm_up_mb": first, "at_the_end_mb": last, "growth": last / first - 1}
