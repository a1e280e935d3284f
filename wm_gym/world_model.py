"""The artifact: V, M, the real moments that dreams start from, and what must be known to use them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wm_gym import artifact
from wm_gym.artifact import ArtifactError
from wm_gym.car_racing import CAR_RACING, lap_reward
from wm_gym.frames import kept_size
from wm_gym.models.kinds import AnyMemory, make_memory, read_sizes, write_sizes
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.memory import MemoryConfig, State, put, select
from wm_gym.models.vae import VAE, VAEConfig
from wm_gym.reward import RewardConfig
from wm_gym.tasks import TaskConfig

if TYPE_CHECKING:
    from wm_gym.models.controller import Controller

LATENTS = ("mean", "sample")
"""What z is: the posterior's mean, or a sample of it."""
LONGEST_WINDOW, MOST_STATES, MOST_PRODUCTS = 1 << 12, 1 << 23, 1 << 37
"""Of starts that are loaded: steps of a window, values of states in all, and multiplications that lead up to them.
Those of the bundled world model are 24, 356 thousand and 8 billion."""
COPYING = 64
"""Multiplications that take as long as a value of a state, which is copied at each step."""


@dataclass(frozen=True)
class WorldModelConfig:
    """What must be known to use the weights.

    Attributes:
        frames: version of the frames that the VAE was trained on, see `wm_gym.frames`.
        latent: "mean" or "sample": which z the memory was trained on.
        vae: sizes of V.
        memory: sizes of M, whose class is M's kind.
        reward: how the dream pays.
        task: the real env.
        training: how it was trained, on which seeds, and what was measured; JSON-able.
    """

    frames: str = "crop84"
    latent: str = "sample"
    vae: VAEConfig = field(default_factory=VAEConfig)
    memory: MemoryConfig = field(default_factory=MDNRNNConfig)
    reward: RewardConfig = field(default_factory=lap_reward)
    task: TaskConfig = CAR_RACING
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.picture  # noqa: B018 (raises for a version that is not for these frames)
        if self.latent not in LATENTS:
            raise ValueError(f"unknown latent {self.latent!r}: expected one of {LATENTS}")
        if self.vae.latent_size != self.memory.latent_size:
            raise ValueError(f"V has {self.vae.latent_size} latents, but M has {self.memory.latent_size}")
        if self.memory.action_size != self.task.actions.size:
            raise ValueError(
                f"action_size is {self.memory.action_size}, but {self.task.env} has {self.task.actions.size} actions"
            )
        if self.memory.counts != (self.reward.goal is not None):
            raise ValueError(f"gains are counts where there is a goal, got {self.memory} and {self.reward}")

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of what V sees of the real env's frame."""
        return kept_size(self.frames, self.task.frame)

    @property
    def observation_size(self) -> int:
        """Length of [z, h]."""
        return self.vae.latent_size + self.memory.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """Return JSON of it."""
        return asdict(self) | {"memory": write_sizes(self.memory)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> WorldModelConfig:
        """Build a config from JSON; raises KeyError, TypeError or ValueError for what does not fit."""
        if fields["format_version"] == 1:
            fields = _from_format_1(fields)
        vae = dict(fields["vae"])
        return cls(
            frames=fields["frames"],
            latent=fields["latent"],
            vae=artifact.build(VAEConfig, {**vae, "channels": tuple(vae["channels"])}),
            memory=read_sizes(fields["memory"]),
            reward=artifact.build(RewardConfig, fields["reward"]),
            task=TaskConfig.from_dict(fields["task"]),
            training=fields["training"],
        )


def _from_format_1(fields: dict[str, Any]) -> dict[str, Any]:
    """Return JSON of today's format for that of CarRacing alone, whose memories count tiles and whose goal is a lap."""
    names = {"failure": "end", "lap_tiles": "goal"}
    reward = {names.get(name, name): value for name, value in fields["reward"].items()}
    return {**fields, "reward": reward, "memory": {**fields["memory"], "counts": True}, "task": asdict(CAR_RACING)}


@dataclass(frozen=True)
class Starts:
    """Real moments that dreams start from: short windows of latents and actions that lead up to each.

    The memory is run over a window to give the state a dream starts from, so starts survive a retrained memory.

    Attributes:
        z: ``(S, W + 1, Z)``; the start's own latent is ``z[i, length[i]]``.
        actions: ``(S, W, A)``.
        length: ``(S,)``, steps of each window; 0 for the start of an episode, where h = 0.
        gained: ``(S,)``, sum of the gains before the start where there is a goal, 0 elsewhere.
    """

    z: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    length: npt.NDArray[np.int64]
    gained: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.length)


