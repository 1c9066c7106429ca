"""Expected hypervolume improvement: how much volume a candidate is expected to add to a front.

The region that no point of the front dominates is cut into boxes; a candidate's expected share of each box is a
product over the goals, because the surrogates are independent. A known cost is a certain loss.

Source: Emmerich, "Single- and multiobjective evolutionary optimization assisted by Gaussian random field metamodels",
2005; boxes as in Yang et al., "Efficient computation of expected hypervolume improvement", J. Global Optim. 75, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mpsearch.core.front import non_dominated

Floats = NDArray[np.float64]

_MOST = 700.0
"""Log of the largest average loss that is told from a larger one: what doubts make of a hopeless loss overflows."""


def boxes(front: Floats) -> tuple[Floats, Floats]:
    """Lower and upper corners [boxes, goals] of what `front` [n, goals] leaves undominated below 1; disjoint."""
    goals = front.shape[1]
    if goals == 1:
        return np.full((1, 1), -np.inf), np.full((1, 1), front.min(initial=1.0))
    front = front[non_dominated(front)] if len(front) else front
    front = front[np.argsort(front[:, -1], kind="stable")]
    edges = np.concatenate([[-np.inf], np.minimum(front[:, -1], 1.0), [1.0]])
    if goals == 2:
        heights = np.concatenate([[1.0], np.minimum.accumulate(np.minimum(front[:, 0], 1.0))])
        wide = edges[1:] > edges[:-1]
        below = np.full(len(heights), -np.inf)
        return np.column_stack([below, edges[:-1]])[wide], np.column_stack([heights, edges[1:]])[wide]
    lower, upper = [], []
    for i in range(len(front) + 1):
        if edges[i + 1] > edges[i]:
            low, high = boxes(front[:i, :-1])
            lower.append(np.c_[low, np.full(len(low), edges[i])])
            upper.append(np.c_[high, np.full(len(high), edges[i + 1])])
    return np.concatenate(lower), np.concatenate(upper)


@dataclass(frozen=True)
class Belief:
    """What is believed about one goal of some candidates: loss = base + exp(normal(mean, deviation)), then scaled.

    A certain loss has a deviation of None and is its own mean.

    Args:
        mean, deviation: [n].
        base: of the log scale.
        ideal, worst: losses that scale to 0 and 1.
    """

    mean: Floats
    deviation: Floats | None = None
    base: float = 0.0
    ideal: float = 0.0
    worst: float = 1.0

    def below(self, threshold: Floats) -> Floats:
        """Expected amount [n, m] by which the scaled loss lies below each `threshold` [m]; 0 at minus infinity."""
        if self.deviation is None:
            return np.maximum(threshold[None] - self.mean[:, None], 0.0)
        span = self.worst - self.ideal
        room = np.maximum(threshold * span + self.ideal - self.base, 1e-300)[None]
        mean, deviation = self.mean[:, None], self.deviation[:, None]
        z = (np.log(room) - mean) / deviation
        average = np.exp(np.minimum(mean + deviation**2 / 2, _MOST))
        expected = room * ndtr(z) - average * ndtr(z - deviation)
        return np.where(np.isfinite(threshold)[None], np.maximum(expected, 0.0), 0.0) / span

    def take(self, rows: NDArray[np.intp]) -> Belief:
        """The same of some candidates only."""
        deviation = None if self.deviation is None else self.deviation[rows]
        return Belief(self.mean[rows], deviation, self.base, self.ideal, self.worst)

    def joined(self, other: Belief) -> Belief:
        """These candidates and then those of `other`, about the same goal."""
        deviation = None
        if self.deviation is not None and other.deviation is not None:
            deviation = np.concatenate([self.deviation, other.deviation])
        return Belief(np.concatenate([self.mean, other.mean]), deviation, self.base, self.ideal, self.worst)

    def doubted(self) -> Belief:
        """The same, half as sure."""
        deviation = None if self.deviation is None else 2 * self.deviation
        return Belief(self.mean, deviation, self.base, self.ideal, self.worst)

    @property
    def median(self) -> Floats:
        """Scaled loss [n] that is as likely too high as too low."""
        if self.deviation is None:
            return self.mean
        return (self.base + np.exp(self.mean) - self.ideal) / (self.worst - self.ideal)


def expected_improvement(front: Floats, beliefs: list[Belief]) -> Floats:
    """Hypervolume [n] that each candidate is expected to add to `front` [m, goals] (scaled losses, reference 1)."""
    lower, upper = boxes(front)
    total: Floats | None = None
    for j, belief in enumerate(beliefs):
        edges, at = np.unique(np.r_[lower[:, j], upper[:, j]], return_inverse=True)
        below = belief.below(edges)
        share = below[:, at[len(lower) :]] - below[:, at[: len(lower)]]
        total = share if total is None else total * share
    assert total is not None
    gain: Floats = total.sum(axis=1)
    return gain
