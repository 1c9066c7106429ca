"""A cost that is a sum of parts, each of which depends on the formats of a few sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Space
from mpsearch.cost.terms import Cost, Ints, Terms


@dataclass(frozen=True)
class Part:
    """What one operation or tensor costs.

    Args:
        name: of the operation or site, for shares.
        sites: whose formats it depends on.
        units: the cost in whole units, given a format for each of `sites`.
    """

    name: str
    sites: tuple[str, ...]
    units: Callable[[tuple[Format, ...]], int]
    _known: dict[tuple[Format, ...], int] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, formats: tuple[Format, ...]) -> int:
        """The cost in whole units, computed once per combination of formats."""
        found = self._known.get(formats)
        if found is None:
            found = self._known[formats] = self.units(formats)
        return found

    def at(self, assignment: Assignment) -> int:
        """The cost of this part in whole units at `assignment`."""
        return self(tuple(map(assignment.at, self.sites)))


@dataclass(frozen=True)
class Sum:
    """A measure that is a sum over parts.

    Args:
        parts: in the order of computation.
        per: how many integer units make one unit of the measure (10**12 picoseconds make a second).
        whole: whether a part of a unit counts as a whole one.
    """

    parts: Sequence[Part]
    per: int = 1
    whole: bool = False

    def measure(self, assignment: Assignment) -> float:
        """The measure at any assignment, inside a space or not."""
        units = sum(part.at(assignment) for part in self.parts)
        return float(self._cost([]).measure(units))

    def shares(self, assignment: Assignment) -> dict[str, float]:
        """What each part adds to the measure, in its unit, by name."""
        found: dict[str, float] = {}
        for part in self.parts:
            found[part.name] = found.get(part.name, 0.0) + part.at(assignment) / self.per
        return found

    def cost(self, space: Space) -> Cost:
        """As tables over the choices of `space`; equal to `measure` for each of its assignments."""
        unary: list[Ints] = [np.zeros(len(choice.options), dtype=np.int64) for choice in space.choices]
        joint: dict[tuple[int, ...], Ints] = {}
        number = {site: i for i, choice in enumerate(space.choices) for site in choice.sites}
        constant = 0
        for part in self.parts:
            mine = sorted({number[site] for site in part.sites if site in number})
            free = tuple(i for i in mine if len(space.choices[i].options) > 1)
            table = self._table(part, space, number, free)
            if not free:
                constant += int(table)
            elif len(free) == 1:
                unary[free[0]] += table
            else:
                joint[free] = joint[free] + table if free in joint else table
        return self._cost([Terms(tuple(unary), constant, joint)])

    @staticmethod
    def _table(part: Part, space: Space, number: dict[str, int], free: tuple[int, ...]) -> Ints:
        """Units of `part` by the options of the choices `free`; the others that it depends on have one option."""
        table = np.zeros([len(space.choices[i].options) for i in free], dtype=np.int64)
        for at in product(*map(range, table.shape)):
            option = dict(zip(free, at, strict=True))
            formats = (
                space.choices[number[site]].options[option.get(number[site], 0)] if site in number else FP32
                for site in part.sites
            )
            table[at] = part(tuple(formats))
        return table

    def _cost(self, rows: Sequence[Terms]) -> Cost:
        return Cost(tuple(rows), self.per, self.whole)
