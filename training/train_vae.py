"""Train V on the frames of a rollouts folder.

For example:

    python -m training.train_vae --rollouts runs/mine/rollouts --out runs/mine/vae --epochs 10
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from tqdm import tqdm

from training.checkpoints import append_log, cosine, cut_log, load_checkpoint, save_checkpoint, segment
from training.device import choose_device, multiplies_bfloat16
from training.encode import load_vae
from training.files import alone, keep_settings
from training.rollouts import check_mirror, episode_files, load_task, open_frames
from training.tracking import track, tracking
from wm_gym.frames import INPUT_SIZE, gauge_rows, mirror
from wm_gym.models.vae import VAE, VAEConfig, sample_latent, squared_error, to_unit, vae_loss

FREE = ("out", "epochs", "decoder_epochs", "learning_rate", "device", "tf32", "track")
"""Settings that may change when a training goes on."""


@dataclass
class Args:
    """How to train V."""

    rollouts: Path = Path("runs/default/rollouts")
    """folder of episodes with cached frames"""
    out: Path = Path("runs/default/vae")
    """folder for the checkpoint and the log"""
    epochs: int = 10
    """passes over all frames in all, those of the decoder that were made before among them; a folder trained for fewer
    goes on"""
    decoder_epochs: int = 0
    """passes after these that train the decoder alone, on the means: sharper pictures, and no latent moves (but V is
    another one by its fingerprint, and what was trained with it before is refused beside it)"""
    batch: int = 256
    """frames a step"""
    learning_rate: float = 1e-3
    """of Adam, with a cosine to 5 %"""
    free_bits: float = 0.1
    """nats of KL a latent may use for nothing"""
    error_weight: float = 1.0
    """of the squared error, against nats of KL: a greater one buys sharper pictures with more nats in z"""
    frames: str = "gauges96"
    """version of the frames"""
    mirror: bool = False
    """see half of CarRacing's frames, drawn anew at each pass, in a mirror"""
    gauge_weight: float = 4.0
    """how much more an error on the gauges counts than one elsewhere: they are few pixels that tell much of the car"""
    bfloat16: Literal["auto", "yes", "no"] = "auto"
    """compute convolutions in bfloat16; weights and losses stay float32; "auto": where the device itself multiplies
    it, as processors with AMX do"""
    device: str = "auto"
    """a torch device; "auto" is CUDA where there is one, else the CPU"""
    tf32: bool = False
    """let CUDA round products to TF32"""
    seed: int = 0
    """of the weights, the order of the frames and the latents' noise"""
    track: bool = True
    """log to Weights & Biases (offline unless logged in); --no-track logs to log.jsonl alone"""
    model: VAEConfig = field(default_factory=VAEConfig)
    """sizes"""


MOST_OPEN = 128
"""Files of frames that are open at a time: some systems allow a process 256."""


