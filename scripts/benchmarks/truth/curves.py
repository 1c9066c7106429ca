"""How much of a truth's hypervolume a driver has after each evaluation, through the session of every run."""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from truth.table import TableProblem, Truth

from mpsearch.core.front import hypervolume
from mpsearch.drivers.base import SearchOver
from mpsearch.engine.session import LedgerSession
from mpsearch.ledger.ledger import Ledger
from mpsearch.spec import registry

DRIVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "frontier": ("frontier", {}),
    "abs": ("abs", {}),
    "sensitivity": ("sensitivity", {}),
    "hessian": ("hessian", {}),
    "fisher": ("fisher", {}),
    "ompq": ("ompq", {}),
    "nsga2": ("optuna", {"sampler": "nsga2"}),
    "nsga3": ("optuna", {"sampler": "nsga3"}),
    "tpe": ("optuna", {"sampler": "tpe"}),
    "gp": ("optuna", {"sampler": "gp"}),
    "qmc": ("optuna", {"sampler": "qmc"}),
    "random": ("random", {}),
}
"""Name in the tables to registered driver and its options."""

SAME_AT_ANY_BUDGET = ("tpe", "gp", "qmc", "random")
"""What these ask does not depend on the budget, so that one run shows all of them."""


class Volume:
    """The hypervolume of points in the unit square, reference (1, 1), as they come."""

    def __init__(self) -> None:
        self.value = 0.0
        self._x, self._y = [-1.0], [1.0]  # a front from left to right, y falling; the first is a sentinel

    def add(self, x: float, y: float) -> float:
        """The value once (x, y) is among the points; coordinates below 0 count as 0."""
        x, y = max(x, 0.0), max(y, 0.0)
        if x >= 1.0 or y >= 1.0:
            return self.value
        at = bisect.bisect_right(self._x, x)
        if self._y[at - 1] <= y:
            return self.value
        end = at
        left, height = x, self._y[at - 1]
        while end < len(self._x) and self._y[end] >= y:
            self.value += (self._x[end] - left) * (height - y)
            left, height = self._x[end], self._y[end]
            end += 1
        self.value += ((self._x[end] if end < len(self._x) else 1.0) - left) * (height - y)
        start = at - 1 if self._x[at - 1] == x else at
        self._x[start:end], self._y[start:end] = [x], [y]
        return self.value


class Shares:
    """Turns places of a truth into shares of its hypervolume."""

    def __init__(self, truth: Truth, loss: str) -> None:
        self.points = truth.points(loss)
        self.whole = hypervolume(self.points)

    def curve(self, places: Iterable[int | None]) -> NDArray[np.float64]:
        """The share after each evaluation; None is the float model, which lies on the edge of the box."""
        volume = Volume()
        return np.array([volume.value if p is None else volume.add(*self.points[p]) for p in places]) / self.whole


def search(
    problem: TableProblem, loss: str, use: str, options: Mapping[str, Any], seed: int, budget: int
) -> list[int | None]:
    """Places of the distinct evaluations of a run, controls included, in order; None for the float model."""
    truth, found = problem.truth, list[int | None]()
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.jsonl", "bench", {}) as ledger:
        session = LedgerSession(
            problem,
            ledger,
            truth.goals(loss),
            seed,
            budget=budget,
            observe=lambda done: found.append(truth.number(done.assignment) if done.assignment else None),
        )
        driver = registry.load("drivers", use)(**options)
        driver.check(session)
        try:
            session.evaluate_controls()
            session.search_as(use)
            driver.search(session)
        except SearchOver:
            pass
    return found


def first_at(curve: NDArray[np.float64], share: float) -> int | None:
    """How many evaluations it took to reach `share`; None if it was not reached."""
    reached = np.flatnonzero(curve >= share)
    return int(reached[0]) + 1 if len(reached) else None
