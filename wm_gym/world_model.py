"""The artifact: V, M, the real moments that dreams start from, and what must be known to use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from multiprocessing import current_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wm_gym import artifact
from wm_gym.artifact import ArtifactError
from wm_gym.car_racing import CAR_RACING, lap_reward
from wm_gym.frames import kept_size
from wm_gym.models.ensemble import EnsembleConfig
from wm_gym.models.kinds import make_memory, read_sizes, write_sizes
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.memory import Memory, MemoryConfig, State, put, select
from wm_gym.models.vae import VAE, VAEConfig
from wm_gym.reward import RewardConfig
from wm_gym.starts import Starts, check_run_up, read_starts
from wm_gym.tasks import TaskConfig
from wm_gym.weights import fill, fingerprint, to_arrays

if TYPE_CHECKING:
    from wm_gym.models.controller import Controller

LATENTS = ("mean", "sample")
"""What z is: the posterior's mean, or a sample of it."""
MOST_DOUBTERS = 3
"""With more of the largest that are read, loading a world model would take over 1 GiB."""


@dataclass(frozen=True)
class WorldModelConfig:
    """What must be known to use the weights.

    Attributes:
        frames: version of the frames that the VAE was trained on, see `wm_gym.frames`.
        latent: "mean" or "sample": which z the memory was trained on.
        vae: sizes of V.
        memory: sizes of M, whose class is M's kind.
        doubters: number of further memories of these sizes, up to `MOST_DOUBTERS`.
        reward: how the dream pays.
        task: the real env.
        training: how it was trained, on which seeds, and what was measured; JSON-able.
    """

    frames: str = "crop84"
    latent: str = "sample"
    vae: VAEConfig = field(default_factory=VAEConfig)
    memory: MemoryConfig = field(default_factory=MDNRNNConfig)
    doubters: int = 0
    reward: RewardConfig = field(default_factory=lap_reward)
    task: TaskConfig = CAR_RACING
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.picture  # noqa: B018 (raises for a version that is not for these frames)
        if type(self.doubters) is not int or not 0 <= self.doubters <= MOST_DOUBTERS:
            raise ValueError(f"doubters is {self.doubters!r}, expected a whole number from 0 to {MOST_DOUBTERS}")
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
    def doubted(self) -> bool:
        """Whether anything tells where its dreams can't be trusted: doubters, or an ensemble's members."""
        return self.doubters > 0 or isinstance(self.memory, EnsembleConfig)

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
            doubters=fields.get("doubters", 0),
            reward=artifact.build(RewardConfig, fields["reward"]),
            task=TaskConfig.from_dict(fields["task"]),
            training=fields["training"],
        )


def _from_format_1(fields: dict[str, Any]) -> dict[str, Any]:
    """Return JSON of today's format for that of CarRacing alone, whose memories count tiles and whose goal is a lap."""
    names = {"failure": "end", "lap_tiles": "goal"}
    reward = {names.get(name, name): value for name, value in dict(fields["reward"]).items()}
    return {**fields, "reward": reward, "memory": {**fields["memory"], "counts": True}, "task": asdict(CAR_RACING)}


