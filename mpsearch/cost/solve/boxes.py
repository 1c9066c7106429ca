"""Points of a front by programs with budgets (epsilon-constraint), for costs of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from mpsearch.core.front import non_dominated
from mpsearch.cost.solve.program import Floats, Joint, Scores, best, find, tightest, total
from mpsearch.cost.solve.solutions import Solutions, levels
from mpsearch.cost.terms import Cost


class Boxes:
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
            grid = [levels(low, high, each) for low, high in zip(self._least, ends, strict=True)]
            found = list(dict.fromkeys(p for p in map(self._find, product(*grid)) if p is not None))
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


def _below(cost: Cost, point: tuple[int, ...]) -> float:
    """The largest value of the measure that is less than at `point`."""
    units = max(int(terms([point])[0]) for terms in cost.rows)
    return float(cost.measure((-(-units // cost.per) - 1) * cost.per if cost.whole else units - 1))
