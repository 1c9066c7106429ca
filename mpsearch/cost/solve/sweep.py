"""The convex part of a front, for thousands of choices: what is best at each price of the costs (Everett 1963).

At given prices every choice takes its best option on its own, and no assignment beats what they make together. As
prices fall, choices climb the convex hulls of their own options; the steps of all of them in one list, the steepest
first, are the hull of the whole front. What lies between its corners is for `front`. Where options of several choices
cost something together, what is best at a price takes a look at all of them (`hull`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpsearch.core.errors import OutOfResources
from mpsearch.core.front import non_dominated
from mpsearch.cost.solve.elimination import Elimination
from mpsearch.cost.solve.hull import corners
from mpsearch.cost.solve.program import Floats, Scores, tables, total
from mpsearch.cost.solve.solutions import Solutions
from mpsearch.cost.terms import Cost, Ints

_PARTS = 6  # that default prices divide among several costs
_EXACT = 2.0**50  # whole numbers far beyond are none of a float
Path = tuple[NDArray[np.int16], Floats, Ints]
"""Indices [choices, points], score [points] and units [points, costs] of what is best from high prices to none."""


def sweep(score: Scores, costs: Sequence[Cost], prices: ArrayLike | None = None, most: int | None = None) -> Solutions:
    """Points of the front of score and `costs` that are best at some prices; `complete` is False.

    Args:
        score: what each option adds to the score, one row per choice.
        costs: sums: one row each. Where a part of a unit counts as a whole one, the front is that of the costs
            before they are rounded up: another point less than a unit dearer may be better.
        prices: [directions, costs] what a unit of each measure is worth against one of the others, all positive.
            In each direction, every point from the cheapest to the best is found. For one cost there is one direction;
            the default for several is a lattice, in shares of the range of each cost.
        most: points at most, even along each direction; None for all.

    Raises `ValueError` for costs that are no sums and for prices that are not positive, and `OutOfResources` where too
    many choices cost something together.
    """
    if not costs or any(len(cost.rows) != 1 for cost in costs):
        raise ValueError("a sweep needs costs that are sums; use `front` for peaks.")
    directions = _lattice(costs) if prices is None else np.asarray(prices, dtype=np.float64)
    if directions.ndim != 2 or directions.shape[1] != len(costs) or not (directions > 0).all():
        raise ValueError(f"prices are positive numbers [directions, {len(costs)} costs], not {directions.tolist()}.")
    each = None if most is None else max(1, most // len(directions))
    if any(cost.rows[0].joint for cost in costs):
        indices = np.concatenate([found.T for found in _joint_paths(score, costs, directions, each)], axis=1)
        found = total(score, None, indices.T)
        measured = np.stack([cost(indices.T) for cost in costs], axis=1)
    else:
        paths = _paths(score, costs, directions, each)
        indices = np.concatenate([indices for indices, _, _ in paths], axis=1)
        found, sums = (np.concatenate([path[k] for path in paths]) for k in (1, 2))
        measured = np.stack([cost.measure(sums[:, j] + cost.rows[0].constant) for j, cost in enumerate(costs)], axis=1)
    if len(costs) == 1:  # rising cost and falling score already
        keep = np.flatnonzero(np.append(measured[1:, 0] != measured[:-1, 0], True))
    else:
        keep = np.flatnonzero(non_dominated(np.column_stack([measured, found])))
        keep = keep[np.lexsort((found[keep], *measured[keep].T[::-1]))]
    return Solutions(indices[:, keep].T, found[keep], measured[keep], complete=False)


def _joint_paths(score: Scores, costs: Sequence[Cost], directions: Floats, most: int | None) -> list[NDArray[np.int16]]:
    """Indices [points, choices] of each direction."""
    keys = {key for cost in costs for key in cost.rows[0].joint}
    order = Elimination([len(row) for row in score], sorted(keys))
    if not order.is_small:
        raise OutOfResources(f"choices cost too much together for a sweep: {order.entries:,} combinations at once.")
    spans = np.array([sum(float(np.ptp(t)) for t in cost.rows[0].tables.values()) or 1.0 for cost in costs])
    own, found = tables(score), []
    for direction in directions:
        rates = direction / [cost.per for cost in costs]
        rates = np.maximum(np.rint(rates * (_EXACT / (rates @ spans))), 1)  # whole, so that what costs the same does so
        price: dict[tuple[int, ...], Ints] = {}
        for rate, cost in zip(rates.astype(np.int64), costs, strict=True):
            for key, table in cost.rows[0].tables.items():
                price[key] = price.get(key, np.zeros(table.shape, dtype=np.int64)) + rate * (table - table.min())
        found.append(corners(order, own, price, most).astype(np.int16))
    return found


def _paths(score: Scores, costs: Sequence[Cost], directions: Floats, most: int | None) -> list[Path]:
    """The points of each direction, of costs that are plain sums."""
    units = np.stack([_padded(cost.rows[0].unary) for cost in costs])
    scores, present = _padded(score), _padded([np.ones(len(row), dtype=bool) for row in score])
    paths = []
    for direction in directions:
        price = np.tensordot(direction / [cost.per for cost in costs], units.astype(np.float64), axes=1)
        paths.append(_path(scores, units, np.where(present, price, np.inf), most))
    return paths


def _path(scores: Floats, units: Ints, price: Floats, most: int | None) -> Path:
    """The points of one direction, from `scores` and `price` [choices, options] and `units` [costs, choices, options].

    Every choice starts at its cheapest option and goes on to the one with the most gain per price, again and again.
    """
    choices = np.arange(len(scores))
    cheapest = price == price.min(axis=1, keepdims=True)
    at = start = np.where(cheapest, scores, np.inf).argmin(axis=1)
    steepest = np.full(len(scores), np.inf)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], Floats]] = []
    who = choices
    while True:
        gain, dearer = scores[who, at][:, None] - scores[who], price[who] - price[who, at][:, None]
        rate = np.divide(gain, dearer, out=np.zeros_like(gain), where=(gain > 0) & (dearer > 0))
        after = rate.argmax(axis=1)
        steepest = np.minimum(steepest, rate.max(axis=1))  # a hull is convex, whatever rounding says
        on = steepest > 0
        steps.append((who[on], at[on], after[on], steepest[on]))
        who, at, steepest = who[on], after[on], steepest[on]
        if not len(who):
            break
    moved, before, after, rates = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    order = np.argsort(-rates, kind="stable")  # equal steps of a choice stay in their order
    moved, before, after = moved[order], before[order], after[order]
    kept = np.arange(len(order) + 1)
    if most is not None and len(kept) > most:
        kept = np.unique(np.linspace(0, len(order), most).astype(np.intp))
    found = _running(scores[choices, start].sum(), scores[moved, after] - scores[moved, before])
    sums = [_running(u[choices, start].sum(), u[moved, after] - u[moved, before]) for u in units]
    return _unrolled(start, moved, after, kept), found[kept], np.stack(sums, axis=1)[kept]


def _unrolled(
    start: NDArray[np.intp], moved: NDArray[np.intp], after: NDArray[np.intp], kept: NDArray[np.intp]
) -> NDArray[np.int16]:
    """Indices [choices, kept]: each option of a choice as often as there are points until its next step."""
    whose = np.concatenate([np.arange(len(start)), moved])
    options = np.concatenate([start, after])
    since = np.concatenate([np.zeros(len(start), dtype=np.intp), np.arange(1, len(moved) + 1)])
    order = np.lexsort((since, whose))
    whose, options, first = whose[order], options[order], np.searchsorted(kept, since[order])
    until = np.where(np.append(whose[1:] == whose[:-1], False), np.append(first[1:], 0), len(kept))
    return np.repeat(options.astype(np.int16), until - first).reshape(len(start), len(kept))


def _running(first: Any, steps: NDArray[Any]) -> NDArray[Any]:
    return np.cumsum(np.append(first, steps))


def _padded(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The rows as a matrix [choices, options], zeros behind the short ones."""
    rows = [np.asarray(row) for row in rows]
    matrix = np.zeros((len(rows), max(map(len, rows), default=1)), dtype=rows[0].dtype if rows else np.float64)
    for line, row in zip(matrix, rows, strict=True):
        line[: len(row)] = row
    return matrix


def _lattice(costs: Sequence[Cost]) -> Floats:
    """Prices [directions, costs] that share out `_PARTS` parts among the costs, each with one at least."""
    ranges = [sum(float(np.ptp(t)) for t in cost.rows[0].tables.values()) / cost.per or 1.0 for cost in costs]
    shares = [share for share in product(range(1, _PARTS), repeat=len(costs)) if sum(share) == _PARTS]
    return np.array(shares if len(costs) > 1 else [[1.0]], dtype=np.float64) / ranges
