"""Sums of tables over several choices and the largest of such sums, for blocks of many assignments.

One table after another is looked up for a whole block, whose indices lie choice by choice. Tables are added up to
fewer that are over more choices, as long as these stay in the cache. Of several rows, each starts from the one before
it, by the tables that differ, where that takes fewer look-ups: a step of a peak differs by what was made and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Key = tuple[int, ...]
Tables = dict[Key, Ints]
"""By the choices that they are over, in rising order."""
Row = tuple[int, Tables]
"""A constant and the tables that are added to it."""
Block = Callable[[NDArray[np.integer], Ints], None]
"""Writes the number [m] at option indices [m, choices] into an array [m]."""

_FUSED = 4096
"""Entries of a table up to which others are added into it: it stays in the nearest cache."""


def narrowed(tables: Sequence[Ints], most: int, constants: Sequence[int] = ()) -> tuple[list[NDArray[Any]], int, Any]:
    """`tables` in the smallest type that adds up exactly to sums from 0 to `most`; the unit they are in; the type.

    On the way a sum may wrap around: what it ends at fits. `constants` are to be whole in that unit, too.
    """
    unit = int(np.gcd.reduce([*constants, *(np.gcd.reduce(table, axis=None) for table in tables)])) or 1
    kind = np.int32 if most // unit < 1 << 31 else np.int64
    return [(table // unit).astype(kind) for table in tables], unit, kind


def fused(tables: Mapping[Key, Ints]) -> Tables:
    """The same sum by fewer tables."""
    joined: list[tuple[dict[int, int], list[tuple[Key, Ints]]]] = []  # sizes of the choices, what is added up
    for key, table in sorted(tables.items(), key=lambda item: (-len(item[0]), item[0])):
        mine = dict(zip(key, table.shape, strict=True))
        unions = [(sizes | mine, sizes, parts) for sizes, parts in joined]
        fitting = [
            (len(union) - len(sizes), prod(union.values()), at)
            for at, (union, sizes, _) in enumerate(unions)
            if len(union) == len(sizes) or prod(union.values()) <= _FUSED
        ]
        if fitting:
            sizes, parts = joined[min(fitting)[2]]
            sizes.update(mine)
            parts.append((key, table))
        else:
            joined.append((mine, [(key, table)]))
    return {tuple(sorted(sizes)): _total(sizes, parts) for sizes, parts in joined}


def _total(sizes: Mapping[int, int], parts: Sequence[tuple[Key, Ints]]) -> Ints:
    total = np.zeros([sizes[i] for i in sorted(sizes)], dtype=np.int64)
    for key, table in parts:
        total += table.reshape([sizes[i] if i in key else 1 for i in sorted(sizes)])
    return total


def steps(rows: Sequence[Row]) -> list[tuple[int, bool, Tables]]:
    """An order of the rows; for each its tables (True), or by which ones it differs from the row before (False)."""
    names = [frozenset((key, table.tobytes()) for key, table in tables.items()) for _, tables in rows]
    left = set(range(len(rows)))
    at = min(left, key=lambda row: (len(names[row]), row))
    found = [(at, True, fused(rows[at][1]))]
    left.remove(at)
    while left:
        before = at
        changed = {row: {key for key, _ in names[row] ^ names[before]} for row in left}
        at = min(left, key=lambda row: (len(changed[row]), row))
        now, was, none = rows[at][1], rows[before][1], np.zeros((), dtype=np.int64)
        whole, less = fused(now), fused({key: now.get(key, none) - was.get(key, none) for key in changed[at]})
        found.append((at, True, whole) if len(whole) <= len(less) else (at, False, less))
        left.remove(at)
    return found


@dataclass(frozen=True)
class _Pass:
    """A table to look up: its choices, how many options they have, its entries in one line."""

    key: Key
    sizes: tuple[int, ...]
    entries: NDArray[Any]

    def places(self, columns: NDArray[Any], narrow: NDArray[np.uint16], wide: NDArray[np.intp]) -> NDArray[np.intp]:
        """Places in the entries [n], written into `wide`."""
        place: NDArray[Any] = narrow if len(self.entries) <= 1 << 16 else wide
        np.copyto(place, columns[self.key[0]])
        for i, size in zip(self.key[1:], self.sizes[1:], strict=True):
            np.multiply(place, place.dtype.type(size), out=place)
            np.add(place, columns[i], out=place)
        if place is narrow:
            np.copyto(wide, place)
        return wide


class Passes:
    """The largest of several sums, for blocks of assignments."""

    block = 1 << 14

    def __init__(self, sizes: Ints, rows: Sequence[Row]) -> None:
        used = sorted({i for _, tables in rows for key in tables for i in key})
        self._used = None if len(used) == len(sizes) else np.array(used)
        self._narrow = np.min_scalar_type(int(sizes.max()) - 1)
        place = {i: at for at, i in enumerate(used)}
        constants = [constant for constant, _ in rows]
        self._base = min(constants)
        above = [constant - self._base for constant in constants]
        most = max(
            constant + sum(int(table.max()) for table in tables.values())
            for constant, (_, tables) in zip(above, rows, strict=True)
        )
        order = steps(rows)
        entries, self._unit, self._kind = narrowed(
            [table for _, _, tables in order for table in tables.values()], most, above
        )
        rest, before = iter(entries), 0
        self._steps: list[tuple[bool, Any, list[_Pass]]] = []
        for row, fresh, tables in order:
            add = self._kind((above[row] - (0 if fresh else before)) // self._unit)
            passes = [_Pass(tuple(place[i] for i in key), t.shape, next(rest).ravel()) for key, t in tables.items()]
            self._steps.append((fresh, add, passes))
            before = above[row]

    def ready(self, n: int) -> Block:
        narrow, wide = np.empty(n, dtype=np.uint16), np.empty(n, dtype=np.intp)
        sums, taken, largest = np.empty((3, n), dtype=self._kind)

        def evaluate(indices: NDArray[np.integer], found: Ints) -> None:
            m = len(indices)
            columns = indices.astype(self._narrow, copy=False).T
            columns = np.ascontiguousarray(columns if self._used is None else columns[self._used])
            for step, (fresh, add, passes) in enumerate(self._steps):
                for k, one in enumerate(passes):
                    into = sums if fresh and k == 0 else taken
                    np.take(one.entries, one.places(columns, narrow[:m], wide[:m]), out=into[:m], mode="clip")
                    if into is taken:
                        np.add(sums, taken, out=sums)
                if add:
                    np.add(sums, add, out=sums)
                if step == 0:
                    np.copyto(largest, sums)
                else:
                    np.maximum(largest, sums, out=largest)
            np.multiply(largest[:m], self._unit, out=found, dtype=np.int64)
            np.add(found, self._base, out=found)

        return evaluate
