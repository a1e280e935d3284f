"""Policies drive, dreams or the real env, and what the episodes showed and came to is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv, VectorWrapper
from tqdm import tqdm

from training.workers import here, map_jobs, weights_of
from wm_gym.evaluate import EpisodeResult, make_lanes, rollout
from wm_gym.models.controller import Controller
from wm_gym.policies import Policy, load_policy
from wm_gym.registration import env_ids, task_of
from wm_gym.world_model import WorldModel

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Drive:
    """One closed-loop episode of T steps, real or dreamt.

    Attributes:
        z: latents, float32 ``(T + 1, Z)``.
        rewards: ``(T,)``.
        result: what it came to.
    """

    z: Array
    rewards: Array
    result: EpisodeResult

    @property
    def failed(self) -> bool:
        """Whether its end was a failure, as the env says."""
        return self.result.finished is False


class LatentRecorder(VectorWrapper):
    """Keeps z and the rewards of the first episode of each seed.

    Args:
        env: observes ``[z, h]``, and is reset with a list of seeds.
        latents: Z.
    """

    def __init__(self, env: VectorEnv, latents: int) -> None:
        super().__init__(env)
        self.latents = latents
        self.seeds: list[int] = []
        self.z: list[list[Array]] = [[] for _ in range(env.num_envs)]
        self.rewards: list[list[float]] = [[] for _ in range(env.num_envs)]
        self.finished: dict[int, tuple[Array, Array]] = {}

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Reset the lanes of the mask, or all, and begin their records."""
        # read before the reset: gymnasium's own vector envs take the mask out of the caller's options
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        observation, info = self.env.reset(seed=seed, options=options)
        self.seeds = list(seed)
        for lane in np.flatnonzero(mask):
            self.z[lane], self.rewards[lane] = [observation[lane, : self.latents].copy()], []
        return observation, info

    def step(self, actions: Any) -> tuple[Array, Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Step and record all lanes."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        for lane in range(self.num_envs):
            self.z[lane].append(observation[lane, : self.latents].copy())
            self.rewards[lane].append(float(reward[lane]))
            if terminated[lane] or truncated[lane]:
                self.finished.setdefault(self.seeds[lane], (np.stack(self.z[lane]), np.array(self.rewards[lane])))
        return observation, reward, terminated, truncated, info


def drive(
    env_id: str,
    policy: Policy | str,
    world_model: str | Path,
    seeds: Sequence[int],
    lanes: int,
    ray: str | None = None,
    **kwargs: Any,
) -> list[Drive]:
    """Let a policy drive one episode for each seed, and record them in the order of the seeds.

    Args:
        env_id: of the dream or the real env.
        policy: what drives, or what `wm_gym.load_policy` takes.
        world_model: bundled name, folder, or user/name on the Hugging Face Hub.
        seeds: one episode each.
        lanes: episodes at a time; on the real env one process each.
        ray: address of a Ray cluster whose cores drive the real env; None for processes of this machine.
        **kwargs: further arguments of the env, such as ``starts`` of the dream, or ``max_episode_steps``, by default
            the real env's limit, or 1000.
    """
    kwargs = {"max_episode_steps": task_of(world_model).limit(), **kwargs}
    if env_id == env_ids(world_model)[1]:
        return drive_real(policy, world_model, [(seed, None) for seed in seeds], lanes, ray, **kwargs)
    envs = make_lanes(env_id, min(lanes, len(seeds)), world_model=str(world_model), **kwargs)
    if isinstance(policy, str):
        policy = load_policy(policy, envs, seed=0)
    recorder = LatentRecorder(envs, WorldModel.from_pretrained(world_model).config.vae.latent_size)
    results = tqdm(rollout(recorder, policy, seeds), total=len(seeds), desc=env_id, unit="episode")
    drives = [Drive(*recorder.finished[result.seed], result) for result in results]
    envs.close()
    return sorted(drives, key=lambda each: each.result.index)


def drive_real(
    policy: Policy | str,
    world_model: str | Path,
    episodes: Sequence[tuple[int, int | None]],
    workers: int,
    ray: str | None = None,
    **kwargs: Any,
) -> list[Drive]:
    """Let a policy drive the real env, each episode alone on a worker, and record the episodes in the order given.

    Args:
        policy: what drives, picklable, or what `wm_gym.load_policy` takes; a policy drawn by chance is drawn anew for
            each episode, by its seed.
        world_model: bundled name, folder, or user/name on the Hugging Face Hub.
        episodes: seed, and which member of a population of controllers drives; None if it is none.
        workers: number of processes.
        ray: address of a Ray cluster to drive on instead.
        **kwargs: further arguments of the env, as for `drive`.
    """
    kwargs = {"max_episode_steps": task_of(world_model).limit(), **kwargs}
    alone = partial(_drive_alone, policy, str(world_model), kwargs)
    weights = weights_of(policy if isinstance(policy, str) else None, str(world_model))
    jobs = [(index, *episode) for index, episode in enumerate(episodes)]
    results = map_jobs(alone, jobs, min(workers, len(jobs)), ray, weights)
    with closing(results), tqdm(results, total=len(jobs), desc="real", unit="episode") as bar:
        return sorted(bar, key=lambda each: each.result.index)


def _drive_alone(
    policy: Policy | str, world_model: str, kwargs: dict[str, Any], job: tuple[int, int, int | None]
) -> Drive:
    """Drive the real episode ``(index, seed, member)``, on a worker."""
    index, seed, member = job
    name = here(world_model, "world_model")
    envs = make_lanes(env_ids(name)[1], 1, world_model=name, **kwargs)
    if isinstance(policy, str):
        policy = load_policy(here(policy, "controller"), envs, seed)
    if member is not None:
        assert isinstance(policy, Controller)
        policy = policy.member(member)
    recorder = LatentRecorder(envs, WorldModel.from_pretrained(name).config.vae.latent_size)
    (result,) = rollout(recorder, policy, [seed])
    envs.close()
    return Drive(*recorder.finished[seed], replace(result, index=index))
