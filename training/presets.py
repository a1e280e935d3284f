"""The settings of a run of `training.loop`, and its presets."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from training import gradient, train_controller, train_rnn, train_vae
from wm_gym.car_racing import CAR_RACING
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.vae import VAEConfig
from wm_gym.tasks import TaskConfig

SEED_TRACKS = 20_000
"""Training tracks of a run, and seeds of its controllers: from ``seed`` times so many on."""

MOST_CANDIDATES = 50
"""Controllers of a run that real drives may choose among: more, and the real env would train the controller."""

SMALL_VAE = VAEConfig(latent_size=16, channels=(16, 32, 64, 128))
"""For frames with less to see than CarRacing's."""

DEVICES = ("vae.device", "rnn.device", "controller.device")
FREE = ("run", "rounds", "finalists", "real_generations", "workers", "ray", "tf32", "track", *DEVICES)
"""Settings that may change when a run goes on."""


@dataclass
class Args:
    """A run.

    Inside the stages' settings --run sets the paths, --seed the seeds, --coolest and --hottest the temperature of
    dreams, and --max-steps the steps of the controller's episodes, unless it has its own; --track and --tf32 are one
    switch for all.
    """

    preset: str = "laptop"
    """the defaults of all other settings: smoke, laptop or paper; acrobot for another env"""
    run: Path = Path("runs/default")
    """folder of the run"""
    seed: int = 0
    """of all that is drawn, tracks included; the stages' own seeds do not count"""
    env: str = CAR_RACING.env
    """id of the real env, as gymnasium registers it or a package that the environment variable WM_GYM_PACKAGES names"""
    env_kwargs: str = "{}"
    """JSON of its arguments"""
    rounds: int = 12
    """of collecting, training and evolving"""
    random_episodes: int = 30
    """first data: drives of held random actions"""
    random_steps: int = 500
    """length of these drives; 0 for --max-steps"""
    random_hold: int = 40
    """an action of theirs is held for so many steps at most"""
    scripted_episodes: int = 70
    """first data: drives of CarRacing's scripted, privileged drivers with bursts of random actions; 0 from scratch"""
    mirror: bool = False
    """M sees CarRacing's drives in a mirror, too; --rnn.mirror does not count, --vae.mirror is another switch"""
    memories: int = 1
    """Ms of a run, from different first weights: dreams are the first one's, and the others doubt them, at the price
    --controller.objective.doubt"""
    sought: int = 4
    """controllers that each round seeks, in dreams from cool to hot"""
    coolest: float = 1.4
    """τ of the first one's dreams"""
    hottest: float = 3.2
    """τ of the last one's dreams; those between are spaced evenly on a logarithmic scale, as are those of the refined
    between the two"""
    refined: int = 0
    """so many of the sought go on, from the second round on, by --refine from the best controller so far"""
    candidates: int = 4
    """controllers of a round that drive the real car: the refined, and of the others those that hard dreams pay best"""
    own_episodes: int = 32
    """real drives of a round's candidates in turn, for the next round's data"""
    own_patience: int = 150
    """an own drive, or one of varied drivers, is over after so many steps without a new tile; 0 for never"""
    own_burst_rate: float = 0.01
    """probability a step that a burst of one random action disturbs an own drive"""
    vae_epochs: int = 1
    """more epochs of V in a round after the first whose frames V does not know (vae.epochs is the first round's)"""
    vae_tolerance: float = 3.0
    """V knows frames that it reconstructs with at most so many times the error of all frames before them"""
    rnn_epochs: int = 10
    """more epochs of M in each round after the first (rnn.epochs is the first round's)"""
    rnn_learning_rate: float = 2e-3
    """of these epochs (rnn.learning_rate is the first round's)"""
    real_generations: int = 0
    """evolve a controller on the real env too, for so many generations, after the last round"""
    validation_tracks: int = 20
    """real validation tracks that each candidate of a round drives, for the choice between them, and as many dreams"""
    finalists: int = 2
    """the best candidates of all rounds, which drive all validation tracks at the end of the run: the best of them is
    its result"""
    max_steps: int = 0
    """steps of an episode at most; 0 for the real env's own limit, or 1000 where it has none"""
    workers: int = 2
    """processes that drive the real env"""
    ray: str | None = None
    """Ray cluster that drives instead: "auto" for this machine's, its head's host:port, or "local" for a new one"""
    tf32: bool = False
    """let CUDA round products and convolutions to TF32 in all training; the stages' own switches do not count"""
    track: bool = True
    """log to Weights & Biases (offline unless logged in); --no-track logs to log.jsonl alone"""
    vae: train_vae.Args = field(default_factory=train_vae.Args)
    """V"""
    rnn: train_rnn.Args = field(default_factory=train_rnn.Args)
    """M"""
    controller: train_controller.Args = field(default_factory=train_controller.Args)
    """C"""
    refine: gradient.Args = field(default_factory=gradient.Args)
    """the gradients of the refined: gentle ones, for what drives well in an M that has seen its drives needs no more"""


