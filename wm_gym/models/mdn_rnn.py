"""M: an LSTM with a mixture density output (Ha & Schmidhuber 2018, section 2.2 and appendix A.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.artifact import check_sizes
from wm_gym.models.memory import Prediction, State


@dataclass(frozen=True)
class MDNRNNConfig:
    """Sizes of the MDN-RNN.

    Attributes:
        latent_size: length of z.
        action_size: length of an action.
        hidden_size: length of h.
        mixtures: Gaussians per latent dimension.
    """

    latent_size: int = 32
    action_size: int = 3
    hidden_size: int = 256
    mixtures: int = 5

    def __post_init__(self) -> None:
        check_sizes(self, "latent_size", "action_size", "hidden_size", "mixtures")


class MDNRNN(nn.Module):
    """LSTM memory with heads for the next latent's mixture, the expected tiles and the end.

    The state is ``(h, c)``, each ``(N, H)``. See `wm_gym.models.memory.Memory` for the methods' contracts.
    """

    def __init__(self, config: MDNRNNConfig = MDNRNNConfig()) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(config.latent_size + config.action_size, config.hidden_size, batch_first=True)
        # one product for all heads: the mixture's logits, mu and log σ, then the tiles and the end
        self.heads = nn.Linear(config.hidden_size, 3 * config.latent_size * config.mixtures + 2)

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

    def hidden(self, state: State) -> Tensor:
        """Return h."""
        return state[0]

    def predict(self, hidden: Tensor) -> Prediction:
        """Read all heads from h."""
        out, shape = self.heads(hidden), (3, self.config.latent_size, self.config.mixtures)
        logits, mu, log_sigma = out[..., :-2].unflatten(-1, shape).unbind(-3)
        return Prediction(
            logits=logits,
            mu=mu,
            log_sigma=log_sigma.clamp(-6, 3),
            tiles=F.softplus(out[..., -2]),
            end_logit=out[..., -1],
        )