class FrameSet:
    """The frames of a rollouts folder, read from memory maps as they are asked for.

    Args:
        rollouts: the folder.
        version: of the frames.
        seeds: the episodes to take; all by default.

    Raises:
        FileNotFoundError: for a folder without episodes, or without their frames.
    """

    def __init__(self, rollouts: Path, version: str, seeds: Sequence[int] | None = None) -> None:
        self.seeds = [int(path.stem) for path in episode_files(rollouts)] if seeds is None else seeds
        self.open = lru_cache(MOST_OPEN)(partial(open_frames, rollouts, version=version))
        if not self.seeds:
            raise FileNotFoundError(f"no episodes in {rollouts}: run `python -m training.collect` first")
        self.ends = np.cumsum([len(self.open(seed)) for seed in self.seeds])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return frames ``(B, 64, 64, 3)``, uint8."""
        shards = np.searchsorted(self.ends, indices, side="right")
        rows = indices - np.concatenate([[0], self.ends])[shards]
        frames = (np.array(self.open(self.seeds[shard])[row]) for shard, row in zip(shards, rows, strict=True))
        return torch.from_numpy(np.stack(list(frames)))

    def sample(self, most: int) -> torch.Tensor:
        """Return so many frames at most, drawn evenly from all; the same ones each time."""
        return self[np.sort(np.random.default_rng(0).choice(len(self), min(most, len(self)), replace=False))]


@torch.inference_mode()
def novelty(rollouts: Path, vae: Path, newest: Collection[int]) -> float:
    """Return V's squared error on frames of the newest episodes, over that on frames of all others.

    Args:
        rollouts: folder of episodes with cached frames.
        vae: folder of V's checkpoint.
        newest: their seeds.
    """
    checkpoint = load_checkpoint(vae / "checkpoint.pt")
    model = load_vae(checkpoint)
    seeds = [int(path.stem) for path in episode_files(rollouts)]
    errors = []
    for part in ([seed for seed in seeds if seed in newest], [seed for seed in seeds if seed not in newest]):
        batch = FrameSet(rollouts, checkpoint["frames"], part).sample(1000)
        errors.append(float(squared_error(model.decode(model.encode(batch)[0]), batch).mean()))
    return errors[0] / errors[1]


def main(args: Args) -> Path:
    """Train V, then its decoder alone, and return the checkpoint's path; each finished epoch is kept.

    Raises:
        ValueError: for other epochs than a folder was trained for, but fewer than it has, the decoder's counted, where
            any are asked for.
    """
    device = choose_device(args.device, args.tf32)
    bfloat16 = multiplies_bfloat16(device) if args.bfloat16 == "auto" else args.bfloat16 == "yes"
    path, log = args.out / "checkpoint.pt", args.out / "log.jsonl"
    check_mirror(args.mirror, load_task(args.rollouts))
    frames = FrameSet(args.rollouts, args.frames)
    torch.manual_seed(args.seed)
    vae = VAE(args.model).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=args.learning_rate, fused=True)
    checkpoint = load_checkpoint(path, device) if path.is_file() else None
    done = 0
    if checkpoint is None:
        vae.begin_at(to_unit(frames.sample(1000)).mean((0, 1, 2)))
    else:
        vae.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        done = checkpoint["epoch"]
    cut_log(log, "epoch", done)
    row_weight = torch.ones(INPUT_SIZE, device=device)
    row_weight[gauge_rows(args.frames)] = args.gauge_weight
    total = args.epochs + args.decoder_epochs
    before = args.epochs if checkpoint is None else checkpoint.get("epochs", args.epochs)
    if args.epochs != before and args.epochs < done and (args.epochs > before or done < total):
        raise ValueError(f"{path} has {done} epochs, those of the decoder counted: --epochs {args.epochs} is too few")
    first, last = segment(checkpoint, args.epochs)
    for epoch in range(done, total):
        whole = epoch < args.epochs
        rng = np.random.default_rng((args.seed, epoch))
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batches = np.array_split(rng.permutation(len(frames)), max(1, len(frames) // args.batch))
        totals = np.zeros(2)
        with tqdm(batches, desc=f"VAE epoch {epoch + 1}/{total}", unit="batch") as bar:
            for i, indices in enumerate(bar):
                now = epoch + i / len(batches)
                progress = (now - first) / (last - first) if whole else (now - args.epochs) / args.decoder_epochs
                optimizer.param_groups[0]["lr"] = args.learning_rate * cosine(progress)
                batch = frames[indices]
                if args.mirror:
                    seen = rng.random(len(batch)) < 0.5
                    batch[seen] = torch.from_numpy(mirror(batch[seen].numpy(), args.frames))
                batch = batch.to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    with torch.set_grad_enabled(whole):
                        mu, logvar = vae.encode(batch)
                    z = sample_latent(mu, logvar, torch.randn(mu.shape, generator=noise).to(device)) if whole else mu
                    error, kl = vae_loss(vae.decode(z), batch, mu, logvar, args.free_bits, row_weight)
                optimizer.zero_grad()
                (args.error_weight * error + kl).backward()
                torch.nn.utils.clip_grad_norm_(vae.parameters(), 1000.0, error_if_nonfinite=True)
                optimizer.step()
                totals += [error.item(), kl.item()]
                bar.set_postfix(error=f"{totals[0] / (i + 1):.2f}", kl=f"{totals[1] / (i + 1):.2f}")
        content = {
            "model": vae.state_dict(),
            "optimizer": optimizer.state_dict(),
            "config": asdict(args.model),
            "frames": args.frames,
            "epoch": epoch + 1,
            "epochs": args.epochs,
            "segment": [first, last],
        }
        error, kl = totals / len(batches)
        line = {"epoch": epoch + 1, "squared_error": error, "kl": kl, "frames": len(frames)}
        append_log(log, line)
        save_checkpoint(path, content)
        track("vae", line)
    return path


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    with alone(arguments.out), tracking(arguments.out, arguments.track, asdict(arguments)):
        keep_settings(arguments.out / "args.json", asdict(arguments), FREE)
        main(arguments)
