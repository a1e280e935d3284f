"""The card of a world model that is shared: what it is, how well it drives, what it was trained on and its config."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_gym.car_racing import CAR_RACING
from wm_gym.models.kinds import kind_of

if TYPE_CHECKING:
    from wm_gym.models.controller import ControllerConfig
    from wm_gym.world_model import WorldModelConfig

USE = """\
```python
import gymnasium as gym
import wm_gym

dream = gym.make("DreamCarRacing-v0", world_model="{name}")
real = gym.make("LatentCarRacing-v0", world_model="{name}")"""
USE_ANOTHER = """\
```python
import gymnasium as gym
import wm_gym

real_id = wm_gym.register_dream("DreamTask-v0", world_model="{name}")
dream, real = gym.make("DreamTask-v0"), gym.make(real_id)"""
"""The same for another env than CarRacing."""


MEMORIES = {"lstm": "MDN-RNN", "transformer": "Transformer", "ensemble": "ensemble of MDN-RNNs"}
"""What kinds of memories are called."""


def data_label(episodes: Mapping[str, int]) -> str:
    """Return what a score is labelled when so many episodes of each driver's label were trained on."""
    return "privileged" if episodes.get("privileged") else "from scratch"


def card(
    name: str,
    config: WorldModelConfig,
    controller: ControllerConfig | None = None,
    results: str | Path | None = None,
    note: str = "",
) -> str:
    """Return the card's text, Markdown.

    Args:
        name: what `WorldModel.from_pretrained` takes.
        config: the world model's; its ``training`` tells of data and rounds, as far as it was kept.
        controller: config of the controller that goes with it.
        results: folder of the benchmarks' JSON. Figures of another world model or controller are left out, with a
            warning.
        note: what else the card should say.

    Raises:
        FileNotFoundError: when there is no folder ``results``.
    """
    if results is not None and not Path(results).is_dir():
        raise FileNotFoundError(f"{results}: no such folder of benchmarks' results")
    training, use = config.training, USE if config.task == CAR_RACING else USE_ANOTHER
    lines = [f"# {name.removeprefix('path/to/')}", "", *_what(config, controller), "", use.format(name=name)]
    if controller is not None:
        lines.append(f'controller = wm_gym.Controller.from_pretrained("{name}")')
    lines += ["```", "", *_data_lines(training), *([f"- {note}"] if note else [])]
    lines += [*_result_lines(training, controller, results)]
    lines += _rounds_table(training)
    content = {key: value for key, value in config.to_dict().items() if key != "training"}
    lines += ["", "```json", json.dumps(content, indent=2), "```"]
    return "\n".join(lines) + "\n"


def _what(config: WorldModelConfig, controller: ControllerConfig | None) -> list[str]:
    memory = MEMORIES[kind_of(config.memory)] + (f", doubters: {config.doubters}" if config.doubters else "")
    what = f"A world model of {config.task.env} (VAE, {memory}, starts of dreams)"
    command = f", by `{config.training['command']}`" if "command" in config.training else ""
    if controller is None:
        return [f"{what}{command}."]
    if not str(controller.training.get("env")).split("/")[-1].startswith("Dream"):
        return [f"{what} and a linear controller{command}."]
    return [f"{what} and a linear controller that was evolved in", f"its dreams only{command}."]


def _data_lines(training: Mapping[str, Any]) -> list[str]:
    if not {"episodes", "seeds", "frames"} <= training.keys():
        return ["- Data: unknown."]
    episodes = ", ".join(f"{count} {label}" for label, count in training["episodes"].items())
    first, last = training["seeds"]
    data = f"- Data: {episodes} episodes on tracks {first} to {last}; {training['frames']:,} real frames."
    if "real_frames" in training:
        data += f" The whole run, its validation drives included, used {training['real_frames']:,}."
    return [data, f"- Label: {data_label(training['episodes'])}."]


def _result_lines(
    training: Mapping[str, Any], controller: ControllerConfig | None, results: str | Path | None
) -> list[str]:
    lines = {}
    mine, driver = json.loads(json.dumps([training, None if controller is None else controller.training]))
    for file, describe in (
        ("score.json", _score_line),
        ("reconstruction.json", _reconstruction_line),
        ("reevolve.json", _reevolve_line),
    ):
        if results is not None and (path := Path(results) / file).is_file():
            content = json.loads(path.read_text())
            if content.get("training") == mine and content.get("controller", driver) == driver:
                lines[file] = describe(content)
            else:
                warnings.warn(f"{path} is of another world model or controller: the card leaves it out", stacklevel=2)
    lines.setdefault("score.json", "- Score on the 100 test tracks: not measured.")
    return list(lines.values())


def _rounds_table(training: Mapping[str, Any]) -> list[str]:
    if not {"rounds", "candidates", "finalists"} <= training.keys():
        return []
    lines = ["", "| round | real frames | dream score | real score (validation) | all candidates | minutes |"]
    lines += ["|---|---|---|---|---|---|"]
    for line in training["rounds"]:
        minutes = sum(line["seconds"].values()) / 60
        frames, dream = f"{line['collected_frames']:,}", f"{line['dream']['mean']:.0f}"
        candidates = [each for each in training["candidates"] if each["round"] == line["round"]]
        means = sorted({each["real"]["mean"] for each in (line, *candidates)}, reverse=True)
        listed = ", ".join(f"{mean:.0f}" for mean in means)
        lines.append(f"| {line['round']} | {frames} | {dream} | {_mean_std(line['real'])} | {listed} | {minutes:.1f} |")
    for line in training["finalists"]:
        tracks, dream = line["real"]["episodes"], f"{line['dream']['mean']:.0f}"
        lines.append(f"| {line['round']} on {tracks} tracks | | {dream} | {_mean_std(line['real'])} | | |")
    return lines


def _mean_std(scores: Mapping[str, float]) -> str:
    mean, std = scores["mean"], scores["std"]
    return f"{mean:.0f} ± {std:.{0 if std >= 1 else 1}f}"


def _score_line(content: Mapping[str, Any]) -> str:
    real, dream = content["real"], content["dream"]
    shares = "".join(f", {real[key]:.0%} at {key[6:]} or more" for key in real if key.startswith("share_"))
    return (
        f"- Score on the 100 test tracks (`{content['command']}`): {_mean_std(real)}, median "
        f"{real['median']:.0f}{shares}; in 100 dreams {_mean_std(dream)}."
    )


def _reconstruction_line(content: Mapping[str, Any]) -> str:
    return (
        f"- Summed squared error of decode(mu) over {content['frames']:,} frames of validation tracks "
        f"(`{content['command']}`): {content['squared_error']:.2f}."
    )


def _reevolve_line(content: Mapping[str, Any]) -> str:
    return (
        f"- Another controller, evolved from zero in this world model for {content['minutes']:.0f} minutes "
        f"(`{content['command']}`): {_mean_std(content['real'])} on the 100 test tracks."
    )
