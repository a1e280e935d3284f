"""C: the linear controller on [z, h] (Ha & Schmidhuber 2018, section 2.3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from wm_gym import artifact
from wm_gym.actions import ActionConfig
from wm_gym.policies import PolicyState


@dataclass(frozen=True)
class ControllerConfig:
    """Sizes and bounds of a controller.

    Attributes:
        observation_size: length of [z, h].
        low: lower bound of each action.
        high: upper bound of each action.
        training: how it was trained, JSON-able; kept with the weights.
        discrete: whether it chooses one of the actions, see `wm_gym.actions.ActionConfig`.
        world_model: fingerprint of the world model whose [z, h] it knows; "" where that can't be told.
    """

    observation_size: int = 288
    low: tuple[float, ...] = (-1.0, 0.0, 0.0)
    high: tuple[float, ...] = (1.0, 1.0, 1.0)
    training: dict[str, Any] = field(default_factory=dict)
    discrete: bool = False
    world_model: str = ""

    def __post_init__(self) -> None:
        artifact.check_sizes(self, "observation_size")
        if not isinstance(self.world_model, str):
            raise TypeError(f"world_model is a fingerprint, got {self.world_model!r}")
        self.actions  # noqa: B018 (raises for bounds that can't be)

    @classmethod
    def for_spaces(cls, observation_space: gym.Space, action_space: gym.Space) -> ControllerConfig:
        """Return the config of a controller for an env.

        Raises:
            ValueError: unless observations are flat vectors, and actions are what `ActionConfig.of` takes.
        """
        if not isinstance(observation_space, Box) or len(observation_space.shape) != 1:
            raise ValueError(f"a controller needs a flat Box of observations, got {observation_space}")
        actions = ActionConfig.of(action_space)
        return cls(observation_space.shape[0], actions.low, actions.high, discrete=actions.discrete)

    @property
    def actions(self) -> ActionConfig:
        """What it acts in."""
        return ActionConfig(self.low, self.high, self.discrete)

    @property
    def action_size(self) -> int:
        """Length of an action as networks see it: outputs of C."""
        return len(self.low)

    @property
    def parameters(self) -> int:
        """Number of weights and biases of one controller."""
        return self.action_size * (self.observation_size + 1)


class Controller:
    """One linear layer, squashed into the action space: a = clip(s · tanh(W [z, h] + b), low, high).

    s is the larger of |low| and |high|. Zero weights are a zero action: the car coasts. Among choices it takes the one
    whose row of W [z, h] + b is the greatest.

    A population has a leading dimension on its parameters, one member per lane: it acts on batches of that many
    observations, each lane with its own weights.

    Args:
        parameters: ``(P,)`` or, for a population, ``(M, P)``: the rows [W, b] of each action, flat.
        config: sizes and bounds.

    Raises:
        ValueError: when the parameters do not fit the config.
    """

    def __init__(
        self, parameters: npt.NDArray[np.floating] | None = None, config: ControllerConfig = ControllerConfig()
    ) -> None:
        if parameters is None:
            parameters = np.zeros(config.parameters)
        parameters = np.asarray(parameters, dtype=np.float32)
        if parameters.ndim not in (1, 2) or parameters.shape[-1] != config.parameters:
            raise ValueError(
                f"expected ({config.parameters},) or (M, {config.parameters}), got {parameters.shape}: the rows [W, b] "
                "of all actions, flat"
            )
        self.parameters, self.config = parameters, config
        rows = parameters.reshape(*parameters.shape[:-1], config.action_size, config.observation_size + 1)
        self.weight, self.bias = rows[..., :-1], rows[..., -1]
        self.low, self.high = np.array(config.low, np.float32), np.array(config.high, np.float32)
        self.scale = np.maximum(np.abs(self.low), np.abs(self.high))

    def predict(
        self,
        observation: np.ndarray,
        state: PolicyState = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PolicyState]:
        """Return the action for an observation ``(D,)``, or actions for a batch ``(N, D)``; see `Policy`."""
        observation = np.asarray(observation, dtype=np.float32)
        action = (self.weight @ observation[..., None])[..., 0] + self.bias
        if self.config.discrete:
            return action.argmax(axis=-1), state
        return np.clip(self.scale * np.tanh(action), self.low, self.high), state

    @property
    def world_model_fingerprint(self) -> str:
        """Fingerprint of the world model whose [z, h] it knows, or ""."""
        return self.config.world_model

    def member(self, index: int) -> Controller:
        """Return one controller of a population; ``index`` counts round and round."""
        return Controller(np.atleast_2d(self.parameters)[index % len(np.atleast_2d(self.parameters))], self.config)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and float32 ``controller.safetensors`` into a folder, replacing a controller there."""
        files = {"controller.safetensors": {"parameters": np.atleast_2d(self.parameters)}}
        artifact.write_folder(Path(folder), "controller", asdict(self.config), files)

    @classmethod
    def from_pretrained(cls, name: str | Path = "car_racing") -> Controller:
        """Load a bundled controller by name, one from a folder, or one of the Hugging Face Hub by "user/name".

        `WorldModel.push_to_hub` shares a controller with the world model whose latents it knows.

        Raises:
            wm_gym.ArtifactError: when there is none, or its files are not what they should be.
        """
        return artifact.read_whole(name, "controller", cls._read)

    @classmethod
    def _read(cls, folder: Path) -> Controller:
        fields = artifact.read_config(folder, "controller")
        try:
            config = ControllerConfig(
                observation_size=fields["observation_size"],
                low=tuple(fields["low"]),
                high=tuple(fields["high"]),
                training=fields["training"],
                discrete=fields.get("discrete", False),
                world_model=fields.get("world_model", ""),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise artifact.ArtifactError(f"{folder / 'config.json'}: bad or missing field: {error!r}") from error
        path, shapes = folder / "controller.safetensors", {"parameters": (None, config.parameters)}
        parameters = artifact.read_arrays(path, shapes)["parameters"]
        if not len(parameters):
            raise artifact.ArtifactError(f"{path}: holds no controller")
        return cls(parameters[0] if len(parameters) == 1 else parameters, config)
