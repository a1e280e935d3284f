"""Do dream scores of policies tell their real ones, as far as scores repeat at all?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.floating]


def mmrv(real: Array, dream: Array) -> float:
    """Return the mean maximum rank violation of scores ``(P,)``, in points (Li et al. 2024, SIMPLER, section 4).

    For each policy, the greatest real difference to another one that the dream puts on the wrong side of it.
    """
    differences = real[:, None] - real[None, :]
    wrong = (differences < 0) != (dream[:, None] < dream[None, :])
    return float((np.abs(differences) * wrong).max(axis=1).mean())


def correlation(kind: str, one: Array, other: Array) -> float | None:
    """Return "pearson" or "spearman" of scores ``(P,)``; None of fewer than three, or of equal ones."""
    if len(one) < 3 or not np.ptp(one) or not np.ptp(other):
        return None
    return float({"pearson": stats.pearsonr, "spearman": stats.spearmanr}[kind](one, other)[0])


def agreement(real: Array, dream: Array, groups: Sequence[Any]) -> dict[str, Any]:
    """Return how well dream scores of policies tell real ones.

    Args:
        real: scores ``(P, E)``, of each policy in each episode.
        dream: the same, in as many dreams.
        groups: which policies are kin, ``(P,)``: those of one training are more alike than others.

    Returns:
        JSON-able: Pearson's and Spearman's correlation of the means, each with a 95 % bootstrap interval over groups of
        policies and episodes, MMRV, the mean gap (dream − real) and the regret: how much better the best policy is than
        the one that the dream would choose. Of fewer than three policies, or equal scores, correlations are None;
        and of one group alone their intervals.
        "repeats" is how well either's scores repeat, see `repeat`.
    """
    means = real.mean(1), dream.mean(1)
    kinds = np.unique(np.array(list(groups)), return_inverse=True)[1]
    kin = [np.flatnonzero(kinds == kind) for kind in range(kinds.max() + 1)]
    found: dict[str, Any] = {"policies": len(real), "groups": len(kin)}
    for kind in ("pearson", "spearman"):
        value, rng, drawn = correlation(kind, *means), np.random.default_rng(0), list[float]()
        found[kind] = None
        while value is not None and len(kin) > 1 and len(drawn) < 1000:
            chosen = np.concatenate([kin[i] for i in rng.integers(len(kin), size=len(kin))])
            # policies share their seeds, so they are drawn together
            again = (each[chosen][:, rng.integers(each.shape[1], size=each.shape[1])].mean(1) for each in (real, dream))
            if (one := correlation(kind, *again)) is not None:
                drawn.append(one)
        if value is not None:
            low, high = np.percentile(drawn, [2.5, 97.5]).tolist() if drawn else (None, None)
            found[kind] = {"value": value, "low": low, "high": high}
    found |= {"mmrv": mmrv(*means), "gap": float((means[1] - means[0]).mean())}
    found["regret"] = float(means[0].max() - means[0][means[1].argmax()])
    found["repeats"] = {"real": repeat(real), "dream": repeat(dream)}
    return found


def repeat(scores: Array, halves: int = 200) -> float | None:
    """Return Spearman's correlation to expect of the means of scores ``(P, E)`` with those over as many new episodes.

    It is the mean correlation of random halves of the episodes with the others, corrected to their full number by
    Spearman and Brown's formula 2 r / (1 + r). None where there are no halves, or no correlation.
    """
    rng, half = np.random.default_rng(0), scores.shape[1] // 2
    order = (rng.permutation(scores.shape[1]) for _ in range(halves if half else 0))
    found = [correlation("spearman", scores[:, each[:half]].mean(1), scores[:, each[half:]].mean(1)) for each in order]
    drawn = [each for each in found if each is not None]
    return 2 * (r := max(0.0, float(np.mean(drawn)))) / (1 + r) if drawn else None
