"""What a program is made smaller by before it is solved, so that it stays exact.

An option goes where another of its choice is no dearer in anything, whatever the other choices are. What is decided
leaves the tables over several choices, and a table over some of the choices of another is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, ...]
Tables = Mapping[Key, NDArray[Any]]
"""By the choices that they are over, in rising order; each choice has one of its own."""


@dataclass(frozen=True)
class Reduced:
    """What is left.

    Args:
        options: of each choice.
        rows: tables over these options, of each choice and of `together`.
        together: choices that share tables, none part of another.
    """

    options: list[NDArray[np.intp]]
    rows: list[dict[Key, NDArray[Any]]]
    together: list[Key]


def presolved(rows: Sequence[Tables], sizes: Sequence[int]) -> Reduced:
    """Least of the first of `rows` with bounds on the others, without what that does not need."""
    options, left = [np.arange(size) for size in sizes], [dict(row) for row in rows]
    pending = set(range(len(sizes)))
    while pending:
        at = pending.pop()
        kept = (
            _unbeaten(np.concatenate([_by_option(row, at) for row in left], axis=1)) if len(options[at]) > 1 else None
        )
        if kept is not None and len(kept) < len(options[at]):
            options[at] = options[at][kept]
            for row in left:
                for key in [key for key in row if at in key]:
                    row[key] = row[key].take(kept, axis=key.index(at))
                    pending.update(key)
    left = [_without_decided(row, [len(kept) for kept in options]) for row in left]
    keys = {key for row in left for key in row if len(key) > 1}
    together = sorted(key for key in keys if not any(set(key) < set(other) for other in keys))
    left = [_gathered(row, together, [len(kept) for kept in options]) for row in left]
    return Reduced(options, left, together)


def _by_option(row: Tables, at: int) -> NDArray[Any]:
    """All that the options of choice `at` add to a row, by what the others are [options, contexts]."""
    tables = [np.moveaxis(table, key.index(at), 0) for key, table in row.items() if at in key]
    return np.concatenate([table.reshape(len(table), -1) for table in tables], axis=1)


def _unbeaten(values: NDArray[Any]) -> NDArray[np.intp]:
    """Rows of `values` that no other matches or beats everywhere; of equal ones the first."""
    covers: NDArray[np.bool_] = np.all(values[:, None] <= values[None], axis=2)  # [by, what]
    earlier = np.tri(len(values), k=-1, dtype=bool).T
    return np.flatnonzero(~(covers & (~covers.T | earlier)).any(axis=0))


def _without_decided(row: Tables, sizes: Sequence[int]) -> dict[Key, NDArray[Any]]:
    """Tables over several choices without those that have one option."""
    found: dict[Key, NDArray[Any]] = {key: table for key, table in row.items() if len(key) == 1}
    for key, table in row.items():
        if len(key) > 1:
            open_ = tuple(i for i in key if sizes[i] > 1)
            into = open_ or key[:1]
            rest = table.reshape([sizes[i] for i in into])
            found[into] = found[into] + rest if into in found else rest
    return found


def _gathered(row: Tables, together: Sequence[Key], sizes: Sequence[int]) -> dict[Key, NDArray[Any]]:
    """Tables over some of the choices of one in `together` added to it."""
    found: dict[Key, NDArray[Any]] = {key: table for key, table in row.items() if len(key) == 1}
    for key, table in row.items():
        if len(key) > 1:
            into = next(other for other in together if set(key) <= set(other))
            whole = table.reshape([sizes[i] if i in key else 1 for i in into])
            found[into] = found.get(into, np.zeros([sizes[i] for i in into], dtype=table.dtype)) + whole
    return found
