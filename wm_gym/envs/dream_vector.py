"""Many dreams as one Gymnasium vector env: what ``gym.make_vec("DreamCarRacing-v0", num_envs=...)`` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from wm_gym.actions import check_action
from wm_gym.checks import check_count, check_options, check_render_mode, check_running
from wm_gym.dream import Dream, Dreaming
from wm_gym.dream_state import DreamState
from wm_gym.envs.dream import check_beginning, dreamt_model
from wm_gym.envs.rendering import enlarge
from wm_gym.wrappers import latent_space

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]


class DreamVectorEnv(Dreaming, VectorEnv):
    """`wm_gym.envs.dream.DreamEnv` in N lanes that share one batched step of the networks.

    Each lane is what the single env would be with the same seed and actions, to rounding. ``reset(seed=s)`` gives lane
    i the random stream of s + i, a list gives each lane its own.

    Args:
        world_model: as in the single env.
        num_envs: N.
        max_episode_steps: truncates an episode after so many steps; -1 for never. `gymnasium.make_vec` gives the
            registered limit.
        autoreset_mode: `gymnasium.vector.AutoresetMode`, its name or its value. With DISABLED, lanes that are over are
            reset by ``reset(options={"reset_mask": mask})`` before the next step.
        render_mode: "rgb_array" decodes all lanes to a tuple of frames.
        task: as in the single env.
        temperature: as in the single env.
        sampling: as in the single env.
        starts: as in the single env.
        device: as in the single env.
        disagreement_penalty: as in the single env.
        disagreement_limit: as in the single env.

    Options of `reset`: ``reset_mask`` (boolean ``(N,)``: reset these lanes only), ``start`` (one index or ``(N,)``),
    ``state`` (a `DreamState` of N lanes, or of one that is branched into every lane that is reset: into the same dream
    in each, with the state's own random stream, or with a ``seed`` into as many futures).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as VectorEnv)

    def __init__(
        self,
        world_model: str,
        num_envs: int = 1,
        max_episode_steps: int = -1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        task: str | None = None,
        temperature: float = 1.0,
        sampling: str = "sample",
        starts: str = "episode",
        render_mode: str | None = None,
        device: str = "cpu",
        disagreement_penalty: float = 0.0,
        disagreement_limit: float | None = None,
    ) -> None:
        check_render_mode(render_mode, self.metadata)
        check_count("num_envs", num_envs)
        unlimited = isinstance(max_episode_steps, (int, np.integer)) and max_episode_steps == -1
        if not unlimited:
            check_count("max_episode_steps, if not -1 for no limit,", max_episode_steps)
        modes = {name: mode for mode in AutoresetMode for name in (mode, mode.name, mode.value)}
        if not isinstance(autoreset_mode, (str, AutoresetMode)) or autoreset_mode not in modes:
            raise ValueError(f"autoreset_mode must be one of {list(AutoresetMode.__members__)}, got {autoreset_mode!r}")
        self.autoreset_mode = modes[autoreset_mode]
        model = dreamt_model(world_model, device, task)
        self.task, self.picture = model.config.task, model.config.picture
        self.metadata = {**self.metadata, "render_fps": self.task.fps, "autoreset_mode": self.autoreset_mode}
        self.dream = Dream(model, num_envs, temperature, sampling, starts, disagreement_penalty, disagreement_limit)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.max_episode_steps = np.inf if unlimited else max_episode_steps
        self.single_observation_space = latent_space(model.config.observation_size)
        self.single_action_space = self.task.actions.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeds = [-1] * num_envs
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._over = np.zeros(num_envs, dtype=bool)
        self._begun = np.zeros(num_envs, dtype=bool)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each lane's random stream."""
        return tuple(self.dream.rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each lane's random stream, -1 where it has none: before a reset with one, and from a state."""
        return tuple(self._seeds)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begin new dreams in all lanes or in those of the mask.

        Raises:
            TypeError: for options that are no dict, and a mask that is no boolean array.
            ValueError: for seeds, a mask, starts or a state that do not fit the lanes; nothing has changed then.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        options = check_options(options, "start", "state", "reset_mask")
        mask = self._check_mask(options["reset_mask"])
        start, state = check_beginning(options)
        lanes = np.flatnonzero(mask)
        if start is not None:
            if np.ndim(start) > 0 and np.shape(start) != (self.num_envs,):
                raise ValueError(f"options['start'] must be one index or ({self.num_envs},), got {np.shape(start)}")
            start = np.broadcast_to(start, self.num_envs)[lanes]
        if state is not None:
            state.check(self.dream.get_state([0]), self.dream.reward.goal)
            if len(state) not in (1, self.num_envs):
                raise ValueError(f"options['state'] must have 1 or {self.num_envs} lanes, got {len(state)}")
            state = state[np.zeros_like(lanes) if len(state) == 1 else lanes]
        seeds = self._lane_seeds(seed, lanes)
        streams = [None if each is None else seeding.np_random(each)[0] for each in seeds]
        self.dream.reset(lanes, streams, start, state)
        for lane, each in zip(lanes, seeds, strict=True):
            if each is not None or state is not None:
                self._seeds[lane] = -1 if each is None else each
        self._steps[mask], self._over[mask] = 0, False
        self._begun |= mask
        return self.dream.observation, {}

    def step(self, actions: Any) -> tuple[FloatArray, npt.NDArray[np.float64], BoolArray, BoolArray, dict[str, Any]]:
        """Dream one step in every lane.

        Raises:
            ValueError: for an action outside the space; nothing has happened then.
            gymnasium.error.ResetNeeded: before every lane's first `reset`, and with autoreset disabled while a lane is
                over.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        actions = check_action(actions, self.action_space)
        self._check_open()
        if not self._begun.all():
            raise ResetNeeded(f"call reset() before step(): lanes {np.flatnonzero(~self._begun).tolist()} never began")
        resetting = self._over
        if self.autoreset_mode == AutoresetMode.DISABLED and resetting.any():
            raise ResetNeeded(
                f"the episodes of lanes {np.flatnonzero(resetting).tolist()} are over: "
                'reset them with reset(options={"reset_mask": mask}) before the next step'
            )
        running = ~resetting if resetting.any() else None  # NEXT_STEP: lanes that are over reset instead
        reward, ended, finished = self.dream.step(self.task.actions.encode(actions), running)
        doubted, disagreement = self.dream.doubted, self.dream.disagreement
        self._steps += 1
        if running is not None:
            self._restart(resetting)
            reward, ended, finished = reward * running, ended & running, finished & running
            doubted &= running
        terminated = ended | finished
        truncated = (self._steps >= self.max_episode_steps) | doubted
        self._over = terminated | truncated
        infos: dict[str, Any] = {}
        if disagreement is not None:
            told = np.ones(self.num_envs, dtype=bool) if running is None else running
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                told = told & ~self._over  # what they are told is final
            if told.any():
                infos = {"disagreement": np.where(told, disagreement, 0.0), "_disagreement": told}
        observation = self.dream.observation
        if self._over.any():
            for lane in np.flatnonzero(self._over):
                info: dict[str, Any] = {}
                if terminated[lane] and self.task.finished and self.dream.reward.goal is not None:
                    info = {self.task.finished: bool(finished[lane])}
                if self.autoreset_mode == AutoresetMode.SAME_STEP:
                    if disagreement is not None:
                        info["disagreement"] = float(disagreement[lane])
                    info = {"final_obs": observation[lane], "final_info": info}
                infos = self._add_info(infos, info, int(lane))
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                self._restart(self._over)
                observation = self.dream.observation
        return observation, reward, terminated, truncated, infos

    def get_state(self) -> DreamState:
        """Return the present moments of all lanes, to continue from with ``reset(options={"state": ...})``.

        Raises:
            gymnasium.error.ResetNeeded: before every lane's first `reset`.
        """
        check_running(bool(self._begun.all()))
        return self.dream.get_state()

    def render(self) -> tuple[npt.NDArray[np.uint8], ...] | None:  # type: ignore[override]
        """Decode every lane's latent, for "rgb_array"."""
        if self.render_mode is None:
            gym.logger.warn('render() needs a render mode: gym.make_vec(..., render_mode="rgb_array")')
            return None
        return tuple(enlarge(frame, self.picture) for frame in self.dream.frames())

    def _restart(self, mask: BoolArray) -> None:
        """Begin new dreams in some lanes, with their own streams."""
        lanes = np.flatnonzero(mask)
        self.dream.reset(lanes)
        self._steps[lanes], self._over[lanes] = 0, False

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this vector env was closed: make a new one")

    def _check_mask(self, mask: Any) -> BoolArray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] must be a boolean numpy array, got {mask!r}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask'] must be ({self.num_envs},) with a lane to reset, got {mask}")
        return mask

    def _lane_seeds(self, seed: int | Sequence[int | None] | None, lanes: npt.NDArray[np.int64]) -> list[int | None]:
        """Return the seeds of some lanes; None where a lane keeps its random stream."""
        if seed is None:
            return [None] * len(lanes)
        if isinstance(seed, (int, np.integer)):
            seeds: list[Any] = [int(seed) + lane for lane in range(self.num_envs)]
        elif isinstance(seed, Sequence) or (isinstance(seed, np.ndarray) and seed.ndim):
            seeds = list(seed)
        else:
            raise ValueError(f"expected one seed or a list of {self.num_envs}, got {seed!r}")
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, one a lane, got {len(seeds)}")
        if not all(value is None or (isinstance(value, (int, np.integer)) and value >= 0) for value in seeds):
            raise ValueError(f"seeds are whole numbers from 0, or None to keep a lane's stream, got {seed}")
        return [None if seeds[lane] is None else int(seeds[lane]) for lane in lanes]
