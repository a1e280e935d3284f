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


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 itself; emulated, it takes several times as long as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return device.type == "cpu" and (known.get("amx_bf16", False) or known.get("avx512_bf16", False))
