"""Made-up drives, and small trainings on them, for the tests of V's and M's training."""

from dataclasses import replace

import numpy as np
from conftest import FRAMES

from training import encode, train_rnn, train_vae
from training.rollouts import Driver, Episode, save_frames
from wm_gym.models.vae import VAEConfig

SMALL = VAEConfig(channels=(4, 8, 8, 8))


def training(stage, run, out, **changes):
    """Settings of a small V or M on a folder that holds rollouts and latents."""
    args = {
        train_vae: train_vae.Args(rollouts=run / "rollouts", batch=16, model=SMALL, device="cpu"),
        train_rnn: train_rnn.Args(
            latents=run / "latents", batch=2, chunk=8, held_out=3, starts=8, window=5, device="cpu"
        ),
    }[stage]
    return replace(args, out=out, epochs=1, **changes) if "epochs" not in changes else replace(args, out=out, **changes)


def encoding(run, vae="vae", out="latents"):
    return encode.Args(run / "rollouts", run / vae, run / out, device="cpu")


def make_episodes(run, lengths, version=FRAMES):
    """Make up three episodes of noise, the last a failure."""
    rng = np.random.default_rng(0)
    for seed, steps in enumerate(lengths):
        save_frames(run / "rollouts", seed, version, rng.integers(0, 256, (steps + 1, 64, 64, 3), np.uint8))
        Episode(
            seed=seed,
            actions=rng.uniform([-1, 0, 0], [1, 1, 1], (steps, 3)).astype(np.float32),
            rewards=np.zeros(steps, np.float32),
            counts=rng.integers(0, 3, steps).astype(np.int16),
            goal=300,
            terminated=seed == 2,
            finished=False,
            driver=Driver("random", "random"),
        ).save(run / "rollouts")


def make_noise(run):
    """Make a run of three made-up episodes, encoded by a V of one epoch."""
    make_episodes(run, (20, 25, 17))
    train_vae.main(training(train_vae, run, run / "vae"))
    encode.main(encoding(run))
    return run
