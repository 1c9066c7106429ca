"""The Pareto front of a set of evaluations, its hypervolume, its knee and picks by name.

All geometry is done on losses (`Goal.loss`), so nothing here knows which goals are maximised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.goal import Goal

Losses = NDArray[np.float64]


def non_dominated(losses: Losses) -> NDArray[np.bool_]:
    """Mask [n] of the rows of `losses` [n, goals] that no other row dominates; of equal rows the first stays."""
    keep = np.ones(len(losses), dtype=bool)
    for i in np.lexsort(losses.T[::-1]):
        if keep[i]:
            covered = (losses >= losses[i]).all(axis=1)
            covered[i] = False
            keep &= ~covered
    return keep


def hypervolume(losses: Losses) -> float:
    """Volume that `losses` [n, goals] dominate inside the unit box, reference (1, ..., 1). Exact, by slicing."""
    points = np.clip(losses, 0.0, 1.0)
    points = points[(points < 1.0).all(axis=1)]
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(1.0 - points.min())
    points = points[non_dominated(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    edges = np.append(points[:, -1], 1.0)
    if points.shape[1] == 2:
        best = np.minimum.accumulate(points[:, 0])
        return float(((1.0 - best) * np.diff(edges)).sum())
    return math.fsum(
        (edges[i + 1] - edges[i]) * hypervolume(points[: i + 1, :-1])
        for i in range(len(points))
        if edges[i + 1] > edges[i]
    )


@dataclass(frozen=True)
class Scale:
    """Maps losses to [0, 1] per goal: 0 at the ideal point, 1 at the worst control.

    Bytes, seconds, joules and bits are compared on log2, so that halving counts the same everywhere.
    """

    goals: tuple[Goal, ...]
    ideal: tuple[float, ...]
    worst: tuple[float, ...]

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation], controls: Iterable[Evaluation], goals: Sequence[Goal]) -> Scale:
        """Ideal over all `evaluations`, worst over the `controls` (float and uniform).

        Failed ones are ignored, and those that saw a part of the data only.
        """
        good = np.array([[g.loss(e.measures) for g in goals] for e in evaluations if e.is_full])
        bad = np.array([[g.loss(e.measures) for g in goals] for e in controls if e.is_full])
        if good.size == 0 or bad.size == 0:
            raise ValueError("a scale needs at least one evaluation and one control that did not fail.")
        return cls(tuple(goals), tuple(map(float, good.min(axis=0))), tuple(map(float, bad.max(axis=0))))

    def losses(self, evaluations: Iterable[Evaluation]) -> Losses:
        """Scaled losses [n, goals]; below 0 and above 1 are possible."""
        rows = np.array([[g.loss(e.measures) for g in self.goals] for e in evaluations], dtype=float)
        rows = rows.reshape(-1, len(self.goals))
        columns = [self._column(rows[:, j], j) for j in range(len(self.goals))]
        return np.stack(columns, axis=1)

    def _column(self, losses: Losses, j: int) -> Losses:
        ideal, worst = self.ideal[j], self.worst[j]
        if self.goals[j].on_log_scale:
            tiny = np.finfo(float).tiny
            losses, ideal, worst = (
                np.log2(np.maximum(losses, tiny)),
                math.log2(max(ideal, tiny)),
                math.log2(max(worst, tiny)),
            )
        span = worst - ideal
        return (losses - ideal) / span if span > 0 else np.where(losses <= ideal, 0.0, 1.0)

    @property
    def reference(self) -> dict[str, float]:
        """Measure per goal at scaled loss 1."""
        return {g.name: -w if g.maximise else w for g, w in zip(self.goals, self.worst, strict=True)}


@dataclass(frozen=True)
class Front:
    """Feasible, non-dominated evaluations, sorted by the last goal's loss.

    `nearest` holds, when nothing is feasible, the evaluations that miss the limits by least.
    """

    goals: tuple[Goal, ...]
    members: tuple[Evaluation, ...]
    nearest: tuple[Evaluation, ...] = ()

    @classmethod
    def of(
        cls,
        evaluations: Iterable[Evaluation],
        goals: Sequence[Goal],
        baseline: Mapping[str, float] | None = None,
    ) -> Front:
        """The front of `evaluations`. `baseline` holds the float model's measures.

        Failed ones are ignored, and those that saw a part of the data only.
        The result does not depend on the order of `evaluations`.
        """
        base = baseline or {}
        done = sorted((e for e in evaluations if e.is_full), key=lambda e: (len(e.assignment), e.key))
        missed = [_miss(e, goals, base) for e in done]
        feasible = [e for e, miss in zip(done, missed, strict=True) if miss == 0.0]
        if feasible:
            return cls(tuple(goals), _sorted_front(feasible, goals))
        least = sorted(range(len(done)), key=lambda i: missed[i])[:5]
        return cls(tuple(goals), (), tuple(done[i] for i in least))

    def knee(self) -> Evaluation:
        """The member farthest from the plane through the extremes: least sum of losses scaled over the front.

        Raises `ValueError` on an empty front.
        """
        if not self.members:
            raise ValueError("an empty front has no knee.")
        scale = Scale.of(self.members, self.members, self.goals)
        return self.members[int(scale.losses(self.members).sum(axis=1).argmin())]

    def hypervolume(self, scale: Scale) -> float:
        """Share of the unit box that the members dominate, losses scaled by `scale`."""
        return hypervolume(scale.losses(self.members)) if self.members else 0.0

    def pick(self, text: str) -> Evaluation:
        """`knee`, `best:GOAL`, `cheapest:GOAL`, `key:PREFIX` or a row number. Raises `BadInput`."""
        if not self.members:
            raise BadInput(f"cannot pick {text!r}: the front is empty.")
        word, _, rest = text.partition(":")
        goals = {g.name: g for g in self.goals}
        if word == "knee" and not rest:
            return self.knee()
        if word in ("best", "cheapest"):
            if rest not in goals:
                raise BadInput(f"pick {text!r}: {rest!r} is not a goal; allowed: {', '.join(goals)}.")
            return min(self.members, key=lambda e: goals[rest].loss(e.measures))
        if word == "key" and rest:
            found = [e for e in self.members if e.key.startswith(rest)]
            if len(found) == 1:
                return found[0]
            raise BadInput(f"pick {text!r} matches {len(found)} of {len(self.members)} members; give a unique prefix.")
        if text.isdecimal() and int(text) < len(self.members):
            return self.members[int(text)]
        rows = f"a row from 0 to {len(self.members) - 1}"
        raise BadInput(f"pick {text!r} is not understood; write knee, best:GOAL, cheapest:GOAL, key:PREFIX or {rows}.")


def is_feasible(evaluation: Evaluation, goals: Sequence[Goal], baseline: Mapping[str, float]) -> bool:
    """Whether `evaluation` succeeded and meets every limit."""
    return evaluation.failure is None and _miss(evaluation, goals, baseline) == 0.0


def _miss(evaluation: Evaluation, goals: Sequence[Goal], baseline: Mapping[str, float]) -> float:
    """Sum over goals of the relative excess over the limit; 0 if feasible."""
    total = 0.0
    for goal in goals:
        if goal.limit is not None:
            bound = goal.limit.bound(baseline.get(goal.name, math.nan))
            total += goal.excess(evaluation.measures, baseline) / max(abs(bound), 1e-12)
    return total


def _sorted_front(evaluations: Sequence[Evaluation], goals: Sequence[Goal]) -> tuple[Evaluation, ...]:
    losses = np.array([[g.loss(e.measures) for g in goals] for e in evaluations])
    keep = np.flatnonzero(non_dominated(losses))
    order = sorted(keep, key=lambda i: (losses[i, -1], tuple(losses[i])))
    return tuple(evaluations[int(i)] for i in order)
