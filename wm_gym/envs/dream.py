"""The dream as a Gymnasium env, such as ``DreamCarRacing-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from wm_gym.actions import check_action
from wm_gym.artifact import ArtifactError
from wm_gym.checks import check_options, check_render_mode, check_running
from wm_gym.dream import Dream, Dreaming
from wm_gym.dream_state import DreamState
from wm_gym.envs.rendering import Window, enlarge
from wm_gym.world_model import WorldModel
from wm_gym.wrappers import latent_space


def dreamt_model(name: str, device: str, task: str | None) -> WorldModel:
    """Return the world model to dream of, by a bundled name, from a folder or from the Hub.

    Args:
        name: of the world model.
        device: where it goes.
        task: id of the real env that it must be of; None for any.

    Raises:
        wm_gym.ArtifactError: for whatever is wrong with it, or when it is of another env.
    """
    model = WorldModel.from_pretrained(name, device)
    if task is not None and model.config.task.env != task:
        raise ArtifactError(f"{name}: a world model of {model.config.task.env}, expected one of {task}")
    return model


class DreamEnv(Dreaming, gym.Env):
    """A task as a learned world model dreams it: ``DreamCarRacing-v0``, and whatever `wm_gym.register_dream` registers.

    ## Description
    Every step is one step of the memory (the bundled one is an MDN-RNN): no physics, no pixels. Spaces and episode
    rules are those of the real counterpart (``LatentCarRacing-v0``), so an agent trained in one runs in the other.
    What is CarRacing's own is told in `wm_gym.car_racing`.

    ## Action Space
    The real env's, as the artifact's config has it: a flat, bounded Box, of which any real dtype is taken, or Discrete.
    A value outside is a ValueError that names it, and nothing happens.

    ## Observation Space
    ``Box(-inf, inf, (Z + H,), float32)``: the latent z and the memory's hidden h; 32 + 256 values in the bundled model.
    h lies between -1 and 1. z is drawn and never clipped: the memory reads it through gates that saturate, so wherever
    a z lies, the next one is drawn near real latents again. Those that the bundled model keeps lie within ±6.6; at
    temperatures up to 3 its dreams stay within twice that.

    ## Rewards
    The gain that the memory expects of the step, times the config's scale, plus what the config pays for each step; or
    what it pays for the step that ends the episode, if that is always the same. The reward is an expectation: neither
    temperature nor sampling changes it. In CarRacing gains are tiles (1000 / N each, of the mean track's N), a step
    pays -0.1, and the step that leaves the playfield -100.
    ``disagreement_penalty`` makes each step cost that times its disagreement, see "Information" (pessimism, as in MOPO,
    Yu et al. 2020): agents then keep to what the data told.

    ## Starting State
    A real moment that the world model keeps, drawn with the seed: an episode's first frame with h = 0, or, with
    ``starts="any"``, also the middle of a drive, for which the memory is first run over the real frames before it.
    ``reset(options={"start": i})`` picks one; ``reset(options={"state": s})`` continues from ``get_state()``: with the
    state's own random stream, or, given a ``seed``, into another future. The time limit then starts afresh. A state of
    other shapes or types is refused, and one with numbers that no dream comes to: NaN, beyond ±1e6, beyond the goal.
    One that was taken after a failure goes on beyond it; after the goal, it ends again with its first step.

    ## Episode Termination
    When the world model draws an end, or when the gains of the dream reach the config's goal, if it has one. In
    CarRacing the first is a car that left the playfield (``info["lap_finished"]`` is False), the second a lap (True).
    The time limit is registered: the real env's.
    An episode is also truncated at a step whose disagreement exceeds ``disagreement_limit``, if one is given: the task
    goes on there, but the model knows too little of it.

    ## Information
    At the end of an episode whether the goal was reached, if there is one, under the real env's key (CarRacing's is
    ``lap_finished``). At each step ``disagreement``, where a penalty or a limit is given and the world model has
    doubters, and always where its memory is an ensemble: how far apart the memories are, as the variance of their means
    of the next latent in units of the variance that they expect themselves (see `wm_gym.models.memory.disagreement`).
    States of dreams that doubters follow hold theirs too: they fit such dreams alone.

    ## Arguments
    * ``world_model``: bundled name, folder, or user/name on the Hugging Face Hub.
    * ``task``: id of the real env that the world model must be of; None, the default, for any.
    * ``temperature``: τ of the latent mixture, from 0.001 to 1000; above 1, dreams are less certain. Also an attribute,
      which can be set at any time: ``env.unwrapped.temperature = 1.5``.
    * ``sampling``: "sample", or "mode" for the deterministic dream: the mean of the likeliest Gaussian, and an end
      where its probability exceeds 0.5. An attribute, too.
    * ``starts``: "episode" or "any".
    * ``disagreement_penalty``: λ; the reward of a step is less by λ · disagreement. 0 by default.
    * ``disagreement_limit``: truncates an episode where the disagreement exceeds it; None, the default, for never, and
      inf to be told of the disagreement alone. A doubter takes as long as the dream.
    * ``render_mode``: "rgb_array" decodes z through the VAE; "human" shows it in a window in real time.
    * ``device``: where the dream runs.

    ```python
    import gymnasium as gym, wm_gym
    env = gym.make("DreamCarRacing-v0", temperature=1.1)
    ```

    ## Version History
    * v0: first.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012 (as Env)

    def __init__(
        self,
        world_model: str,
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
        model = dreamt_model(world_model, device, task)
        self.dream = Dream(model, 1, temperature, sampling, starts, disagreement_penalty, disagreement_limit)
        self.task, self.picture = model.config.task, model.config.picture
        self.metadata = {**self.metadata, "render_fps": self.task.fps}
        self.observation_space = latent_space(model.config.observation_size)
        self.action_space = self.task.actions.space
        self.render_mode = render_mode
        self._begun = self._running = False
        self._window: Window | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin a new dream; see "Starting State" for the options.

        Raises:
            TypeError: for options that are no dict.
            ValueError: for an unknown option, a start that does not exist, a state that can't be, or both.
            gymnasium.error.Error: for a seed that is no whole number from 0.
        """
        start, state = check_beginning(check_options(options, "start", "state"))
        if start is not None and np.ndim(start) != 0:
            raise ValueError(f"options['start'] must be one whole number, got {start!r}")
        lane, starts = np.array([0]), None if start is None else np.array([start])
        self.dream.check_reset(lane, starts, state)
        super().reset(seed=seed)
        continues = state is not None and seed is None
        # the lane's random stream is the env's np_random, whoever set it
        self.dream.reset(lane, [None if continues else self.np_random], starts, state)
        if continues:
            self.np_random = self.dream.rngs[0]
        self._begun = self._running = True
        if self.render_mode == "human":
            self.render()
        return self.dream.observation[0], {}

    def step(self, action: Any) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Dream one step.

        Raises:
            ValueError: for an action outside the space; nothing has happened then.
            gymnasium.error.ResetNeeded: before `reset`, after the end of an episode, and after `close`.
        """
        action = check_action(action, self.action_space)
        check_running(self._running)
        reward, ended, finished = self.dream.step(self.task.actions.encode(action)[None])
        terminated, truncated = bool(ended[0] or finished[0]), bool(self.dream.doubted[0])
        self._running = not (terminated or truncated)
        if self.render_mode == "human":
            self.render()
        told = self.task.finished if terminated and self.dream.reward.goal is not None else None
        info: dict[str, Any] = {told: bool(finished[0])} if told else {}
        if self.dream.disagreement is not None:
            info["disagreement"] = float(self.dream.disagreement[0])
        return self.dream.observation[0], float(reward[0]), terminated, truncated, info

    def get_state(self) -> DreamState:
        """Return the present moment, to continue from with ``reset(options={"state": ...})``.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        check_running(self._begun)
        return self.dream.get_state()

    def render(self) -> npt.NDArray[np.uint8] | None:  # type: ignore[override]
        """Decode the present latent: returned for "rgb_array", shown for "human"."""
        if self.render_mode is None:
            gym.logger.warn('render() needs a render mode, such as gym.make(..., render_mode="rgb_array")')
            return None
        frame = enlarge(self.dream.frames()[0], self.picture)
        if self.render_mode == "rgb_array":
            return frame
        self._window = self._window or Window(f"a dream of {self.task.env}", self.task.fps)
        self._window.show(frame)
        return None

    def close(self) -> None:
        """End the episode, and close the window, if there is one; `reset` begins again."""
        self._running = False
        if self._window is not None:
            self._window.close()
            self._window = None


def check_beginning(options: dict[str, Any]) -> tuple[Any, DreamState | None]:
    """Return the start and the state that the options of `reset` ask for.

    Raises:
        ValueError: for another type, or both at once.
    """
    start, state = options["start"], options["state"]
    if start is not None and state is not None:
        raise ValueError("options 'start' and 'state' exclude each other")
    if start is not None:
        try:
            whole = np.asarray(start).dtype.kind in "iu"
        except (ValueError, TypeError, RuntimeError):  # ragged lists; tensors elsewhere or with a gradient
            whole = False
        if not whole:
            raise ValueError(f"options['start'] must hold whole numbers, got {start!r}")
    if state is not None and not isinstance(state, DreamState):
        raise ValueError(f"options['state'] must come from get_state(), got {type(state).__name__}")
    return start, state
