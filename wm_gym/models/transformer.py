"""M: a causal Transformer with the heads of the MDN-RNN, which remembers a window of steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.models.memory import Memory, MemoryConfig, State

MOST_LAYERS = 64
"""Layers that a config may ask for."""


@dataclass(frozen=True)
class TransformerConfig(MemoryConfig):
    """Sizes of the Transformer; by default it has as many parameters as the default MDN-RNN.

    Attributes:
        width: of the residual stream.
        layers: of attention and feed-forward network.
        attention_heads: queries of a step in each layer.
        context: steps that a layer attends to, the present one among them.
    """

    width: int = 112
    layers: int = 2
    attention_heads: int = 4
    context: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers is {self.layers}, expected at most {MOST_LAYERS}")
        if self.width % self.attention_heads:
            raise ValueError(f"a width of {self.width} can't be shared by {self.attention_heads} attention_heads")

    @property
    def entry_size(self) -> int:
        """Length of what a layer's cache keeps of a step: a key and a value."""
        return 2 * self.width // self.attention_heads

    @property
    def lane_size(self) -> int:
        """Values that a step keeps and makes for a lane: h, caches, and one layer's attention and feed-forward."""
        cached = self.layers * (self.context - 1) * self.entry_size
        return self.hidden_size + cached + self.attention_heads * self.context + 4 * self.width


class Layer(nn.Module):
    """Attention to the last steps, then a feed-forward network, each after a LayerNorm.

    All heads share one key and one value (multi-query attention, Shazeer 2019), so that the caches of a thousand
    dreams are small. What a key's age adds to its score is learned, for each head; nothing else tells positions.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width + config.entry_size)  # queries, key and value
        self.mix = nn.Linear(width, width)
        self.recency = nn.Parameter(torch.zeros(config.attention_heads, config.context))  # the oldest key first
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Take x ``(N, T, width)`` and the W - 1 entries before it: x and the last W - 1 entries."""
        steps, heads = x.shape[1], self.config.attention_heads
        queries, entries = self.project(self.norm(x)).split([self.config.width, self.config.entry_size], dim=-1)
        entries = torch.cat([cache, entries], dim=1)  # (N, S, ...), S = W - 1 + T
        keys, values = entries.chunk(2, dim=-1)
        queries = queries.reshape(len(x), steps * heads, keys.shape[-1]) * keys.shape[-1] ** -0.5
        scores = (queries @ keys.mT).unflatten(1, (steps, heads)) + self._bias(steps)
        mixed = scores.softmax(-1).flatten(1, 2) @ values  # (N, T · heads, width / heads)
        x = x + self.mix(mixed.reshape(x.shape))
        return x + self.feedforward(x), entries[:, steps:]

    def _bias(self, steps: int) -> Tensor:
        """Return what is added to scores, ``(T, heads, S)``: each step sees W entries, up to its own."""
        padded = F.pad(self.recency, (steps - 1, steps - 1), value=-torch.inf)
        return padded.unfold(-1, self.config.context - 1 + steps, 1).flip(1).transpose(0, 1)


class Transformer(Memory):
    """Causal Transformer with heads for the next latent's mixture, the expected gain and the end.

    The state is h ``(N, H)`` and, for each layer, a key-value cache of the W - 1 steps before the next one
    ``(N, W - 1, entry_size)``; steps before the first are zeros. Each layer sees a window of the layer below, so it
    remembers layers · (W - 1) steps. In training the caches that a chunk hands on are the context of the next one
    (Dai et al. 2019). See `wm_gym.models.memory.Memory` for the methods' contracts.
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig = TransformerConfig()) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.latent_size + config.action_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.summary = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.hidden_size))
        self.heads = nn.Linear(config.hidden_size, config.outputs)

    def initial_state(self, lanes: int) -> State:
        """Return h = 0 and empty caches for each lane."""
        zeros, config = self.heads.weight.new_zeros, self.config
        caches = (zeros(lanes, config.context - 1, config.entry_size) for _ in self.layers)
        return zeros(lanes, config.hidden_size), *caches

    def step(self, z: Tensor, action: Tensor, state: State) -> State:
        """Advance each lane by one step with the weights that `unroll` uses."""
        return self._advance(torch.cat([z, action], dim=-1).unsqueeze(1), state)[1]

    def unroll(self, z: Tensor, actions: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance over whole sequences, a window at a time: their time and memory grow with T, not with T²."""
        hidden = []
        for inputs in torch.cat([z, actions], dim=-1).split(self.config.context, dim=1):
            h, state = self._advance(inputs, state)
            hidden.append(h)
        return torch.cat(hidden, dim=1), state

    def _advance(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance over z and actions ``(N, T, Z + A)``: h ``(N, T, H)`` and the last state."""
        x, caches = self.embed(inputs), []
        for layer, cache in zip(self.layers, state[1:], strict=True):
            x, cache = layer(x, cache)
            caches.append(cache)
        h = self.summary(x).tanh()
        return h, (h[:, -1], *caches)
