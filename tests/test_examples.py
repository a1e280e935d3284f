"""The examples, which know nothing of dreams but an id, learn on dream and real."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from training.examples import ppo

DREAM, REAL = "DreamCarRacing-v0", "LatentCarRacing-v0"


@pytest.mark.parametrize("env_id", [DREAM, REAL])
def test_the_single_file_learns_on_both_ids(env_id):
    lanes = 4 if env_id == DREAM else 1
    agent = ppo.main(ppo.Args(env_id=env_id, lanes=lanes, updates=2, horizon=16, epochs=1, batches=2))
    assert torch.isfinite(agent.log_std).all() and not torch.equal(agent.log_std, torch.full((3,), -1.0))


class Short(gym.Env):
    """Episodes of three steps, each of which pays 1."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.left = 3
        return np.ones(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.full(2, self.left / 3, np.float32), 1.0, self.left == 0, False, {}


def test_the_single_file_learns_what_episodes_pay(monkeypatch):
    monkeypatch.setitem(gym.registry, "Short-v0", gym.envs.registration.EnvSpec("Short-v0", entry_point=Short))
    agent = ppo.main(ppo.Args(env_id="Short-v0", lanes=2, updates=60, horizon=40, batches=2, learning_rate=3e-3))
    first = agent.value(torch.ones(1, 2)).item()
    assert first == pytest.approx(1 + 0.99 + 0.99**2, abs=0.4)  # three steps paid 1, discounted


def test_advantages_are_those_of_the_definition():
    """By the sum of discounted surprises, for an episode that ends, one that is cut, and one that goes on."""
    rng = np.random.default_rng(0)
    steps, gamma, lam = 6, 0.9, 0.8
    rewards, values, following = (torch.from_numpy(rng.normal(size=(steps, 1))) for _ in range(3))
    terminated, over = torch.zeros(steps, 1), torch.zeros(steps, 1)
    terminated[1] = over[1] = over[3] = 1
    found = ppo.advantages(rewards, values, following, terminated, over, gamma, lam)
    for t in range(steps):
        total, weight = 0.0, 1.0
        for k in range(t, steps):
            total += weight * float(rewards[k] + gamma * following[k] * (1 - terminated[k]) - values[k])
            weight *= gamma * lam
            if over[k]:
                break
        assert float(found[t]) == pytest.approx(total)


def test_torchrl_drives_a_dream():
    pytest.importorskip("torchrl")
    from training.examples import torchrl_actor

    drive = torchrl_actor.main(torchrl_actor.Args(steps=20, seed=1))
    assert len(drive) == 20 and drive["observation"].shape == (20, 288)
    space = gym.make(DREAM).action_space
    assert all(space.contains(action.detach().numpy()) for action in drive["action"])
