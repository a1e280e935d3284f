"""A moment of dreams, to go on from or to branch."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wm_gym.models.memory import State, select

NOISE_BLOCK = 32
"""Steps of noise that a lane draws at once."""

GOAL_TOLERANCE = 1e-3
"""A goal is reached within this much: the sum of the gains is one of float32."""

STATE_LIMIT = 1e6
"""The greatest size of a number in a state that a dream goes on from: the networks' sums over it stay finite."""


@dataclass(frozen=True, eq=False)
class DreamState:
    """A moment of one or more lanes, from which a dream can be continued or branched.

    Attributes:
        z: present latents, ``(N, Z)``.
        memory: the memory's state, each part ``(N, ...)``; of a dream that asks doubters, theirs after it.
        gained: sum of the gains paid for so far where there is a goal, 0 elsewhere, ``(N,)``.
        rngs: each lane's random stream.
        noise: the block of noise that each lane drew from it, ``(N, NOISE_BLOCK, 2 Z + 1)``.
        cursor: the next unused row of each block, ``(N,)``.
    """

    z: Tensor
    memory: State
    gained: npt.NDArray[np.float32]
    rngs: list[np.random.Generator]
    noise: npt.NDArray[np.float32]
    cursor: npt.NDArray[np.int64]

    @classmethod
    def of(cls, z: Tensor, memory: State, gained: float, rng: np.random.Generator) -> DreamState:
        """Return one lane's moment: z ``(1, Z)``, the memory's state ``(1, ...)``, gains so far, a random stream."""
        noise = np.zeros((1, NOISE_BLOCK, 2 * z.shape[1] + 1), dtype=np.float32)
        return cls(z, memory, np.array([gained], np.float32), [rng], noise, np.array([NOISE_BLOCK]))

    def __len__(self) -> int:
        return len(self.rngs)

    def arrays(self) -> dict[str, Tensor | npt.NDArray]:
        """Return everything but the random streams, by name; the lane is each array's first dimension."""
        memory = {f"memory[{i}]": part for i, part in enumerate(self.memory)}
        return {"z": self.z, **memory, "gained": self.gained, "noise": self.noise, "cursor": self.cursor}

    def __getitem__(self, lanes: int | Sequence[int] | npt.NDArray[np.int64] | slice) -> DreamState:
        """Return a copy of some lanes' moments, or of one's."""
        index = np.atleast_1d(np.arange(len(self))[lanes])
        rows = torch.from_numpy(index)
        return DreamState(
            z=self.z[rows],
            memory=select(self.memory, rows),
            gained=self.gained[index],
            rngs=[deepcopy(self.rngs[i]) for i in index],
            noise=self.noise[index],
            cursor=self.cursor[index],
        )

    def check(self, like: DreamState, goal: float | None) -> None:
        """Raise ValueError unless parts, dtypes, shapes and ranges are those of a state of the same dreams.

        Args:
            like: a state of these dreams, of any number of lanes.
            goal: of their gains, if there is one.
        """
        if not isinstance(self.rngs, list) or not all(isinstance(rng, np.random.Generator) for rng in self.rngs):
            raise ValueError(f"state.rngs must be a list of numpy's random generators, got {self.rngs!r}")
        if not isinstance(self.memory, tuple) or len(self.memory) != len(like.memory):
            got = f"{len(self.memory)}" if isinstance(self.memory, tuple) else repr(self.memory)
            raise ValueError(
                f"state.memory must be a tuple of {len(like.memory)} tensors, got {got}; a dream that doubters follow "
                "goes on from states of such dreams alone, and no other dream does"
            )
        greatest = {"gained": 0.0 if goal is None else goal + GOAL_TOLERANCE, "cursor": NOISE_BLOCK}
        mine = self.arrays()
        for name, its in like.arrays().items():
            found, shape, most = mine[name], (len(self), *its.shape[1:]), greatest.get(name, STATE_LIMIT)
            least = 0 if name in greatest else -most
            if not isinstance(found, type(its)) or found.dtype != its.dtype or tuple(found.shape) != shape:
                got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, (Tensor, np.ndarray)) else repr(found)
                raise ValueError(f"state.{name} must be a {type(its).__name__}, {its.dtype} {shape}, got {got}")
            if not ((found >= least) & (found <= most)).all():  # NaN is not
                raise ValueError(f"state.{name} must hold numbers from {least:g} to {most:g}, got {found}")
