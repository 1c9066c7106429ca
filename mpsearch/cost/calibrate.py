"""From measured times of whole models to times of their operations: numbers only, no model and no clock.

A sum of times of single operations is too large, because each was measured with what surrounds an operation that runs
alone, and it knows nothing of conversions between neighbours. Two ways to mend it:

* `line_through`: a straight line through two whole models, all wide and all narrow. It needs nothing else.
* `additive`: times of all operations and conversions at once, from many mixed whole models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr

Floats = NDArray[np.float64]
SHRINKAGES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
_FOLDS = 5
_WEAK, _FAINT = 1e-3, 1e-5
"""Weights of the times of single operations, and of zero: they decide what whole models leave open, no more."""


@dataclass(frozen=True)
class Line:
    """intercept + slope * sum of table entries."""

    intercept: float
    slope: float

    def __call__(self, sums: ArrayLike) -> Floats:
        """What whole models with these sums take."""
        return self.intercept + self.slope * np.asarray(sums, dtype=float)


def line_through(sums: Sequence[float], measured: Sequence[float]) -> Line:
    """The line through two anchors. Raises `ValueError` where their sums do not differ."""
    (a, b), (ta, tb) = sums, measured
    if a == b:
        raise ValueError(f"both anchors have the sum {a:g}; a line needs two different ones.")
    slope = (tb - ta) / (b - a)
    return Line(ta - slope * a, slope)


@dataclass(frozen=True)
class Quality:
    """How far predictions are from what was measured, as shares of the measured.

    Args:
        mape: mean absolute error. worst: the largest. bias: mean error, above 0 where predictions are too large.
        spearman: rank correlation; 1.0 where there is nothing to rank.
        n: how many were compared.
    """

    mape: float
    worst: float
    bias: float
    spearman: float
    n: int


def quality(predicted: ArrayLike, measured: ArrayLike) -> Quality:
    """Of `predicted` [n] against `measured` [n] above 0. Raises `ValueError` on none."""
    ours, truth = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    if ours.shape != truth.shape or not truth.size:
        raise ValueError(f"cannot compare {ours.size} predictions with {truth.size} measurements.")
    errors = ours / truth - 1
    ranked = len({*ours.tolist()}) > 1 and len({*truth.tolist()}) > 1
    rank = float(spearmanr(ours, truth).statistic) if ranked else 1.0
    return Quality(float(np.abs(errors).mean()), float(np.abs(errors).max()), float(errors.mean()), rank, len(truth))


@dataclass(frozen=True)
class Additive:
    """Times that add up to that of a whole model; none is below zero.

    Args:
        fixed_s: what every run takes, whatever its formats.
        wide_s, narrow_s: of each operation [operations], on floats and on integers.
        switch_s: of one unit of each conversion [conversions].
    """

    fixed_s: float
    wide_s: Floats
    narrow_s: Floats
    switch_s: Floats

    def __call__(self, narrow: ArrayLike, switches: ArrayLike) -> Floats:
        """Time [n] of runs whose operations are `narrow` [n, operations], with `switches` [n, conversions]."""
        is_narrow = np.asarray(narrow, dtype=float)
        times = is_narrow @ self.narrow_s + (1 - is_narrow) @ self.wide_s
        total: Floats = self.fixed_s + times + np.asarray(switches, dtype=float) @ self.switch_s
        return total


@dataclass(frozen=True)
class Runs:
    """Whole models that were measured.

    Args:
        narrow: [runs, operations]: which operations ran on integers.
        switches: [runs, conversions]: how much was converted, in any unit.
        seconds: [runs].
    """

    narrow: Floats
    switches: Floats
    seconds: Floats

    def at(self, rows: NDArray[np.intp]) -> Runs:
        """Some of them."""
        return Runs(self.narrow[rows], self.switches[rows], self.seconds[rows])


def additive(runs: Runs, alone_s: ArrayLike, alike: Sequence[int], shrinkage: float | None = None) -> Additive:
    """Least squares on relative errors, every time at least zero.

    Operations of one shape take about the same time: what each gains on integers is drawn towards the mean of those
    that are alike, the more the larger `shrinkage`. How much is gained may be less than nothing: an int8 depthwise
    convolution is slower than a float one on most processors.

    Args:
        runs: the more the better; two per operation, and those with all and with no operation on integers.
        alone_s: time of each operation [operations] measured alone on floats; decides how what no run tells apart (what
            is fixed, and what float operations take) is shared out.
        alike: the class of each operation [operations].
        shrinkage: None to choose from `SHRINKAGES` by cross-validation.
    """
    alone = np.asarray(alone_s, dtype=float)
    alone = alone * min(1.0, float(runs.seconds.max()) / max(float(alone.sum()), 1e-12))
    if shrinkage is None:
        shrinkage = min(SHRINKAGES, key=lambda one: _cross_validated(runs, alone, alike, one))
    n, operations = runs.narrow.shape
    classes = {name: k for k, name in enumerate(dict.fromkeys(alike))}
    switches = runs.switches.shape[1]
    # unknowns: fixed, wide, narrow, conversions, mean gain of each class
    at_wide, at_narrow = 1, 1 + operations
    at_switch, at_class = 1 + 2 * operations, 1 + 2 * operations + switches
    unknowns = at_class + len(classes)
    typical = float(np.median(runs.seconds))
    unit = runs.switches.max(axis=0, initial=0.0)
    unit[unit == 0] = 1.0
    data = np.zeros((n, unknowns))
    data[:, 0] = 1
    data[:, at_wide:at_narrow] = 1 - runs.narrow
    data[:, at_narrow:at_switch] = runs.narrow
    data[:, at_switch:at_class] = runs.switches / unit
    data *= (typical / runs.seconds)[:, None]
    drawn = np.zeros((operations, unknowns))
    share = np.zeros((operations, unknowns))
    rows = np.arange(operations)
    drawn[rows, at_narrow + rows], drawn[rows, at_wide + rows] = 1, -1
    drawn[rows, [at_class + classes[name] for name in alike]] = 1  # wide - narrow = the gain of its class
    least = max(1e-3 * alone.max(initial=0.0), 1e-12)
    share[rows, at_wide + rows] = typical / np.maximum(alone, least)
    drawn *= shrinkage * np.sqrt(n)
    system = np.vstack([data, drawn, _WEAK * share, _FAINT * np.eye(unknowns)])
    target = np.concatenate([np.ones(n), np.zeros(operations), np.full(operations, _WEAK), np.zeros(unknowns)])
    lower = np.zeros(unknowns)
    lower[at_class:] = -np.inf
    found = lsq_linear(system, target, bounds=(lower, np.inf), method="bvls").x * typical
    return Additive(
        float(found[0]), found[at_wide:at_narrow], found[at_narrow:at_switch], found[at_switch:at_class] / unit
    )


def _cross_validated(runs: Runs, alone: Floats, alike: Sequence[int], shrinkage: float) -> float:
    """Mean squared relative error on runs that were left out, a fold at a time."""
    n = len(runs.seconds)
    folds = np.arange(n) % min(_FOLDS, n)
    errors = []
    for fold in range(folds.max() + 1):
        (inside,), (outside,) = np.nonzero(folds != fold), np.nonzero(folds == fold)
        fitted = additive(runs.at(inside), alone, alike, shrinkage)
        left = runs.at(outside)
        errors += [*(fitted(left.narrow, left.switches) / left.seconds - 1)]
    return float(np.square(errors).mean())
