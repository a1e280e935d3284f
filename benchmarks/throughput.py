"""How fast is everything that this project spends its time on? One run, one JSON, one picture.

    python -m benchmarks.throughput

Each figure is measured beside its anchor, in turns, so that a busy machine slows both; a ratio is the median over the
turns. Anchors: gymnasium's own CarRacing-v3 on one core for the envs, the two matrix products of a step alone for the
dream. Peers are measured where they are installed (``pip install wm-gym[peers]``).
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from torch.nn import functional as F

import wm_gym  # noqa: F401  (registers the ids)
from benchmarks.report import RESULTS, command, write_report
from training import collect, encode, train_controller, train_rnn, train_vae
from training.pictures import save_figure
from training.rollouts import Episode, episode_files
from wm_gym.car_racing import ScriptedDriver
from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.models.mdn_rnn import MDNRNN
from wm_gym.world_model import WorldModel

Step = Callable[[], object]


@dataclass
class Args:
    """What to measure."""

    lanes: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096, 16384)
    """of the vectorised dream"""
    turns: int = 9
    """of each contest"""
    seconds: float = 0.3
    """of each contestant in a turn"""
    workers: int = 2
    """processes that collect"""
    drives: int = 64
    """to collect, encode and train on"""
    drive_steps: int = 250
    """of each drive"""
    out: Path = RESULTS / "throughput.json"
    """JSON file; the picture goes beside it"""


def contest(contestants: dict[str, Step], turns: int, seconds: float) -> dict[str, dict[str, float]]:
    """Let contestants step in turns; return each one's median calls a second, and its ratio to the first's."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for step in contestants.values():
        step()
    for _ in range(turns):
        for name, step in contestants.items():
            calls, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                step()
                calls += 1
            speeds[name].append(calls / spent)
    anchor = np.array(next(iter(speeds.values())))
    return {
        name: {"per_second": float(np.median(speed)), "ratio": float(np.median(np.array(speed) / anchor))}
        for name, speed in speeds.items()
    }


def driven(env: gym.Env, seed: int) -> Step:
    """Return a function that makes a scripted driver's next step, and begins the track again at its end."""
    observation, _ = env.reset(seed=seed)
    driver = ScriptedDriver(env)

    def step() -> None:
        action, _ = driver.predict(observation)
        if any(env.step(action)[2:4]):
            env.reset(seed=seed)

    return step


def real(args: Args) -> dict[str, Any]:
    """Measure CarRacing-v3, its fast twin and the latent env, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    contestants = {
        "CarRacing-v3": driven(gym.make("CarRacing-v3"), 0),
        "FastCarRacing": driven(FastCarRacing(), 0),
        "LatentCarRacing-v0": driven(gym.make("LatentCarRacing-v0"), 0),
    }
    if importlib.util.find_spec("envpool"):
        contestants["EnvPool CarRacing-v2 (other pixels)"] = pooled()
    result: dict[str, Any] = contest(contestants, args.turns, args.seconds)
    torch.set_num_threads(threads)
    fast, latent = (1000 / result[name]["per_second"] for name in ("FastCarRacing", "LatentCarRacing-v0"))
    return {"steps": result, "wrappers_ms": latent - fast}


def pooled() -> Step:
    """Return a step of EnvPool's CarRacing, one env on one thread."""
    import envpool

    envs = envpool.make_gymnasium("CarRacing-v2", num_envs=1, num_threads=1)
    envs.reset()
    action = np.array([[0.0, 0.3, 0.0]], np.float32)
    return lambda: envs.step(action)


def products(model: WorldModel, lanes: int) -> Step:
    """Return the two matrix products of one step of M for so many lanes, and nothing else."""
    memory = model.memory
    assert isinstance(memory, MDNRNN)  # the bundled one
    hidden = memory.config.hidden_size
    weights, heads = torch.cat([*memory.lstm.all_weights[0][:2]], dim=1), memory.heads.weight
    inputs, h = torch.randn(lanes, weights.shape[1]), torch.randn(lanes, hidden)

    @torch.inference_mode()
    def step() -> None:
        F.linear(inputs, weights)
        F.linear(h, heads)

    return step


def dreamt(lanes: int, world_model: str = "car_racing") -> Step:
    """Return a step of the vectorised dream, with actions ready."""
    envs = gym.make_vec("DreamCarRacing-v0", lanes, world_model=world_model)
    envs.reset(seed=0)
    actions = [envs.action_space.sample() for _ in range(2)]
    turn = iter(range(10**9))
    return lambda: envs.step(actions[next(turn) % 2])


