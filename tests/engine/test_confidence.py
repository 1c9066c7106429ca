"""How often evidence is false when looked at all the time, and how soon it is found where there is some."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mpsearch.engine.confidence import BOLDEST, GUESS_COUNTS, GUESSED_GAP, log_capital

ALPHA = 0.05


def by_chance(n):
    """How many of `n` may be false: a number that a probability of ALPHA exceeds once in a thousand."""
    return binom.ppf(0.999, n, ALPHA)


def paired(kind, rng, n=600):
    """Losses of an assignment and of a rival, [n] each, whose means over the population are the same."""
    if kind == "errors":  # 0 or 1; one in ten samples tells the two apart
        loss = (rng.random(n) < 0.2).astype(float)
        rival = loss.copy()
        flipped = rng.choice(np.flatnonzero(loss == 0), n // 20, replace=False)
        rival[flipped] = 1.0
        rival[rng.choice(np.flatnonzero(loss == 1), n // 20, replace=False)] = 0.0
        return loss, rival
    if kind == "few errors":
        loss = np.zeros(n)
        rival = np.zeros(n)
        loss[:3], rival[3:6] = 1.0, 1.0
        return loss, rival
    if kind == "rare relief":  # a little worse on nearly all, and far better on the 1 % that a look may not have met
        loss = np.full(n, 0.15)
        rival = np.where(np.arange(n) < n // 100, 10.0 + 0.05, 0.05)
        return loss, rival
    loss = rng.lognormal(-2, 2, n)  # log-losses with a long tail
    rival = loss * rng.lognormal(0, 0.5, n)
    return loss, rival * loss.mean() / rival.mean()


def most(loss, rival, usual, seen, deviation=0.3):
    """The largest capital against "`loss` is no worse than `rival`"; what is drawn are differences to `usual`."""
    drawn = (loss - usual)[seen]
    return log_capital(drawn, rival.mean() - usual.mean(), len(loss), -usual.max(), deviation).max()


@pytest.mark.parametrize("usual", ["of the rival", "of many", "none"])
@pytest.mark.parametrize("kind", ["errors", "few errors", "rare relief", "log-loss"])
def test_capital_is_seldom_large_by_chance_however_often_one_looks(kind, usual):
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(400):
        loss, rival = paired(kind, rng)
        known = {"of the rival": rival, "of many": 0.5 * loss + 0.3 * rival, "none": 0 * loss}[usual]
        seen = rng.permutation(len(loss))[:-30]
        false += most(loss, rival, known, seen) > math.log(1 / ALPHA)  # it looks after each sample
    assert false <= by_chance(400)


@pytest.mark.parametrize("deviation", [0.0, 1e-6, 0.03, 3.0, 1e6])
def test_a_wrong_guess_costs_no_confidence(deviation):
    rng = np.random.default_rng(3)
    false = 0
    for _ in range(300):
        loss, rival = paired("errors", rng)
        false += most(loss, rival, rival, rng.permutation(len(loss))[:-30], deviation) > math.log(1 / ALPHA)
    assert false <= by_chance(300)


def test_an_estimated_variance_would_be_fooled():
    """Where `rare relief` is not met at once, all differences seen so far are alike: a normal interval has no width."""
    rng = np.random.default_rng(1)
    fooled = 0
    for _ in range(200):
        loss, rival = paired("rare relief", rng)
        seen = (loss - rival)[rng.permutation(len(loss))[:150]]
        fooled += seen.mean() > 3 * seen.std() / math.sqrt(len(seen))
    assert fooled > 200 * ALPHA


@pytest.mark.parametrize(("worse_by", "samples"), [(0.3, 60), (0.1, 200), (0.04, 800)])
def test_what_is_worse_is_found_soon(worse_by, samples):
    rng = np.random.default_rng(2)
    needed = []
    for _ in range(20):
        rival = (rng.random(5000) < 0.1).astype(float)
        changed = rng.random(5000)
        loss = np.where(changed < worse_by + 0.02, 1.0, np.where(changed > 0.98, 0.0, rival))
        capital = log_capital(loss - rival, 0.0, 5000, -1.0, 0.3)
        needed.append(int(np.argmax(capital > math.log(1 / ALPHA))) if capital.max() > math.log(1 / ALPHA) else 5000)
    assert np.median(needed) <= samples


def test_differences_to_many_tell_more_than_differences_to_one():
    """Errors that depend on how hard a sample is: of two networks alike, what the one gets wrong says little."""
    rng = np.random.default_rng(4)
    needed = {"one": [], "many": []}
    for _ in range(20):
        hard = np.where(rng.random(5000) < 0.7, 0.01, rng.random(5000))
        networks = [(rng.random(5000) < hard).astype(float) for _ in range(12)]
        rival, loss = networks[0], np.maximum(networks[-1], rng.random(5000) < 0.03)
        for how, usual in (("one", rival), ("many", np.mean(networks[:-1], axis=0))):
            capital = log_capital(loss - usual, rival.mean() - usual.mean(), 5000, -usual.max(), (loss - usual).std())
            large = capital > math.log(1 / ALPHA)
            needed[how].append(int(np.argmax(large)) if large.any() else 5000)
    assert np.median(needed["many"]) < 0.7 * np.median(needed["one"])


values = st.lists(st.floats(-3, 100), min_size=1, max_size=40)


@given(drawn=values, mean=st.floats(-2.9, 100), more=st.integers(1, 100), deviation=st.floats(0, 50))
def test_the_capital_is_that_of_a_gambler_one_bet_at_a_time(drawn, mean, more, deviation):
    population = len(drawn) + more
    found = log_capital(np.array(drawn), mean, population, -3.0, deviation)
    capital = 0.0
    for t, value in enumerate(drawn):
        expected = (population * mean - sum(drawn[:t])) / (population - t)
        if expected <= -3 + 1e-6:
            return  # what is left rounds to nothing
        guess = [mean + GUESSED_GAP * deviation] * GUESS_COUNTS
        gap = np.mean(drawn[:t] + guess) - expected
        spread = np.var(drawn[:t]) * t if t else 0.0
        variance = (spread + GUESS_COUNTS * deviation**2) / (t + GUESS_COUNTS)
        if variance + gap**2 < 1e-9:
            return
        bet = min(max(gap / (variance + gap**2), 0), BOLDEST / (expected + 3))
        capital += math.log1p(bet * (value - expected))
        if sum(drawn[: t + 1]) + 3 * (t + 1) > population * (mean + 3) * (1 - 1e-6):
            return
        assert found[t] == pytest.approx(capital, rel=1e-5, abs=1e-6)


@given(drawn=values, mean=st.floats(-2.9, 100), more=st.integers(1, 100))
def test_what_is_drawn_later_changes_nothing_before(drawn, mean, more):
    drawn, population = np.array(drawn), len(drawn) + more
    whole = log_capital(drawn, mean, population, -3.0, 1.0)
    for n in range(len(drawn) + 1):
        assert log_capital(drawn[:n], mean, population, -3.0, 1.0).tolist() == whole[:n].tolist()


def test_a_whole_population_that_has_the_mean_is_not_impossible():
    drawn = np.array([0.0, 2.0, 0.1 + 0.2, 1.7])
    assert log_capital(drawn, drawn.sum() / 4, 4, 0.0, 1.0).max() < math.inf
    assert log_capital(drawn, drawn.sum() / 4 - 0.01, 4, 0.0, 1.0)[-1] == math.inf
