"""Hyperparameters of Stable-Baselines3's algorithms: a file for each that was tuned, as rl_zoo3 reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from wm_gym.sb3 import algorithm

FOLDER = Path(__file__).parent


def hyperparameters(algo: str, env: str, actions: int) -> dict[str, Any]:
    """Return what an algorithm's file says for an env, in rl_zoo3's names; else what lets it learn so many actions."""
    file = FOLDER / f"{algo}.yml"
    if file.is_file() and env in (found := yaml.safe_load(file.read_text())):
        return found[env]
    settings: dict[str, Any] = {
        "n_envs": 2 if gym.spec(env).vector_entry_point is None else 16,
        "n_timesteps": 1_000_000,
    }
    settings["policy"] = {"ars": "LinearPolicy", "recurrentppo": "MlpLstmPolicy"}.get(algo, "MlpPolicy")
    if algo == "ars":
        settings["n_envs"] = 1  # it plays one episode for each candidate
    if issubclass(algorithm(algo), OffPolicyAlgorithm):
        settings["buffer_size"] = 200_000  # 576 numbers a step: a million would take 2.3 GB
    if algo in ("ddpg", "td3"):
        settings["action_noise"] = NormalActionNoise(np.zeros(actions), np.full(actions, 0.1))
    return settings
