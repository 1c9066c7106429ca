"""Sums of table entries at many assignments at once, in exact integers: how `Terms` and `Cost` are evaluated.

Three ways, the fastest for what is asked: a few assignments take one gather in all tables; many at a plain sum are a
product with a sparse matrix of ones; many at anything else pass table after table (`passes`, `largest`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from mpsearch.cost.largest import Largest
from mpsearch.cost.passes import Block, Ints, Key, Passes, Row, narrowed

_FEW = 512
"""Assignments up to which one gather in all tables takes the least time."""
_BYTE = 256
_PAIRED = 128
"""Options of a choice up to which tables over two choices, one byte each, are no waste."""


class Lookup:
    """The largest of several sums of table entries.

    Args:
        sizes: how many options each choice has.
        rows: each a constant and its tables.
    """

    def __init__(self, sizes: Sequence[int], rows: Sequence[tuple[int, Mapping[Key, Ints]]]) -> None:
        self._sizes = np.array(sizes, dtype=np.int64)
        distinct: dict[frozenset[tuple[Key, bytes]], Row] = {}
        for row in rows:
            constant, varying = _varying(*row, most_constant=len(rows) == 1)
            name = frozenset((key, table.tobytes()) for key, table in varying.items())
            if name not in distinct or distinct[name][0] < constant:
                distinct[name] = constant, varying
        self._rows = [row for row in distinct.values() if row[1]]
        self._least = max((constant for constant, tables in distinct.values() if not tables), default=None)

    def __call__(self, given: ArrayLike) -> Ints:
        """The number [n] at option indices `given` [n, choices]. Raises `IndexError` on what is no option."""
        indices = _integers(given)
        if indices.ndim != 2 or indices.shape[1] != len(self._sizes):
            raise IndexError(f"expected option indices [n, {len(self._sizes)} choices], got {list(indices.shape)}.")
        n = len(indices)
        if not self._rows or n == 0:
            self._check(indices)
            return np.full(n, self._least or 0, dtype=np.int64)
        if n <= _FEW:
            engine = self._few
        else:
            engine = self._plain if self._is_plain and not indices.flags.f_contiguous else self._many
        found = np.empty(n, dtype=np.int64)
        evaluate = engine.ready(min(n, engine.block))
        for begin in range(0, n, engine.block):
            block = indices[begin : begin + engine.block]
            self._check(block)
            evaluate(block, found[begin : begin + engine.block])
        return found if self._least is None else np.maximum(found, self._least)

    @cached_property
    def _few(self) -> _Engine:
        return _Gather(self._sizes, self._rows)

    @cached_property
    def _plain(self) -> _Engine:
        return _Product(self._sizes, self._rows)

    @cached_property
    def _many(self) -> _Engine:
        by_passes = Passes(self._sizes, self._rows)
        if len(self._rows) == 1:
            return by_passes
        by_tables = Largest(self._sizes, self._rows)
        return by_tables if by_tables.work < by_passes.work else by_passes

    @cached_property
    def _is_plain(self) -> bool:
        single = len(self._rows) == 1 and all(len(key) == 1 for key in self._rows[0][1])
        return single and int(self._sizes.max()) <= _PAIRED

    def _check(self, indices: NDArray[np.integer]) -> None:
        if not indices.size:
            return
        low = 0 if indices.dtype.kind == "u" else int(indices.min())
        if low < 0 or (int(indices.max()) >= self._sizes.min() and (indices >= self._sizes).any()):
            at, choice = np.argwhere((indices < 0) | (indices >= self._sizes))[0]
            told = f"option {indices[at, choice]} of choice {choice} does not exist"
            raise IndexError(f"{told}; it has options 0 to {self._sizes[choice] - 1}.")


def _integers(given: ArrayLike) -> NDArray[np.integer]:
    found = np.asarray(given)
    if found.dtype.kind not in "iu" and found.size:
        raise IndexError(f"option indices are integers, not {found.dtype}.")
    return found if found.dtype.kind in "iu" and found.dtype != np.uint64 else found.astype(np.intp)


class _Engine(Protocol):
    block: int
    """Assignments at most at once."""

    def __init__(self, sizes: Ints, rows: Sequence[Row]) -> None:
        """Takes how many options the choices have, and the constant and tables of each row."""

    def ready(self, n: int) -> Block:
        """What writes the number [m] at indices [m, choices] into an array [m], for up to `n` of them."""


def _varying(constant: int, tables: Mapping[Key, Ints], most_constant: bool) -> Row:
    """Tables that are the same everywhere moved into the constant, and the least of the others, so that none is below
    zero: all of it where that is `most_constant`, else what is below zero, which leaves constants of rows alike."""
    if not tables:
        return constant, {}
    flat = np.concatenate([table.ravel() for table in tables.values()])
    starts = np.cumsum([0, *(table.size for table in tables.values())])[:-1]
    least, most = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
    moved = least if most_constant else np.where(least < most, np.minimum(least, 0), least)
    varying = {
        key: table - by
        for (key, table), low, high, by in zip(tables.items(), least, most, moved, strict=True)
        if low < high
    }
    return constant + int(moved.sum()), varying


class _Gather:
    """All tables of all rows, one behind the other, in one gather."""

    block = _FEW

    def __init__(self, sizes: Ints, rows: Sequence[Row]) -> None:
        del sizes
        flat = [item for _, tables in rows for item in tables.items()]
        self._constants = np.array([constant for constant, _ in rows], dtype=np.int64)
        self._starts = np.cumsum([0, *(len(tables) for _, tables in rows)])[:-1]
        self._entries = np.concatenate([table.ravel() for _, table in flat])
        self._offsets = np.cumsum([0, *(table.size for _, table in flat)])[:-1]
        most = max(len(key) for key, _ in flat)
        self._columns, self._strides = np.zeros((2, most, len(flat)), dtype=np.intp)
        for at, (key, table) in enumerate(flat):  # a choice that a table lacks counts nothing
            self._columns[: len(key), at] = key
            self._strides[: len(key), at] = [prod(table.shape[k + 1 :]) for k in range(len(key))]

    def ready(self, n: int) -> Block:
        del n
        return self._evaluate

    def _evaluate(self, indices: NDArray[np.integer], found: Ints) -> None:
        at = self._offsets
        for columns, strides in zip(self._columns, self._strides, strict=True):
            at = at + indices.take(columns, axis=1) * strides
        values = self._entries.take(at)
        if len(self._constants) == 1:
            np.add(values.sum(axis=1), self._constants[0], out=found)
        else:
            np.max(np.add.reduceat(values, self._starts, axis=1) + self._constants, axis=1, out=found)


class _Product:
    """A plain sum, two choices at a time: their indices are bytes, so that two neighbours read as one number are the
    place in the table of both. The sum is a sparse matrix of ones at these places, times all entries."""

    block = 2048

    def __init__(self, sizes: Ints, rows: Sequence[Row]) -> None:
        ((self._constant, tables),) = rows
        pairs = []
        for i in range(0, len(sizes), 2):
            shape = int(sizes[i + 1]) if i + 1 < len(sizes) else 1, int(sizes[i])
            table = np.zeros((shape[0], _BYTE), dtype=np.int64)
            table[:, : shape[1]] = tables.get((i,), 0) + np.reshape(tables.get((i + 1,), 0), (-1, 1))
            pairs.append(table.ravel())
        most = sum(int(table.max()) for table in tables.values())
        (self._entries,), self._unit, _ = narrowed([np.concatenate(pairs)], most)
        self._offsets = np.cumsum([0, *map(len, pairs)])[:-1].astype(np.int32)

    def ready(self, n: int) -> Block:
        width = len(self._offsets)
        taken = np.zeros((n, 2 * width), dtype=np.uint8)
        ones, ends = np.ones(n * width, dtype=self._entries.dtype), np.arange(0, n * width + 1, width, dtype=np.int32)
        matrix = csr_array((ones, np.zeros(n * width, dtype=np.int32), ends), shape=(n, len(self._entries)))
        places, offsets = matrix.indices, np.tile(self._offsets, n)

        def evaluate(indices: NDArray[np.integer], found: Ints) -> None:
            m, choices = indices.shape
            taken[:m, :choices] = indices
            np.copyto(places, taken.view("<u2").ravel())
            np.add(places, offsets, out=places)
            np.multiply((matrix @ self._entries)[:m], self._unit, out=found, dtype=np.int64)
            found += self._constant

        return evaluate
