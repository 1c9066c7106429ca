"""The cost model: every measure that follows from an assignment by arithmetic, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mpsearch.core.assignment import Assignment
from mpsearch.core.space import Space
from mpsearch.cost.terms import Cost
from mpsearch.cost.workload import Workload


class Measure(Protocol):
    """One measure. `Sum` and `Peak` are the two there are."""

    def measure(self, assignment: Assignment) -> float:
        """The measure at any assignment, inside a space or not."""

    def cost(self, space: Space) -> Cost:
        """As tables over the choices of `space`; equal to `measure` for each of its assignments."""

    def shares(self, assignment: Assignment) -> dict[str, float]:
        """Where it comes from: what each site, tensor or operation adds, in the unit of the measure."""


@dataclass(frozen=True)
class CostModel:
    """Every measure by name.

    Args:
        measures: `memory_bytes`, `bops`, `latency_s@nvidia-t4`, ...
        status: of the measures of an accelerator: `analytic`, `calibrated` or `measured`, by name.
        notes: what the user should know of the accelerators, one sentence each: which widths run as wider ones.
        workload: what the model computes; None where its graph is not known.
        arena_bytes: memory that holds all values at offsets that a planner gives them: `activation_peak_bytes`, or a
            little more; None where lifetimes are not known.
    """

    measures: Mapping[str, Measure]
    status: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    workload: Workload | None = None
    arena_bytes: Callable[[Assignment], int] | None = None

    def at(self, assignment: Assignment) -> dict[str, float]:
        """Every measure at `assignment`; whole numbers as such."""
        found = {name: measure.measure(assignment) for name, measure in self.measures.items()}
        return {name: int(value) if value.is_integer() else value for name, value in found.items()}

    def cost(self, name: str, space: Space) -> Cost | None:
        """The measure `name` as tables over the choices of `space`; None if it is none of these."""
        found = self.measures.get(name)
        return None if found is None else found.cost(space)

    def shares(self, name: str, assignment: Assignment) -> dict[str, float]:
        """Where the measure `name` comes from at `assignment`; empty if it is none of these."""
        found = self.measures.get(name)
        return {} if found is None else found.shares(assignment)
