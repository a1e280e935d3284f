"""Encode all frames of a rollouts folder with V.

For example:

    python -m training.encode --rollouts runs/mine/rollouts --vae runs/mine/vae --out runs/mine/latents
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from tqdm import tqdm

from training.checkpoints import load_checkpoint, save_checkpoint
from training.device import choose_device
from training.files import alone
from training.latents import LatentEpisode
from training.rollouts import Episode, check_mirror, episode_files, load_task, open_frames
from wm_gym.frames import mirror
from wm_gym.models.vae import VAE, VAEConfig
from wm_gym.tasks import TaskConfig
from wm_gym.weights import fingerprint


@dataclass
class Args:
    """What to encode."""

    rollouts: Path = Path("runs/default/rollouts")
    """folder of episodes with cached frames"""
    vae: Path = Path("runs/default/vae")
    """folder of V's checkpoint"""
    out: Path = Path("runs/default/latents")
    """folder for the encoded episodes; those that this V has encoded are kept"""
    mirror: bool = False
    """encode CarRacing's drives as a mirror shows them too"""
    batch: int = 512
    """frames a step"""
    device: str = "auto"
    """a torch device; "auto" is CUDA where there is one, else the CPU"""


def load_vae(checkpoint: dict[str, Any]) -> VAE:
    """Build V from its checkpoint."""
    config = checkpoint["config"]
    vae = VAE(VAEConfig(**{**config, "channels": tuple(config["channels"])}))
    vae.load_state_dict(checkpoint["model"])
    return vae.eval().requires_grad_(False)


def encoded(
    episode: Episode,
    task: TaskConfig,
    mu: npt.NDArray[np.float32],
    logvar: npt.NDArray[np.float32],
    mark: str,
    mirrored: npt.NDArray[np.float32] | None = None,
) -> LatentEpisode:
    """Return an episode as the memory sees it.

    Args:
        episode: whose.
        task: of the episode.
        mu: V's means, ``(T + 1, Z)``.
        logvar: log variances, ``(T + 1, Z)``.
        mark: V's fingerprint.
        mirrored: both of what a mirror shows, ``(2, T + 1, Z)``, if V saw that.
    """
    return LatentEpisode(
        seed=episode.seed,
        vae=mark,
        mu=mu,
        logvar=logvar,
        actions=task.actions.encode(episode.actions),
        gains=(episode.counts if episode.goal else episode.rewards).astype(np.float32),
        goal=episode.goal,
        ended=episode.terminated and not episode.finished,
        label=episode.driver.label,
        mirrored=mirrored,
    )


def look(vae: VAE, frames: npt.NDArray[np.uint8], batch: int, device: torch.device) -> npt.NDArray[np.float32]:
    """Return means and log variances of frames, ``(2, T + 1, Z)``."""
    parts = [
        vae.encode(torch.from_numpy(frames[i : i + batch].copy()).to(device)) for i in range(0, len(frames), batch)
    ]
    return np.stack([torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True)])


def main(args: Args) -> list[Path]:
    """Encode what is missing or stale, and return the paths of all encoded episodes.

    Raises:
        ValueError: for a mirror of another env than CarRacing.
    """
    device = choose_device(args.device)
    checkpoint = load_checkpoint(args.vae / "checkpoint.pt", device)
    # float16 weights, as the artifact will hold them, so that the memory learns the very latents that users will see
    checkpoint["model"] = {name: tensor.half().float() for name, tensor in checkpoint["model"].items()}
    vae = load_vae(checkpoint).to(device)
    mark, task = fingerprint(vae), load_task(args.rollouts)
    check_mirror(args.mirror, task)
    save_checkpoint(args.out / "vae.pt", {**checkpoint, "optimizer": None, "fingerprint": mark, "task": asdict(task)})
    paths = []
    for source in tqdm(episode_files(args.rollouts), desc="encode", unit="episode"):
        path = args.out / source.name
        paths.append(path)
        if path.is_file() and LatentEpisode.encoder(path, args.mirror) == mark:
            continue
        episode = Episode.load(source)
        frames = open_frames(args.rollouts, episode.seed, checkpoint["frames"])
        mirrored = look(vae, mirror(frames, checkpoint["frames"]), args.batch, device) if args.mirror else None
        mu, logvar = look(vae, frames, args.batch, device)
        encoded(episode, task, mu, logvar, mark, mirrored).save(args.out)
    return paths


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    with alone(arguments.out):
        main(arguments)
