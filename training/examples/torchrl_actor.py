"""A dream as a TorchRL environment: `GymEnv` takes the id as it takes any other.

    python -m training.examples.torchrl_actor

An actor without training drives it; what comes back is the tensordict that TorchRL's losses and collectors work on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import GymEnv
from torchrl.modules import ProbabilisticActor, TanhNormal

import wm_gym  # noqa: F401 (registers the envs)


@dataclass
class Args:
    """Of the drive."""

    env_id: str = "DreamCarRacing-v0"
    """any Gymnasium id with flat observations"""
    steps: int = 100
    """of the drive at most"""
    seed: int = 0
    """of actor and env"""


def main(args: Args) -> TensorDictBase:
    """Return the steps of one drive."""
    torch.manual_seed(args.seed)
    env = GymEnv(args.env_id)
    env.set_seed(args.seed)
    size, actions = env.observation_spec["observation"].shape[-1], env.action_spec
    split = nn.Sequential(nn.Linear(size, 2 * actions.shape[-1]), _Split())
    actor = ProbabilisticActor(
        TensorDictModule(split, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": actions.space.low, "high": actions.space.high},
        spec=actions,
    )
    drive = env.rollout(args.steps, actor)
    print(f"{len(drive)} steps, {drive['next', 'reward'].sum():.1f} points")
    env.close()
    return drive


class _Split(nn.Module):
    """Half of the outputs is the mean, half the scale."""

    def forward(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, scale = outputs.chunk(2, dim=-1)
        return mean, nn.functional.softplus(scale) + 1e-3


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
