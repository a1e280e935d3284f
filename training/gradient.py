"""Find C by gradients through short dreams: a first guess that CMA-ES refines.

A dream is differentiable: z is reparameterised (mu + σ · noise of the chosen component), the pay is an expectation,
and the end is a probability. A few hundred walkers dream on and on; at each step of the ascent they look ahead, and
the gradient of what they earn flows back through memory and latents into C's weights.

What they earn is weighed: beyond a pace more tiles may count little, or even against a walker (see `Objective`). A lap
has so many tiles and no more, which a short look ahead can't see: paid in full, it drives at 90 m/s and leaves the
road; paid a little, it makes up in speed for tiles that it misses in bends, and a missed tile keeps the real lap open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import trange

from training.checkpoints import cosine
from wm_gym.checks import check_choice
from wm_gym.doubt import Doubters
from wm_gym.dream import SAMPLING
from wm_gym.models.controller import ControllerConfig
from wm_gym.models.memory import mixture_mode, put, sample_mixture, select
from wm_gym.world_model import WorldModel

Array = TypeVar("Array", Tensor, npt.NDArray[np.floating])


@dataclass
class Args:
    """How to ascend."""

    steps: int = 0
    """of Adam, from zero or from the parent, before CMA-ES starts; 0 for CMA-ES alone"""
    walkers: int = 128
    """dreams at a time"""
    acting: int = 60
    """steps of a look ahead whose actions the gradient reaches"""
    coasting: int = 40
    """further steps, so that the last of those actions have consequences"""
    length: int = 400
    """steps after which a walker begins a new dream"""
    learning_rate: float = 0.01
    """of Adam, with a cosine to 5 %"""
    saturation: float = 0.05
    """price of an action's squared excess over 1.5 before its tanh: a saturated action has no gradient"""
    disturbance: float = 0.0
    """standard deviation of a tremble of actions, as a share of half their range: it teaches to drive with a margin"""


@dataclass
class Objective:
    """What pay counts while C is sought: gradients weigh the mean of 20 steps, CMA-ES each step.

    A dream pays what is expected of a step, so the two differ little; a lap's tiles come one by one.
    """

    pace: float = 1.15
    """what the tiles of a step must pay for a lap in time: 1 is a lap in 1000 steps"""
    beyond: float = 1.0
    """what counts of pay beyond the pace: 1 is all of it; below 0, a faster car is a worse one"""
    doubt: float = 0.0
    """price of a step's disagreement between the memory and the world model's doubters, or an ensemble's members, as a
    dream tells it"""

    def __post_init__(self) -> None:
        if not self.doubt >= 0:
            raise ValueError(f"a price of doubt is 0 or more, got {self.doubt}")

    def weigh(self, pay: Array) -> Array:
        """Return what pay per step, a tensor or an array, counts."""
        return pay - (1 - self.beyond) * (pay - self.pace).clip(min=0)


BLOCK = 20
"""Steps over which pay is averaged before it is weighed: tiles come one by one."""

TREMBLE = 0.9
"""Share of a tremble that is left a step later: it lasts for some ten steps."""


DOUBT_EVERY = 4
"""Steps from one look at how far memories disagree to the next: to look at each would double the time."""


