"""Costs as tables of integers: constant + a term per choice + terms of several choices, and the largest of such rows.

That form is what makes a cost exact for a solver and cheap for many assignments at once: nothing but gather and add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpsearch.cost.lookup import Lookup

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """An additive number over the choices of a space.

    Args:
        unary: one row of integers per choice, an entry for each of its options.
        constant: what does not depend on any choice.
        joint: tables [options of i, options of j, ...] for choices i < j < ... that cost something together.
    """

    unary: tuple[Ints, ...]
    constant: int = 0
    joint: Mapping[tuple[int, ...], Ints] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        unary: Sequence[ArrayLike],
        constant: int = 0,
        joint: Mapping[tuple[int, ...], ArrayLike] | None = None,
    ) -> Terms:
        """From anything that numpy takes. Raises `ValueError` on shapes that do not fit together, and on fractions."""
        rows = tuple(_whole(row) for row in unary)
        tables = {key: _whole(table) for key, table in (joint or {}).items()}
        for key, table in tables.items():
            rising = len(key) > 1 and all(0 <= i < j < len(rows) for i, j in pairwise(key))
            if not rising or table.shape != tuple(len(rows[i]) for i in key):
                raise ValueError(f"the table of choices {key} has shape {table.shape}, which does not fit the choices.")
        return cls(rows, int(constant), tables)

    def __call__(self, indices: ArrayLike) -> Ints:
        """The number [n] at option `indices` [n, choices], of any type of integers. Raises `IndexError` on others."""
        return self._lookup(indices)

    def only(self, options: Sequence[NDArray[np.integer]]) -> Terms:
        """The same over some options of each choice, whose indices are given."""
        joint = {key: table[np.ix_(*(options[i] for i in key))] for key, table in self.joint.items()}
        return Terms(tuple(row[kept] for row, kept in zip(self.unary, options, strict=True)), self.constant, joint)

    @property
    def tables(self) -> dict[tuple[int, ...], Ints]:
        """Every table by the choices that it is over."""
        return {**{(i,): row for i, row in enumerate(self.unary)}, **self.joint}

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup([len(row) for row in self.unary], [(self.constant, self.tables)])


@dataclass(frozen=True)
class Cost:
    """A measure that follows from the assignment by arithmetic.

    Args:
        rows: its value is the largest of them: one row for a sum, one per step for a peak.
        per: how many integer units of the rows make one unit of the measure (8 bits make a byte).
        whole: whether a part of a unit counts as a whole one.
    """

    rows: tuple[Terms, ...]
    per: int = 1
    whole: bool = False

    def __call__(self, indices: ArrayLike) -> NDArray[np.float64]:
        """The measure [n], in its own unit, at option `indices` [n, choices] of any type of integers."""
        return self.measure(self._lookup(indices))

    def only(self, options: Sequence[NDArray[np.integer]]) -> Cost:
        """The same over some options of each choice, whose indices are given."""
        return replace(self, rows=tuple(row.only(options) for row in self.rows))

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup([len(row) for row in self.rows[0].unary], [(row.constant, row.tables) for row in self.rows])

    def measure(self, units: ArrayLike) -> NDArray[np.float64]:
        """The measure that so many integer units make."""
        found = np.asarray(units, dtype=np.int64)
        return (-(-found // self.per)).astype(float) if self.whole else found / self.per

    def units(self, measure: float) -> int:
        """The most integer units that a measure of at most `measure` may hold: a budget for a solver."""
        return int(np.floor(measure)) * self.per if self.whole else int(np.floor(measure * self.per * (1 + 1e-15)))


def _whole(values: ArrayLike) -> Ints:
    found = np.asarray(values)
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"terms are integers, not {found.dtype}; choose a smaller unit.")
    return found.astype(np.int64)
