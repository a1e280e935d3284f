"""Observation wrappers for the real env: frames -> z, and z -> [z, h]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from gymnasium.utils import seeding

from wm_gym.actions import check_action
from wm_gym.car_racing import tiles
from wm_gym.checks import check_options, check_running
from wm_gym.dream_state import DreamState
from wm_gym.frames import encoder_input
from wm_gym.models.vae import sample_latent
from wm_gym.seeding import stream
from wm_gym.world_model import WorldModel

Observation = npt.NDArray[np.float32]


def latent_space(size: int) -> Box:
    """Return the unbounded space of latent vectors, float32 ``(size,)``."""
    return Box(-np.inf, np.inf, (size,), np.float32)


class VAELatentObservation(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Observe z, the VAE's latent of a frame, float32 ``(Z,)``.

    Whether z is the posterior's mean or a sample of it follows the world model's config. Samples come from a random
    stream of the wrapper's own, seeded by ``reset(seed=...)``.

    Args:
        env: observes the frames that the world model's V was trained on, uint8.
        world_model: bundled name, folder, or user/name on the Hugging Face Hub.
        device: where the encoder runs.

    Attributes:
        frame: the last frame as V sees it, uint8 ``(64, 64, 3)``.

    Raises:
        TypeError: for an env of other observations.
        wm_gym.ArtifactError: when the world model can't be read.
    """

    def __init__(self, env: gym.Env, world_model: str | Path = "car_racing", device: str = "cpu") -> None:
        gym.utils.RecordConstructorArgs.__init__(self, world_model=str(world_model), device=device)
        super().__init__(env)
        space = env.observation_space
        self.world_model = WorldModel.from_pretrained(world_model, device)
        shape = (*self.world_model.config.task.frame, 3)
        if not isinstance(space, Box) or space.shape != shape or space.dtype != np.uint8:
            raise TypeError(f"VAELatentObservation needs uint8 frames {shape}, got an env of {space}")
        self.observation_space = latent_space(self.world_model.config.vae.latent_size)
        self._rng = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset the env and, with a seed, the stream that samples z.

        Raises:
            TypeError: for options that are no dict.
            gymnasium.error.Error: for a seed that is no whole number from 0.
        """
        check_options(options)
        if seed is not None:
            seeding.np_random(seed)  # refuses what is no seed
        rng = self._rng if seed is None else stream(seed, "z")
        frame, info = self.env.reset(seed=seed, options=options)
        self._rng = rng  # not before the env below took the call
        return self.observation(frame), info

    @torch.inference_mode()
    def observation(self, observation: npt.NDArray[np.uint8]) -> Observation:
        """Encode a frame, uint8 ``(H, W, 3)``, to z ``(Z,)``."""
        config = self.world_model.config
        self.frame = encoder_input(observation, config.frames)
        frame = torch.from_numpy(self.frame).unsqueeze(0)
        z, logvar = self.world_model.vae.encode(frame.to(self.world_model.device))
        if config.latent == "sample":
            noise = torch.from_numpy(self._rng.standard_normal((1, config.vae.latent_size), dtype=np.float32))
            z = sample_latent(z, logvar, noise.to(z.device))
        return z[0].cpu().numpy()


class RNNHiddenObservation(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Observe ``[z, h]``, float32 ``(Z + H,)``: what an agent of Ha & Schmidhuber (2018) sees.

    The memory takes ``(z_t, a_t, h_t)`` to ``h_{t+1}`` at each step; ``h_0 = 0`` at the start of an episode.

    Args:
        env: observes z, as `VAELatentObservation` gives it, whose world model's memory this is.

    Raises:
        TypeError: for an env whose observations or actions do not fit the memory.
    """

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not env.has_wrapper_attr("world_model"):
            raise TypeError(f"{env} observes no latents: wrap it in VAELatentObservation first")
        self.world_model: WorldModel = env.get_wrapper_attr("world_model")
        config, self._actions = self.world_model.config.memory, self.world_model.config.task.actions
        if env.observation_space.shape != (config.latent_size,) or env.action_space != self._actions.space:
            raise TypeError(
                f"RNNHiddenObservation needs observations ({config.latent_size},) and actions of "
                f"{self._actions.space}, got an env of {env.observation_space} and {env.action_space}: give "
                "VAELatentObservation the world_model that was trained on it"
            )
        self.observation_space = latent_space(config.latent_size + config.hidden_size)
        self._z = np.zeros(config.latent_size, np.float32)
        self._state = self.world_model.memory.initial_state(1)
        self._begun = self._running = self._paid = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset the env and forget everything: h = 0."""
        self._z, info = self.env.reset(seed=seed, options=options)
        self._state = self.world_model.memory.initial_state(1)
        self._begun = self._running = True
        self._paid = False
        return self._observation(), info

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Step the env and advance the memory with the latent and the action that led there.

        Raises:
            ValueError: for an action outside the space; nothing has happened then.
            gymnasium.error.ResetNeeded: before `reset`, after the end of an episode, and after `close`.
        """
        action = check_action(action, self.action_space)
        check_running(self._running)
        z, reward, terminated, truncated, info = self.env.step(action)
        inputs = torch.from_numpy(np.concatenate([self._z, self._actions.encode(action)])).unsqueeze(0)
        inputs = inputs.to(self.world_model.device)
        z_t, a_t = inputs[:, : len(self._z)], inputs[:, len(self._z) :]
        with torch.inference_mode():
            self._state = self.world_model.memory.step(z_t, a_t, self._state)
        self._z, self._running, self._paid = z, not (terminated or truncated), True
        return self._observation(), reward, terminated, truncated, info

    def get_state(self) -> DreamState:
        """Return the present real moment as a state to dream on from: ``dream.reset(options={"state": ...})``.

        Its random stream is new; give ``reset`` a seed for a dream that repeats. It holds no doubters' states: a dream
        that doubters follow refuses it.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        check_running(self._begun)
        z, visited, goal = torch.from_numpy(self._z), tiles(self), self.world_model.config.reward.goal
        # the tiles that a car stands on at its reset are paid for by the first step
        gained = 0.0 if visited is None or goal is None or not self._paid else visited[0] / visited[1] * goal
        z = z.to(self.world_model.device).unsqueeze(0)
        return DreamState.of(z, self._state, gained, np.random.default_rng())[:]  # a copy

    def close(self) -> None:
        """End the episode, and close the env below; `reset` begins again."""
        self._running = False
        super().close()

    def _observation(self) -> Observation:
        return np.concatenate([self._z, self.world_model.memory.hidden(self._state)[0].cpu().numpy()])
