"""Train M on encoded episodes, and write the artifact: V, M and the starts of dreams.

    python -m training.train_rnn --latents runs/mine/latents --out runs/mine/rnn --epochs 60

Sequences are trained from their first frame, h = 0, in chunks that hand the state on (truncated backpropagation through
time), so that M sees the hidden states that it will meet in use. A Transformer's are its last keys and values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

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
from training.latents import LatentEpisode, Sequences, draw, load_latents, reward_of, split
from training.rollouts import check_mirror
from training.tracking import STEPS, track, tracking
from wm_gym.checks import check_choice
from wm_gym.models.ensemble import EnsembleConfig
from wm_gym.models.kinds import Kind, make_memory
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.memory import Memory, MemoryConfig, State, mixture_nll
from wm_gym.models.transformer import TransformerConfig
from wm_gym.reward import RewardConfig
from wm_gym.starts import Starts, check_run_up
from wm_gym.tasks import TaskConfig
from wm_gym.weights import fingerprint
from wm_gym.world_model import LATENTS, WorldModel, WorldModelConfig

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
    latent: Literal["sample", "mean"] = "sample"
    """what z is: a "sample" of the posterior, drawn anew at each use, or its "mean" alone"""
    gain_weight: float = 10.0
    """of the loss of the gain (Poisson's of counts, half the squared error of real numbers), against nats of z"""
    end_weight: float = 10.0
    """of the cross-entropy of the end, against nats of z"""
    mirror: bool = False
    """see half of CarRacing's drives, drawn anew at each pass, in a mirror: its tracks bend to the left, four times of
    five"""
    held_out: int = 20
    """episodes whose seed it divides are only validated on"""
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


def losses(memory: Memory, z: Tensor, part: Sequences, steps: slice, state: State) -> tuple[Tensor, State]:
    """Return the mean losses (nats of z, of the gain, of the end), ``(3,)``, of some steps, and the state after them.

    h_{t+1}, made of (z_t, a_t, h_t), is held against z_{t+1}, and the gain and the end of step t, of an ensemble for
    each member alone.
    """
    hidden, state = memory.unroll(z[:, steps], part.actions[:, steps], state)
    prediction = memory.members(hidden)  # parts (B, T, ...), or (M, B, T, ...)
    following = z[:, steps.start + 1 : steps.stop + 1]
    gains, ended, valid = part.gains[:, steps], part.ended[:, steps], part.valid[:, steps]
    end_logit, ended = torch.broadcast_tensors(prediction.end_logit, ended)
    if memory.config.counts:
        gain_loss = F.poisson_nll_loss(prediction.gain, gains, log_input=False, reduction="none")
    else:
        gain_loss = 0.5 * (prediction.gain - gains).square()
    each = torch.stack(
        [
            mixture_nll(prediction, following),
            gain_loss * part.paid[:, steps],
            F.binary_cross_entropy_with_logits(end_logit, ended, reduction="none"),
        ]
    )
    means = (each * valid).sum((-2, -1)) / valid.sum().clamp_min(1)
    return means.reshape(3, -1).mean(1), state


@torch.no_grad()
def validate(
    memory: Memory, episodes: Sequence[LatentEpisode], args: Args, device: torch.device, reward: RewardConfig
) -> npt.NDArray[np.floating]:
    """Return the mean losses over held-out episodes, ``(3,)``, with the same noise at every call."""
    part = Sequences.of(episodes, device, reward)
    z = draw(part, args.latent, torch.Generator().manual_seed(args.seed))
    steps = slice(0, part.actions.shape[1])
    return losses(memory, z, part, steps, memory.initial_state(len(episodes)))[0].cpu().numpy()


def make_starts(
    episodes: Sequence[LatentEpisode], mirrored: Sequence[LatentEpisode], args: Args, goal: float | None
) -> Starts:
    """Pick the moments that dreams start from: firsts of episodes, and as many from the middle of drives.

    Only the latter are from drives in a mirror, too. A drive's last frame, which may be its end, is none of them.
    """
    rng = np.random.default_rng(args.seed)
    firsts = rng.permutation(len(episodes))[: args.starts]
    episodes = [*episodes, *mirrored]
    inside = np.array([len(episode.actions) - 1 for episode in episodes])  # frames between the first and the last
    moments = [(int(i), 0) for i in firsts]
    if inside.any():
        middles = rng.choice(len(episodes), size=args.starts, p=inside / inside.sum())
        moments += [(int(i), int(rng.integers(1, inside[i] + 1))) for i in middles]
    latents, actions = episodes[0].mu.shape[1], episodes[0].actions.shape[1]
    starts = Starts(
        z=np.zeros((len(moments), args.window + 1, latents), np.float32),
        actions=np.zeros((len(moments), args.window, actions), np.float32),
        length=np.zeros(len(moments), np.int64),
        gained=np.zeros(len(moments), np.float32),
    )
    for row, (i, t) in enumerate(moments):
        episode, before = episodes[i], min(t, args.window)
        window = slice(t - before, t + 1)
        noise = rng.standard_normal((before + 1, latents)) if args.latent == "sample" else 0.0
        starts.z[row, : before + 1] = episode.mu[window] + np.exp(0.5 * episode.logvar[window]) * noise
        starts.actions[row, :before] = episode.actions[t - before : t]
        starts.length[row] = before
        if goal is not None:
            starts.gained[row] = float(episode.gains[:t].sum()) / episode.goal * goal
    return starts


def main(args: Args) -> Path:
    """Train until ``args.epochs``, write the artifact and return its folder; each finished epoch is kept.

    Raises:
        ValueError: when the latents are not of one V, or of another size than the model's, or for impossible settings,
            more starts than M may be run over among them.
    """
    if min(args.batch, args.chunk, args.starts) < 1 or args.window < 0 or args.held_out < 2:
        raise ValueError(
            "batch, chunk and starts are 1 or more, window is 0 or more, and held_out 2 or more, got "
            f"{args.batch}, {args.chunk}, {args.starts}, {args.window} and {args.held_out}"
        )
    check_choice("latent", args.latent, LATENTS)
    device = choose_device(args.device, args.tf32)
    encoder = load_checkpoint(args.latents / "vae.pt")
    episodes = load_latents(args.latents, encoder["fingerprint"])
    if (found := episodes[0].mu.shape[1]) != args.sizes.latent_size:
        raise ValueError(f"{args.latents} has latents of {found} numbers, but M is to take {args.sizes.latent_size}")
    trained, held_out = split(episodes, args.held_out)
    task = TaskConfig.from_dict(encoder["task"])
    check_mirror(args.mirror, task)
    mirrored = [episode.in_mirror() for episode in trained] if args.mirror else []
    reward = reward_of(episodes, task)
    sizes = replace(args.sizes, action_size=task.actions.size, counts=reward.goal is not None)

    torch.manual_seed(args.seed)
    memory = make_memory(sizes).to(device)
    check_run_up(args.starts + min(args.starts, len(trained)), args.window, memory, 0)  # `save` would, too late
    with torch.no_grad():
        memory.heads.bias[..., -1] = RARE
    optimizer = torch.optim.Adam(memory.parameters(), lr=args.learning_rate)
    path, log = args.out / "checkpoint.pt", args.out / "log.jsonl"
    checkpoint = load_checkpoint(path, device) if path.is_file() else None
    done = 0 if checkpoint is None else checkpoint["epoch"]
    if checkpoint is not None:
        memory.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    cut_log(log, "epoch", done)
    first, last = segment(checkpoint, args.epochs)
    weights = torch.tensor([1.0, args.gain_weight, args.end_weight], device=device)
    with tqdm(total=args.epochs, initial=done, desc="M", unit="epoch") as bar:
        for epoch in range(done, args.epochs):
            optimizer.param_groups[0]["lr"] = args.learning_rate * cosine((epoch - first) / (last - first))
            rng = np.random.default_rng((args.seed, epoch))
            noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
            # batches of episodes of similar length waste little on padding
            jitter = rng.uniform(0.8, 1.25, size=len(trained))
            order = np.argsort([len(episode.actions) for episode in trained] * jitter)
            batches = np.array_split(order, -(-len(trained) // args.batch))
            seen = [pair[rng.integers(2)] for pair in zip(trained, mirrored, strict=True)] if mirrored else trained
            totals, count = np.zeros(3), 0
            for batch in rng.permutation(len(batches)):
                part = Sequences.of([seen[i] for i in batches[batch]], device, reward)
                z = draw(part, args.latent, noise)
                state = memory.initial_state(len(z))
                longest = part.actions.shape[1]
                for start in range(0, longest, args.chunk):
                    steps = slice(start, min(start + args.chunk, longest))
                    each, state = losses(memory, z, part, steps, tuple(value.detach() for value in state))
                    optimizer.zero_grad()
                    (each @ weights).backward()
                    torch.nn.utils.clip_grad_norm_(memory.parameters(), 10.0, error_if_nonfinite=True)
                    optimizer.step()
                    totals += each.detach().cpu().numpy()
                    count += 1
            held = validate(memory, held_out, args, device, reward)
            line: dict[str, float] = {"epoch": epoch + 1, "episodes": len(episodes)}
            for name, value, held_value in zip(("z", "gain", "end"), totals / count, held, strict=True):
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
            track(args.out.name if args.out.name in STEPS else "rnn", line)
            bar.set_postfix(z=f"{line['z']:.2f}", held_out=f"{held[0]:.2f} {held[1]:.4f} {held[2]:.4f}")
            bar.update()

    artifact, vae = args.out / "world_model", load_vae(encoder)
    if artifact.is_dir():
        kept = WorldModel.load(artifact)
        if (fingerprint(kept.vae), fingerprint(kept.memory)) == (encoder["fingerprint"], fingerprint(memory)):
            return artifact  # nothing was trained: drives that came since are none that M knows
    config = WorldModelConfig(
        frames=encoder["frames"],
        latent=args.latent,
        vae=vae.config,
        memory=sizes,
        reward=reward,
        task=task,
        training={
            "frames": int(sum(len(episode.mu) for episode in episodes)),
            "episodes": dict(Counter(episode.label for episode in episodes)),
            "seeds": [episodes[0].seed, episodes[-1].seed],
            "vae_epochs": encoder["epoch"],
            "memory_epochs": args.epochs,
        },
    )
    starts = make_starts(trained, mirrored, args, reward.goal)
    WorldModel(config, vae, memory.cpu(), starts).save(artifact)
    return artifact


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    with alone(arguments.out), tracking(arguments.out, arguments.track, asdict(arguments)):
        keep_settings(arguments.out / "args.json", asdict(arguments), FREE)
        main(arguments)
