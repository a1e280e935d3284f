"""The hyperparameter files hold what their algorithms take."""

import pytest
import torch

from training import train_sb3
from wm_gym.sb3 import algorithm, make_sb3_vec

DREAM, REAL = "DreamCarRacing-v0", "LatentCarRacing-v0"


@pytest.mark.parametrize("env", [DREAM, REAL])
@pytest.mark.parametrize("algo", ["ppo", "sac", "tqc"])
def test_tuned_hyperparameters_are_what_the_algorithm_takes(algo, env, world_model_folder):
    """Linear policies in dreams, and hidden layers on the real env."""
    pytest.importorskip("sb3_contrib")
    found = train_sb3.hyperparameters(algo, env, 3)
    assert found["n_envs"] >= 2 and found["n_timesteps"] >= 100_000
    ours = ("n_envs", "n_timesteps", "env_wrapper", "normalize")
    settings = {name: value for name, value in found.items() if name not in ours}
    policy = algorithm(algo)(env=make_sb3_vec(env, 1, world_model=world_model_folder), **settings, device="cpu").policy
    actor = policy.mlp_extractor.policy_net if algo == "ppo" else policy.actor.latent_pi
    assert any(isinstance(module, torch.nn.Linear) for module in actor.modules()) == (env == REAL)
