"""M: an ensemble of MDN-RNNs, which knows where its members disagree (Lakshminarayanan et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.models.memory import Memory, MemoryConfig, Prediction, State, disagreement, read_heads


@dataclass(frozen=True)
class EnsembleConfig(MemoryConfig):
    """Sizes of the ensemble.

    Attributes:
        members: M LSTMs; each has its share of ``hidden_size``.
    """

    members: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members < 2 or self.hidden_size % self.members:
            raise ValueError(
                f"an ensemble has 2 members or more that share h alike, got {self.members} and {self.hidden_size}"
            )

    @property
    def member_size(self) -> int:
        """Length of a member's own h."""
        return self.hidden_size // self.members


class Layers(nn.Module):
    """A linear layer of each member, all computed as one batched product."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(members, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Take inputs of each member, ``(M, N, inputs)``, to outputs ``(M, N, outputs)``."""
        return torch.baddbmm(self.bias.unsqueeze(1), inputs, self.weight.mT)


class Ensemble(Memory):
    """M LSTMs from different first weights, each with its own heads, all of which see the same z and actions.

    h is the members' own, one after another, and the state is ``(h, c)``, each ``(N, M, H / M)``. The ensemble dreams
    the equal mixture of its members: for each latent dimension a mixture of M · K Gaussians, the mean of the gain,
    and the mean probability of an end. Each member is trained by its own errors.

    The members' disagreement is `wm_gym.models.memory.disagreement`; see `wm_gym.models.memory.Memory` for the methods'
    contracts.
    """

    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig = EnsembleConfig()) -> None:
        super().__init__()
        self.config, size = config, config.member_size
        self.gates = Layers(config.members, config.latent_size + config.action_size + size, 4 * size)
        self.heads = Layers(config.members, size, config.outputs)
        for weights in self.parameters():  # as in torch's LSTM and Linear
            nn.init.uniform_(weights, -(size**-0.5), size**-0.5)

    def initial_state(self, lanes: int) -> State:
        """Return h = c = 0 for each lane and member."""
        zeros = self.heads.weight.new_zeros(lanes, self.config.members, self.config.member_size)
        return zeros, zeros.clone()

    def step(self, z: Tensor, action: Tensor, state: State) -> State:
        """Advance each lane of each member by one step."""
        h, c = (part.transpose(0, 1) for part in state)  # (M, N, H / M)
        inputs = torch.cat([z, action], dim=-1).expand(len(h), -1, -1)
        gates = self.gates(torch.cat([inputs, h], dim=-1))
        entry, forget, output = gates[..., : -h.shape[-1]].sigmoid().chunk(3, dim=-1)
        c = forget * c + entry * gates[..., -h.shape[-1] :].tanh()
        return (output * c.tanh()).transpose(0, 1), c.transpose(0, 1)

    def unroll(self, z: Tensor, actions: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance over whole sequences, a step at a time."""
        hidden = []
        for t in range(z.shape[1]):
            state = self.step(z[:, t], actions[:, t], state)
            hidden.append(self.hidden(state))
        return torch.stack(hidden, dim=1), state

    def hidden(self, state: State) -> Tensor:
        """Return the members' h, one after another."""
        return state[0].flatten(1)

    def predict(self, hidden: Tensor) -> Prediction:
        """Return the equal mixture of the members, and how much they disagree."""
        each = self.members(hidden)
        # softmax, written out: torch's own takes longer over so few components than all the rest
        shifted = each.logits - each.logits.amax(-1, keepdim=True)
        odds = shifted.exp()
        total = odds.sum(-1, keepdim=True)
        weights = odds / total
        means = (weights * each.mu).sum(-1, keepdim=True)
        variances = (weights * ((2 * each.log_sigma).exp() + (each.mu - means).square())).sum(-1)
        logits, mu, log_sigma = (
            part.movedim(0, -2).flatten(-2) for part in (shifted - total.log(), each.mu, each.log_sigma)
        )
        ended, not_ended = (F.logsigmoid(sign * each.end_logit).logsumexp(0) for sign in (1, -1))
        doubt = disagreement(means.squeeze(-1), variances)
        return Prediction(logits, mu, log_sigma, each.gain.mean(0), ended - not_ended, doubt)

    def members(self, hidden: Tensor) -> Prediction:
        """Read each member's heads from its own part of h: predictions ``(M, ...)``."""
        count, size = self.config.members, self.config.member_size
        out = self.heads(hidden.reshape(-1, count, size).transpose(0, 1))
        return read_heads(out.reshape(count, *hidden.shape[:-1], -1), self.config)
