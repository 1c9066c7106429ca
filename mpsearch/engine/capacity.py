"""Whether assignments fit into the memories of a device: the narrowest of a space, and the members of a front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mpsearch.cost.accelerators.base import Capacity
from mpsearch.engine.measures import number
from mpsearch.problem.base import Problem


def narrowest(problem: Problem, card: str, capacities: Sequence[Capacity], samples: int | None) -> Iterator[str]:
    """A sentence for each memory of the device `card` that not every assignment of the space fits into.

    Args:
        samples: scored of the batch that activations are of.
    """
    for capacity in capacities:
        from mpsearch.cost.solve.program import loosest, tightest  # late: scipy takes long to load

        name = f"{capacity.measure}@{card}"
        cost = problem.cost(name)
        if cost is None:
            continue
        held, where = number(capacity.measure, capacity.bytes), f"the {capacity.memory} of {card}"
        batch = f" for a batch of {samples}" if samples and capacity.measure.startswith("activation") else ""
        if (least := tightest(cost)) > capacity.bytes:
            told = f"no assignment fits into {where}: it holds {held}"
            yield f"{told}, and the least that {name} can be is {number(name, least)}{batch}."
        elif (most := loosest(cost)) > capacity.bytes:
            told = f"not every assignment fits into {where}: it holds {held}"
            goal = f"goal {{name: {capacity.measure}, accelerator: {card}, limit: '<= {capacity.bytes}'}}"
            yield f"{told}, and {name} can be {number(name, most)}{batch}. To search what fits alone, add the {goal}."


def fitting(capacities: Sequence[Capacity], card: str, members: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A sentence for each memory of the device `card`: which of `members` (measures by name) fit."""
    for capacity in capacities:
        needs = {name: at.get(f"{capacity.measure}@{card}") for name, at in members.items()}
        known = {name: bytes_ for name, bytes_ in needs.items() if bytes_ is not None}
        if not known:
            continue
        lacking = [name for name, bytes_ in known.items() if bytes_ > capacity.bytes]
        told = f"{len(known) - len(lacking)} of {len(known)} members fit into its {capacity.memory}"
        room = (
            f"({number(capacity.measure, capacity.bytes)} for `{capacity.measure}@{card}` and what the program takes)"
        )
        yield f"{told} {room}" + (f"; not {', '.join(lacking)}." if lacking else ".")
