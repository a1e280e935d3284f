"""How well V keeps a frame: the squared error of decode(mu) over 10,000 frames of validation tracks.

    python -m benchmarks.reconstruction

A scripted driver disturbed by bursts of random actions drives, so that frames on and off the road are measured; at
least half of them must show road under the car.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
import tyro
from tqdm import tqdm

from benchmarks.report import RESULTS, command, write_report
from training.pictures import reconstructions, save_figure
from training.seeds import VALIDATION_SEEDS
from wm_gym.car_racing import ScriptedDriver
from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.frames import encoder_input
from wm_gym.models.vae import kl_divergence, squared_error
from wm_gym.policies import ActionBursts
from wm_gym.world_model import WorldModel

FRAMES = 10_000


@dataclass
class Args:
    """What to measure."""

    world_model: str = "car_racing"
    """bundled name, folder, or user/name on the Hugging Face Hub"""
    out: Path = RESULTS / "reconstruction.json"
    """JSON file; the picture goes beside it"""


def record(version: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Drive 100 frames from a random moment of each validation track; return them and whether road is under the car."""
    env: gym.Env = gym.wrappers.TimeLimit(FastCarRacing(), 1000)
    car_racing: Any = env.unwrapped
    driver = ActionBursts(ScriptedDriver(env), env.action_space, rate=0.01, length=30, seed=0)
    rng = np.random.default_rng(0)
    frames, on_road = [], []
    each = FRAMES // len(VALIDATION_SEEDS)
    for seed in tqdm(VALIDATION_SEEDS, desc="drive", unit="track"):
        observation, _ = env.reset(seed=seed)
        first = int(rng.integers(0, 400))
        for step in range(first + each):
            if step >= first:
                frames.append(encoder_input(observation, version))
                on_road.append(any(wheel.tiles for wheel in car_racing.car.wheels))
            observation, _, terminated, truncated, _ = env.step(driver.predict(observation)[0])
            if terminated or truncated:
                observation, _ = env.reset()
    env.close()
    return np.stack(frames), np.array(on_road)


@torch.inference_mode()
def main(args: Args) -> None:
    """Measure, print and write the error."""
    model = WorldModel.from_pretrained(args.world_model)
    frames, on_road = record(model.config.frames)
    if on_road.mean() < 0.5:
        raise RuntimeError(f"only {on_road.mean():.0%} of the frames show road under the car")
    errors, divergence = [], []
    for batch in torch.from_numpy(frames).split(500):
        mu, logvar = model.vae.encode(batch)
        errors.append(squared_error(model.vae.decode(mu), batch))
        divergence.append(kl_divergence(mu, logvar))
    error, kl = torch.cat(errors).numpy(), torch.cat(divergence).mean(0).numpy()
    content = {
        "command": command("reconstruction", args),
        "frames": len(frames),
        "seeds": [VALIDATION_SEEDS.start, VALIDATION_SEEDS.stop - 1],
        "share_on_road": float(on_road.mean()),
        "squared_error": float(error.mean()),
        "squared_error_on_road": float(error[on_road].mean()),
        "squared_error_off_road": float(error[~on_road].mean()),
        "kl": float(kl.sum()),
        "kl_by_latent": sorted(kl.tolist(), reverse=True),
        "training": model.config.training,
    }
    write_report(args.out, content)
    print({key: value for key, value in content.items() if key not in ("kl_by_latent", "training")})
    save_figure(reconstructions(model, frames), args.out.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
