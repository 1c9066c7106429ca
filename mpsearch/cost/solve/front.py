"""The whole Pareto front of an additive score against costs.

Against one cost that is a plain sum: dynamic programming over the choices, keeping the states that no other beats.
Against anything else: one mixed-integer program per point, boxes of budgets split below each point found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.errors import OutOfResources
from mpsearch.core.front import non_dominated
from mpsearch.cost.solve.merge import merge, order
from mpsearch.cost.solve.program import Floats, Joint, Scores, best, find, tables, tightest, total
from mpsearch.cost.terms import Cost


@dataclass(frozen=True)
class Solutions:
    """Assignments of which none beats another in score and every cost.

    Args:
        indices: [n, choices] the option of each choice.
        score: [n] lower is better.
        costs: [n, costs] in the unit of each measure; points are sorted by the first.
        complete: whether it is the whole front (of equal points one stays), not a selection.
    """

    indices: NDArray[np.integer]
    score: Floats
    costs: Floats
    complete: bool


def front(
    score: Scores,
    costs: Sequence[Cost],
    limits: Sequence[float | None] | None = None,
    joint: Joint | None = None,
    most: int | None = None,
) -> Solutions:
    """The Pareto front of score and `costs`.

    Args:
        score: what each option adds to the score, one row per choice.
        limits: the most that each cost may measure, in its own unit; None for any.
        joint: what options of several choices add to the score together.
        most: points at most. A larger front is thinned to budgets that are even on the log of the costs, and then
            `complete` is False.

    Raises `NothingFeasible` where no assignment is within the limits, and `OutOfResources` where the front of one cost
    is too large to hold and `most` is not given.
    """
    given = list(limits) if limits is not None else [None] * len(costs)
    if len(costs) == 1 and len(costs[0].rows) == 1:
        try:
            merged = _by_merging(score, costs[0], given[0], joint, most)
        except OutOfResources:
            if most is None:
                raise
        else:
            if merged is not None:
                return merged
    solver = _Boxes(score, costs, given, joint)
    found = solver.all(most)
    return solver.solutions(solver.spread(most or 1) if found is None else found, complete=found is not None)


def _by_merging(
    score: Scores, cost: Cost, limit: float | None, joint: Joint | None, most: int | None
) -> Solutions | None:
    """The front against one sum; None where choices hang together in too many ways for that."""
    scores, (terms,) = tables(score, joint), cost.rows
    steps = order([len(row) for row in score], sorted({*scores, *terms.joint}))
    if steps is None:
        return None
    merged = merge(scores, terms.tables, terms.constant, None if limit is None else cost.units(limit), steps)
    if merged is None:
        best(score, [cost], [limit], joint)  # says what can be reached
        raise AssertionError("the solvers disagree about what is feasible")
    indices, units, found = merged
    measured = cost.measure(units)
    last = np.append(measured[1:] != measured[:-1], True)  # several units may make one unit of the measure
    keep = np.flatnonzero(last)
    complete = most is None or len(keep) <= most
    if most is not None and not complete:
        keep = keep[_even(measured[keep], most)]
    return Solutions(indices[keep], found[keep], measured[keep, None], complete)


def _even(measured: Floats, most: int) -> NDArray[np.intp]:
    """At most `most` positions in rising `measured`, the ends among them, even on its log."""
    targets = _levels(float(measured[0]), float(measured[-1]), most)
    return np.unique(np.searchsorted(measured, targets[:most] * (1 + 1e-12), side="right").clip(1) - 1)


def _levels(low: float, high: float, n: int) -> Floats:
    """From `high` down to `low`, even on the log where both have one."""
    return np.geomspace(high, low, n) if low > 0 else np.linspace(high, low, n)


def _below(cost: Cost, point: tuple[int, ...]) -> float:
    """The largest value of the measure that is less than at `point`."""
    units = max(int(terms([point])[0]) for terms in cost.rows)
    return float(cost.measure((-(-units // cost.per) - 1) * cost.per if cost.whole else units - 1))


class _Boxes:
    """Points of the front by programs with budgets (epsilon-constraint)."""

    def __init__(
        self, score: Scores, costs: Sequence[Cost], limits: Sequence[float | None], joint: Joint | None
    ) -> None:
        self._score, self._costs, self._limits, self._joint = score, costs, limits, joint
        self._least = np.array([tightest(cost) for cost in costs])
        self._first = best(score, costs, limits, joint)

    def all(self, most: int | None) -> list[tuple[int, ...]] | None:
        """Every point of the front, and some that these beat; None once there are more than `most`.

        The best point of a box of budgets beats all others in it that cost no less in anything. The others lie in the
        boxes that end just below that point, one for each cost.
        """
        pending = [np.array([np.inf if limit is None else limit for limit in self._limits])]
        solved: list[tuple[Floats, Floats, tuple[int, ...]]] = []  # box, costs of its best point, that point
        empty: list[Floats] = []
        points: dict[tuple[int, ...], None] = {}
        while pending:
            box = pending.pop(0)
            if any((box <= other).all() for other in [*pending, *empty]):
                continue
            point = next((best for of, at, best in solved if (box <= of).all() and (at <= box).all()), None)
            if point is None:
                point = self._find([None if b == np.inf else float(b) for b in box])
                if point is None:
                    empty.append(box)
                    continue
                solved.append((box, np.array([cost([point])[0] for cost in self._costs]), point))
                points[point] = None
                if most is not None and len(points) > most:
                    return None
            for j, cost in enumerate(self._costs):
                below = box.copy()
                below[j] = _below(cost, point)
                if below[j] >= self._least[j]:
                    pending.append(below)
        return list(points)

    def _find(self, budgets: Sequence[float | None]) -> tuple[int, ...] | None:
        return find(self._score, self._costs, budgets, self._joint)

    def spread(self, most: int) -> list[tuple[int, ...]]:
        """The best points for budgets on a grid, even on the log of each cost; `most` of them at most.

        Where budgets conflict much of a grid is empty, and then a finer one is tried.
        """
        extremes = [self._first]
        for k, least in enumerate(self._least):  # one cost at its least, and so others perhaps at their most
            budgets = [float(least) if j == k else limit for j, limit in enumerate(self._limits)]
            extremes += [found for found in [self._find(budgets)] if found is not None]
        ends = [float(cost(extremes).max()) for cost in self._costs]
        dimensions = len(self._costs)
        each = max(2, round(most ** (1 / dimensions)))
        while True:
            levels = [_levels(low, high, each) for low, high in zip(self._least, ends, strict=True)]
            found = list(dict.fromkeys(p for p in map(self._find, product(*levels)) if p is not None))
            each += 1
            if 2 * len(found) >= most or each**dimensions > 8 * most:
                return found[:: -(-len(found) // most)]

    def solutions(self, found: Sequence[tuple[int, ...]], complete: bool) -> Solutions:
        """The points that no other beats, sorted."""
        indices = np.array(found, dtype=np.int16).reshape(len(found), len(self._score))
        costs = np.array([cost(indices) for cost in self._costs]).reshape(len(self._costs), len(found)).T
        score = total(self._score, self._joint, indices)
        keep = np.flatnonzero(non_dominated(np.column_stack([costs, score])))
        keep = keep[np.lexsort((score[keep], *costs[keep].T[::-1]))]
        return Solutions(indices[keep], score[keep], costs[keep], complete)
