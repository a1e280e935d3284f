"""The real moments that dreams start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wm_gym import artifact
from wm_gym.artifact import ArtifactError
from wm_gym.models.memory import Memory

if TYPE_CHECKING:
    from wm_gym.world_model import WorldModelConfig

LONGEST_WINDOW, MOST_STATES, MOST_PRODUCTS = 1 << 12, 1 << 23, 1 << 37
"""Of starts that are loaded: steps of a window, values of states in all, and multiplications that lead up to them.
Those of the bundled world model are 24, 356 thousand and 8 billion."""
COPYING = 64
"""What copying a value of a state costs, which each step does, in multiplications."""


@dataclass(frozen=True, eq=False)
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


def read_starts(path: Path, config: WorldModelConfig, memory: Memory, version: int) -> Starts:
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
    try:
        check_run_up(len(starts), steps, memory, config.doubters)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return starts


def check_run_up(starts: int, steps: int, memory: Memory, doubters: int) -> None:
    """Raise ValueError for more starts, of so many steps each, than a memory and its doubters may be run over."""
    lanes = max(starts, 32)  # fewer take as long
    weights, values = sum(weights.numel() for weights in memory.parameters()), memory.config.lane_size
    products = lanes * steps * (weights + COPYING * values)
    values, products = ((1 + doubters) * each for each in (values, products))
    if steps > LONGEST_WINDOW or starts * values > MOST_STATES or products > MOST_PRODUCTS:
        raise ValueError(f"{starts:,} starts of {steps:,} steps are too many to run this memory over")
