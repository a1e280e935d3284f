"""The interface of M, a recurrent model of latents, whichever it is; and functions of the mixture that it predicts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.artifact import check_sizes

State = tuple[Tensor, ...]
"""A memory's state: tensors whose first dimension is the lane."""


@dataclass(frozen=True)
class MemoryConfig:
    """Sizes that every memory has.

    Attributes:
        latent_size: length of z.
        action_size: length of an action.
        hidden_size: length of h.
        mixtures: Gaussians per latent dimension.
        counts: whether gains are counts, and can't be below 0; they are real numbers otherwise.
    """

    latent_size: int = 32
    action_size: int = 3
    hidden_size: int = 256
    mixtures: int = 5
    counts: bool = True

    def __post_init__(self) -> None:
        check_sizes(self, *(field.name for field in fields(self) if field.name != "counts"))
        if type(self.counts) is not bool:
            raise ValueError(f"counts is {self.counts!r}, expected true or false")

    @property
    def outputs(self) -> int:
        """Length of what the heads give: logits, mu and log σ of the mixture, the gain and the end."""
        return 3 * self.latent_size * self.mixtures + 2

    @property
    def lane_size(self) -> int:
        """Values that a step keeps and makes for a lane, heads aside: h and c of an LSTM."""
        return 2 * self.hidden_size


class Prediction(NamedTuple):
    """What a memory expects of the step that its hidden state stands for.

    Attributes:
        logits: mixture logits of each latent dimension, ``(..., Z, K)``.
        mu: means of the components, ``(..., Z, K)``.
        log_sigma: log standard deviations of the components, ``(..., Z, K)``.
        gain: expected gain of the step, ``(...)``: the tiles that it visits in CarRacing.
        end_logit: logit of the probability that the step ends the episode, but for a goal, ``(...)``.
        disagreement: of an ensemble's members, ``(...)``; None of a lone memory.
    """

    logits: Tensor
    mu: Tensor
    log_sigma: Tensor
    gain: Tensor
    end_logit: Tensor
    disagreement: Tensor | None = None


