"""Registering the dream of a world model and the real env that it dreams of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym

from wm_gym import artifact
from wm_gym.artifact import ArtifactError
from wm_gym.tasks import TaskConfig

DREAM_ID = re.compile(r"(?P<space>([\w-]+/)?)Dream(?P<name>[\w.-]+-v\d+)")


def register_pair(dream: str, real: str, **settings: Any) -> None:
    """Register the ids of a dream, single and vectorised, and of its real env, with the same settings.

    Gymnasium's checker of envs is off: once it has seen a reset refused, it fails at every step that follows. These
    envs check their calls themselves.
    """
    vector, settings = "wm_gym.envs.dream_vector:DreamVectorEnv", {"disable_env_checker": True, **settings}
    gym.register(dream, "wm_gym.envs.dream:DreamEnv", vector_entry_point=vector, **settings)
    gym.register(real, "wm_gym.envs.latent:LatentEnv", **settings)


def register_dream(id: str, world_model: str | Path) -> str:
    """Register the dream of any world model, and the real env that it dreams of: ``DreamFoo-v0``, ``LatentFoo-v0``.

    Spaces, rules and time limit are the artifact's. Other processes must register too, but for those that a vector env
    starts; where a package registers the real env itself, these find it by `wm_gym.tasks.PACKAGES`.

    Args:
        id: of the dream, ``Dream...``, perhaps with a namespace.
        world_model: bundled name, folder, or user/name on the Hugging Face Hub; another one of the same env can be
            given when an env is made.

    Returns:
        The id of the real env.

    Raises:
        ValueError: for an id that does not begin with Dream or has no version.
        wm_gym.ArtifactError: when there is no such world model, or its config is not readable.
    """
    match = DREAM_ID.fullmatch(id) if isinstance(id, str) else None
    if match is None:
        raise ValueError(f"a dream's id begins with Dream and ends with a version, as DreamAcrobot-v0, got {id!r}")
    task, real = task_of(world_model), f"{match['space']}Latent{match['name']}"
    if world_model not in artifact.bundled("world_model") and Path(world_model).exists():
        world_model = Path(world_model).resolve()  # the same one wherever the process goes
    limits: dict[str, Any] = {"max_episode_steps": task.max_episode_steps, "reward_threshold": task.solved}
    settings = {**limits, "kwargs": {"world_model": str(world_model), "task": task.env}}
    for each in (id, real):
        if (known := gym.registry.get(each)) and {key: getattr(known, key) for key in settings} == settings:
            gym.registry.pop(each)  # the same again, as in a notebook, deserves no warning
    register_pair(id, real, **settings)
    return real


def env_ids(world_model: str | Path) -> tuple[str, str]:
    """Return the ids of a world model's dream and real env, as in DreamAcrobot-v0; registered if they are not yet.

    Raises:
        ValueError: when the dream of another env, as of another version of it, is registered under that id.
        wm_gym.ArtifactError: when there is no such world model, or its config is not readable.
    """
    task = task_of(world_model)
    *space, name = task.env.split("/")
    name = re.sub(r"\W", "", re.sub(r"-v\d+$", "", name))
    dream, real = ("/".join([*space, f"{kind}{name}-v0"]) for kind in ("Dream", "Latent"))
    if dream not in gym.registry:
        register_dream(dream, world_model)
    elif (other := gym.spec(dream).kwargs.get("task")) != task.env:
        raise ValueError(f"{dream} is the dream of {other} in this process: use a world model of {task.env} in another")
    return dream, real


def task_of(world_model: str | Path) -> TaskConfig:
    """Return the real env of a world model, without its weights.

    Raises:
        wm_gym.ArtifactError: when there is no such world model, or its config is not readable.
    """
    from wm_gym.car_racing import CAR_RACING

    def read(folder: Path) -> TaskConfig:
        config = artifact.read_config(folder, "world_model")
        try:
            return CAR_RACING if config["format_version"] == 1 else TaskConfig.from_dict(config["task"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / 'config.json'}: bad or missing field: {error!r}") from error

    return artifact.read_whole(world_model, "world_model", read)
