"""Artifacts from strangers: valid ones are spoilt, and each must be loaded correctly or refused by name.

Nothing in them may run, hang, or take more than 1 GiB.
"""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.soak.examine import LOADED, REFUSED, WRONG, Examiner, Verdict
from benchmarks.soak.spoil import (
    CONTROLLERS,
    MODELS,
    STRANGE,
    SUBJECTS,
    Payload,
    Rng,
    change_sizes,
    cut,
    edit_config,
    edit_header,
    edit_place,
    edit_tensor,
    flip,
    link_folder,
    link_inside,
    link_out,
    nest,
    pick,
    poke,
    put,
    rename_tensor,
    replace_folder,
    set_bounds,
    set_huge_size,
    stretch,
    swap,
    write_valid,
)
from wm_gym.artifact import CONFIG_BYTES, FORMAT_VERSION, HEADER_BYTES, put_aside
from wm_gym.models.controller import Controller


@dataclass(frozen=True)
class Mutation:
    """A way to spoil an artifact.

    Attributes:
        change: spoils the artifact in a folder.
        expected: LOADED or REFUSED; None where that depends on what was drawn.
        subjects: what can be spoilt so.
    """

    change: Callable[[Path, Rng], object]
    expected: str | None = REFUSED
    subjects: tuple[str, ...] = SUBJECTS


def _no(*_: object) -> None:
    """Change nothing."""