PRESETS = {
    "smoke": Args(
        preset="smoke",
        rounds=2,
        mirror=True,
        memories=2,
        random_episodes=3,
        random_steps=80,
        scripted_episodes=5,
        sought=3,
        refined=1,
        candidates=2,
        own_episodes=4,
        rnn_epochs=1,
        real_generations=1,
        validation_tracks=2,
        finalists=1,
        max_steps=150,
        vae=train_vae.Args(epochs=2, batch=64),
        rnn=train_rnn.Args(epochs=3, held_out=4),
        controller=train_controller.Args(
            generations=2,
            population=6,
            rollouts=2,
            max_steps=50,
            objective=gradient.Objective(doubt=1.0),
            gradient=gradient.Args(steps=2, walkers=4),
        ),
        refine=gradient.Args(steps=1, walkers=4),
    ),
    "laptop": Args(
        rounds=3,
        mirror=True,
        memories=2,
        sought=6,
        refined=2,
        candidates=4,
        coolest=1.5,
        hottest=3.0,
        own_episodes=32,
        own_patience=100,
        random_episodes=10,
        random_steps=300,
        scripted_episodes=150,
        rnn_epochs=8,
        rnn_learning_rate=1e-3,
        validation_tracks=10,
        finalists=3,
        vae=train_vae.Args(epochs=3, batch=128, error_weight=3.0),
        rnn=train_rnn.Args(epochs=80),
        controller=train_controller.Args(
            generations=1,
            rollouts=4,
            sigma=0.003,
            starts="any",
            objective=gradient.Objective(beyond=-0.3, doubt=30.0),
            gradient=gradient.Args(steps=80, disturbance=0.2),
        ),
        refine=gradient.Args(steps=40, learning_rate=0.003, disturbance=0.2),
    ),
    "paper": Args(
        preset="paper",
        rounds=1,
        sought=1,
        candidates=1,
        coolest=1.15,
        random_episodes=10_000,
        random_steps=1000,
        scripted_episodes=0,
        vae=train_vae.Args(epochs=10, batch=100, learning_rate=1e-4, free_bits=0.5),
        rnn=train_rnn.Args(epochs=20, batch=100, chunk=1000, learning_rate=1e-3),
        controller=train_controller.Args(generations=1800, population=64, rollouts=16),
        validation_tracks=100,
    ),
    "acrobot": Args(
        preset="acrobot",
        env="Acrobot-v1",
        rounds=4,
        random_episodes=120,
        random_hold=10,
        random_steps=0,
        scripted_episodes=0,
        sought=4,
        coolest=1.0,
        hottest=1.5,
        candidates=4,
        own_episodes=32,
        own_patience=0,
        own_burst_rate=0.02,
        rnn_epochs=20,
        rnn_learning_rate=1e-3,
        validation_tracks=20,
        finalists=2,
        vae=train_vae.Args(epochs=5, batch=128, learning_rate=5e-4, frames="whole", error_weight=3.0, model=SMALL_VAE),
        rnn=train_rnn.Args(epochs=60, model=MDNRNNConfig(latent_size=16, hidden_size=128)),
        controller=train_controller.Args(generations=80, population=32, rollouts=8, sigma=0.2, diagonal=True),
    ),
}


def settled(args: Args, task: TaskConfig) -> Args:
    """Return settings in which what is 0 for an episode's limit says which it is.

    Raises:
        ValueError: for a limit below 0.
    """
    steps = task.limit(args.max_steps)
    controller = replace(args.controller, max_steps=task.limit(args.controller.max_steps or steps))
    return replace(args, max_steps=steps, random_steps=task.limit(args.random_steps or steps), controller=controller)


def parse(arguments: list[str] | None = None, description: str | None = None) -> Args:
    """Read the command line: --preset chooses the defaults of all other flags."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="laptop")
    known, _ = parser.parse_known_args(arguments)
    return tyro.cli(Args, default=PRESETS[known.preset], args=arguments, description=description)
