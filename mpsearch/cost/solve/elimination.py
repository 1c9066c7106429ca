"""Least sums of tables over few choices each, exact, by eliminating one choice after another (Bertele, Brioschi 1972).

A choice that is eliminated leaves a table over those that it shares tables with: for each of their options, the least
that it and its tables add. The order keeps these tables small; kernels of a model that follow each other share a value
or two, so that they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.cost.terms import Terms

Key = tuple[int, ...]
Tables = Mapping[Key, NDArray[Any]]
"""By the choices that they are over, in rising order, after an axis of their own: [cases, options of i, ...]."""

_WIDEST = 1 << 16
"""Entries that a table may have for one case."""
_AT_ONCE = 1 << 22
"""Entries of all cases that are computed together."""


class Elimination:
    """An order in which to eliminate choices.

    Args:
        sizes: how many options each choice has.
        keys: the choices of each table over several.
    """

    def __init__(self, sizes: Sequence[int], keys: Sequence[Key]) -> None:
        self._sizes = list(sizes)
        near: list[set[int]] = [{i} for i in range(len(sizes))]
        for key in keys:
            for i in key:
                near[i].update(key)
        self._steps: list[tuple[int, Key]] = []
        """Each choice, and what its table is over, itself included."""
        self.entries = 1
        """Of the largest table."""
        bits = [log2(size) for size in sizes]
        weight = np.array([sum(bits[i] for i in around) for around in near])
        for _ in sizes:
            at = int(weight.argmin())
            self.entries = max(self.entries, prod(sizes[i] for i in near[at]))
            self._steps.append((at, tuple(sorted(near[at]))))
            weight[at] = np.inf
            for i in near[at] - {at}:
                near[i] = (near[i] | near[at]) - {at}
                weight[i] = sum(bits[k] for k in near[i])

    @property
    def is_small(self) -> bool:
        """Whether its tables can be held."""
        return self.entries <= _WIDEST

    def least(self, first: Tables, second: Tables | None = None) -> NDArray[np.intp]:
        """Indices [cases, choices] of the least sum of `first`, of those that are alike of the least of `second`."""
        cases = max((len(table) for table in first.values()), default=1)
        each = max(1, _AT_ONCE // self.entries)
        found = np.empty((cases, len(self._sizes)), dtype=np.intp)
        for begin in range(0, cases, each):
            some = slice(begin, begin + each)
            parts = [
                {key: t if len(t) == 1 else t[some] for key, t in given.items()} for given in (first, second or {})
            ]
            self._eliminate(parts, found[some])
        return found

    def _eliminate(self, tables: list[dict[Key, NDArray[Any]]], found: NDArray[np.intp]) -> None:
        trail: list[tuple[int, Key, NDArray[np.intp]]] = []
        for at, over in self._steps:
            axis = 1 + over.index(at)
            sums = [self._gathered(given, at, over) for given in tables]
            lowest = sums[0].min(axis=axis, keepdims=True)
            picked = np.where(sums[0] == lowest, sums[1], np.inf).argmin(axis=axis)
            rest = over[: axis - 1] + over[axis:]
            trail.append((at, rest, picked))
            if rest:
                for given, values in zip(tables, sums, strict=True):
                    left = np.take_along_axis(values, np.expand_dims(picked, axis), axis=axis).squeeze(axis)
                    given[rest] = given[rest] + left if rest in given else left
        for at, rest, picked in reversed(trail):
            cases = np.arange(len(found)) if len(picked) > 1 else np.zeros(len(found), dtype=np.intp)
            found[:, at] = picked[(cases, *(found[:, i] for i in rest))]

    def _gathered(self, tables: dict[Key, NDArray[Any]], at: int, over: Key) -> NDArray[Any]:
        """The sum of all tables over choice `at`, taken out: [cases, options of each choice in `over`]."""
        shape = [self._sizes[i] for i in over]
        total: NDArray[Any] = np.zeros([1, *shape], dtype=np.int64)
        for key in [key for key in tables if at in key]:
            table = tables.pop(key)
            total = total + table.reshape([len(table), *(self._sizes[i] if i in key else 1 for i in over)])
        return total


def least(terms: Sequence[Terms]) -> tuple[int, ...] | None:
    """The option of each choice where the sum of all of `terms` is least; None where that takes too large tables."""
    tables: dict[Key, NDArray[Any]] = {}
    for one in terms:
        for key, table in one.tables.items():
            tables[key] = tables[key] + table if key in tables else table
    order = Elimination([len(row) for row in terms[0].unary], [key for key in tables if len(key) > 1])
    if not order.is_small:
        return None
    (found,) = order.least({key: table[None] for key, table in tables.items()})
    return tuple(found.tolist())
