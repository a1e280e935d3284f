"""Where a stage computes."""

from __future__ import annotations

import torch


def choose_device(name: str, tf32: bool = False) -> torch.device:
    """Return the device called ``name``; "auto" is CUDA where there is one.

    Args:
        name: "auto" or a torch device.
        tf32: let CUDA round float32 products and convolutions to TF32 (cuDNN's own default would).
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