class LinearPolicy:
    """C with a gradient: the same function of the same parameters as `wm_gym.Controller`."""

    def __init__(self, parameters: npt.NDArray[np.floating], config: ControllerConfig, device: torch.device) -> None:
        rows = torch.tensor(parameters, dtype=torch.float32, device=device).reshape(config.action_size, -1)
        self.rows = rows.requires_grad_()
        self.low, self.high = torch.tensor(config.low, device=device), torch.tensor(config.high, device=device)
        self.scale = torch.maximum(self.low.abs(), self.high.abs())

    def __call__(self, observation: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions ``(N, A)`` and what their tanh was taken of, for ``[z, h]`` ``(N, D)`` and weights."""
        inside = observation @ rows[:, :-1].T + rows[:, -1]
        return self.clamp(self.scale * inside.tanh()), inside

    def clamp(self, action: Tensor) -> Tensor:
        """Return actions within their bounds."""
        return torch.clamp(action, self.low, self.high)


def ascend(
    model: WorldModel,
    parameters: npt.NDArray[np.floating],
    config: ControllerConfig,
    args: Args,
    objective: Objective,
    temperature: float,
    seed: int,
    sampling: str = "sample",
    z_only: bool = False,
) -> npt.NDArray[np.float64]:
    """Return C's parameters ``(P,)`` after ``args.steps`` steps of ascent on what dreams pay.

    A walker that ends, finishes its lap or is old begins again at one of the world model's starts.

    Args:
        model: the dream, from any of its starts.
        parameters: ``(P,)``, where to begin.
        config: of C.
        args: how.
        objective: what pay counts.
        temperature: τ, for ``sampling="sample"``.
        seed: of starts and noise.
        sampling: as the dream's: "sample", or "mode" for the mean of the likeliest component.
        z_only: keep C's weights of h at what they are.

    Raises:
        ValueError: for choices, no walkers, a look ahead without actions, a negative disturbance, an unknown
            sampling, or a world model that nothing doubts at a price of doubt.
        FloatingPointError: when the gradient is not finite.
    """
    if config.discrete:
        raise ValueError("no gradient flows through a choice of actions: use --gradient.steps 0, CMA-ES alone")
    if args.walkers < 1 or args.acting < 1 or args.coasting < 0:
        raise ValueError(f"a look ahead needs walkers that act, got {args}")
    if args.disturbance < 0:
        raise ValueError(f"a disturbance is 0 or more, got {args}")
    check_choice("sampling", sampling, SAMPLING)
    memory, reward, device = model.memory, model.config.reward, model.device
    if objective.doubt and not model.config.doubted:
        raise ValueError(
            "a price of doubt needs a world model with doubters, as training.loop --memories 2 makes it, or an ensemble"
        )
    doubters = Doubters(model.doubters if objective.doubt else ())
    policy = LinearPolicy(parameters, config, device)
    optimizer = torch.optim.Adam([policy.rows], lr=args.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    latent_size, n = model.config.vae.latent_size, args.walkers

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    start_z, start_state, start_gained = (
        model.start_states[0].clone(),
        tuple(part.clone() for part in model.start_states[1]),  # cloned: inference tensors take no part in gradients
        torch.from_numpy(model.starts.gained).to(device),
    )
    z, state, gained = (
        torch.zeros(n, latent_size, device=device),
        memory.initial_state(n),
        torch.zeros(n, device=device),
    )
    following = doubters.initial_state(n)
    start_following = tuple(part.clone() for part in (model.doubter_states if objective.doubt else ()))
    ahead = args.acting + args.coasting
    age, over = torch.randint(args.length, (n,), generator=generator), torch.ones(n, dtype=torch.bool, device=device)
    with trange(args.steps, desc="gradients", unit="step") as bar:
        for step in bar:
            new = torch.nonzero(over).squeeze(1)
            picked = torch.randint(len(start_z), (len(new),), generator=generator).to(device)
            z, gained = z.index_put((new,), start_z[picked]), gained.index_put((new,), start_gained[picked])
            state = put(state, new, select(start_state, picked))
            following = put(following, new, select(start_following, picked))

            alive, paid = torch.ones(n, device=device), torch.zeros(n, device=device)
            price = torch.zeros((), device=device)
            block: list[Tensor] = []
            dreamt, memorised, count, tremble = z, state, gained, torch.zeros(n, config.action_size, device=device)
            followed = following
            for t in range(ahead):
                rows = policy.rows if t < args.acting else policy.rows.detach()
                action, inside = policy(torch.cat([dreamt, memory.hidden(memorised)], dim=1), rows)
                if args.disturbance:
                    shock = torch.randn(tremble.shape, generator=generator).to(device)
                    tremble = TREMBLE * tremble + (1 - TREMBLE**2) ** 0.5 * shock
                    action = policy.clamp(action + args.disturbance * tremble * (policy.high - policy.low) / 2)
                followed = doubters.step(dreamt, action, followed)
                memorised = memory.step(dreamt, action, memorised)
                prediction = memory.predict(memory.hidden(memorised))
                if objective.doubt and t % DOUBT_EVERY == DOUBT_EVERY - 1:
                    apart = doubters.disagreement(prediction, followed) if model.doubters else prediction.disagreement
                    assert apart is not None  # an ensemble's
                    paid = paid - objective.doubt * DOUBT_EVERY * alive * apart
                noise = torch.randn(n, latent_size, generator=generator).to(device)
                if sampling == "mode":
                    dreamt = mixture_mode(prediction)
                else:
                    dreamt = sample_mixture(prediction, temperature, uniform(n, latent_size), noise)
                ending = prediction.end_logit.sigmoid()
                earning = alive if reward.end is None else alive * (1 - ending)
                pay = earning * prediction.gain * reward.scale
                # what each step of a lap costs is left out: no driver can change it
                block.append(pay if reward.goal is not None else pay + earning * reward.per_step)
                if reward.end is not None:
                    paid = paid + alive * ending * reward.end
                if len(block) == BLOCK or t == ahead - 1:
                    paid = paid + len(block) * objective.weigh(torch.stack(block).mean(0))
                    block = []
                alive = alive * (1 - ending)
                if reward.goal is not None:
                    count = count + prediction.gain.detach()
                    alive = alive * (count < reward.goal)  # the lap pays once
                if t < args.acting:
                    price = price + args.saturation * (inside.abs() - 1.5).clamp_min(0).square().mean()
                if t == args.acting - 1:  # where the walkers are when the next look ahead begins
                    z, state = dreamt.detach(), tuple(part.detach() for part in memorised)
                    following = tuple(part.detach() for part in followed)
                    gained, survival = count, alive.detach()
            optimizer.param_groups[0]["lr"] = args.learning_rate * cosine(step / args.steps)
            optimizer.zero_grad()
            (price / args.acting - paid.mean() / ahead).backward()
            if z_only:
                assert policy.rows.grad is not None
                policy.rows.grad[:, latent_size:-1] = 0
            norm = torch.nn.utils.clip_grad_norm_([policy.rows], 1.0)
            if not norm.isfinite():
                raise FloatingPointError(
                    f"the gradient through {ahead} steps of dreams is {norm}: look less far ahead "
                    "(--gradient.acting, --gradient.coasting) or lower --gradient.learning-rate"
                )
            optimizer.step()
            age += args.acting
            over = (uniform(n) >= survival) | (age >= args.length).to(device)  # a finished lap has survival 0
            age[over.cpu()] = 0
            bar.set_postfix(pay=f"{paid.mean().item() / ahead:.2f}")
    return policy.rows.detach().cpu().double().numpy().ravel()
