"""M: an LSTM with a mixture density output (Ha & Schmidhuber 2018, section 2.2 and appendix A.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wm_gym.models.memory import Memory, MemoryConfig, State


@dataclass(frozen=True)
class MDNRNNConfig(MemoryConfig):
    """Sizes of the MDN-RNN: those that every memory has."""


class MDNRNN(Memory):
    """LSTM memory with heads for the next latent's mixture, the expected gain and the end.

    The state is ``(h, c)``, each ``(N, H)``. See `wm_gym.models.memory.Memory` for the methods' contracts.
    """

    config: MDNRNNConfig

    def __init__(self, config: MDNRNNConfig = MDNRNNConfig()) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(config.latent_size + config.action_size, config.hidden_size, batch_first=True)
        self.heads = nn.Linear(config.hidden_size, config.outputs)

    def initial_state(self, lanes: int) -> State:
        """Return h = c = 0 for each lane."""
        zeros = self.heads.weight.new_zeros(lanes, self.config.hidden_size)
        return zeros, zeros.clone()

    def step(self, z: Tensor, action: Tensor, state: State) -> State:
        """Advance each lane by one step with the weights that `unroll` uses."""
        h, c = torch.lstm_cell(torch.cat([z, action], dim=-1), state, *self.lstm.all_weights[0])
        return h, c

    def unroll(self, z: Tensor, actions: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance over whole sequences and return every hidden vector and the last state."""
        h, c = state
        hidden, (h, c) = self.lstm(torch.cat([z, actions], dim=-1), (h.unsqueeze(0), c.unsqueeze(0)))
        return hidden, (h.squeeze(0), c.squeeze(0))
