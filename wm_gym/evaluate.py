"""The one evaluation loop, for any policy on any env, dream or real."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from wm_gym.car_racing import CAR_RACING
from wm_gym.models.controller import Controller
from wm_gym.policies import Policy, fit
from wm_gym.tasks import FINISHED


@dataclass(frozen=True)
class EpisodeResult:
    """What one episode came to.

    Attributes:
        index: place of its seed among the seeds.
        seed: it was reset with.
        score: sum of its rewards, less what a dream takes for disagreement.
        steps: its length.
        terminated: whether its end is the env's own; False where a limit of time or disagreement cut it off.
        finished: whether its end was a success; None where it did not end, or the env does not say.
    """

    index: int
    seed: int
    score: float
    steps: int
    terminated: bool
    finished: bool | None


def make_lanes(env_id: str, num_envs: int, **kwargs: Any) -> VectorEnv:
    """Return ``num_envs`` lanes of an env for `rollout`.

    A natively batched env (the dream) runs in this process; others get one spawned process a lane, unless there is
    only one lane. Both have autoreset disabled.
    """
    if gym.spec(env_id).vector_entry_point is not None:
        return gym.make_vec(env_id, num_envs, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
    if num_envs == 1:
        return single_lane(gym.make(env_id, **kwargs))
    return gym.make_vec(
        env_id,
        num_envs,
        vectorization_mode="async",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED, "context": "spawn"},
        **kwargs,
    )


def single_lane(env: gym.Env) -> VectorEnv:
    """Return a single env as a vector env of one lane with autoreset disabled."""
    return SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)


def rollout(
    env: gym.Env | VectorEnv, policy: Policy, seeds: Iterable[int], deterministic: bool = True
) -> Iterator[EpisodeResult]:
    """Run one episode for each seed and yield the results as episodes finish.

    A lane whose episode is over takes the next seed at once, so lanes with short episodes do not wait.

    Args:
        env: a single env, or a vector env with autoreset disabled (see `make_lanes`).
        policy: drives all lanes, on batches of observations, ``(1, Z + H)`` of a single env. An agent of
            Stable-Baselines3 may act from -1 to 1, as in `wm_gym.sb3`: its actions are mapped.
        seeds: one episode each.
        deterministic: passed on to the policy.

    Raises:
        TypeError: for what can't predict actions, as the name of a policy, for what is no env of gymnasium, and for a
            seed that is no whole number.
        ValueError: for a vector env that resets by itself, a policy that was made for other spaces or another world
            model, and a population of controllers that is not one for each lane.
    """
    if not isinstance(env, (gym.Env, VectorEnv)):
        raise TypeError(
            f"rollout takes an env or a vector env of gymnasium, got {env!r}: Stable-Baselines3 has "
            "evaluate_policy for its own"
        )
    if not isinstance(policy, Policy):
        raise TypeError(
            f"{policy!r} predicts no actions: wm_gym.load_policy(name, env) gives the policy of a name, and "
            "wm_gym.Policy says what one of your own must have"
        )
    envs = env if isinstance(env, VectorEnv) else single_lane(env)
    policy = fit(policy, envs)
    if (mode := envs.metadata.get("autoreset_mode")) != AutoresetMode.DISABLED:
        raise ValueError(f"rollout needs autoreset_mode=DISABLED, got {mode}: wm_gym.evaluate.make_lanes makes such")
    if isinstance(policy, Controller) and policy.parameters.ndim == 2 and len(policy.parameters) != envs.num_envs:
        raise ValueError(
            f"a population of {len(policy.parameters)} controllers drives as many lanes, got {envs.num_envs}: "
            "member(i) is one of them"
        )
    return _episodes(envs, policy, [index(seed) for seed in seeds], deterministic)


def _episodes(envs: VectorEnv, policy: Policy, tracks: list[int], deterministic: bool) -> Iterator[EpisodeResult]:
    if not tracks:
        return
    lanes = envs.num_envs
    # the episode that each lane runs; a lane without work runs the last one again until the others are done
    running = np.arange(lanes)

    def reset(**kwargs: Any) -> np.ndarray:
        lane_seeds: Any = [tracks[min(int(index), len(tracks) - 1)] for index in running]
        return envs.reset(seed=lane_seeds, **kwargs)[0]

    score, steps = np.zeros(lanes), np.zeros(lanes, dtype=np.int64)
    state, episode_start = None, np.ones(lanes, dtype=bool)
    observation = reset()
    following, left = lanes, len(tracks)
    while True:
        action, state = policy.predict(observation, state, episode_start, deterministic)
        observation, reward, terminated, truncated, info = envs.step(action)
        score += reward
        steps += 1
        episode_start = terminated | truncated
        for lane in np.flatnonzero(episode_start):
            index = int(running[lane])
            if index < len(tracks):
                told = next((name for name in FINISHED if name in info), None)
                finished = bool(info[told][lane]) if told and terminated[lane] else None
                left -= 1
                yield EpisodeResult(
                    index, tracks[index], float(score[lane]), int(steps[lane]), bool(terminated[lane]), finished
                )
            running[lane], following = following, following + 1
        if left == 0:
            return
        if episode_start.any():
            score[episode_start], steps[episode_start] = 0, 0
            observation = reset(options={"reset_mask": episode_start.copy()})


def summarize(results: Sequence[EpisodeResult], solved: float | None = CAR_RACING.solved) -> dict[str, float]:
    """Return mean, standard deviation, median, least and greatest score, and the share of episodes that are solved.

    Args:
        results: at least one.
        solved: score from which on an episode is; the share of CarRacing's is called ``share_900``. None for no share.
    """
    scores = np.array([result.score for result in results])
    return {
        "episodes": len(scores),
        "mean": float(scores.mean()),
        "std": float(scores.std(ddof=1)) if len(scores) > 1 else 0.0,
        "median": float(np.median(scores)),
        "min": float(scores.min()),
        "max": float(scores.max()),
        **({} if solved is None else {f"share_{solved:g}": float((scores >= solved).mean())}),
    }
