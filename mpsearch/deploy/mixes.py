"""Mixed assignments to measure: layers on integers here and there, drawn from a seed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost.conversions import asked
from mpsearch.cost.workload import Operation, Workload

INT8 = Format("int", 8)
APART = 3
"""Layers in which a run that is held out differs from every other, at least."""
_TRIES = 10_000


@dataclass(frozen=True)
class Mixes:
    """What to measure.

    Args:
        train, held_out: assignments; each of the second differs from all of the first, and from both anchors, in the
            formats of at least `apart` layers.
    """

    train: tuple[Assignment, ...]
    held_out: tuple[Assignment, ...]
    apart: int


def narrow(choice: Choice) -> Format:
    """The format that stands for integers at `choice`: its own of 8 bits, else the plain one."""
    return next((fmt for fmt in choice.options if fmt.scheme == "int" and fmt.bits == 8), INT8)


def anchors(space: Space) -> tuple[Assignment, Assignment]:
    """All in floating point, and all of 8 bits."""
    return Assignment(), Assignment({site: narrow(choice) for choice in space.choices for site in choice.sites})


def layers(workload: Workload) -> list[Operation]:
    """Operations that multiply, and have a site that could be narrower."""
    return [o for o in workload.operations if o.macs and workload.sites(o)]


def mixes(space: Space, workload: Workload, capable: Collection[str], n: int, seed: int) -> Mixes:
    """`n` assignments of `space` or of its sites in 8 bits, a third of them held out.

    Two of three put some operations on integers, and with them what they read and write; the third sets every choice by
    itself, as a search would. Choices that are tied decide together.

    Args:
        capable: names of the operations that can run on integers.
    """
    able = [operation for operation in workload.operations if operation.name in capable]
    counted = layers(workload)
    for apart in range(min(APART, len(counted)), 0, -1):
        found = _drawn(space, workload, able, counted, n, apart, np.random.default_rng(seed))
        if found is not None:
            return found
    raise BadInput("the space has too few assignments to measure any apart from others; give its sites more formats.")


def _drawn(
    space: Space,
    workload: Workload,
    able: Sequence[Operation],
    counted: Sequence[Operation],
    n: int,
    apart: int,
    rng: np.random.Generator,
) -> Mixes | None:
    """Held-out runs first, then others that keep away from them; None where there are not as many."""
    known, held_out, train = list(anchors(space)), list[Assignment](), list[Assignment]()
    wanted = n // 3
    for number in range(_TRIES):
        made = _of_choices(space, rng) if number % 3 == 2 else _of_operations(space, workload, able, rng)
        if made in known or made in train or made in held_out:
            continue
        is_out = len(held_out) < wanted
        if all(_differ(workload, counted, made, other) >= apart for other in (known if is_out else held_out)):
            (held_out if is_out else train).append(made)
        if len(train) == n - wanted:
            return Mixes(tuple(train), tuple(held_out), apart)
    return None


def _of_operations(space: Space, workload: Workload, able: Sequence[Operation], rng: np.random.Generator) -> Assignment:
    share = rng.uniform(0.1, 0.95)
    chosen = [operation for operation in able if rng.random() < share]
    sites = {site for operation in chosen for site in workload.sites(operation)}
    return _narrowed(choice for choice in space.choices if sites.intersection(choice.sites))


def _of_choices(space: Space, rng: np.random.Generator) -> Assignment:
    share = rng.uniform(0.3, 1.0)
    return _narrowed(choice for choice in space.choices if rng.random() < share)


def _narrowed(choices: Iterable[Choice]) -> Assignment:
    return Assignment({site: narrow(choice) for choice in choices for site in choice.sites})


def _differ(workload: Workload, counted: Sequence[Operation], one: Assignment, other: Assignment) -> int:
    """Layers whose weight or value has another format."""
    return sum(_formats(workload, layer, one) != _formats(workload, layer, other) for layer in counted)


def _formats(workload: Workload, layer: Operation, assignment: Mapping[str, Format]) -> tuple[object, ...]:
    return asked(workload, layer, assignment)