MUTATIONS: dict[str, Mutation] = {
    "untouched": Mutation(_no, LOADED),
    # the folder
    "a further file": Mutation(lambda f, rng: (f / "notes.txt").write_text("precious"), LOADED),
    "further folders": Mutation(nest, LOADED),
    "a link to a folder": Mutation(link_folder, LOADED),
    "put aside by a killed save": Mutation(lambda f, rng: f.rename(put_aside(f)), LOADED),
    "no folder": Mutation(lambda f, rng: replace_folder(f, _no)),
    "an empty folder": Mutation(lambda f, rng: replace_folder(f, Path.mkdir)),
    "a folder that is a file": Mutation(lambda f, rng: replace_folder(f, Path.touch)),
    "a folder that is a FIFO": Mutation(lambda f, rng: replace_folder(f, os.mkfifo)),
    "a folder that is a dangling link": Mutation(lambda f, rng: replace_folder(f, lambda p: p.symlink_to("nothing"))),
    "a folder that links to itself": Mutation(lambda f, rng: replace_folder(f, lambda p: p.symlink_to(p))),
    # any file
    "truncated": Mutation(lambda f, rng: cut(pick(f, rng), rng)),
    "emptied": Mutation(lambda f, rng: os.truncate(pick(f, rng), 0)),
    "appended to": Mutation(lambda f, rng: (p := pick(f, rng)).write_bytes(p.read_bytes() + b"\0" + rng.bytes(9))),
    "flipped bytes": Mutation(lambda f, rng: flip(pick(f, rng), rng), None),
    "random bytes": Mutation(lambda f, rng: pick(f, rng).write_bytes(rng.bytes(999))),
    "a pickle": Mutation(lambda f, rng: pick(f, rng).write_bytes(pickle.dumps(Payload(f.parent)))),
    "a zip of torch": Mutation(lambda f, rng: torch.save(Payload(f.parent), pick(f, rng))),
    "a huge file": Mutation(lambda f, rng: os.truncate(pick(f, rng), 1 << 40)),
    "swapped files": Mutation(swap),
    "a missing file": Mutation(lambda f, rng: pick(f, rng).unlink()),
    "a folder in place of a file": Mutation(lambda f, rng: put(pick(f, rng), Path.mkdir)),
    "a FIFO": Mutation(lambda f, rng: put(pick(f, rng), os.mkfifo)),
    "a dangling link": Mutation(lambda f, rng: put(pick(f, rng), lambda p: p.symlink_to("nothing"))),
    "a link to itself": Mutation(lambda f, rng: put(pick(f, rng), lambda p: p.symlink_to(p.name))),
    "a link to a device": Mutation(lambda f, rng: put(pick(f, rng), lambda p: p.symlink_to("/dev/zero"))),
    "a link out of the folder": Mutation(link_out),
    "a link inside the folder": Mutation(link_inside, LOADED),
    # config.json
    "a missing key": Mutation(lambda f, rng: edit_place(f, rng, lambda owner, key: owner.pop(key))),
    "a further key": Mutation(lambda f, rng: edit_config(f, lambda c: c.update(more=1)), LOADED),
    "a further key inside": Mutation(lambda f, rng: edit_config(f, lambda c: c["vae"].update(more=1)), REFUSED, MODELS),
    "a strange value": Mutation(
        lambda f, rng: edit_place(f, rng, lambda owner, key: owner.update({key: STRANGE[rng.integers(len(STRANGE))]})),
        None,
    ),
    "a huge size": Mutation(set_huge_size),
    "impossible bounds": Mutation(set_bounds, REFUSED, CONTROLLERS),
    "another memory": Mutation(
        lambda f, rng: edit_config(f, lambda c: c["memory"].update(kind=["mamba", "LSTM", None, {}][rng.integers(4)])),
        REFUSED,
        MODELS,
    ),
    "a newer format": Mutation(lambda f, rng: edit_config(f, lambda c: c.update(format_version=FORMAT_VERSION + 1))),
    "another kind": Mutation(lambda f, rng: edit_config(f, lambda c: c.update(kind="policy"))),
    "no training": Mutation(lambda f, rng: edit_config(f, lambda c: c.update(training=[["a", 1]]))),
    "a list": Mutation(lambda f, rng: (f / "config.json").write_text("[]")),
    "deep JSON": Mutation(lambda f, rng: (f / "config.json").write_text("[" * 10**6)),
    "a long number": Mutation(lambda f, rng: (f / "config.json").write_text("1" * 10**6)),
    "not UTF-8": Mutation(lambda f, rng: (f / "config.json").write_bytes(b"\xff\xfe{}")),
    "a long config": Mutation(lambda f, rng: edit_config(f, lambda c: c.update(training={"log": "x" * CONFIG_BYTES}))),
    # tensors
    "a missing tensor": Mutation(rename_tensor),
    "a renamed tensor": Mutation(lambda f, rng: rename_tensor(f, rng, "more")),
    "a further tensor": Mutation(lambda f, rng: rename_tensor(f, rng, "", "more")),
    "thousands of tensors": Mutation(lambda f, rng: rename_tensor(f, rng, "", *map(str, range(5000)))),
    "another type": Mutation(
        lambda f, rng: edit_tensor(f, rng, lambda a: a.astype(rng.choice(["?", *"BHILbhilfd"]))), None
    ),
    "a further axis": Mutation(lambda f, rng: edit_tensor(f, rng, lambda a: a[None])),
    "a longer row": Mutation(lambda f, rng: edit_tensor(f, rng, lambda a: np.concatenate([a, a[..., :1]], -1))),
    "no rows": Mutation(lambda f, rng: edit_tensor(f, rng, lambda a: a[:0])),
    "not a number": Mutation(lambda f, rng: edit_tensor(f, rng, lambda a: poke(a, np.nan, rng))),
    "infinity": Mutation(lambda f, rng: edit_tensor(f, rng, lambda a: poke(a, -np.inf, rng))),
    "too large for float16": Mutation(lambda f, rng: edit_tensor(f, rng, lambda a: poke(a, 1e30, rng, np.float32))),
    "too large for float32": Mutation(lambda f, rng: edit_tensor(f, rng, lambda a: poke(a, 1e300, rng, np.float64))),
    "the largest of float16": Mutation(
        lambda f, rng: edit_tensor(f, rng, lambda a: (65504 * rng.choice([-1, 1], a.shape)).astype(a.dtype)), None
    ),
    # headers of safetensors
    "flipped bytes of a header": Mutation(lambda f, rng: flip(pick(f, rng, ".safetensors"), rng, 90), None),
    "a huge shape": Mutation(lambda f, rng: edit_header(f, rng, lambda h, t: h[t].update(shape=[1 << 40, 1 << 40]))),
    "a huge flat shape": Mutation(lambda f, rng: edit_header(f, rng, lambda h, t: h[t].update(shape=[1 << 62]))),
    "offsets beyond the file": Mutation(
        lambda f, rng: edit_header(f, rng, lambda h, t: h[t].update(data_offsets=[0, 2**64 - 1]))
    ),
    "bytes of a type that is not read": Mutation(
        lambda f, rng: edit_header(
            f, rng, lambda h, t: h[t].update(dtype={"F16": "BF16", "I64": "U64"}.get(h[t]["dtype"], "U32"))
        )
    ),
    "tensors of the same bytes": Mutation(
        lambda f, rng: edit_header(f, rng, lambda h, t: h.update(more=h[t])),
    ),
    "a long header": Mutation(lambda f, rng: edit_header(f, rng, _no, padding=HEADER_BYTES)),
    "a header of 9 EB": Mutation(
        lambda f, rng: (p := pick(f, rng, ".safetensors")).write_bytes(struct.pack("<Q", 1 << 63) + p.read_bytes()[8:])
    ),
    # whole models
    "other sizes": Mutation(lambda f, rng: change_sizes(f, rng, latents=5, hidden=16, starts=9), LOADED, MODELS),
    "other actions": Mutation(lambda f, rng: change_sizes(f, rng, actions=int(rng.choice([1, 2, 4]))), REFUSED, MODELS),
    # starts
    "other starts": Mutation(lambda f, rng: stretch(f, rng, 50, 40), LOADED, MODELS),
    "millions of starts": Mutation(lambda f, rng: stretch(f, rng, 2_000_000, 1), REFUSED, MODELS),
    "windows of millions of steps": Mutation(lambda f, rng: stretch(f, rng, 2, 1_000_000), REFUSED, MODELS),
    "no start of an episode": Mutation(
        lambda f, rng: edit_tensor(f, rng, lambda a: a.clip(1), "length"), REFUSED, MODELS
    ),
    "a length out of the window": Mutation(
        lambda f, rng: edit_tensor(f, rng, lambda a: poke(a, rng.choice([-1, 4, 2**62]), rng), "length"),
        REFUSED,
        MODELS,
    ),
    "lengths of another type": Mutation(
        lambda f, rng: edit_tensor(f, rng, lambda a: a.astype(rng.choice([*"bhi"])), "length"), LOADED, MODELS
    ),
    "lengths that are floats": Mutation(
        lambda f, rng: edit_tensor(f, rng, lambda a: a.astype(np.float32), "length"), REFUSED, MODELS
    ),
    "latents that are integers": Mutation(
        lambda f, rng: edit_tensor(f, rng, lambda a: a.astype(np.int8), "z"), REFUSED, MODELS
    ),
    "tiles of no lap": Mutation(
        lambda f, rng: edit_tensor(f, rng, lambda a: poke(a, rng.choice([-1, 400]), rng), "gained"), REFUSED, MODELS
    ),
}
"""By name."""


