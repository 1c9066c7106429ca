"""Points of a front as the solvers give them, and how few of them stand for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Solutions:
    """Assignments of which none beats another in score and every cost.

    Args:
        indices: [n, choices] the option of each choice.
        score: [n] lower is better.
        costs: [n, costs] in the unit of each measure; points are sorted by the first.
        complete: whether it is the whole front (of equal points one stays), not a selection.
    """

    indices: NDArray[np.integer]
    score: Floats
    costs: Floats
    complete: bool


def levels(low: float, high: float, n: int) -> Floats:
    """From `high` down to `low`, even on the log where both have one."""
    return np.geomspace(high, low, n) if low > 0 else np.linspace(high, low, n)


def at_levels(measured: Floats, most: int) -> NDArray[np.intp]:
    """At most `most` positions in rising `measured`, the ends among them, even on its log."""
    targets = levels(float(measured[0]), float(measured[-1]), most)
    return np.unique(np.searchsorted(measured, targets[:most] * (1 + 1e-12), side="right").clip(1) - 1)


def spread(costs: ArrayLike, most: int | None = None) -> list[int]:
    """Rows of `costs` [n, costs] in such an order that every beginning is spread evenly over them, in log cost.

    Lowest and highest first cost, then always the row farthest from those taken: the middle, the quarters, and so on.
    What is 0 counts as the least that is not. At most `most` rows.
    """
    found = np.asarray(costs, dtype=float)
    least = np.min(found, axis=0, where=found > 0, initial=np.inf)
    return evenly(np.log2(np.maximum(found, np.where(np.isfinite(least), least, 1.0))), most)


def evenly(logs: Floats, most: int | None = None) -> list[int]:
    """As `spread`, for `logs` [n, costs] of costs."""
    most = len(logs) if most is None else min(most, len(logs))
    span = np.ptp(logs, axis=0)
    logs = (logs - logs.min(axis=0)) / np.where(span > 0, span, 1.0)
    taken: list[int] = []
    apart = np.full(len(logs), np.inf)
    for first in (logs[:, 0].argmin(), logs[:, 0].argmax()):
        if first not in taken:
            taken.append(int(first))
    for row in taken:
        apart = np.minimum(apart, np.abs(logs - logs[row]).max(axis=1))
    while len(taken) < most:
        apart[taken] = -1.0
        taken.append(int(apart.argmax()))
        apart = np.minimum(apart, np.abs(logs - logs[taken[-1]]).max(axis=1))
    return taken[:most]
