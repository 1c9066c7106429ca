"""How sure one can be, at any moment of looking, that a mean is above a number.

A gambler starts with 1 and, before each value is drawn, stakes a share of the capital on it to be large. If the mean is
not above the number, no stake makes the capital grow on average, so it ever reaches 1 / alpha with a probability of at
most alpha, however often one looks (Ville's inequality). Exact for every number of values and every distribution of
values that are not negative: no variance is estimated, and a rare large value that has not been drawn yet costs nothing
but patience.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", J. R. Stat. Soc. B 86(1),
2024; without replacement: "Confidence sequences for sampling without replacement", NeurIPS 2020, and Stark, "ALPHA:
audit that learns from previously hand-audited ballots", Ann. Appl. Stat. 17(1), 2023 (values without an upper bound).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

STAKES = np.array([0.9, *(2.0**-k for k in range(1, 8))])
"""Shares of the capital; as many gamblers, each with one of them, begin with the same part of the 1."""


def log_evidence(drawn: Numbers, mean: float, population: int) -> float:
    """The largest logarithm of the capital so far, against "the mean of the population is at most `mean`".

    That it ever exceeds log(1 / alpha) has a probability of at most alpha if the mean is indeed at most `mean`.

    Args:
        drawn: [n] values, none negative, drawn one after another at random from the population, without replacement.
        mean: of the population, at most.
        population: how many values there are, drawn or not.

    Returns:
        At least 0; infinity where the drawn values alone add up to more than `population` * `mean`.
    """
    left = population - np.arange(len(drawn))
    before = np.cumsum(drawn) - drawn
    expected = (population * mean - before) / left  # of the next value, at most, if the mean is `mean`
    total = population * mean
    if float(drawn.sum()) > total + 1e-9 * max(1.0, abs(total)):
        return math.inf
    least = 1e-9 * mean + np.finfo(float).tiny  # what is left of the total may be nothing but rounding
    gain = drawn / np.maximum(expected, least) - 1.0
    capital = np.log1p(STAKES[:, None] * gain).cumsum(axis=1)
    together = np.logaddexp.reduce(capital, axis=0) - math.log(len(STAKES))
    return max(0.0, float(together.max(initial=0.0)))
