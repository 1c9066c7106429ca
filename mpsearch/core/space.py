"""The search space: choices, each of which sets the format of one site or of several tied ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format


@dataclass(frozen=True)
class Choice:
    """One decision.

    Args:
        name: of the first tied site.
        sites: names of the sites that decide together.
        options: formats to choose from, in the order of the space file.
    """

    name: str
    sites: tuple[str, ...]
    options: tuple[Format, ...]


@dataclass(frozen=True)
class Space:
    """All choices, in the order in which the model computes them.

    That order makes neighbours in `assignments()` share the longest prefix of the computation.
    """

    choices: tuple[Choice, ...]

    @property
    def size(self) -> int:
        """Number of distinct assignments."""
        return math.prod(len(choice.options) for choice in self.choices)

    def decode(self, indices: Sequence[int]) -> Assignment:
        """The assignment that takes option `indices[i]` at choice `i`."""
        if len(indices) != len(self.choices):
            raise ValueError(f"expected {len(self.choices)} option indices, got {len(indices)}.")
        chosen: dict[str, Format] = {}
        for choice, index in zip(self.choices, indices, strict=True):
            chosen.update(dict.fromkeys(choice.sites, choice.options[index]))
        return Assignment(chosen)

    def encode(self, assignment: Assignment) -> tuple[int, ...]:
        """Option indices of `assignment`. Raises `BadInput` if it is not in the space."""
        errors = self.check(assignment)
        if errors:
            raise BadInput(*errors)
        return tuple(c.options.index(assignment.at(c.sites[0])) for c in self.choices)

    def check(self, assignment: Assignment) -> list[str]:
        """Why `assignment` is not in the space, one sentence each; empty if it is."""
        errors = []
        known = {site for choice in self.choices for site in choice.sites}
        errors += [f"site {name!r} is not in the search space." for name in assignment if name not in known]
        for choice in self.choices:
            formats = {assignment.at(site) for site in choice.sites}
            if len(formats) > 1:
                errors.append(f"tied sites {', '.join(choice.sites)} need one format, got {sorted(map(str, formats))}.")
            elif not formats <= set(choice.options):
                allowed = ", ".join(map(str, choice.options))
                errors.append(f"site {choice.name!r} cannot be {formats.pop()}; allowed: {allowed}.")
        return errors

    def __contains__(self, assignment: object) -> bool:
        return isinstance(assignment, Assignment) and not self.check(assignment)

    def sample(self, rng: np.random.Generator) -> Assignment:
        """One assignment, uniform over the space."""
        return self.decode([int(rng.integers(len(choice.options))) for choice in self.choices])

    def assignments(self) -> Iterator[Assignment]:
        """Every assignment, the last choice changing fastest."""
        return map(self.decode, product(*(range(len(choice.options)) for choice in self.choices)))

    def uniform(self) -> dict[str, Assignment]:
        """The uniform controls, by name, narrowest first: at each width that occurs, every choice takes it.

        A choice that lacks the width takes its next wider option, else its widest; of options of equal width the
        first listed counts.
        """
        controls: dict[Assignment, str] = {}
        for bits in sorted({fmt.bits for choice in self.choices for fmt in choice.options}):
            picked = [self._at_width(choice, bits) for choice in self.choices]
            controls.setdefault(self.decode(picked), f"uniform {bits:g}")
        return {name: assignment for assignment, name in controls.items()}

    @staticmethod
    def _at_width(choice: Choice, bits: float) -> int:
        widths = [fmt.bits for fmt in choice.options]
        wider = [w for w in widths if w >= bits]
        return widths.index(min(wider) if wider else max(widths))

    @cached_property
    def choice_of(self) -> Mapping[str, Choice]:
        """Site name to the choice that decides it."""
        return {site: choice for choice in self.choices for site in choice.sites}