class Memory(nn.Module):
    """A recurrent model of latents: ``(z_t, a_t, h_t) -> h_{t+1}``, which predicts ``z_{t+1}``, reward and end.

    Each kind has its own `initial_state`, `step` and `unroll`.

    Attributes:
        config: its sizes.
        heads: takes h to ``(..., outputs)``.
    """

    config: MemoryConfig
    heads: Any

    def initial_state(self, lanes: int) -> State:
        """Return the state before any real frame; its hidden part is zero."""
        raise NotImplementedError

    def step(self, z: Tensor, action: Tensor, state: State) -> State:
        """Advance each lane by one step: z ``(N, Z)``, action ``(N, A)``."""
        raise NotImplementedError

    def unroll(self, z: Tensor, actions: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance over sequences ``(N, T, Z)`` and ``(N, T, A)``: all hidden vectors ``(N, T, H)``, last state."""
        raise NotImplementedError

    def hidden(self, state: State) -> Tensor:
        """Return h, the part of the state that an agent sees, ``(N, H)``."""
        return state[0]

    def predict(self, hidden: Tensor) -> Prediction:
        """Return the prediction that h_{t+1} makes of step t, for h of any leading shape."""
        return read_heads(self.heads(hidden), self.config)

    def members(self, hidden: Tensor) -> Prediction:
        """Return what is trained: each member's own prediction ``(M, ...)``, or a lone memory's `predict`."""
        return self.predict(hidden)


def read_heads(out: Tensor, config: MemoryConfig) -> Prediction:
    """Return the prediction that a memory's heads give as ``(..., outputs)``."""
    shape = (3, config.latent_size, config.mixtures)
    logits, mu, log_sigma = out[..., :-2].unflatten(-1, shape).unbind(-3)
    return Prediction(
        logits=logits,
        mu=mu,
        log_sigma=log_sigma.clamp(-6, 3),
        gain=F.softplus(out[..., -2]) if config.counts else out[..., -2],
        end_logit=out[..., -1],
    )


def select(state: State, lanes: Tensor) -> State:
    """Return the state of some lanes, given as indices or a boolean mask."""
    return tuple(part[lanes] for part in state)


def put(state: State, lanes: Tensor, values: State) -> State:
    """Return the state with the states of some lanes replaced."""
    return tuple(part.index_put((lanes,), value) for part, value in zip(state, values, strict=True))


def gather_component(values: Tensor, component: Tensor) -> Tensor:
    """Pick one component's value for each latent dimension: ``(..., Z, K)`` and ``(..., Z)`` give ``(..., Z)``."""
    return values.gather(-1, component.unsqueeze(-1)).squeeze(-1)


def mixture_mode(prediction: Prediction) -> Tensor:
    """Return the mean of the likeliest component of each latent dimension, ``(..., Z)``."""
    return gather_component(prediction.mu, prediction.logits.argmax(-1))


def mixture_mean(prediction: Prediction) -> Tensor:
    """Return the mean of each latent dimension's mixture, ``(..., Z)``."""
    return mixture_moments(prediction)[0]


def mixture_spread(prediction: Prediction) -> Tensor:
    """Return the standard deviation of each latent dimension's mixture at temperature 1, ``(..., Z)``."""
    return mixture_moments(prediction)[1].sqrt()


def mixture_moments(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each latent dimension's mixture at temperature 1, ``(..., Z)`` each."""
    weights = prediction.logits.softmax(-1)
    mean = (weights * prediction.mu).sum(-1, keepdim=True)
    variance = (2 * prediction.log_sigma).exp() + (prediction.mu - mean).square()
    return mean.squeeze(-1), (weights * variance).sum(-1)


def disagreement(means: Tensor, variances: Tensor) -> Tensor:
    """Return how far M memories are apart, ``(...)``: 0 where they expect the same.

    It is the mean over latents of the variance of their means, in units of the variance that they expect themselves:
    the law of total variance splits what an ensemble expects into these two (Depeweg et al. 2018),
    of which the first alone is what it does not know (Sekar et al. 2020).

    Args:
        means: of each memory's mixture, ``(M, ..., Z)``.
        variances: of each memory's mixture, ``(M, ..., Z)``.
    """
    apart = (means - means.mean(0)).square().sum(0) / (len(means) - 1)
    return (apart / variances.mean(0)).mean(-1)


def sample_mixture(prediction: Prediction, temperature: float, uniform: Tensor, normal: Tensor) -> Tensor:
    """Sample z from the mixture at temperature τ: logits / τ and σ·√τ (Ha & Schmidhuber 2018, appendix A.2).

    Args:
        prediction: of a memory.
        temperature: τ > 0; 1 samples what the memory was trained on.
        uniform: ``(..., Z)`` in [0, 1), chooses the components by their cumulative probability.
        normal: ``(..., Z)`` standard normal noise.

    Returns:
        z ``(..., Z)``.
    """
    logits = prediction.logits
    # probabilities up to a factor: a softmax over so few components costs more than all the rest
    cumulative = ((logits - logits.amax(-1, keepdim=True)) / temperature).exp().cumsum(-1)
    component = (uniform.unsqueeze(-1) * cumulative[..., -1:] >= cumulative[..., :-1]).sum(-1)
    sigma = gather_component(prediction.log_sigma, component).exp() * temperature**0.5
    return gather_component(prediction.mu, component) + sigma * normal


def mixture_nll(prediction: Prediction, z: Tensor) -> Tensor:
    """Return −log p(z) in nats summed over latent dimensions, ``(...)``, for z ``(..., Z)``."""
    standard = (z.unsqueeze(-1) - prediction.mu) * (-prediction.log_sigma).exp()
    log_normal = -0.5 * standard.square() - prediction.log_sigma - 0.9189385332046727  # log √(2π)
    return -torch.logsumexp(prediction.logits.log_softmax(-1) + log_normal, dim=-1).sum(-1)
