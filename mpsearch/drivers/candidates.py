"""Where a search over assignments may look next: one choice at a time, neighbours, random points, predicted fronts.

Assignments are rows of option indices here, as `Space.encode` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.space import Space
from mpsearch.cost.solve.front import front
from mpsearch.cost.solve.sweep import sweep
from mpsearch.cost.terms import Cost

Rows = NDArray[np.int16]
Floats = NDArray[np.float64]

_SOLVED = 16
"""Open choices up to which a predicted front is solved whole; above, its convex hull does."""


def one_at_a_time(space: Space, base: Sequence[int], most: int) -> Rows:
    """`base` with one choice as wide as it can be, or as narrow where it is widest already; at most `most` rows.

    Of many choices, neighbours move together.
    """
    bits = [np.array([fmt.bits for fmt in choice.options]) for choice in space.choices]
    moved = np.array([b.argmin() if b[k] == b.max() else b.argmax() for b, k in zip(bits, base, strict=True)])
    free = np.flatnonzero([len(b) > 1 for b in bits])
    groups = np.array_split(free, max(1, min(len(free), most)))
    return np.array([np.where(np.isin(np.arange(len(bits)), group), moved, base) for group in groups], dtype=np.int16)


def neighbours(rows: Rows, sizes: Sequence[int], most: int, rng: np.random.Generator) -> Rows:
    """Rows that differ from one of `rows` in a single choice, at most so many of them, drawn at random."""
    total = sum(sizes)
    at = np.arange(len(rows) * total)
    if len(at) > most:
        at = np.sort(rng.choice(len(at), most, replace=False))
    moved = rows[at // total].copy()
    choice = np.repeat(np.arange(len(sizes)), sizes)[at % total]
    option = np.concatenate([np.arange(size) for size in sizes])[at % total]
    moved[np.arange(len(at)), choice] = option
    return moved


def anywhere(sizes: Sequence[int], n: int, rng: np.random.Generator) -> Rows:
    """`n` rows, uniform over the space."""
    return np.stack([rng.integers(size, size=n) for size in sizes], axis=1).astype(np.int16)


def towards_cheapest(rows: Rows, costs: Sequence[Cost], rng: np.random.Generator) -> Rows:
    """`rows` with a random share of their choices, from none to all, at what adds least to one of `costs`."""
    choices = range(rows.shape[1])
    cheapest = [[np.sum([terms.unary[i] for terms in cost.rows], axis=0).argmin() for i in choices] for cost in costs]
    aims = np.array(cheapest, dtype=np.int16)[rng.integers(len(costs), size=len(rows))]
    return np.where(rng.random(rows.shape) < rng.random((len(rows), 1)), aims, rows)


def predicted_front(score: Sequence[Floats], costs: Sequence[Cost], most: int) -> Rows:
    """About `most` rows from the front of an additive `score` against each of `costs`: exact, or its convex hull.

    Without a cost that is a plain sum, the best row alone.
    """
    sums = [cost for cost in costs if len(cost.rows) == 1 and not cost.rows[0].joint]
    if not sums:
        return np.array([[row.argmin() for row in score]], dtype=np.int16)
    solve = front if sum(len(row) > 1 for row in score) <= _SOLVED else sweep
    return np.concatenate([solve(score, [cost], most=most).indices for cost in sums]).astype(np.int16)


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