def use(job: tuple[str, str]) -> None:
    """Load the artifact of a subject and folder, and let it act for two steps.

    Raises:
        wm_gym.ArtifactError: when it is refused.
        RuntimeError: when it gives values that are not finite or outside of its spaces.
    """
    torch.set_num_threads(1)  # none of them is worth more
    subject, folder = job
    if subject in CONTROLLERS:
        controller = Controller.from_pretrained(folder)
        shape = (*controller.parameters.shape[:-1], controller.config.observation_size)
        for _ in range(2):
            action, _ = controller.predict(np.random.default_rng(0).standard_normal(shape))
            if not ((action >= controller.low) & (action <= controller.high)).all():
                raise RuntimeError(f"acts outside its bounds: {action}")
        return
    env = gym.make("DreamCarRacing-v0", world_model=folder, starts="any", render_mode="rgb_array")
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        after, reward, terminated, _, _ = env.step(env.action_space.sample())
        if not np.isfinite([*observation, *after, float(reward)]).all() or after not in env.observation_space:
            raise RuntimeError(f"dreams what is not finite: {observation}, {after}, {reward}")
        observation = env.reset()[0] if terminated else after
    env.render()
    env.close()


def fault(mutation: Mutation, folder: Path, verdict: Verdict) -> str | None:
    """Return what is wrong with the verdict on a mutated artifact; None if nothing is."""
    if (folder.parent / "ran").exists():
        return "ran code"
    if verdict.outcome == WRONG:
        return verdict.message
    if verdict.outcome == REFUSED and str(folder) not in verdict.message:
        return f"refused without its name: {verdict.message}"
    if mutation.expected not in (None, verdict.outcome):
        return f"{verdict.outcome}, should have been {mutation.expected}: {verdict.message}"
    return None


def run(count: int, seed: int) -> dict[str, Any]:
    """Load and use mutated artifacts in a child process.

    Args:
        count: of artifacts; all kinds of mutation come round and round.
        seed: of the subjects, their weights and what the mutations draw.

    Returns:
        ``mutations`` (name -> how many), how many were ``loaded`` and ``refused``, ``wrong`` (a line for each that did
        anything else), ``slowest`` (seconds) and ``memory`` (MiB at the child's peak, Python and torch included).
    """
    kinds, outcomes, wrong = Counter[str](), Counter[str](), []
    slowest, memory = 0.0, 0
    with TemporaryDirectory() as root, Examiner(use) as examiner:
        for i in range(count):
            kind = list(MUTATIONS)[i % len(MUTATIONS)]
            mutation, rng = MUTATIONS[kind], np.random.default_rng([seed, i])
            subject = mutation.subjects[rng.integers(len(mutation.subjects))]
            folder = Path(root).resolve() / str(i) / "artifact"
            write_valid(folder, subject, rng)
            mutation.change(folder, rng)
            verdict = examiner.examine((subject, str(folder)))
            what = fault(mutation, folder, verdict)
            shutil.rmtree(folder.parent)
            kinds[kind] += 1
            slowest, memory = max(slowest, verdict.seconds), max(memory, verdict.memory)
            if what is None:
                outcomes[verdict.outcome] += 1
            else:
                wrong.append(f"{subject} {i} of seed {seed}, {kind}: {what}")
    return {
        "mutations": dict(kinds),
        "loaded": outcomes[LOADED],
        "refused": outcomes[REFUSED],
        "wrong": wrong,
        "slowest": round(slowest, 2),
        "memory": memory >> 20,
    }
