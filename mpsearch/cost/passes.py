"""Sums of tables over several choices and the largest of such sums, for blocks of many assignments.

One table after another is looked up for a whole block, whose indices lie choice by choice. Tables are added up to
fewer that are over more choices, as long as these stay in the cache. Of several rows, each starts from the one before
it, by the tables that differ, where that takes fewer look-ups: a step of a peak differs by what was made and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
_TURNED = 1 << 15
"""Indices that are turned at once, about: they stay in the nearest cache."""
_SHORT = 1 << 16
LOOK_UP, ADD, LOOK_UP_AND_ADD = 0.85, 0.13, 1.2
"""Nanoseconds per assignment: of a table of one choice, of a vector, of a table of several. They tell ways apart."""


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


class Columns:
    """Indices of a block, choice by choice, in a type that places in most tables fit into.

    Args:
        sizes: how many options each choice has. n: assignments at most.
    """

    def __init__(self, sizes: Ints, n: int) -> None:
        self._rows = max(512, _TURNED // len(sizes))
        self._of = np.empty((len(sizes), n), dtype=np.uint16 if sizes.max() <= _SHORT else np.intp)
        self._narrow, self._wide = np.empty(n, dtype=np.uint16), np.empty(n, dtype=np.intp)

    def fill(self, indices: NDArray[np.integer]) -> None:
        """Take `indices` [m, choices]."""
        for begin in range(0, len(indices), self._rows):
            part = indices[begin : begin + self._rows]
            self._of[:, begin : begin + len(part)] = part.T

    def places(self, one: Pass, m: int) -> NDArray[np.intp]:
        """Places [m] in the entries of a table; overwritten by the next."""
        wide, first = self._wide[:m], self._of[one.key[0], :m]
        if len(one.key) == 1:
            np.copyto(wide, first)
            return wide
        is_short = len(one.entries) <= _SHORT and first.dtype == np.uint16
        place = self._narrow[:m] if is_short else wide
        for i, size in zip(one.key[1:], one.strides[is_short], strict=True):
            np.multiply(first, size, place)
            np.add(place, self._of[i, :m], place)
            first = place
        if is_short:
            np.copyto(wide, place)
        return wide


@dataclass(frozen=True)
class Pass:
    """A table to look up: its choices, how many options they have, its entries in one line."""

    key: Key
    sizes: tuple[int, ...]
    entries: NDArray[Any]

    @cached_property
    def strides(self) -> tuple[Sequence[NDArray[Any]], ...]:
        """`sizes` but the first as arrays, wide and short: numpy takes longest to see what a plain number is."""
        return tuple([np.array(size, dtype=kind) for size in self.sizes[1:]] for kind in (np.intp, np.uint16))

    def look_up(self, columns: Columns, into: NDArray[Any]) -> None:
        """Write the entries of a block into `into` [m]."""
        self.entries.take(columns.places(self, len(into)), None, into, "clip")  # half of the time of numpy.take


def most_of(rows: Sequence[Row], above: Sequence[int]) -> int:
    """The most that a row can be, with the constants `above`."""
    return max(c + sum(int(table.max()) for table in own.values()) for c, (_, own) in zip(above, rows, strict=True))


def passes_of(tables: Sequence[tuple[Key, Ints]], entries: Sequence[NDArray[Any]]) -> list[Pass]:
    """`tables` with their narrowed `entries`."""
    return [Pass(key, table.shape, narrow.ravel()) for (key, table), narrow in zip(tables, entries, strict=True)]


class Passes:
    """The largest of several sums, for blocks of assignments."""

    block = 1 << 14

    def __init__(self, sizes: Ints, rows: Sequence[Row]) -> None:
        self._sizes = sizes
        constants = [constant for constant, _ in rows]
        self._base = min(constants)
        above = [constant - self._base for constant in constants]
        order = steps(rows)
        tables = [item for _, _, tables in order for item in tables.items()]
        entries, self._unit, self._kind = narrowed([table for _, table in tables], most_of(rows, above), above)
        passes = iter(passes_of(tables, entries))
        self._steps: list[tuple[bool, Any, list[Pass]]] = []
        before = 0
        for row, fresh, own in order:
            add = self._kind((above[row] - (0 if fresh else before)) // self._unit)
            self._steps.append((fresh, add, [next(passes) for _ in own]))
            before = above[row]
        self.work = len(tables) * LOOK_UP_AND_ADD + len(order) * 2 * ADD

    def ready(self, n: int) -> Block:
        columns = Columns(self._sizes, n)
        total, most, more = np.empty((3, n), dtype=self._kind)

        def evaluate(indices: NDArray[np.integer], found: Ints) -> None:
            m = len(indices)
            columns.fill(indices)
            sums, largest, taken = total[:m], most[:m], more[:m]
            for step, (fresh, add, passes) in enumerate(self._steps):
                for k, one in enumerate(passes):
                    into = sums if fresh and k == 0 else taken
                    one.look_up(columns, into)
                    if into is taken:
                        np.add(sums, taken, out=sums)
                if add:
                    np.add(sums, add, out=sums)
                if step == 0:
                    np.copyto(largest, sums)
                else:
                    np.maximum(largest, sums, out=largest)
            np.multiply(largest, self._unit, out=found, dtype=np.int64)
            np.add(found, self._base, out=found)

        return evaluate
