"""What the page is told: once what does not change, then a frame a step."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wm_gym.browser.session import HANDS, Session
from wm_gym.frames import INPUT_SIZE, gauge_speed
from wm_gym.models.memory import mixture_spread


@dataclass(frozen=True, eq=False)
class Frame:
    """What is seen at one moment.

    Attributes:
        dream: z through V's decoder, uint8 ``(64, 64, 3)``.
        real: the rows of the real frame that V sees, uint8 ``(rows, 96, 3)``.
        figures: JSON-able, see `figures`.
    """

    dream: npt.NDArray[np.uint8]
    real: npt.NDArray[np.uint8]
    figures: dict[str, Any]

    def pack(self) -> bytes:
        """Return the length of the JSON (4 bytes, little-endian), the JSON, and the pixels of both pictures."""
        figures = json.dumps(self.figures, separators=(",", ":"), allow_nan=False).encode()
        return struct.pack("<I", len(figures)) + figures + self.dream.tobytes() + self.real.tobytes()


def describe(session: Session) -> dict[str, Any]:
    """Return what does not change, JSON-able.

    Drivers, starts, the greatest value of each latent in real moments (`reach`), the RMSE of two unrelated ones
    (`unrelated`), sizes of the pictures.
    """
    model = session.simulator.world_model
    z, _ = model.start_states
    starts = model.starts
    return {
        "drivers": [HANDS, *session.policies],
        "starts": [
            {"driving": bool(length), "tiles": round(float(tiles))}
            for length, tiles in zip(starts.length, starts.gained, strict=True)
        ],
        "reach": z.abs().amax(dim=0).tolist(),
        "unrelated": (2 * z.var(dim=0).mean()).sqrt().item(),
        "dream": [INPUT_SIZE, INPUT_SIZE],
        "real": list(model.config.picture),
    }


def draw(session: Session) -> Frame:
    """Draw the session's present moment."""
    car_racing: Any = session.real.env.unwrapped
    (rows, _), dream = session.simulator.world_model.config.picture, session.simulator.frames()[0]
    return Frame(dream, car_racing.state[:rows], figures(session, dream))


@torch.inference_mode()
def figures(session: Session, dream: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return the figures of the present moment, JSON-able; pairs are of the dream and the real car.

    Speeds are in m/s: what the gauge in the dream's picture shows, and the real car's own. `spread` is the mean
    standard deviation of the latents' mixtures, `end` the probability that the last step ended the dream, `gap` the
    RMSE of the dream's z to the real car's. What can't be said is None.
    """
    simulator, drives = session.simulator, (session.dream, session.real)
    car_racing: Any = session.real.env.unwrapped
    memory, z = simulator.world_model.memory, simulator.z[0].cpu().numpy()
    end = spread = gap = None
    if session.dream.reward is not None:
        prediction = memory.predict(memory.hidden(simulator.memory_state))
        end, spread = prediction.end_logit.sigmoid().item(), mixture_spread(prediction).mean().item()
    if session.parted is not None and not (session.replay or any(drive.outcome for drive in drives)):
        gap = float(np.sqrt(np.square(z - session.real.observation[: len(z)]).mean()))
    return {
        "track": session.track,
        "clock": session.clock,
        "parted": session.parted,
        "paused": session.paused,
        "replay": len(session.replay),
        "driver": session.driver,
        "watched": session.watched,
        "temperature": simulator.temperature,
        "sampling": simulator.sampling,
        "action": session.action.tolist(),
        "score": [drive.score for drive in drives],
        "reward": [drive.reward for drive in drives],
        "outcome": [drive.outcome for drive in drives],
        "speed": [
            gauge_speed(dream, simulator.world_model.config.frames),
            car_racing.car.hull.linearVelocity.length,
        ],
        "end": end,
        "spread": spread,
        "gap": gap,
        "z": z.round(3).tolist(),
        "branches": [
            {"id": key, "clock": branch.clock, "score": branch.scores} for key, branch in session.branches.items()
        ],
    }
