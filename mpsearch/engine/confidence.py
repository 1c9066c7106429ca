"""How sure one can be, at any moment of looking, that a mean is above a number.

A gambler starts with 1 and, before each value is drawn, bets on it to be large. If the mean is not above the number,
no bet makes the capital grow on average, so it ever reaches 1 / alpha with a probability of at most alpha, however
often one looks (Ville's inequality). Exact for every number of values and every distribution of values with a known
least one. The same holds for the mean capital of several gamblers, each against another number.

What a bet should be is guessed from the values drawn before: a wrong guess costs patience, never confidence.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", J. R. Stat. Soc. B 86(1),
2024 (the bet is their approximate Kelly); without replacement: "Confidence sequences for sampling without
replacement", NeurIPS 2020, and Stark, "ALPHA: audit that learns from previously hand-audited ballots", Ann. Appl.
Stat. 17(1), 2023 (values without an upper bound).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

BOLDEST = 0.9
"""Share of the capital that the worst value may cost."""
GUESSED_GAP = 1 / 8
"""How far the mean is thought to be above the number, in standard deviations, before anything is drawn."""
GUESS_COUNTS = 400
"""Values that the guesses made before anything is drawn count as much as."""


def log_capital(drawn: Numbers, mean: float, population: int, least: float, deviation: float) -> Numbers:
    """Logarithm of the capital after each value, against "the mean of the population is at most `mean`".

    Args:
        drawn: [n] values, one after another at random from the population, without replacement.
        mean: of the population, at most.
        population: how many values there are, drawn or not.
        least: no value is below it.
        deviation: a guess at the standard deviation of the values.

    Returns:
        [n]; infinity from where the values drawn cannot be of a population with that mean.
    """
    count = np.arange(len(drawn))
    before, squares = np.cumsum(drawn) - drawn, np.cumsum(drawn**2) - drawn**2
    expected = (population * mean - before) / (population - count)  # of the next value, at most, if the mean is `mean`
    known = count + GUESS_COUNTS
    gap = (before + GUESS_COUNTS * (mean + GUESSED_GAP * deviation)) / known - expected
    spread = squares - before**2 / np.maximum(count, 1)
    variance = (np.maximum(spread, 0.0) + GUESS_COUNTS * deviation**2) / known
    tiny = 1e-9 * max(1.0, abs(mean), abs(least))  # what is left of a total may be nothing but rounding
    room = np.maximum(expected - least, tiny)
    bet = np.clip(gap / np.maximum(variance + gap**2, tiny**2), 0.0, BOLDEST / room)
    capital = np.log1p(bet * np.maximum(drawn - expected, -room)).cumsum()
    too_much = np.cumsum(drawn - least) > population * (mean - least) + population * tiny
    capital[np.logical_or.accumulate(too_much)] = np.inf
    return np.asarray(capital, dtype=np.float64)
