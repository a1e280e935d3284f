"""The dream beside the real car on a page of this machine: ``python -m wm_gym.play --browser``."""
