"""Where a search over assignments may look next: one choice at a time, neighbours, random points, predicted fronts.

Assignments are rows of option indices here, as `Space.encode` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.errors import OutOfResources
from mpsearch.cost.solve.elimination import least
from mpsearch.cost.solve.front import front
from mpsearch.cost.solve.priced import priced
from mpsearch.cost.solve.sweep import sweep
from mpsearch.cost.terms import Cost
from mpsearch.drivers.menu import Menu

Rows = NDArray[np.int16]
Floats = NDArray[np.float64]

_SOLVED, _PRICED = 16, 50
"""Open choices up to which a predicted front against one cost, and several, is solved; above, its convex hull does."""


def one_at_a_time(menu: Menu, base: Sequence[int], most: int) -> Rows:
    """`base` with one choice of as little noise as it can have, or of as much where it has that; at most `most` rows.

    Of many choices, neighbours move together.
    """
    loudness = [noise[kept] for noise, kept in zip(menu.noise, menu.kept, strict=True)]
    quietest, loudest = (
        np.array([kept[pick(own)] for kept, own in zip(menu.kept, loudness, strict=True)])
        for pick in (np.argmin, np.argmax)
    )
    moved = np.where(quietest == base, loudest, quietest)
    free = np.flatnonzero(moved != base)
    groups = np.array_split(free, max(1, min(len(free), most)))
    return np.array([np.where(np.isin(np.arange(len(base)), group), moved, base) for group in groups], dtype=np.int16)


def neighbours(rows: Rows, options: Sequence[NDArray[np.int16]], most: int, rng: np.random.Generator) -> Rows:
    """Rows that differ from one of `rows` in a single choice, at most so many of them, drawn at random.

    Args:
        options: those that each choice may have.
    """
    sizes = [len(kept) for kept in options]
    total = sum(sizes)
    at = np.arange(len(rows) * total)
    if len(at) > most:
        at = np.sort(rng.choice(len(at), most, replace=False))
    moved = rows[at // total].copy()
    choice = np.repeat(np.arange(len(sizes)), sizes)[at % total]
    option = np.concatenate(options)[at % total]
    moved[np.arange(len(at)), choice] = option
    return moved


def anywhere(options: Sequence[NDArray[np.int16]], n: int, rng: np.random.Generator) -> Rows:
    """`n` rows, uniform over those that take one of `options` at each choice."""
    return np.stack([kept[rng.integers(len(kept), size=n)] for kept in options], axis=1)


def towards(rows: Rows, aims: Rows, rng: np.random.Generator) -> Rows:
    """`rows` with, for each of `aims` in turn, a random share of their choices, from none to all, as it has them.

    Args:
        aims: rows in which -1 stands for any option.
    """
    for aim in aims:
        taken = rng.random(rows.shape) < rng.random((len(rows), 1))
        rows = np.where(taken & (aim >= 0), aim, rows)
    return rows


def aims(costs: Sequence[Cost]) -> Rows:
    """For each of `costs` the row where it is least, with -1 for the choices that it does not depend on."""
    found = []
    for cost in costs:
        matter = {i for terms in cost.rows for key, table in terms.tables.items() if np.ptp(table) for i in key}
        row = cheapest(cost)
        found.append(np.where([i in matter for i in range(len(row))], row, -1))
    return np.array(found, dtype=np.int16)


def cheapest(cost: Cost) -> NDArray[np.int16]:
    """The row where `cost` is least; of a peak, where its steps together are.

    Where choices hang together in too many ways, each takes what is least on average over the others.
    """
    found = least(cost.rows)
    if found is None:
        sums = [np.zeros(len(row)) for row in cost.rows[0].unary]
        for terms in cost.rows:
            for key, table in terms.tables.items():
                for axis, i in enumerate(key):
                    sums[i] += table.mean(axis=tuple(k for k in range(len(key)) if k != axis))
        found = tuple(int(row.argmin()) for row in sums)
    return np.array(found, dtype=np.int16)


def predicted_front(
    score: Sequence[Floats],
    costs: Sequence[Cost],
    limits: Sequence[float | None],
    options: Sequence[NDArray[np.int16]],
    most: int,
) -> Rows:
    """About `most` rows from the front of an additive `score` against each of `costs`: exact, or its convex hull.

    And about as many from the front against all of them, within `limits`. Without a cost that is a sum, the best row
    alone.

    Args:
        limits: the most that each cost may be; None for any. Rows from the front against one cost may be over them.
        options: those that each choice may have.
    """
    score = [row[kept] for row, kept in zip(score, options, strict=True)]
    sums = [cost.only(options) for cost in costs if len(cost.rows) == 1]
    bounds = [limit for cost, limit in zip(costs, limits, strict=True) if len(cost.rows) == 1]
    open_ = sum(len(row) > 1 for row in score)
    found: list[NDArray[np.integer]] = []
    with suppress(OutOfResources):  # too many choices hang together
        for cost in sums:
            alone = front(score, [cost], most=most) if open_ <= _SOLVED else sweep(score, [cost], most=most)
            found.append(alone.indices)
        if len(sums) > 1:
            together = priced(score, sums, bounds, most) if open_ <= _PRICED else sweep(score, sums, most=most)
            found.append(together.indices)
    best = np.array([[row.argmin() for row in score]])
    picked = np.concatenate(found or [best])
    return np.stack([kept[column] for kept, column in zip(options, picked.T, strict=True)], axis=1)


class Prefixes:
    """What share of the work is left for an assignment that begins like one that was asked before.

    Args:
        work: share of a forward that is computed where the first p choices are as before, p from 0 to all.
    """

    def __init__(self, work: Sequence[float]) -> None:
        self._work = np.asarray(work)
        self._lengths = 1 + np.flatnonzero(np.diff(self._work))  # a longer beginning saves more only at these
        self._known: set[bytes] = set()

    def add(self, row: NDArray[np.int16]) -> None:
        self._known.update(row[:length].tobytes() for length in self._lengths)

    def left(self, rows: Rows) -> Floats:
        """Share of a forward [n] that `rows` would take."""
        return np.array([self._work[self._shared(row)] for row in rows])

    def _shared(self, row: NDArray[np.int16]) -> int:
        low, high = 0, len(self._lengths)
        while low < high:
            middle = (low + high) // 2
            if row[: self._lengths[middle]].tobytes() in self._known:
                low = middle + 1
            else:
                high = middle
        return int(self._lengths[low - 1]) if low else 0


def unseen(rows: Rows, seen: Set[bytes]) -> Rows:
    """Each row once, and none that is in `seen`, which holds the bytes of rows."""
    fresh: dict[bytes, NDArray[np.int16]] = {}
    for row in rows:
        key = row.tobytes()
        if key not in seen and key not in fresh:
            fresh[key] = row
    return np.array(list(fresh.values()), dtype=np.int16).reshape(len(fresh), rows.shape[1])
