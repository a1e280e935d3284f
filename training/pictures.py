"""The pictures of a run, in the one style of all pictures of this project."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from training.files import write_atomic

plt.rcParams.update(
    {
        "figure.dpi": 120,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "figure.constrained_layout.use": True,
    }
)


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    write_atomic(path, lambda file: figure.savefig(file, format="png"))
    plt.close(figure)
