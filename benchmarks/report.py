"""What every benchmark's output has: the machine and the versions."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TEST_SEEDS = range(2_000_000, 2_000_100)
"""Tracks of reported scores; nothing is chosen on them."""
FURTHER_SEEDS = range(2_000_100, 2_000_200)
"""Tracks that show whether a reported score holds on others."""

PACKAGES = ("wm-gym", "torch", "gymnasium", "numpy", "pygame-ce", "Box2D")


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def write_report(path: Path, content: dict[str, Any]) -> None:
    """Write a benchmark's JSON, with the machine it ran on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "machine": machine()}, indent=2, default=str) + "\n")
