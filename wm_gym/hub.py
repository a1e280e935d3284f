"""World models and controllers on the Hugging Face Hub, through its own library: ``pip install "wm-gym[hub]"``.

A repository holds ``world_model/``, perhaps the ``controller/`` that goes with it, and a card, ``README.md``.
"""

from __future__ import annotations

import atexit
import re
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING

from wm_gym import artifact
from wm_gym.artifact import ArtifactError
from wm_gym.card import card
from wm_gym.policies import check_world_model

if TYPE_CHECKING:
    from wm_gym.models.controller import Controller
    from wm_gym.world_model import WorldModel

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""What a repository's name looks like: user/name."""
FILES = ("config.json", "*.safetensors")
"""What is downloaded of an artifact, and nothing else."""
KINDS = ("world_model", "controller")
HEADER = """\
---
library_name: wm-gym
pipeline_tag: reinforcement-learning
tags:
- world-model
- gymnasium
- {env}
---

"""
"""What the Hub reads from the head of a card."""
INSTALL = 'the Hugging Face Hub needs huggingface_hub: pip install "wm-gym[hub]"'


def is_remote(name: str | Path) -> bool:
    """Return whether a name stands for a repository of the Hub: "user/name", unless there is such a path here.

    A `Path` never does.
    """
    return isinstance(name, str) and NAME.fullmatch(name) is not None and not Path(name).exists()


@cache
def download(name: str, kind: str) -> Path:
    """Return a folder with the newest artifact of a repository; it is looked up once per process.

    The library keeps what it downloads in its cache, where files are links, and goes by that when it is offline. No
    link of an artifact is followed, so the files are copied to a folder that goes with the process.

    Args:
        name: "user/name".
        kind: "world_model" or "controller".

    Raises:
        ArtifactError: when it can't be had, or holds larger files than are read.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HTTPError
    except ImportError as error:
        raise ArtifactError(f"{name}: no such {kind}: there is no such folder, and {INSTALL}") from error
    try:
        snapshot = Path(snapshot_download(name, allow_patterns=[f"{kind}/{file}" for file in FILES]))
    except (OSError, ValueError, HTTPError) as error:
        raise ArtifactError(
            f"{name}: no such {kind}: there is no such folder, and the Hugging Face Hub can't give it: {error}"
        ) from error
    files = [path for file in FILES for path in sorted((snapshot / kind).glob(file))]
    if not files:
        raise ArtifactError(f"{name}: this repository of the Hugging Face Hub holds no {kind}")
    root = mkdtemp(prefix="wm_gym-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    folder = Path(root) / name / kind
    folder.mkdir(parents=True)
    for path in files:
        artifact.check_file(path.resolve(), artifact.FILE_BYTES)
        shutil.copyfile(path, folder / path.name)
    return folder


def push(
    to: str | Path,
    model: WorldModel,
    controller: Controller | None = None,
    results: str | Path | None = None,
    note: str = "",
    private: bool | None = None,
) -> str:
    """Put a world model, the controller that goes with it and their card into a repository or a folder.

    See `WorldModel.push_to_hub`.
    """
    if controller is not None and (
        controller.config.observation_size != model.config.observation_size
        or controller.config.actions != model.config.task.actions
    ):
        raise ValueError(
            f"{to}: the controller maps {controller.config.observation_size} observations to "
            f"{controller.config.actions}, but [z, h] of the world model has {model.config.observation_size} and its "
            f"task {model.config.task.actions}"
        )
    if controller is not None:
        check_world_model(controller, model, f"for {to}")
    if not is_remote(to):
        if not isinstance(to, Path) and not Path(to).is_dir():
            raise ValueError(f"{to}: expected a repository's user/name, or a folder, as a Path if it is new")
        if controller is None and (Path(to) / "controller").exists():
            raise FileExistsError(
                f"{to}: its controller would be left beside another world model: give one, remove it, or "
                "choose another folder"
            )
        place = Path(to).resolve()
        bundled = place.parent == artifact.PRETRAINED.resolve()  # others will have it elsewhere
        _write(place, place.name if bundled else f"path/to/{place.name}", model, controller, results, note)
        return str(to)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError
    except ImportError as error:
        raise ImportError(f"{to}: {INSTALL}") from error
    name, api = str(to), HfApi()
    with TemporaryDirectory() as folder:
        _write(Path(folder), name, model, controller, results, note, HEADER.format(env=model.config.task.env))
        try:
            api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message="Upload a world model with wm-gym",
                delete_patterns=[f"{kind}/*" for kind in KINDS],  # what is there already and not replaced
            )
        except (OSError, HTTPError) as error:
            raise ConnectionError(
                f"{name}: not uploaded to the Hugging Face Hub (is there a network, and are you logged in, with "
                f"`hf auth login`?): {error}"
            ) from error
    return str(commit.commit_url)


def _write(
    folder: Path,
    name: str,
    model: WorldModel,
    controller: Controller | None,
    results: str | Path | None,
    note: str,
    header: str = "",
) -> None:
    text = header + card(name, model.config, None if controller is None else controller.config, results, note)
    model.save(folder / "world_model")
    if controller is not None:
        controller.save(folder / "controller")
    (folder / "README.md").write_text(text, encoding="utf-8")
