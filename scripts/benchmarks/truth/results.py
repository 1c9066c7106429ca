"""What was measured, by truth, driver and seed; kept in a file, so that a long benchmark can be taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from truth.curves import first_at
from truth.eager import Timed

Curve = NDArray[np.float64]


class Results:
    """Curves and times.

    Args:
        path: where everything is kept; None for nowhere.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._curves: dict[str, dict[str, Any]] = {}
        self._times: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self._curves, self._times = kept["curves"], kept["times"]

    def add_curve(
        self, truth: str, loss: str, driver: str, seed: int, budget: int, curve: Curve, seconds: float
    ) -> None:
        """Record the share of the hypervolume after each evaluation, and what the whole run took."""
        self._curves[_key(truth, loss, driver, seed, budget)] = {
            "curve": [round(float(value), 6) for value in curve],
            "seconds": round(seconds, 3),
        }
        self._keep()

    def has_curve(self, truth: str, loss: str, driver: str, seed: int, budget: int) -> bool:
        """Whether that run is recorded."""
        return _key(truth, loss, driver, seed, budget) in self._curves

    def add_time(self, truth: str, side: str, seed: int, found: Timed) -> None:
        """Record what a search took."""
        self._times[_key(truth, side, seed)] = asdict(found)
        self._keep()

    def times(self, truth: str, side: str) -> dict[int, Timed]:
        """By seed."""
        start = _key(truth, side, "")
        return {int(key[len(start) :]): Timed(**found) for key, found in self._times.items() if key.startswith(start)}

    def reached(self, truth: str, loss: str, driver: str, budget: int) -> list[float]:
        """Share of the hypervolume at `budget`, by seed: of runs with that budget, else of longer ones."""
        runs = self._runs(truth, loss, driver)
        values = []
        for seed in sorted({seed for seed, _ in runs}):
            longer = sorted(b for s, b in runs if s == seed and b >= budget)
            if longer:
                curve = runs[seed, longer[0]]
                values.append(float(curve[min(budget, len(curve)) - 1]))
        return values

    def longest(self, truth: str, loss: str, driver: str) -> list[Curve]:
        """The curve of each seed's longest run."""
        runs = self._runs(truth, loss, driver)
        return [runs[max(run for run in runs if run[0] == seed)] for seed in sorted({seed for seed, _ in runs})]

    def needed(self, truth: str, loss: str, driver: str, share: float) -> list[int | None]:
        """Evaluations until `share`, in each seed's longest run; None where it was not reached."""
        return [first_at(curve, share) for curve in self.longest(truth, loss, driver)]

    def ask_s(self, truth: str, loss: str, driver: str) -> float:
        """Mean seconds an evaluation of the longest run took, which is all but scoring."""
        start = _key(truth, loss, driver, "")
        runs = [(len(run["curve"]), run["seconds"]) for key, run in self._curves.items() if key.startswith(start)]
        most = max(n for n, _ in runs)
        return float(np.mean([seconds / n for n, seconds in runs if n == most]))

    def drivers(self, truths: Iterable[str], loss: str) -> list[str]:
        """Those with a curve on any of the truths, in the order in which they were run."""
        found = (key.split("|") for key in self._curves)
        return list(dict.fromkeys(driver for truth, of, driver, *_ in found if truth in set(truths) and of == loss))

    def _runs(self, truth: str, loss: str, driver: str) -> dict[tuple[int, int], Curve]:
        start = _key(truth, loss, driver, "")
        found = {}
        for key, value in self._curves.items():
            if key.startswith(start):
                seed, budget = key[len(start) :].split("|")
                found[int(seed), int(budget)] = np.array(value["curve"])
        return found

    def _keep(self) -> None:
        if self._path is not None:
            content = json.dumps({"curves": self._curves, "times": self._times}, indent=0)
            self._path.write_text(content, encoding="utf-8")


def _key(*parts: object) -> str:
    return "|".join(map(str, parts))
