"""The batched latent simulator that both dream envs are thin shells over."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import torch

from wm_gym.checks import check_choice, check_count, check_number
from wm_gym.doubt import Doubters
from wm_gym.dream_state import GOAL_TOLERANCE, NOISE_BLOCK, DreamState
from wm_gym.models.memory import mixture_mode, put, sample_mixture, select
from wm_gym.world_model import WorldModel

SAMPLING = ("sample", "mode")
STARTS = ("episode", "any")
TEMPERATURES = (1e-3, 1e3)
"""The least and the greatest τ: far beyond them, float32 sums are no numbers."""

MOST_PENALTY = 1e6
"""The greatest price of a disagreement."""


class Dream:
    """N independent dreams, advanced together by one step of the memory.

    Args:
        world_model: V, M, starts and config.
        lanes: N.
        temperature: τ of the mixture, within `TEMPERATURES`.
        sampling: "sample" draws z from the mixture at τ and the end with its probability; "mode" takes the mean of the
            likeliest component, and ends where the probability exceeds 0.5.
        starts: "episode" starts as episodes start; "any" also in the middle of real drives.
        disagreement_penalty: λ, from 0 to `MOST_PENALTY`; each step pays λ · disagreement less.
        disagreement_limit: a lane is in doubt at a step whose disagreement exceeds it, from 0, and inf to be told of
            it alone; None for never. The world model's doubters follow the dream where this or a penalty is given.

    Attributes:
        z: present latents, ``(N, Z)``.
        memory_state: the memory's, each part ``(N, ...)``.
        gained: sum of the gains paid for so far where there is a goal, 0 elsewhere, ``(N,)``.
        rngs: each lane's random stream.
        disagreement: about the last step, of doubters that follow or an ensemble's members, ``(N,)``; None where there
            is none, or before the first step.

    Raises:
        ValueError: for a value outside of these, or a penalty or limit of a memory that nothing doubts.
    """

    def __init__(
        self,
        world_model: WorldModel,
        lanes: int,
        temperature: float = 1.0,
        sampling: str = "sample",
        starts: str = "episode",
        disagreement_penalty: float = 0.0,
        disagreement_limit: float | None = None,
    ) -> None:
        self.set_sampling(temperature, sampling)
        check_choice("starts", starts, STARTS)
        check_count("lanes of a dream", lanes)
        limit = np.inf if disagreement_limit is None else disagreement_limit
        check_number("disagreement_penalty", disagreement_penalty, 0, MOST_PENALTY)
        check_number("disagreement_limit", limit, 0, np.inf)
        asked = disagreement_penalty > 0 or disagreement_limit is not None
        if asked and not world_model.config.doubted:
            raise ValueError(
                "disagreement_penalty and disagreement_limit need a world model with doubters, as `python -m "
                "training.loop --memories 2` makes it, or whose memory is an ensemble"
            )
        self.doubters = Doubters(world_model.doubters if asked else ())
        self.disagreement_penalty, self.disagreement_limit = float(disagreement_penalty), float(limit)
        self.disagreement: npt.NDArray[np.float64] | None = None
        self.world_model, self.lanes = world_model, lanes
        self.reward, self.device = world_model.config.reward, world_model.device
        length = world_model.starts.length
        self.choices = np.flatnonzero(length == 0) if starts == "episode" else np.arange(len(length))
        latent_size = world_model.config.vae.latent_size
        self.z = torch.zeros(lanes, latent_size, device=self.device)
        self.memory_state = world_model.memory.initial_state(lanes)
        self.doubter_state = self.doubters.initial_state(lanes)
        self.gained = np.zeros(lanes, dtype=np.float32)
        self.rngs: list[np.random.Generator] = [np.random.default_rng() for _ in range(lanes)]
        # each row: Z uniforms that choose components, one for the end, Z normals
        self.noise = np.zeros((lanes, NOISE_BLOCK, 2 * latent_size + 1), dtype=np.float32)
        self.cursor = np.full(lanes, NOISE_BLOCK)

    def set_sampling(self, temperature: float, sampling: str) -> None:
        """Choose how z and the end are drawn from the next step on; ValueError as for the constructor's arguments."""
        check_number("temperature", temperature, *TEMPERATURES)
        check_choice("sampling", sampling, SAMPLING)
        self.temperature, self.sampling = float(temperature), sampling

    @property
    def observation(self) -> npt.NDArray[np.float32]:
        """``[z, h]`` of every lane, ``(N, Z + H)``; a fresh array."""
        return torch.cat([self.z, self.world_model.memory.hidden(self.memory_state)], dim=1).cpu().numpy()

    @property
    def doubted(self) -> npt.NDArray[np.bool_]:
        """Whether the disagreement about the last step exceeds the limit, ``(N,)``."""
        if self.disagreement is None:
            return np.zeros(self.lanes, dtype=bool)
        return self.disagreement > self.disagreement_limit

    @torch.inference_mode()
    def reset(
        self,
        lanes: npt.NDArray[np.int64],
        rngs: Sequence[np.random.Generator | None] | None = None,
        start: npt.NDArray[np.int64] | None = None,
        state: DreamState | None = None,
    ) -> None:
        """Begin new dreams in some lanes.

        Args:
            lanes: their indices, ``(n,)``.
            rngs: a new random stream for each; None keeps a lane's own (with ``state``: the state's).
            start: which of the world model's starts each begins from, ``(n,)``; drawn from the stream by default.
            state: moments to continue from, of n lanes.

        Raises:
            ValueError: for a start that does not exist or a state of another number of lanes; nothing has changed then.
        """
        self.check_reset(lanes, start, state)
        rows = torch.from_numpy(lanes)
        for i, lane in enumerate(lanes):
            if state is not None:
                self.rngs[lane] = deepcopy(state.rngs[i])
            rng = None if rngs is None else rngs[i]
            if rng is not None:
                self.rngs[lane] = rng
            if state is None or rng is not None:
                self.cursor[lane] = NOISE_BLOCK
            else:
                self.noise[lane], self.cursor[lane] = state.noise[i], state.cursor[i]
        if state is None:
            if start is None:
                start = self.choices[[self.rngs[lane].integers(len(self.choices)) for lane in lanes]]
            z, memory = self.world_model.start_states
            picked = torch.from_numpy(start.astype(np.int64))  # torch indexes with no other whole numbers
            z, memory, gained = z[picked], select(memory, picked), self.world_model.starts.gained[start]
            if self.doubters.memories:
                memory += select(self.world_model.doubter_states, picked)
        else:
            z, memory, gained = state.z, state.memory, state.gained
        self.z[rows] = z.to(self.device)
        memory, own = tuple(part.to(self.device) for part in memory), len(self.memory_state)
        self.memory_state = put(self.memory_state, rows, memory[:own])
        self.doubter_state = put(self.doubter_state, rows, memory[own:])
        self.gained[lanes] = gained

    def check_reset(
        self, lanes: npt.NDArray[np.int64], start: npt.NDArray[np.int64] | None, state: DreamState | None
    ) -> None:
        """Raise the ValueError that `reset` would raise for these arguments, and change nothing."""
        if start is not None and not ((start >= 0) & (start < len(self.world_model.starts))).all():
            raise ValueError(f"starts go from 0 to {len(self.world_model.starts) - 1}, got {start.tolist()}")
        if state is not None:
            state.check(self._present(), self.reward.goal)
            if len(state) != len(lanes):
                raise ValueError(f"expected a state of {len(lanes)} lanes, got one of {len(state)}")

    @torch.inference_mode()
    def step(
        self, actions: npt.NDArray[np.float32], running: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Advance every lane.

        Args:
            actions: ``(N, A)``, inside the action space; choices are one-hot.
            running: which lanes use up their noise, ``(N,)``, all by default; the others must be reset afterwards.

        Returns:
            reward ``(N,)``, whether the memory ended the episode, and whether it reached the goal.
        """
        memory, reward, action = self.world_model.memory, self.reward, torch.from_numpy(actions).to(self.device)
        self.doubter_state = self.doubters.step(self.z, action, self.doubter_state)
        self.memory_state = memory.step(self.z, action, self.memory_state)
        prediction = memory.predict(memory.hidden(self.memory_state))
        apart = prediction.disagreement
        if self.doubters.memories:
            apart = self.doubters.disagreement(prediction, self.doubter_state)
        if self.sampling == "mode":
            self.z, threshold = mixture_mode(prediction), np.full(self.lanes, 0.5, np.float32)
        else:
            noise, latent_size = self._draw(running), self.z.shape[1]
            drawn = torch.from_numpy(noise).to(self.device)
            self.z = sample_mixture(
                prediction, self.temperature, uniform=drawn[:, :latent_size], normal=drawn[:, latent_size + 1 :]
            )
            threshold = noise[:, latent_size]
        # what follows are a few numbers a lane: numpy takes a fraction of torch's time for them
        ended = threshold < prediction.end_logit.sigmoid().cpu().numpy()
        gain, finished = prediction.gain.cpu().numpy(), np.zeros(self.lanes, dtype=bool)
        if reward.goal is not None:
            gain = np.minimum(gain, np.maximum(reward.goal - self.gained, 0))
            self.gained = self.gained + gain
            finished = (self.gained >= reward.goal - GOAL_TOLERANCE) & ~ended
        pay = gain.astype(np.float64) * reward.scale + reward.per_step
        if reward.end is not None:
            pay = np.where(ended, reward.end, pay)
        if apart is not None:
            self.disagreement = apart.cpu().numpy().astype(np.float64)
            pay -= self.disagreement_penalty * self.disagreement
        return pay, ended, finished

    def get_state(self, lanes: Sequence[int] | slice = slice(None)) -> DreamState:
        """Return a copy of some lanes' present moments."""
        return self._present()[lanes]

    @torch.inference_mode()
    def frames(self) -> npt.NDArray[np.uint8]:
        """Decode the present latents to frames, uint8 ``(N, 64, 64, 3)``."""
        return self.world_model.vae.frames(self.z)

    def _present(self) -> DreamState:
        memory = self.memory_state + self.doubter_state
        return DreamState(self.z, memory, self.gained, self.rngs, self.noise, self.cursor)

    def _draw(self, running: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float32]:
        """Return the next row of noise of each running lane, ``(N, 2 Z + 1)``; other rows mean nothing."""
        uniforms = self.z.shape[1] + 1
        empty = self.cursor == NOISE_BLOCK
        for lane in np.flatnonzero(empty if running is None else empty & running):
            rng = self.rngs[lane]
            self.noise[lane, :, :uniforms] = rng.random((NOISE_BLOCK, uniforms), dtype=np.float32)
            self.noise[lane, :, uniforms:] = rng.standard_normal((NOISE_BLOCK, uniforms - 1), dtype=np.float32)
            self.cursor[lane] = 0
        rows = self.noise[np.arange(self.lanes), self.cursor % NOISE_BLOCK]
        self.cursor += 1 if running is None else running
        return rows


class Dreaming:
    """Part of an env that is made of a `Dream`: its world model, and how it draws, to read and to set while it runs."""

    dream: Dream

    @property
    def world_model(self) -> WorldModel:
        """What it dreams of."""
        return self.dream.world_model

    @property
    def temperature(self) -> float:
        """τ of the latent mixture; a new one counts from the next step on."""
        return self.dream.temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self.dream.set_sampling(temperature, self.dream.sampling)

    @property
    def sampling(self) -> str:
        """How z is drawn, "sample" or "mode"; a new one counts from the next step on."""
        return self.dream.sampling

    @sampling.setter
    def sampling(self, sampling: str) -> None:
        self.dream.set_sampling(self.dream.temperature, sampling)
