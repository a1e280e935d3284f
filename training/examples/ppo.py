"""PPO for continuous actions in one file, in the style of CleanRL: nothing but the env id knows of dreams.

    python -m training.examples.ppo                                           # in the dream
    python -m training.examples.ppo --env-id LatentCarRacing-v0 --lanes 4     # on the real car

Schulman et al. (2017), with generalised advantages (Schulman et al. 2015) and values bootstrapped at time limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.wrappers.vector import ClipAction, RescaleAction
from torch import Tensor, nn
from torch.distributions import Normal
from tqdm import trange

import wm_gym  # noqa: F401 (registers the envs)


@dataclass
class Args:
    """Of PPO."""

    env_id: str = "DreamCarRacing-v0"
    """any env with a flat Box of observations and a bounded Box of actions"""
    lanes: int = 64
    """envs at a time"""
    updates: int = 500
    """of the policy"""
    horizon: int = 128
    """steps of each lane between two updates"""
    epochs: int = 6
    """over the data of an update"""
    batches: int = 8
    """minibatches of an epoch"""
    learning_rate: float = 3e-4
    """of Adam, falling to 0"""
    gamma: float = 0.99
    """discount"""
    lam: float = 0.95
    """λ of the generalised advantages"""
    clip: float = 0.2
    """of the ratio of new and old probabilities"""
    value_weight: float = 0.5
    """of the value's loss"""
    max_norm: float = 0.5
    """of the gradient"""
    seed: int = 0
    """of the networks, actions and lanes"""


class Agent(nn.Module):
    """A Gaussian policy and a value of ``observations`` inputs and ``actions`` outputs."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        last = nn.Linear(64, actions)
        with torch.no_grad():
            last.weight.mul_(0.01)
            last.bias.zero_()
        self.mean = nn.Sequential(nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), last)
        value = nn.Linear(64, 1)
        self.value = nn.Sequential(nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), value)
        self.log_std = nn.Parameter(torch.full((actions,), -1.0))

    def policy(self, observation: Tensor) -> Normal:
        """Return the distribution of actions ``(N, A)`` for observations ``(N, O)``."""
        return Normal(self.mean(observation), self.log_std.exp())


def advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, over: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return generalised advantages; all arguments and the result are ``(T, N)``.

    Args:
        rewards: of each step.
        values: of what was seen before it.
        next_values: of what was seen after it.
        terminated: 1 where the step ended the episode for good; a time limit is no such end.
        over: 1 where the episode was over for any reason.
        gamma: discount.
        lam: λ.
    """
    surprise = rewards + gamma * next_values * (1 - terminated) - values
    found, following = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        following = surprise[t] + gamma * lam * (1 - over[t]) * following
        found[t] = following
    return found


def main(args: Args) -> Agent:
    """Train and return the agent."""
    torch.manual_seed(args.seed)
    envs = gym.make_vec(args.env_id, num_envs=args.lanes)
    envs = ClipAction(RescaleAction(envs, -1.0, 1.0))
    size, actions = (
        math.prod(space.shape or ()) for space in (envs.single_observation_space, envs.single_action_space)
    )
    agent = Agent(size, actions)
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5)

    observation = torch.from_numpy(envs.reset(seed=args.seed)[0])
    returns, scores = np.zeros(args.lanes), list[float]()
    resetting = torch.zeros(args.lanes)  # lanes reset in the step after an episode's last: that step teaches nothing
    with trange(args.updates, unit="update") as bar:
        for update in bar:
            optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - update / args.updates)
            kept: dict[str, list[Tensor]] = {name: [] for name in ("seen", "after", "did", "log_p", *"rtoi")}
            for _ in range(args.horizon):
                with torch.no_grad():
                    policy = agent.policy(observation)
                    action = policy.sample()
                    log_p = policy.log_prob(action).sum(1)
                after, reward, terminated, truncated, _ = envs.step(action.numpy())
                over = terminated | truncated
                returns += reward
                scores += returns[over].tolist()
                returns[over] = 0
                step = (observation, torch.from_numpy(after), action, log_p)
                flags = (torch.from_numpy(np.float32(each)) for each in (reward, terminated, over))
                for name, value in zip(kept, (*step, *flags, 1 - resetting), strict=True):
                    kept[name].append(value)
                observation, resetting = torch.from_numpy(after), torch.from_numpy(np.float32(over))
            seen, saw, did, old, rewards, ended, cut, counts = (torch.stack(each) for each in kept.values())
            with torch.no_grad():
                values, next_values = agent.value(seen).squeeze(2), agent.value(saw).squeeze(2)
            found = advantages(rewards, values, next_values, ended, cut, args.gamma, args.lam)
            rows = torch.nonzero(counts.flatten()).squeeze(1)
            seen, did = seen.flatten(0, 1), did.flatten(0, 1)
            old, gain, target = old.flatten(), found.flatten(), (found + values).flatten()
            for _ in range(args.epochs):
                for batch in rows[torch.randperm(len(rows))].chunk(args.batches):
                    ratio = (agent.policy(seen[batch]).log_prob(did[batch]).sum(1) - old[batch]).exp()
                    better = (gain[batch] - gain[batch].mean()) / (gain[batch].std() + 1e-8)
                    surrogate = torch.minimum(ratio * better, ratio.clamp(1 - args.clip, 1 + args.clip) * better).mean()
                    error = (agent.value(seen[batch]).squeeze(1) - target[batch]).square().mean()
                    optimizer.zero_grad()
                    (args.value_weight * error - surrogate).backward()
                    nn.utils.clip_grad_norm_(agent.parameters(), args.max_norm)
                    optimizer.step()
            bar.set_postfix(score=f"{np.mean(scores[-100:]) if scores else 0:.0f}", episodes=len(scores))
    envs.close()
    print(f"{len(scores)} episodes; the last hundred paid {np.mean(scores[-100:]) if scores else np.nan:.0f}")
    return agent


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
