"""What every benchmark's output has: the machine and the versions."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.files import flags, write_json

RESULTS = Path(__file__).parent / "results"

ALIKE = ("runs", "run", "workers", "ray")
"""Arguments with which a benchmark measures the same and writes the same file."""

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
    """Write a benchmark's JSON, with the machine it ran on; a kill leaves the former file."""
    write_json(path, {**content, "machine": machine()})


def command(name: str, args: Any) -> str:
    """Return the command that measured: ``benchmarks.<name>`` and the flags that are not the defaults."""
    return " ".join([f"python -m benchmarks.{name}", *flags(asdict(args), asdict(type(args)()), ALIKE)])