def dream(args: Args) -> dict[str, Any]:
    """Measure the dream, single and in many lanes, beside the real env and beside its two products alone."""
    anchor, env = driven(gym.make("CarRacing-v3"), 0), gym.make("DreamCarRacing-v0")
    env.reset(seed=0)
    action = np.array([0.1, 0.2, 0.0], np.float32)

    def single() -> None:
        if any(env.step(action)[2:4]):
            env.reset()

    model = WorldModel.from_pretrained()
    lanes = []
    for n in args.lanes:
        contestants = {"CarRacing-v3": anchor, "products": products(model, n), "dream": dreamt(n)}
        speeds = contest(contestants, args.turns, args.seconds)
        lanes.append(
            {
                "lanes": n,
                "lane_steps_per_second": n * speeds["dream"]["per_second"],
                "products_lane_steps_per_second": n * speeds["products"]["per_second"],
                "times_real": n * speeds["dream"]["ratio"],
                "peak_bytes": memory(n),
            }
        )
    return {
        "single": contest({"CarRacing-v3": anchor, "dream": single}, args.turns, args.seconds),
        "vector": lanes,
        "bytes_a_lane": bytes_a_lane(lanes),
    }


def memory(lanes: int) -> int:
    """Return the most bytes of memory that a process of its own needs to step a dream of so many lanes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak, (lanes,))


def peak(lanes: int) -> int:
    """Return the most bytes that this process has held, after a few steps of a dream (as Linux counts them)."""
    torch.set_num_threads(1)
    step = dreamt(lanes)
    for _ in range(3):
        step()
    # not getrusage's maximum, which a child begins with its parent's
    held = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert held is not None
    return int(held[1]) * 1024


def bytes_a_lane(lanes: list[dict[str, Any]]) -> list[float]:
    """Return what one more lane takes, from each number of lanes to the next."""
    return [
        (more["peak_bytes"] - few["peak_bytes"]) / (more["lanes"] - few["lanes"])
        for few, more in itertools.pairwise(lanes)
    ]


def seconds(function: Callable[[Any], object], args: Any) -> float:
    """Return how long a stage takes."""
    start = time.perf_counter()
    function(args)
    return time.perf_counter() - start


def stages(args: Args) -> dict[str, float]:
    """Run the stages of training on a few drives in a folder of their own, and return their speeds."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        drives = collect.Args(out=run / "rollouts", policy="scripted", workers=args.workers, max_steps=args.drive_steps)
        collect.main(replace(drives, episodes=args.workers))  # the workers' start is not measured
        driving = seconds(collect.main, replace(drives, episodes=args.workers + args.drives))
        episodes = [Episode.load(path) for path in episode_files(run / "rollouts")]
        frames = sum(len(episode.actions) + 1 for episode in episodes)
        new = sum(len(episode.actions) + 1 for episode in episodes[args.workers :])
        vae = train_vae.Args(rollouts=run / "rollouts", out=run / "vae", batch=128, track=False)
        train_vae.main(replace(vae, epochs=1))
        drawing = seconds(train_vae.main, replace(vae, epochs=2))
        encoding = seconds(encode.main, encode.Args(run / "rollouts", run / "vae", run / "latents"))
        rnn = train_rnn.Args(latents=run / "latents", out=run / "rnn", track=False)
        train_rnn.main(replace(rnn, epochs=2))
        remembering = seconds(train_rnn.main, replace(rnn, epochs=12))
        controller = train_controller.Args(out=run / "controller", track=False)
        train_controller.main(replace(controller, generations=1))
        evolving = seconds(train_controller.main, replace(controller, generations=2))
    trained = sum(len(episode.actions) for episode in episodes if episode.seed % rnn.held_out)
    return {
        "collect_frames_per_second": new / driving,
        "encode_frames_per_second": frames / encoding,
        "vae_training_frames_per_second": frames / drawing,
        "rnn_training_steps_per_second": 10 * trained / remembering,
        "generation_64x16x1000_seconds": evolving,
    }


def main(args: Args) -> None:
    """Measure, print, draw and write."""
    content = {
        "command": command("throughput", args),
        "torch_threads": torch.get_num_threads(),
        "real": real(args),
        "dream": dream(args),
        "stages": stages(args),
    }
    write_report(args.out, content)
    print(json.dumps(content, indent=1))
    draw(content, args.out.with_suffix(".png"))


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw the lane-steps a second over the number of lanes, with the limit of the products and the real env."""
    vector = content["dream"]["vector"]
    n = [row["lanes"] for row in vector]
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.loglog(n, [row["products_lane_steps_per_second"] for row in vector], "--", label="its two products alone")
    axes.loglog(n, [row["lane_steps_per_second"] for row in vector], "o-", label="DreamCarRacing-v0")
    for name, speed in content["real"]["steps"].items():
        axes.axhline(speed["per_second"], linewidth=0.8, color="grey")
        axes.text(n[-1], speed["per_second"], name, ha="right", va="bottom", fontsize=8)
    axes.set(xlabel="lanes", ylabel="lane-steps a second", title="Dream and real env on one machine")
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
