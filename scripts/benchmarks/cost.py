"""How many assignments per second a cost is computed for: 53 choices with 49 options each, one thread, exact integers.

CPU seconds of one thread, the least of several runs in turns, so that other programs on the machine count little: a
plain sum; one with a table for each two neighbours; a peak of 60 steps of which each holds five values; two sums of
the same assignments, per sum; and a plain gather by fancy indices. Options are given as bytes. Samples are compared
with sums that are written out. Then what a driver waits for: a call with 1 and with 100 assignments, a measure of 100
parts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.format import Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost.sums import Part, Sum
from mpsearch.cost.terms import Cost, Terms

CHOICES, OPTIONS, STEPS = 53, 49, 60


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/bench cost", description=__doc__)
    parser.add_argument("--assignments", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=20)
    asked = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    costs = {"plain": _plain(rng), "joint": _joint(rng), "peak": _peak(rng)}
    second = _plain(rng)
    indices = rng.integers(0, OPTIONS, (asked.assignments, CHOICES)).astype(np.uint8)
    for cost in (*costs.values(), second):
        _check(cost, indices)
    calls: dict[str, Callable[[], Any]] = {
        "gather": lambda: _gathered(costs["plain"], indices),
        **{name: lambda cost=cost: cost.rows[0](indices) for name, cost in costs.items() if len(cost.rows) == 1},
        "peak": lambda: costs["peak"](indices),
        "two": lambda: (costs["plain"].rows[0](indices), second.rows[0](indices)),
    }
    seconds = dict.fromkeys(calls, np.inf)
    for _ in range(asked.repeats):
        for name, call in calls.items():
            seconds[name] = min(seconds[name], _timed(call))
    rate = {name: asked.assignments / spent for name, spent in seconds.items()}
    for name, found in rate.items():
        print(f"{name}: {found / 1e6:.2f} million assignments per second")
    few = {n: min(_timed(lambda n=n: costs["plain"](indices[:n])) for _ in range(200)) for n in (1, 100)}
    return {
        "assignments_per_second": round(rate["plain"]),
        "joint_assignments_per_second": round(rate["joint"]),
        "peak_assignments_per_second": round(rate["peak"]),
        "two_metrics_assignments_per_second_each": round(2 * rate["two"]),
        "times_plain_gather": round(rate["plain"] / rate["gather"], 2),
        "one_assignment_us": round(1e6 * few[1], 1),
        "hundred_assignments_us": round(1e6 * few[100], 1),
        "measure_of_100_parts_us": round(_measure_us(), 1),
    }


def _plain(rng: np.random.Generator) -> Cost:
    return Cost((Terms.of(list(rng.integers(0, 10**10, (CHOICES, OPTIONS)))),), per=10**12)


def _joint(rng: np.random.Generator) -> Cost:
    pairs = {(i, i + 1): rng.integers(0, 10**9, (OPTIONS, OPTIONS)) for i in range(CHOICES - 1)}
    return Cost((Terms.of(list(rng.integers(0, 10**10, (CHOICES, OPTIONS))), 7, pairs),), per=10**12)


def _peak(rng: np.random.Generator) -> Cost:
    sizes, none = rng.integers(1, 10**6, (CHOICES, OPTIONS)), np.zeros(OPTIONS, dtype=np.int64)
    held = [{(step + k) % CHOICES for k in (0, 1, 2, 3, 5)} for step in range(STEPS)]
    return Cost(tuple(Terms.of([row if i in now else none for i, row in enumerate(sizes)]) for now in held))


def _gathered(cost: Cost, indices: NDArray[np.uint8]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.stack(cost.rows[0].unary)[np.arange(CHOICES), indices].sum(axis=1)
    return found


def _check(cost: Cost, indices: NDArray[np.uint8], n: int = 600) -> None:
    """That the first `n` are what Python adds up."""
    expected = []
    for at in indices[:n].tolist():
        rows = [
            terms.constant
            + sum(int(row[k]) for row, k in zip(terms.unary, at, strict=True))
            + sum(int(table[tuple(at[i] for i in key)]) for key, table in terms.joint.items())
            for terms in cost.rows
        ]
        expected.append(max(rows) / cost.per)
    for some in (indices, indices[:n]):
        assert cost(some)[:n].tolist() == expected, "not equal to the sums written out"


def _measure_us() -> float:
    options = tuple(Format("int", bits) for bits in (2, 4, 6, 8))
    space = Space(tuple(Choice(f"layer{i}.weight", (f"layer{i}.weight",), options) for i in range(101)))
    names = [choice.name for choice in space.choices]
    total = Sum([Part(a, (a, b), lambda found: int(found[0].bits * found[1].bits)) for a, b in pairwise(names)])
    rng = np.random.default_rng(0)
    asked = [space.sample(rng) for _ in range(200)]

    def measure() -> None:
        for assignment in asked:
            total.measure(assignment)

    return 1e6 * min(_timed(measure) for _ in range(20)) / len(asked)


def _timed(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began
