"""The largest of several sums of tables, for blocks of many assignments: what is held at the worst step.

Rows share most of their tables. Each different table is looked up once for a whole block; then each row starts from
the one before it, by the numbers that differ: a step of a peak differs by what was made and dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.cost.passes import ADD, LOOK_UP, Block, Columns, Ints, Key, Row, most_of, narrowed, passes_of

_HELD = 1 << 20
"""Numbers that are looked up for a block: about what the second cache holds."""


@dataclass(frozen=True)
class Step:
    """How a row follows from the one before it, or from nothing.

    Args:
        row: its place. plus, minus: numbers of the tables that are added and taken away.
        is_fresh: whether it starts from nothing.
    """

    row: int
    plus: tuple[int, ...]
    minus: tuple[int, ...] = ()
    is_fresh: bool = True


def steps(rows: Sequence[frozenset[int]]) -> list[Step]:
    """An order of rows, given as the numbers of their tables, in which each is little work after the one before."""
    left = set(range(len(rows)))
    at = min(left, key=lambda row: (len(rows[row]), row))
    found = [Step(at, tuple(sorted(rows[at])))]
    left.remove(at)
    while left:
        before = rows[at]
        at = min(left, key=lambda row: (min(len(rows[row] ^ before), len(rows[row])), row))
        now = rows[at]
        plus, minus = tuple(sorted(now - before)), tuple(sorted(before - now))
        is_fresh = len(now) <= len(plus) + len(minus)
        found.append(Step(at, tuple(sorted(now))) if is_fresh else Step(at, plus, minus, False))
        left.remove(at)
    return found


class Largest:
    """The largest of several sums, for blocks of assignments."""

    def __init__(self, sizes: Ints, rows: Sequence[Row]) -> None:
        number: dict[tuple[Key, bytes], int] = {}
        tables: list[tuple[Key, Ints]] = []
        held = []
        for _, own in rows:
            mine = set()
            for key, table in own.items():
                name = key, table.tobytes()
                if name not in number:
                    number[name] = len(tables)
                    tables.append((key, table))
                mine.add(number[name])
            held.append(frozenset(mine))
        self._sizes = sizes
        constants = [constant for constant, _ in rows]
        self._base = min(constants)
        above = [constant - self._base for constant in constants]
        entries, self._unit, self._kind = narrowed([table for _, table in tables], most_of(rows, above), above)
        self._passes = passes_of(tables, entries)
        self._steps: list[tuple[Step, Any]] = []
        before = 0
        for step in steps(held):
            self._steps.append((step, self._kind((above[step.row] - (0 if step.is_fresh else before)) // self._unit)))
            before = above[step.row]
        changes = sum(len(step.plus) + len(step.minus) for step, _ in self._steps)
        self.work = len(tables) * LOOK_UP + (changes + 2 * len(rows)) * ADD
        self.block = max(1 << 10, min(1 << 14, _HELD // len(tables)))

    def ready(self, n: int) -> Block:
        columns = Columns(self._sizes, n)
        looked_up = np.empty((len(self._passes), n), dtype=self._kind)
        total, most = np.empty((2, n), dtype=self._kind)

        def evaluate(indices: NDArray[np.integer], found: Ints) -> None:
            m = len(indices)
            columns.fill(indices)
            values = list(looked_up[:, :m])
            for one, into in zip(self._passes, values, strict=True):
                one.look_up(columns, into)
            sums, largest = total[:m], most[:m]
            for k, (step, add) in enumerate(self._steps):
                _follow(step, add, values, sums)
                if k:
                    np.maximum(largest, sums, out=largest)
                else:
                    np.copyto(largest, sums)
            np.multiply(largest, self._unit, out=found, dtype=np.int64)
            np.add(found, self._base, out=found)

        return evaluate


def _follow(step: Step, add: Any, values: Sequence[NDArray[Any]], sums: NDArray[Any]) -> None:
    """Turn `sums` of the row before into those of the next, of which `add` is the constant or its difference."""
    plus = step.plus
    if step.is_fresh:
        np.add(values[plus[0]], add, out=sums)
        plus = plus[1:]
    elif add:
        np.add(sums, add, out=sums)
    for at in plus:
        np.add(sums, values[at], out=sums)
    for at in step.minus:
        np.subtract(sums, values[at], out=sums)
