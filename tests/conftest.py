"""A small world model of random weights, for everything that does not depend on what was learned."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wm_gym.models.kinds import KINDS, make_memory
from wm_gym.models.vae import VAE
from wm_gym.world_model import Starts, WorldModel, WorldModelConfig

MEMORIES = tuple(KINDS)
every_memory = pytest.mark.parametrize("world_model_folder", MEMORIES, indirect=True)
"""For contracts that hold for each kind of memory."""

EPISODE_STARTS, ALL_STARTS, WINDOW = 10, 24, 6


def make_world_model(kind: str = "lstm", **config) -> WorldModel:
    """Random weights of the real sizes, a rare end, ten episode starts and fourteen in mid-drive."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sizes = KINDS[kind][0]()
    vae, memory = VAE(), make_memory(sizes)
    with torch.no_grad():
        memory.heads.weight[..., :-2, :].mul_(3)  # uneven mixtures
        memory.heads.bias[..., -1] = -4
    length = np.zeros(ALL_STARTS, np.int64)
    length[EPISODE_STARTS:] = rng.integers(1, WINDOW + 1, ALL_STARTS - EPISODE_STARTS)
    starts = Starts(
        z=rng.standard_normal((ALL_STARTS, WINDOW + 1, 32)).astype(np.float32),
        actions=rng.uniform([-1, 0, 0], [1, 1, 1], (ALL_STARTS, WINDOW, 3)).astype(np.float32),
        length=length,
        gained=np.where(length > 0, 20.0, 0.0).astype(np.float32),
    )
    return WorldModel(WorldModelConfig(memory=sizes, **config), vae, memory, starts)


@pytest.fixture(scope="session")
def world_model_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """The folder of a saved small world model, of an LSTM unless `every_memory` asks; use it as ``world_model=``."""
    folder: Path = tmp_path_factory.mktemp("artifact") / "world_model"
    make_world_model(getattr(request, "param", "lstm")).save(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Tests run side by side; none gains from more threads."""
    torch.set_num_threads(1)
