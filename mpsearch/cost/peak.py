"""A cost that is the largest of several sums over the same parts: what is held at the worst step of a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpsearch.core.assignment import Assignment
from mpsearch.core.space import Space
from mpsearch.cost.sums import Part, Sum
from mpsearch.cost.terms import Cost, Ints, Terms

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Peak:
    """A measure that is the most that parts take together at one step.

    Args:
        parts: one per value that is held for some time.
        held: whether each part counts at each step [steps, parts], at least one step; `steps_that_matter` makes it.
    """

    parts: Sequence[Part]
    held: Bools

    def measure(self, assignment: Assignment) -> float:
        """The measure at any assignment, inside a space or not."""
        return float(self._rows(assignment).max())

    def shares(self, assignment: Assignment) -> dict[str, float]:
        """What is held at the worst step, by name; the first such step if there are several."""
        worst = self.held[self._rows(assignment).argmax()]
        return Sum([part for part, counts in zip(self.parts, worst, strict=True) if counts]).shares(assignment)

    def cost(self, space: Space) -> Cost:
        """As tables over the choices of `space`, a row per step; equal to `measure` for each of its assignments."""
        each = [Sum([part]).cost(space).rows[0] for part in self.parts]
        held = self.held.astype(np.int64)
        constant = held @ np.array([terms.constant for terms in each], dtype=np.int64)
        unary = [
            held @ np.array([terms.unary[i] for terms in each], dtype=np.int64).reshape(len(each), len(choice.options))
            for i, choice in enumerate(space.choices)
        ]
        return Cost(
            tuple(
                Terms(tuple(table[step] for table in unary), int(constant[step]), self._joint(each, counts))
                for step, counts in enumerate(self.held)
            )
        )

    @staticmethod
    def _joint(each: Sequence[Terms], counts: Bools) -> dict[tuple[int, ...], Ints]:
        found: dict[tuple[int, ...], Ints] = {}
        for terms in (terms for terms, counted in zip(each, counts, strict=True) if counted):
            for key, table in terms.joint.items():
                found[key] = found[key] + table if key in found else table
        return found

    def _rows(self, assignment: Assignment) -> NDArray[np.float64]:
        """What is held at each step. Floats of 64 bits: exact to 2**53, and multiplied much faster than integers."""
        sizes = self._float_sizes.copy()
        for at in {at for site in assignment for at in self._depending.get(site, ())}:
            sizes[at] = self.parts[at].at(assignment)
        found: NDArray[np.float64] = self._held_floats @ sizes
        return found

    @cached_property
    def _float_sizes(self) -> NDArray[np.float64]:
        return np.array([part.at(Assignment()) for part in self.parts], dtype=float)

    @cached_property
    def _held_floats(self) -> NDArray[np.float64]:
        return self.held.astype(float)

    @cached_property
    def _depending(self) -> dict[str, list[int]]:
        """Parts by the sites that they depend on."""
        found: dict[str, list[int]] = {}
        for at, part in enumerate(self.parts):
            for site in part.sites:
                found.setdefault(site, []).append(at)
        return found


def steps_that_matter(born: ArrayLike, dies: ArrayLike) -> Bools:
    """Whether each value is held [steps, values], at the steps of which no other holds all that and more.

    Args:
        born, dies: first and last moment at which each value is held, both inclusive.
    """
    first, last = np.asarray(born, dtype=np.int64), np.asarray(dies, dtype=np.int64)
    moments = np.unique(first)[:, None] if first.size else np.zeros((1, 1), dtype=np.int64)  # else things only end
    alive: Bools = np.unique((first <= moments) & (moments <= last), axis=0)
    held = alive.astype(np.float32)  # counts of values: far below 2**24
    within = held @ held.T == held.sum(axis=1, keepdims=True)
    kept: Bools = alive[within.sum(axis=1) == 1]
    return kept
