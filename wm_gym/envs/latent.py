"""The real task seen through the world model, such as ``LatentCarRacing-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from wm_gym.envs.dream import dreamt_model
from wm_gym.tasks import make_env
from wm_gym.wrappers import RNNHiddenObservation, VAELatentObservation


def LatentEnv(
    world_model: str,
    task: str | None = None,
    render_mode: str | None = None,
    device: str = "cpu",
    fast: bool = True,
    **kwargs: Any,
) -> gym.Env:
    """A real env, observed as ``[z, h]``: ``LatentCarRacing-v0``, and what `wm_gym.register_dream` registers.

    ## Description
    The real task with the spaces of the dream: each frame goes through the VAE to z, and the memory runs along to give
    h. Dynamics, rewards, starts and ends are the env's own; CarRacing's are told in `wm_gym.car_racing`. An env that
    does not observe pictures is seen as it renders itself.

    ## Action Space
    The env's: a flat, bounded Box, of which any real dtype is taken, or Discrete. A value outside is a ValueError that
    names it, and nothing happens.

    ## Observation Space
    ``Box(-inf, inf, (Z + H,), float32)``: z and h; 32 + 256 values for the bundled world model.

    ## Arguments
    * ``world_model``: bundled name, folder, or user/name on the Hugging Face Hub. Its config names the env.
    * ``task``: id of the env that it must be of; None, the default, for any.
    * ``render_mode``: the env's own; of one that is seen as it renders itself, None or "rgb_array".
    * ``device``: where encoder and memory run, in a vector env's worker on one thread of the CPU.
    * ``fast``: draw CarRacing's pixels faster, with `FastCarRacing`; False for gymnasium's own drawing.
    * further keyword arguments go to the env, such as CarRacing's ``domain_randomize``.

    ## Version History
    * v0: CarRacing-v3 of gymnasium 1.x.
    """
    model = dreamt_model(world_model, device, task)
    env = make_env(model.config.task, render_mode, fast, **kwargs)
    return RNNHiddenObservation(VAELatentObservation(env, world_model, device))
