"""A cost that is a sum of parts, each of which depends on the formats of a few sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from operator import getitem, itemgetter
from typing import Any

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
        units = self._remembered(assignment)
        return float(-(-units // self.per)) if self.whole else float(units) / self.per

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

    @cached_property
    def _remembered(self) -> _Remembered:
        return _Remembered(self.parts)


class _Remembered:
    """Whole units of a sum, each part looked up by which objects its formats are: to hash formats takes much longer.

    A search makes one object per format and puts it into many assignments.
    """

    _MOST = 4096
    """Objects that are remembered: assignments that were read from files have their own."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._sites = tuple(dict.fromkeys(site for part in parts for site in part.sites))
        self._fixed = sum(part(()) for part in parts if not part.sites)
        self._objects: dict[int, Format] = {}
        """Keeps what is remembered alive, so that no other object can have its number."""
        place = {site: i for i, site in enumerate(self._sites)}
        arities = sorted({len(part.sites) for part in parts} - {0})
        self._groups = [_Group([part for part in parts if len(part.sites) == n], place) for n in arities]

    def __call__(self, assignment: Assignment) -> int:
        at = assignment.at
        formats = [at(site) for site in self._sites]
        numbers = list(map(id, formats))
        total = self._fixed
        for group in self._groups:
            try:
                total += sum(map(getitem, group.known, group.keys(numbers)))
            except KeyError:
                self._keep(formats)
                total += group.learn(formats)
        return total

    def _keep(self, formats: Sequence[Format]) -> None:
        if len(self._objects) > self._MOST:
            self._objects.clear()
            for group in self._groups:
                group.forget()
        self._objects.update((id(fmt), fmt) for fmt in formats)


class _Group:
    """Parts that depend on equally many sites.

    Args:
        place: of each site among all formats.
    """

    def __init__(self, parts: Sequence[Part], place: Mapping[str, int]) -> None:
        self._parts = parts
        self._picks = [  # that of the first sites of all parts, of the second, ...; the 0 makes a tuple of a single one
            itemgetter(*(place[part.sites[k]] for part in parts), 0) for k in range(len(parts[0].sites))
        ]
        self.known: list[dict[Any, int]] = [{} for _ in parts]
        """Units of each part by the numbers of its formats."""

    def keys(self, numbers: Sequence[int]) -> Iterable[Any]:
        """What each part is known by, and more."""
        return self._picks[0](numbers) if len(self._picks) == 1 else self._zipped(numbers)

    def learn(self, formats: Sequence[Format]) -> int:
        """The units of all parts, from now on known."""
        total = 0
        keys = self.keys(list(map(id, formats)))
        for part, known, key, own in zip(self._parts, self.known, keys, self._zipped(formats), strict=False):
            units = known[key] = part(own)
            total += units
        return total

    def forget(self) -> None:
        for known in self.known:
            known.clear()

    def _zipped(self, values: Sequence[Any]) -> Iterable[tuple[Any, ...]]:
        return zip(*(pick(values) for pick in self._picks), strict=True)
