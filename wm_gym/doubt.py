"""What dreams pay for doubt: further memories, which take the same steps and may predict others next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wm_gym.models.memory import Memory, Prediction, State, disagreement, mixture_moments


class Doubters:
    """Memories that take each step of a dream, z and action, but z is never drawn from what they predict.

    Where their predictions differ from those of the memory that dreams, the data did not say what happens.

    Their state is one tuple, one memory's parts after another's.

    Args:
        memories: of one kind and size.
    """

    def __init__(self, memories: Sequence[Memory]) -> None:
        self.memories = tuple(memories)

    def initial_state(self, lanes: int) -> State:
        """Return their state before any frame; of no doubters it is ``()``."""
        return tuple(part for memory in self.memories for part in memory.initial_state(lanes))

    def step(self, z: Tensor, action: Tensor, state: State) -> State:
        """Advance them by what was dreamt and done: z ``(N, Z)``, action ``(N, A)``."""
        pairs = zip(self.memories, self._each(state), strict=True)
        return tuple(part for memory, its in pairs for part in memory.step(z, action, its))

    def disagreement(self, prediction: Prediction, state: State) -> Tensor:
        """Return how far they are apart from the prediction that z is dreamt from and from each other, ``(N,)``."""
        pairs = zip(self.memories, self._each(state), strict=True)
        theirs = (memory.predict(memory.hidden(its)) for memory, its in pairs)
        means, variances = zip(*map(mixture_moments, (prediction, *theirs)), strict=True)
        return disagreement(torch.stack(means), torch.stack(variances))

    def _each(self, state: State) -> list[State]:
        parts = len(state) // len(self.memories) if self.memories else 1
        return [state[i : i + parts] for i in range(0, len(state), parts)]
