"""The whole front of a score against one sum, by dynamic programming over the choices (Nemhauser and Ullmann 1969).

After some choices it keeps, for each way in which the choices that are still needed may stand, the states (units,
score) that no other matches or beats in both. Needed are those that share a table with a choice that is to come: of a
chain of kernels a value or two. The lists are sorted already, so that a stable sort merges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.errors import OutOfResources
from mpsearch.cost.terms import Ints

Key = tuple[int, ...]
Tables = Mapping[Key, NDArray[Any]]
"""By the choices that they are over, in rising order; each choice has one of its own."""
Floats = NDArray[np.float64]
Front = tuple[NDArray[np.int16], Ints, Floats]
"""Indices [n, choices], units and score [n]; units rise."""

STATES = 1 << 20
"""That a step may hold; many choices whose costs share no divisor can have a front without end."""
_WAYS = 512
"""In which the needed choices may stand."""


@dataclass(frozen=True)
class _Step:
    """One more choice.

    Args:
        at: the choice.
        before, after: which choices are needed until then, and from then on.
        keys: tables over it and choices that are known.
    """

    at: int
    before: Key
    after: Key
    keys: tuple[Key, ...]


def order(sizes: Sequence[int], keys: Sequence[Key]) -> list[_Step] | None:
    """An order of the choices in which few are needed at once; None where there are too many ways for them to stand.

    Always the choice after which they can stand in the fewest ways; of several, the first.
    """
    joint = [frozenset(key) for key in keys if len(key) > 1]
    of = [[key for key in joint if i in key] for i in range(len(sizes))]
    left, needed = set(range(len(sizes))), frozenset[int]()
    found: list[_Step] = []
    while left:
        near = {i for i in left if any(key & needed for key in of[i])} or {min(left)}
        after = {i: _needed(needed | {i}, left - {i}, of) for i in near}
        at = min(near, key=lambda i: (prod(sizes[k] for k in after[i]), i))
        if prod(sizes[k] for k in after[at]) > _WAYS:
            return None
        left.remove(at)
        known = needed | {at}
        mine = tuple(key for key in keys if at in key and known.issuperset(key))
        found.append(_Step(at, tuple(sorted(needed)), tuple(sorted(after[at])), mine))
        needed = after[at]
    return found


def _needed(known: frozenset[int], left: set[int], of: Sequence[Sequence[frozenset[int]]]) -> frozenset[int]:
    return frozenset(i for i in known if any(not key.isdisjoint(left) for key in of[i]))


def merge(score: Tables, cost: Tables, constant: int, bound: int | None, steps: Sequence[_Step]) -> Front | None:
    """The front of the sums of `score` and `cost`, of equal points one; None where none is within `bound`.

    Raises `OutOfResources` where it is too large to hold.
    """
    sizes = {key[0]: len(table) for key, table in cost.items() if len(key) == 1}
    least = [sum(int(cost[key].min()) for key in step.keys if key in cost) for step in steps]
    lists: dict[Key, slice] = {(): slice(0, 1)}
    """Where the states lie, by how the needed choices stand."""
    units, found = np.array([constant], dtype=np.int64), np.zeros(1)
    trail: list[tuple[NDArray[np.int16], NDArray[np.int32]]] = []
    """By step: the option of each state, and the state that it came from."""
    for done, step in enumerate(steps, start=1):
        most = None if bound is None else bound - sum(least[done:])
        kept: list[tuple[Ints, Floats, NDArray[np.int16], NDArray[np.int32]]] = []
        after: dict[Key, slice] = {}
        held = 0
        for way, sources in _sources(step, lists, sizes).items():
            columns = []
            for at, option, known in sources:
                entries = [(key, tuple(known[i] for i in key)) for key in step.keys]
                origin = np.arange(at.start, at.stop, dtype=np.int32)
                more = sum(int(cost[key][entry]) for key, entry in entries if key in cost)
                worse = sum(float(score[key][entry]) for key, entry in entries if key in score)
                columns.append((units[at] + more, found[at] + worse, np.full(len(origin), option, np.int16), origin))
            all_units, all_found, options, origins = map(np.concatenate, zip(*columns, strict=True))
            keep = _unbeaten(all_units, all_found, most)
            kept.append((all_units[keep], all_found[keep], options[keep], origins[keep]))
            after[way] = slice(held, held + len(keep))
            held += len(keep)
            if held > STATES:
                told = f"the front has over {STATES:,} points after {done} of {len(steps)} choices"
                raise OutOfResources(f"{told}; ask for some of them (`most`), or give the cost in coarser units.")
        lists = after
        units, found, picked, origin = map(np.concatenate, zip(*kept, strict=True))
        trail.append((picked, origin))
    if len(units) == 0 or (bound is not None and units[0] > bound):
        return None
    indices = np.empty((len(steps), len(units)), dtype=np.int16)
    back: NDArray[np.integer] = np.arange(len(units))
    for step, (picked, origin) in zip(reversed(steps), reversed(trail), strict=True):
        indices[step.at], back = picked[back], origin[back]
    return indices.T, units, found


def _sources(
    step: _Step, lists: Mapping[Key, slice], sizes: Mapping[int, int]
) -> dict[Key, list[tuple[slice, int, dict[int, int]]]]:
    """By how the needed choices stand after `step`: the lists that lead there, by which option, all that is known."""
    found: dict[Key, list[tuple[slice, int, dict[int, int]]]] = {}
    for option in range(sizes[step.at]):
        for way, at in lists.items():
            known = dict(zip(step.before, way, strict=True)) | {step.at: option}
            found.setdefault(tuple(known[i] for i in step.after), []).append((at, option, known))
    return found


def _unbeaten(units: Ints, found: Floats, most: int | None) -> NDArray[np.intp]:
    """States that no other matches or beats, by rising units."""
    order = np.argsort(units, kind="stable")
    if most is not None:
        order = order[units[order] <= most]
    lower = np.minimum.accumulate(found[order])
    order = order[np.append(True, lower[1:] < lower[:-1])[: len(order)]]
    kept: NDArray[np.intp] = order[np.append(units[order][1:] != units[order][:-1], True)[: len(order)]]
    return kept
