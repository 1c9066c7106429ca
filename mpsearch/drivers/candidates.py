"""Where a search over assignments may look next: first questions, neighbours, random points, predicted fronts.

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

_SOLVED = 64
"""Choices up to which a predicted front is solved whole; above, its convex hull does."""


def first_questions(space: Space, most: int) -> Rows:
    """At most `most` assignments that show what each choice does, where all else is widest and where it is narrowest.

    Of many choices, neighbours move together.
    """
    bits = [np.array([fmt.bits for fmt in choice.options]) for choice in space.choices]
    widest = np.array([b.argmax() for b in bits], dtype=np.int16)
    narrowest = np.array([b.argmin() for b in bits], dtype=np.int16)
    free = np.flatnonzero([len(b) > 1 for b in bits])
    groups = np.array_split(free, max(1, min(len(free), most // 2)))
    rows = [np.where(np.isin(np.arange(len(bits)), group), narrowest, widest) for group in groups]
    rows += [np.where(np.isin(np.arange(len(bits)), group), widest, narrowest) for group in groups]
    return np.array(rows, dtype=np.int16)[:most]


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


def predicted_front(score: Sequence[Floats], costs: Sequence[Cost], most: int) -> Rows:
    """About `most` rows from the front of an additive `score` against each of `costs`: exact, or its convex hull.

    Without a cost that is a plain sum, the best row alone.
    """
    sums = [cost for cost in costs if len(cost.rows) == 1 and not cost.rows[0].pairs]
    if not sums:
        return np.array([[row.argmin() for row in score]], dtype=np.int16)
    solve = front if len(score) <= _SOLVED else sweep
    return np.concatenate([solve(score, [cost], most=most).indices for cost in sums]).astype(np.int16)


def unseen(rows: Rows, seen: Set[bytes]) -> Rows:
    """Each row once, and none that is in `seen`, which holds the bytes of rows."""
    fresh: dict[bytes, NDArray[np.int16]] = {}
    for row in rows:
        key = row.tobytes()
        if key not in seen and key not in fresh:
            fresh[key] = row
    return np.array(list(fresh.values()), dtype=np.int16).reshape(len(fresh), rows.shape[1])
