"""How a dream pays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wm_gym.artifact import LARGEST_VALUE


@dataclass(frozen=True)
class RewardConfig:
    """How a dream pays: reward = gain · scale + per_step, where the memory predicts the expected gain of a step.

    Either gains are counts, and their sum is the way to a goal (CarRacing's tiles): then the memory's end is a failure.
    Or they are any real numbers, and the memory predicts every end.

    Attributes:
        scale: paid for a gain of 1.
        per_step: paid for every step.
        end: paid instead for a step that the memory ends; None where the gain tells what it pays.
        goal: sum of gains at which a dream is finished; None where gains are real numbers.
    """

    scale: float
    per_step: float
    end: float | None = None
    goal: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.end, self.goal) if value is not None]
        numbers = (self.scale, self.per_step, *given)
        finite = all(isinstance(value, (int, float)) and abs(value) <= LARGEST_VALUE for value in numbers)
        if not finite or (self.goal is not None and self.goal <= 0):
            raise ValueError(f"rewards are finite numbers up to {LARGEST_VALUE}, and a goal is above 0, got {self}")

    def gains(self, told: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Return the gains of real steps: recorded counts are gains; of rewards they are (r − per_step) / scale."""
        if self.goal is not None:
            return told
        return (told - self.per_step) / (self.scale or 1.0)
