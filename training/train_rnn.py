"""Train M on encoded episodes, and write the artifact: V, M and the starts of dreams.

    python -m training.train_rnn --latents runs/mine/latents --out runs/mine/rnn --epochs 60

Sequences are trained from their first frame, h = 0, in chunks that hand the state on (truncated backpropagation through
time), so that M sees the hidden states that it will meet in use. A Transformer's are its last keys and values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from training.checkpoints import append_log, cosine, cut_log, load_checkpoint, save_checkpoint, segment
from training.device import choose_device
from training.encode import load_vae
from training.files import alone, keep_settings
from training.latents import LatentEpisode, load_latents
from training.tracking import track, tracking
from wm_gym.models.ensemble import EnsembleConfig
from wm_gym.models.kinds import Kind, make_memory
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.memory import Memory, MemoryConfig, State, mixture_nll
from wm_gym.models.transformer import TransformerConfig
from wm_gym.models.vae import sample_latent
from wm_gym.world_model import RewardConfig, Starts, WorldModel, WorldModelConfig

RARE = -8.0
"""Logit of an end that M begins with: begun at even odds, M dreams of failure in each fourth lap even when trained."""

FREE = ("out", "epochs", "learning_rate", "device", "tf32", "track")
"""Settings that may change when a training goes on."""


@dataclass
class Args:
    """How to train M."""

    latents: Path = Path("runs/default/latents")
    """folder of encoded episodes"""
    out: Path = Path("runs/default/rnn")
    """folder for the checkpoint, the log and the artifact (world_model)"""
    epochs: int = 60
    """passes over all episodes in all; a folder trained for fewer goes on"""
    batch: int = 64
    """episodes a step"""
    chunk: int = 100
    """steps that the gradient goes back"""
    learning_rate: float = 2e-3
    """of Adam, with a cosine to 5 %"""
    latent: str = "sample"
    """what z is: a "sample" of the posterior, drawn anew at each use, or its "mean" alone"""
    tiles_weight: float = 10.0
    """of the Poisson loss of the tiles, against nats of z"""
    end_weight: float = 10.0
    """of the cross-entropy of the end, against nats of z"""
    held_out: int = 20
    """every so many-th episode is only validated on"""
    starts: int = 512
    """starts kept of episodes, and as many from the middle of drives"""
    window: int = 24
    """steps of real latents and actions kept before a start"""
    device: str = "auto"
    """a torch device; "auto" is CUDA where there is one, else the CPU"""
    tf32: bool = False
    """let CUDA round products to TF32"""
    seed: int = 0
    """of the weights, the order of the episodes and the latents' noise"""
    track: bool = True
    """log to Weights & Biases (offline unless logged in); --no-track logs to log.jsonl alone"""
    memory: Kind = "lstm"
    """what M is: the LSTM of the MDN-RNN, a Transformer, or an ensemble of LSTMs that knows where they disagree"""
    model: MDNRNNConfig = field(default_factory=MDNRNNConfig)
    """sizes of the LSTM"""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """sizes of the Transformer"""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    """sizes of the ensemble"""

    @property
    def sizes(self) -> MemoryConfig:
        """Sizes of the chosen memory."""
        return {"lstm": self.model, "transformer": self.transformer, "ensemble": self.ensemble}[self.memory]


@dataclass(frozen=True)
class Sequences:
    """A batch of B padded episodes; step t leads from frame t to frame t + 1.

    Attributes:
        mu, logvar: ``(B, T + 1, Z)``.
        actions: ``(B, T, A)``.
        tiles, failed, valid: ``(B, T)``; ``valid`` is 0 where an episode is over.
    """

    mu: Tensor
    logvar: Tensor
    actions: Tensor
    tiles: Tensor
    failed: Tensor
    valid: Tensor

    @classmethod
    def of(cls, episodes: Sequence[LatentEpisode], device: torch.device) -> Sequences:
        """Pad episodes to the longest."""
        longest = max(len(episode.actions) for episode in episodes)

        def stack(arrays: Sequence[npt.NDArray[Any]], length: int) -> Tensor:
            padded = [np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)]) for array in arrays]
            return torch.from_numpy(np.stack(padded)).float().to(device)

        failed = [np.zeros(len(episode.actions)) for episode in episodes]
        for ends, episode in zip(failed, episodes, strict=True):
            ends[-1] = episode.failed
        return cls(
            mu=stack([episode.mu for episode in episodes], longest + 1),
            logvar=stack([episode.logvar for episode in episodes], longest + 1),
            actions=stack([episode.actions for episode in episodes], longest),
            tiles=stack([episode.tiles for episode in episodes], longest),
            failed=stack(failed, longest),
            valid=stack([np.ones(len(episode.actions)) for episode in episodes], longest),
        )


