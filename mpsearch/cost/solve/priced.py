"""Points of a front against several sums: the whole front against one of them, at prices of the others.

What is best where one cost is bounded and the others have prices is beaten by nothing. Unlike a hull, such points lie
close together along the cost that is bounded, and each of the costs is that one in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.errors import OutOfResources
from mpsearch.core.front import non_dominated
from mpsearch.cost.solve.merge import merge, order
from mpsearch.cost.solve.program import Floats, Scores, tables, total
from mpsearch.cost.solve.solutions import Solutions, at_levels, spread
from mpsearch.cost.solve.sweep import sweep
from mpsearch.cost.terms import Cost

_PRICES = 8
"""At which each front is found; of several other costs, combinations of fewer."""
_FREE = 1e-6
"""Of the lowest price: it decides among equal scores alone."""


def priced(score: Scores, costs: Sequence[Cost], limits: Sequence[float | None], most: int) -> Solutions:
    """At most `most` points of the front of `score` and `costs` within `limits`, maybe none; `complete` is False.

    Against one cost they are corners of the hull.

    Raises `OutOfResources` where choices hang together in too many ways, or a front is too large to hold.
    """
    if len(costs) == 1:
        return _selected(score, costs, limits, sweep(score, costs).indices, most)
    keys = {(i,) for i in range(len(score))} | {key for cost in costs for key in cost.rows[0].joint}
    steps = order([len(row) for row in score], sorted(keys))
    if steps is None:
        raise OutOfResources("choices cost too much together for dynamic programming.")
    each = max(2, round(_PRICES ** (1 / (len(costs) - 1))))
    prices = [_prices(score, cost, limit, each) for cost, limit in zip(costs, limits, strict=True)]
    found = [np.zeros((0, len(score)), dtype=np.int16)]
    for j, (cost, limit) in enumerate(zip(costs, limits, strict=True)):
        (terms,) = cost.rows
        for at in product(*(prices[k] if k != j else [0.0] for k in range(len(costs)))):
            scores = tables(score)
            for other, price in zip(costs, at, strict=True):
                for key, table in other.rows[0].tables.items() if price else ():
                    scores[key] = scores.get(key, np.zeros(table.shape)) + table * (price / other.per)
            merged = merge(scores, terms.tables, terms.constant, None if limit is None else cost.units(limit), steps)
            if merged is not None:
                indices, units, _ = merged
                found.append(indices[at_levels(cost.measure(units), most)])
    return _selected(score, costs, limits, np.unique(np.concatenate(found), axis=0), most)


def _prices(score: Scores, cost: Cost, limit: float | None, n: int) -> Floats:
    """What a unit of the measure is worth at `n` points of the hull, even on the log of the cost up to its limit.

    And next to nothing, for what scores best.
    """
    hull = sweep(score, [cost])
    measured = hull.costs[:, 0]
    if len(measured) < 2:
        return np.zeros(1)
    top = max(measured[-1] if limit is None else min(measured[-1], limit), measured[1])
    inside = measured[at_levels(measured[measured <= top], n + 1)][1:]
    at = np.unique(np.searchsorted(measured, inside))
    worth: Floats = (hull.score[at - 1] - hull.score[at]) / (measured[at] - measured[at - 1])
    return np.append(worth, worth.min() * _FREE)


def _selected(
    score: Scores, costs: Sequence[Cost], limits: Sequence[float | None], indices: NDArray[np.integer], most: int
) -> Solutions:
    measured = np.stack([cost(indices) for cost in costs], axis=1)
    inside = (measured <= [np.inf if limit is None else limit for limit in limits]).all(axis=1)
    indices, measured = indices[inside], measured[inside]
    found = total(score, None, indices)
    keep = np.flatnonzero(non_dominated(np.column_stack([measured, found])))
    if len(keep):
        rows = [int(found[keep].argmin()), *spread(measured[keep], most)]
        keep = keep[list(dict.fromkeys(rows))[:most]]
    keep = keep[np.lexsort((found[keep], *measured[keep].T[::-1]))]
    return Solutions(indices[keep], found[keep], measured[keep], complete=False)