class WorldModel:
    """V, M and starts with their config, ready for inference.

    Args:
        config: what they are.
        vae: V.
        memory: M.
        starts: what dreams start from.
        doubters: further memories, trained as M was but from other first weights. Dreams are M's alone; where these
            expect something else, no data told them the same, and the dream is no guide (see `wm_gym.doubt`).

    Raises:
        ValueError: for another number of doubters than the config's.
    """

    def __init__(
        self, config: WorldModelConfig, vae: VAE, memory: Memory, starts: Starts, doubters: Sequence[Memory] = ()
    ) -> None:
        if len(doubters) != config.doubters:
            raise ValueError(f"the config has {config.doubters} doubters, got {len(doubters)}")
        self.config, self.vae, self.memory, self.starts = config, vae.eval(), memory.eval(), starts
        self.doubters = tuple(each.eval() for each in doubters)
        for module in (vae, memory, *doubters):
            module.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.memory.parameters()).device

    @property
    def fingerprint(self) -> str:
        """A short hash of all weights of V and M: it tells whose latents an agent knows."""
        return fingerprint(self.vae, self.memory)

    def to(self, device: str | torch.device) -> WorldModel:
        """Move the weights and return self."""
        for cached in ("start_states", "doubter_states"):
            self.__dict__.pop(cached, None)
        self.vae.to(device)
        for memory in (self.memory, *self.doubters):
            memory.to(device)
        return self

    @cached_property
    def start_states(self) -> tuple[Tensor, State]:
        """What a dream begins with at each of the S starts: z ``(S, Z)`` and the memory's state, see `run_up`."""
        with torch.inference_mode():
            z = torch.from_numpy(self.starts.z).to(self.device)
            return z[torch.arange(len(z)), torch.from_numpy(self.starts.length).to(self.device)], self.run_up(
                self.memory
            )

    @cached_property
    def doubter_states(self) -> State:
        """The doubters' state at each of the S starts, as `wm_gym.doubt.Doubters` keep it; ``()`` of none."""
        return tuple(part for memory in self.doubters for part in self.run_up(memory))

    def run_up(self, memory: Memory) -> State:
        """Return a memory's state at each of the S starts.

        It is run over each start's window of real latents and actions; an episode's start has h = 0.
        """
        with torch.inference_mode():
            z, actions, length = (
                torch.from_numpy(array).to(self.device)
                for array in (self.starts.z, self.starts.actions, self.starts.length)
            )
            state = memory.initial_state(len(self.starts))
            for t in range(actions.shape[1]):
                running = torch.nonzero(t < length).squeeze(1)
                state = put(state, running, memory.step(z[running, t], actions[running, t], select(state, running)))
            return state

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and float16 weights into ``folder``, replacing a world model there.

        Raises:
            FileExistsError: for a folder of something else.
            ValueError: for what could not be loaded again.
        """
        check_run_up(len(self.starts), self.starts.actions.shape[1], self.memory, len(self.doubters))
        files = {
            "vae.safetensors": to_arrays(self.vae),
            "memory.safetensors": to_arrays(self.memory),
            **{_doubter(i): to_arrays(memory) for i, memory in enumerate(self.doubters)},
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
            FileExistsError: for a folder with a controller, which another world model would come beside.
            FileNotFoundError: when there is no folder ``results``.
            ImportError: without huggingface_hub, which the extra ``hub`` installs.
            ValueError: for what is neither a repository's name nor a folder, or a controller of other observations or
                another world model.
        """
        from wm_gym import hub

        return hub.push(to, self, controller, results, note, private)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> WorldModel:
        """Read an artifact from a folder, which may come from anyone: it takes seconds and less than 1 GiB at most.

        Raises:
            wm_gym.ArtifactError: for whatever is wrong with it, naming the file.
        """
        return artifact.read_whole(folder, "world_model", lambda found: cls._read(found, device))

    @classmethod
    def _read(cls, folder: Path, device: str | torch.device) -> WorldModel:
        fields = artifact.read_config(folder, "world_model")
        try:
            config = WorldModelConfig.from_dict(fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / 'config.json'}: bad or missing field: {error!r}") from error
        with torch.device("meta"):
            vae, memory = VAE(config.vae), make_memory(config.memory)
            doubters = [make_memory(config.memory) for _ in range(config.doubters)]
        fill(vae, folder / "vae.safetensors", device)
        fill(memory, folder / "memory.safetensors", device)
        for i, doubter in enumerate(doubters):
            fill(doubter, folder / _doubter(i), device)
        starts = read_starts(folder / "starts.safetensors", config, memory, fields["format_version"])
        return cls(config, vae, memory, starts, doubters)

    @classmethod
    def from_pretrained(cls, name: str | Path = "car_racing", device: str | torch.device = "cpu") -> WorldModel:
        """Return a bundled world model, one from a folder, or one of the Hugging Face Hub; loaded once per process.

        The returned object is shared: to change its weights, use `load`. In a vector env's worker process torch has one
        thread from then on.

        Args:
            name: bundled name, folder, or "user/name" of a repository, see `wm_gym.artifact.resolve`.
            device: where the weights go.

        Raises:
            wm_gym.ArtifactError: for whatever is wrong with it, naming the file.
            TypeError: for a name that is neither a string nor a path.
            ValueError: for a device that torch can't use here.
        """
        folder, stamp = artifact.read_whole(name, "world_model", lambda found: (found.resolve(), artifact.stamp(found)))
        if current_process().daemon:  # a vector env's worker: they share the cores, and torch's threads die in a fork
            torch.set_num_threads(1)
        try:
            torch.zeros(1, device=str(device)).cpu()
        except (AssertionError, RuntimeError) as error:  # torch's two ways to say no
            raise ValueError(f"device must be one that torch can use here, such as 'cpu', got {device!r}") from error
        return _load_once(folder, stamp, str(device))


@lru_cache(maxsize=8)
def _load_once(folder: Path, stamp: tuple[tuple[str, int, int], ...], device: str) -> WorldModel:
    return WorldModel.load(folder, device)


def _doubter(index: int) -> str:
    return f"doubter-{index + 1}.safetensors"