def losses(memory: Memory, z: Tensor, part: Sequences, steps: slice, state: State) -> tuple[Tensor, State]:
    """Return the mean losses (nats of z, of the tiles, of the end), ``(3,)``, of some steps, and the state after them.

    h_{t+1}, made of (z_t, a_t, h_t), is held against z_{t+1}, and the tiles and the end of step t, of an ensemble for
    each member alone.
    """
    hidden, state = memory.unroll(z[:, steps], part.actions[:, steps], state)
    prediction = memory.members(hidden)  # parts (B, T, ...), or (M, B, T, ...)
    following = z[:, steps.start + 1 : steps.stop + 1]
    tiles, failed, valid = part.tiles[:, steps], part.failed[:, steps], part.valid[:, steps]
    end_logit, failed = torch.broadcast_tensors(prediction.end_logit, failed)
    each = torch.stack(
        [
            mixture_nll(prediction, following),
            F.poisson_nll_loss(prediction.tiles, tiles, log_input=False, reduction="none"),
            F.binary_cross_entropy_with_logits(end_logit, failed, reduction="none"),
        ]
    )
    means = (each * valid).sum((-2, -1)) / valid.sum().clamp_min(1)
    return means.reshape(3, -1).mean(1), state


def chunks(part: Sequences, size: int) -> Iterator[slice]:
    """Cut the steps of padded sequences into chunks."""
    total = part.actions.shape[1]
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def draw(part: Sequences, latent: str, generator: torch.Generator) -> Tensor:
    """Return z ``(B, T + 1, Z)``: means, or fresh samples."""
    if latent == "mean":
        return part.mu
    noise = torch.randn(part.mu.shape, generator=generator).to(part.mu.device)
    return sample_latent(part.mu, part.logvar, noise)


@torch.no_grad()
def validate(
    memory: Memory, episodes: Sequence[LatentEpisode], args: Args, device: torch.device
) -> npt.NDArray[np.floating]:
    """Return the mean losses over held-out episodes, ``(3,)``, with the same noise at every call."""
    part = Sequences.of(episodes, device)
    z = draw(part, args.latent, torch.Generator().manual_seed(args.seed))
    steps = slice(0, part.actions.shape[1])
    return losses(memory, z, part, steps, memory.initial_state(len(episodes)))[0].cpu().numpy()


def make_starts(episodes: Sequence[LatentEpisode], args: Args, lap_tiles: float) -> Starts:
    """Pick the moments that dreams start from: firsts of episodes, and as many from the middle of drives."""
    rng = np.random.default_rng(args.seed)
    firsts = rng.permutation(len(episodes))[: args.starts]
    lengths = np.array([len(episode.actions) for episode in episodes])
    middles = rng.choice(len(episodes), size=args.starts, p=lengths / lengths.sum())
    moments = [(int(i), 0) for i in firsts]
    moments += [(int(i), int(rng.integers(1, lengths[i] + 1 - episodes[i].failed))) for i in middles]
    latents, actions = episodes[0].mu.shape[1], episodes[0].actions.shape[1]
    starts = Starts(
        z=np.zeros((len(moments), args.window + 1, latents), np.float32),
        actions=np.zeros((len(moments), args.window, actions), np.float32),
        length=np.zeros(len(moments), np.int64),
        tiles=np.zeros(len(moments), np.float32),
    )
    for row, (i, t) in enumerate(moments):
        episode, before = episodes[i], min(t, args.window)
        window = slice(t - before, t + 1)
        noise = rng.standard_normal((before + 1, latents)) if args.latent == "sample" else 0.0
        starts.z[row, : before + 1] = episode.mu[window] + np.exp(0.5 * episode.logvar[window]) * noise
        starts.actions[row, :before] = episode.actions[t - before : t]
        starts.length[row] = before
        starts.tiles[row] = episode.tiles[:t].sum() / episode.track_tiles * lap_tiles
    return starts