class WorldModel:
    """V, M and starts with their config, ready for inference.

    Args:
        config: what they are.
        vae: V.
        memory: M.
        starts: what dreams start from.
    """

    def __init__(self, config: WorldModelConfig, vae: VAE, memory: AnyMemory, starts: Starts) -> None:
        self.config, self.vae, self.memory, self.starts = config, vae.eval(), memory.eval(), starts
        for module in (vae, memory):
            module.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.memory.parameters()).device

    def to(self, device: str | torch.device) -> WorldModel:
        """Move the weights and return self."""
        self.__dict__.pop("start_states", None)
        self.vae.to(device)
        self.memory.to(device)
        return self

    @cached_property
    def start_states(self) -> tuple[Tensor, State]:
        """What a dream begins with at each of the S starts: z ``(S, Z)`` and the memory's state.

        The memory is run over each start's window of real latents and actions; an episode's start has h = 0.
        """
        with torch.inference_mode():
            z, actions, length = (
                torch.from_numpy(array).to(self.device)
                for array in (self.starts.z, self.starts.actions, self.starts.length)
            )
            state = self.memory.initial_state(len(self.starts))
            for t in range(actions.shape[1]):
                running = torch.nonzero(t < length).squeeze(1)
                state = put(
                    state, running, self.memory.step(z[running, t], actions[running, t], select(state, running))
                )
            return z[torch.arange(len(z)), length], state

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and float16 weights into ``folder``, replacing an artifact there."""
        files = {
            "vae.safetensors": _arrays(self.vae),
            "memory.safetensors": _arrays(self.memory),
            "starts.safetensors": {
                name: array.astype(np.float16) if array.dtype.kind == "f" else array
                for name, array in vars(self.starts).items()
            },
        }
        artifact.write_folder(Path(folder), "world_model", self.config.to_dict(), files)

    def push_to_hub(
        self,
        to: str | Path,
        controller: Controller | None = None,
        results: str | Path | None = None,
        note: str = "",
        private: bool | None = None,
    ) -> str:
        """Share this world model with its card, on the Hugging Face Hub or as a folder, for `from_pretrained`.

        Args:
            to: "user/name" of a repository, which is made if there is none, and whose world model and controller are
                replaced; or a folder, which is a `Path` or exists.
            controller: goes with it, into the same repository.
            results: folder of the benchmarks' JSON, for the card; figures that name another world model are left out.
            note: what else the card should say.
            private: whether a new repository is; None as the account has it.

        Returns:
            The commit's address, or the folder.

        Raises:
            ConnectionError: when the Hub can't be reached, or does not let us.
            FileNotFoundError: when there is no folder ``results``.
            ImportError: without huggingface_hub, which the extra ``hub`` installs.
            ValueError: for what is neither a repository's name nor a folder, or a controller of other observations.
        """
        from wm_gym import hub

        return hub.push(to, self, controller, results, note, private)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> WorldModel:
        """Read an artifact from a folder, which may come from anyone: it takes seconds and less than 1 GiB at most.

        Raises:
            wm_gym.ArtifactError: for whatever is wrong with it, naming the file.
        """
        folder = artifact.resolve(folder, "world_model")
        fields = artifact.read_config(folder, "world_model")
        try:
            config = WorldModelConfig.from_dict(fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / 'config.json'}: bad or missing field: {error!r}") from error
        with torch.device("meta"):
            vae, memory = VAE(config.vae), make_memory(config.memory)
        _fill(vae, folder / "vae.safetensors", device)
        _fill(memory, folder / "memory.safetensors", device)
        starts = _read_starts(folder / "starts.safetensors", config, memory, fields["format_version"])
        return cls(config, vae, memory, starts)

    @classmethod
    def from_pretrained(cls, name: str | Path = "car_racing", device: str | torch.device = "cpu") -> WorldModel:
        """Return a bundled world model, one from a folder, or one of the Hugging Face Hub; loaded once per process.

        The returned object is shared: to change its weights, use `load`.

        Args:
            name: bundled name, folder, or "user/name" of a repository, see `wm_gym.artifact.resolve`.
            device: where the weights go.

        Raises:
            wm_gym.ArtifactError: for whatever is wrong with it, naming the file.
            TypeError: for a name that is neither a string nor a path.
            ValueError: for a device that torch can't use here.
        """
        folder = artifact.resolve(name, "world_model").resolve()
        try:
            torch.zeros(1, device=str(device)).cpu()
        except (AssertionError, RuntimeError) as error:  # torch's two ways to say no
            raise ValueError(f"device must be one that torch can use here, such as 'cpu', got {device!r}") from error
        return _load_once(folder, artifact.stamp(folder), str(device))


@lru_cache(maxsize=8)
def _load_once(folder: Path, stamp: tuple[tuple[str, int, int], ...], device: str) -> WorldModel:
    return WorldModel.load(folder, device)


def _arrays(module: nn.Module) -> artifact.Arrays:
    return {name: tensor.detach().cpu().numpy().astype(np.float16) for name, tensor in module.state_dict().items()}


def _read_starts(path: Path, config: WorldModelConfig, memory: AnyMemory, version: int) -> Starts:
    """Read the starts, and check that dreams can begin at them with what they take."""
    z, a = config.vae.latent_size, config.memory.action_size
    gained = "gained" if version > 1 else "tiles"
    shapes = {"z": (None, None, z), "actions": (None, None, a), "length": (None,), gained: (None,)}
    arrays = artifact.read_arrays(path, shapes, integers=["length"])
    starts = Starts(**{"gained": arrays.pop(gained)}, **arrays)
    steps = starts.actions.shape[1]
    if (
        not {len(starts.z), len(starts.actions), len(starts.gained)} == {len(starts)}
        or starts.z.shape[1] != steps + 1
        or not ((starts.length >= 0) & (starts.length <= steps)).all()
        or not (starts.length == 0).any()
    ):
        raise ArtifactError(f"{path}: the windows' lengths do not fit together")
    goal = config.reward.goal or 0.0
    if not ((starts.gained >= 0) & (starts.gained <= goal * 1.001)).all():  # float16 rounds them by half of that
        raise ArtifactError(f"{path}: what was gained before a start is not from 0 to the goal's {goal}")
    lanes = max(len(starts), 32)  # fewer take as long
    weights, values = sum(weights.numel() for weights in memory.parameters()), config.memory.lane_size
    products = lanes * steps * (weights + COPYING * values)
    if steps > LONGEST_WINDOW or len(starts) * values > MOST_STATES or products > MOST_PRODUCTS:
        raise ArtifactError(f"{path}: {len(starts):,} starts of {steps:,} steps are too many to run this memory over")
    return starts


def _fill(module: nn.Module, path: Path, device: str | torch.device) -> None:
    """Give a module on the meta device the weights of a file."""
    arrays = artifact.read_arrays(path, {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
    module.to_empty(device=device)  # and not assigned below: weights keep their memory format
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
