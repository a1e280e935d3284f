"""The kinds of memory, by the names that artifacts and training give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from wm_gym.artifact import build
from wm_gym.models.ensemble import Ensemble, EnsembleConfig
from wm_gym.models.mdn_rnn import MDNRNN, MDNRNNConfig
from wm_gym.models.memory import Memory, MemoryConfig
from wm_gym.models.transformer import Transformer, TransformerConfig

Kind = Literal["lstm", "transformer", "ensemble"]
KINDS: dict[Kind, tuple[type[MemoryConfig], type[Any]]] = {
    "lstm": (MDNRNNConfig, MDNRNN),
    "transformer": (TransformerConfig, Transformer),
    "ensemble": (EnsembleConfig, Ensemble),
}
"""Config and module of each kind."""


def kind_of(config: MemoryConfig) -> Kind:
    """Return the name of a config's kind."""
    return next(kind for kind, (sizes, _) in KINDS.items() if type(config) is sizes)


def make_memory(config: MemoryConfig) -> Memory:
    """Return a new memory of these sizes."""
    return KINDS[kind_of(config)][1](config)


def write_sizes(config: MemoryConfig) -> dict[str, Any]:
    """Return JSON of a memory's config; the LSTM's names no kind, as when there was no other."""
    kind = kind_of(config)
    return asdict(config) if kind == "lstm" else {"kind": kind, **asdict(config)}


def read_sizes(content: Mapping[str, Any]) -> MemoryConfig:
    """Return the config that `write_sizes` wrote; raises TypeError or ValueError for what does not fit."""
    sizes = dict(content)
    kind = sizes.pop("kind", "lstm")
    for name, (config, _) in KINDS.items():
        if kind == name:
            return build(config, sizes)
    raise ValueError(f"unknown kind of memory {kind!r}: expected one of {list(KINDS)}")