def main(args: Args) -> Path:
    """Train until ``args.epochs``, write the artifact and return its folder; each finished epoch is kept.

    Raises:
        ValueError: when the latents are not of one V, or of another size than the model's.
    """
    device = choose_device(args.device, args.tf32)
    encoder = load_checkpoint(args.latents / "vae.pt")
    episodes = load_latents(args.latents, encoder["fingerprint"])
    held_out = episodes[:: args.held_out]
    trained = [episode for i, episode in enumerate(episodes) if i % args.held_out] or episodes
    lap_tiles = float(np.mean([episode.track_tiles for episode in episodes]))

    torch.manual_seed(args.seed)
    memory = make_memory(args.sizes).to(device)
    with torch.no_grad():
        memory.heads.bias[..., -1] = RARE
    optimizer = torch.optim.Adam(memory.parameters(), lr=args.learning_rate)
    path, log = args.out / "checkpoint.pt", args.out / "log.jsonl"
    checkpoint = load_checkpoint(path, device) if path.is_file() else None
    done = 0
    if checkpoint is not None:
        memory.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        done = checkpoint["epoch"]
    cut_log(log, "epoch", done)
    first, last = segment(checkpoint, args.epochs)
    weights = torch.tensor([1.0, args.tiles_weight, args.end_weight], device=device)
    with tqdm(total=args.epochs, initial=done, desc="M", unit="epoch") as bar:
        for epoch in range(done, args.epochs):
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * cosine((epoch - first) / (last - first))
            rng = np.random.default_rng((args.seed, epoch))
            noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
            # batches of episodes of similar length waste little on padding
            jitter = rng.uniform(0.8, 1.25, size=len(trained))
            order = np.argsort([len(episode.actions) for episode in trained] * jitter)
            batches = np.array_split(order, -(-len(trained) // args.batch))
            totals, count = np.zeros(3), 0
            for batch in rng.permutation(len(batches)):
                part = Sequences.of([trained[i] for i in batches[batch]], device)
                z = draw(part, args.latent, noise)
                state = memory.initial_state(len(z))
                for steps in chunks(part, args.chunk):
                    each, state = losses(memory, z, part, steps, tuple(value.detach() for value in state))
                    optimizer.zero_grad()
                    (each @ weights).backward()
                    torch.nn.utils.clip_grad_norm_(memory.parameters(), 10.0, error_if_nonfinite=True)
                    optimizer.step()
                    totals += each.detach().cpu().numpy()
                    count += 1
            memory.eval()
            held = validate(memory, held_out, args, device)
            line: dict[str, float] = {"epoch": epoch + 1, "episodes": len(episodes)}
            for name, value, held_value in zip(("z", "tiles", "end"), totals / count, held, strict=True):
                line |= {name: float(value), f"held_out_{name}": float(held_value)}
            append_log(log, line)
            save_checkpoint(
                path,
                {
                    "model": memory.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "epoch": epoch + 1,
                    "segment": [first, last],
                },
            )
            track("rnn", line)
            bar.set_postfix(z=f"{line['z']:.2f}", held_out=f"{held[0]:.2f} {held[1]:.4f} {held[2]:.4f}")
            bar.update()

    config = WorldModelConfig(
        frames=encoder["frames"],
        latent=args.latent,
        vae=load_vae(encoder).config,
        memory=args.sizes,
        reward=RewardConfig(scale=1000 / lap_tiles, lap_tiles=lap_tiles),
        training={
            "frames": int(sum(len(episode.mu) for episode in episodes)),
            "episodes": dict(Counter(episode.label for episode in episodes)),
            "seeds": [episodes[0].seed, episodes[-1].seed],
            "vae_epochs": encoder["epoch"],
            "memory_epochs": args.epochs,
        },
    )
    artifact = args.out / "world_model"
    WorldModel(config, load_vae(encoder), memory.cpu(), make_starts(trained, args, lap_tiles)).save(artifact)
    return artifact


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    with alone(arguments.out), tracking(arguments.out, arguments.track, asdict(arguments)):
        keep_settings(arguments.out / "args.json", asdict(arguments), FREE)
        main(arguments)
