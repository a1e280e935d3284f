"""World models as Gymnasium environments: train in the dream, drive the real car.

Importing this package registers ``DreamCarRacing-v0`` and ``LatentCarRacing-v0``; `register_dream` registers those of
any other world model. torch and Box2D are loaded when an env is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wm_gym.registration import register_pair

if TYPE_CHECKING:
    from wm_gym.artifact import ArtifactError
    from wm_gym.evaluate import rollout
    from wm_gym.models.controller import Controller
    from wm_gym.policies import Policy, load_policy
    from wm_gym.registration import register_dream
    from wm_gym.world_model import WorldModel
    from wm_gym.wrappers import RNNHiddenObservation, VAELatentObservation

__version__ = "0.1.0"

_PUBLIC = {
    "ArtifactError": "wm_gym.artifact",
    "Controller": "wm_gym.models.controller",
    "Policy": "wm_gym.policies",
    "RNNHiddenObservation": "wm_gym.wrappers",
    "VAELatentObservation": "wm_gym.wrappers",
    "WorldModel": "wm_gym.world_model",
    "load_policy": "wm_gym.policies",
    "register_dream": "wm_gym.registration",
    "rollout": "wm_gym.evaluate",
}

__all__ = [
    "ArtifactError",
    "Controller",
    "Policy",
    "RNNHiddenObservation",
    "VAELatentObservation",
    "WorldModel",
    "load_policy",
    "register_dream",
    "rollout",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wm_gym' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """Return all names, those not loaded yet among them."""
    return sorted({*globals(), *__all__})


register_pair(
    "DreamCarRacing-v0",
    "LatentCarRacing-v0",
    max_episode_steps=1000,
    reward_threshold=900.0,
    kwargs={"world_model": "car_racing", "task": "CarRacing-v3"},
)
