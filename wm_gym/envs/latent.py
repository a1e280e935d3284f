"""The real task: CarRacing-v3 seen through the world model, ``LatentCarRacing-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.box2d.car_racing import CarRacing

from wm_gym.checks import check_number, check_render_mode
from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.wrappers import RNNHiddenObservation, VAELatentObservation


def LatentCarRacing(
    world_model: str = "car_racing",
    render_mode: str | None = None,
    device: str = "cpu",
    fast: bool = True,
    **kwargs: Any,
) -> gym.Env:
    """Gymnasium's CarRacing-v3, observed as ``[z, h]``.

    ## Description
    The real task with the spaces of the dream: each frame goes through the VAE to z, and the memory runs along to give
    h. Tracks, physics, rewards and ends are CarRacing-v3's own.

    ## Action Space
    CarRacing's: steering from -1 (left) to 1, gas and brake from 0 to 1. Any real dtype is taken; a value outside is a
    ValueError that names it, and nothing happens.

    ## Observation Space
    ``Box(-inf, inf, (Z + H,), float32)``: z and h; 32 + 256 values for the bundled world model.

    ## Rewards
    -0.1 a step, 1000 / N for each of the track's N tiles when it is first visited, -100 for leaving the playfield.

    ## Starting State
    At rest on the track that the seed makes; h = 0.

    ## Episode Termination
    When all tiles are visited (``info["lap_finished"]`` is True) or the car leaves the playfield (False). Registered
    with a time limit of 1000 steps.

    ## Arguments
    * ``world_model``: bundled name, folder, or user/name on the Hugging Face Hub.
    * ``render_mode``: CarRacing's own: None, "human", "rgb_array" or "state_pixels".
    * ``device``: where encoder and memory run.
    * ``fast``: draw the same pixels faster, with `FastCarRacing`; False for gymnasium's own drawing.
    * further keyword arguments go to CarRacing, such as ``domain_randomize``.

    ## Version History
    * v0: CarRacing-v3 of gymnasium 1.x.
    """
    check_render_mode(render_mode, CarRacing.metadata)
    # CarRacing reads it in the middle of a step
    check_number("lap_complete_percent", kwargs.get("lap_complete_percent", 0.95), 0, 1)
    car_racing = FastCarRacing if fast else CarRacing
    env = car_racing(render_mode=render_mode, **kwargs)
    return RNNHiddenObservation(VAELatentObservation(env, world_model, device), device=device)
