"""The corners of the hull of a front where costs have terms of several choices, by halving.

Between two corners lies another where what is best at the price that makes both worth the same beats them (Cohon 1978,
Aneja and Nair 1979). What is best at a price is a least sum, found by elimination, for all open gaps at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.cost.solve.elimination import Elimination

Key = tuple[int, ...]
Tables = Mapping[Key, NDArray[Any]]
"""By the choices that they are over, in rising order."""
Indices = NDArray[np.intp]

_EQUAL = 1e-12
"""Share of a score by which the next corner is better than what is found between."""


@dataclass(frozen=True)
class _Corner:
    price: float
    score: float
    at: Indices


def corners(order: Elimination, score: Tables, price: Tables, most: int | None) -> Indices:
    """Indices [n, choices] of the corners of the hull of `score` and `price`, the cheapest first, `most` at most.

    Of more, those come first that stand out most.
    """
    cases = [{key: table[None] for key, table in given.items()} for given in (score, price)]
    first, last = (_corner(score, price, order.least(*given)[0]) for given in (cases[::-1], cases))
    found = [first] if first.price >= last.price or first.score <= last.score else [first, last]
    gaps = [(first, last)] if len(found) == 2 else []
    while gaps and (most is None or len(found) < most):
        gaps.sort(key=_area, reverse=True)
        now, gaps = (gaps, []) if most is None else (gaps[: most - len(found)], gaps[most - len(found) :])
        slopes = np.array([(a.score - b.score) / (b.price - a.price) for a, b in now])
        both = {
            key: score.get(key, np.zeros(1)) + slopes.reshape(-1, *[1] * len(key)) * price.get(key, np.zeros(1))
            for key in {**score, **price}
        }
        for (a, b), slope, at in zip(now, slopes, order.least(both), strict=True):
            new = _corner(score, price, at)
            least = a.score + slope * a.price - _EQUAL * (abs(a.score) + slope * abs(a.price))
            if a.price < new.price < b.price and new.score + slope * new.price < least:
                found.append(new)
                gaps += [(a, new), (new, b)]
    return np.stack([corner.at for corner in sorted(found, key=lambda corner: corner.price)])


def _corner(score: Tables, price: Tables, at: Indices) -> _Corner:
    return _Corner(_sum(price, at), _sum(score, at), at)


def _sum(tables: Tables, at: Indices) -> float:
    return sum(float(table[tuple(at[list(key)])]) for key, table in tables.items())


def _area(gap: tuple[_Corner, _Corner]) -> float:
    """What could be missed in a gap."""
    a, b = gap
    return (b.price - a.price) * (a.score - b.score)
