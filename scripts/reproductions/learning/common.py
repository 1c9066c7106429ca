"""What the rows of the page share: trainings by name, and numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from learning.bench import Outcome

RATE = 3e-3

Row = dict[str, Outcome | None]
"""Of one seed, trainings by name; None for what is not kept where only that counts."""
Found = Mapping[str, Sequence[Outcome]]
"""By name of a training, its outcomes, one per seed."""


def accuracy(outcomes: Sequence[Outcome]) -> str:
    """On the test split, %."""
    return spread([100 * o["test"] for o in outcomes])


def spread(numbers: Sequence[float], digits: int = 2, sign: str = "") -> str:
    """Mean and standard deviation as text; nothing where there are no numbers."""
    if not numbers:
        return ""
    return f"{mean(numbers):{sign}.{digits}f} ± {deviation(numbers):.{digits}f}"


def deviation(numbers: Sequence[float]) -> float:
    """Standard deviation; 0 of a single number."""
    return stdev(numbers) if len(numbers) > 1 else 0.0


def differences(one: Sequence[Outcome], other: Sequence[Outcome]) -> list[float]:
    """In points, of the seeds that both have."""
    same = {o["seed"]: o["test"] for o in other}
    return [100 * (o["test"] - same[o["seed"]]) for o in one if o["seed"] in same]


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Means of a row, for the line of JSON."""
    return {
        "seeds": len(outcomes),
        "bits": round(mean(o["bits"] for o in outcomes), 3),
        "validation": round(100 * mean(o["validation"] for o in outcomes), 2),
        "test": round(100 * mean(o["test"] for o in outcomes), 2),
        "deviation": round(100 * deviation([o["test"] for o in outcomes]), 2),
    }
