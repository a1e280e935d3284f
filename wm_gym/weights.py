"""The weights of a network: the arrays of an artifact's file, in float16, and a short hash of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wm_gym import artifact


def to_arrays(module: nn.Module) -> artifact.Arrays:
    """Return a module's weights as an artifact keeps them."""
    return {name: tensor.detach().cpu().numpy().astype(np.float16) for name, tensor in module.state_dict().items()}


def fill(module: nn.Module, path: Path, device: str | torch.device) -> None:
    """Give a module on the meta device the weights of a file.

    Raises:
        wm_gym.ArtifactError: for a file that does not hold them.
    """
    arrays = artifact.read_arrays(path, {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
    module.to_empty(device=device)  # and not assigned below: weights keep their memory format
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def fingerprint(*modules: nn.Module) -> str:
    """Return a short hash of modules' weights as an artifact keeps them."""
    digest = hashlib.sha256()
    for module in modules:
        for array in to_arrays(module).values():
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
