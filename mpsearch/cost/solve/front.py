"""The whole Pareto front of an additive score against costs.

Against one sum: dynamic programming over the choices (`merge`). Against several sums, where some points are enough: the
whole front against one of them at prices of the others (`priced`). Against anything else: one mixed-integer program per
point, boxes of budgets split below each point found (`boxes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from mpsearch.core.errors import OutOfResources
from mpsearch.cost.solve.boxes import Boxes
from mpsearch.cost.solve.merge import merge, order
from mpsearch.cost.solve.priced import priced
from mpsearch.cost.solve.program import Joint, Scores, best, tables
from mpsearch.cost.solve.solutions import Solutions, at_levels
from mpsearch.cost.terms import Cost

_ENOUGH = 100
"""Points of several sums at which no program is solved to find more."""


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
        most: points at most. A larger front is thinned to points that are even on the log of the costs, and then
            `complete` is False; against several sums it may be thinned to fewer. Where a part of a unit of several
            costs counts as a whole one, another point that is less than a unit dearer may be better.

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
    if most is not None and costs and not joint and all(len(cost.rows) == 1 for cost in costs):
        with suppress(OutOfResources):
            some = priced(score, costs, given, most)
            if len(some.score) >= min(most, _ENOUGH):
                return some
    solver = Boxes(score, costs, given, joint)
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
        keep = keep[at_levels(measured[keep], most)]
    return Solutions(indices[keep], found[keep], measured[keep, None], complete)
