"""How often evidence is false when looked at all the time, and how soon it is found where there is some."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.engine.confidence import STAKES, log_evidence

ALPHA = 0.05


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


def evidence(loss, rival, seen):
    worst = rival.max()  # of a rival all is known
    return log_evidence((loss - rival + worst)[seen], worst, len(loss))


@pytest.mark.parametrize("kind", ["errors", "few errors", "rare relief", "log-loss"])
def test_evidence_is_seldom_false_however_often_one_looks(kind):
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(400):
        loss, rival = paired(kind, rng)
        seen = rng.permutation(len(loss))[:-30]
        false += evidence(loss, rival, seen) > math.log(1 / ALPHA)  # it looks after each sample
    assert false <= 400 * ALPHA


def test_an_estimated_variance_would_be_fooled():
    """Where `rare relief` is not met at once, all differences seen so far are alike: a normal interval has no width."""
    rng = np.random.default_rng(1)
    fooled = 0
    for _ in range(200):
        loss, rival = paired("rare relief", rng)
        seen = (loss - rival)[rng.permutation(len(loss))[:150]]
        fooled += seen.mean() > 3 * seen.std() / math.sqrt(len(seen))
    assert fooled > 200 * ALPHA


@pytest.mark.parametrize(("worse_by", "samples"), [(0.3, 60), (0.1, 250), (0.04, 1000)])
def test_evidence_is_found_soon_where_there_is_some(worse_by, samples):
    rng = np.random.default_rng(2)
    needed = []
    for _ in range(20):
        rival = (rng.random(5000) < 0.1).astype(float)
        changed = rng.random(5000)
        loss = np.where(changed < worse_by + 0.02, 1.0, np.where(changed > 0.98, 0.0, rival))
        n = next(
            n for n in range(10, 5001, 10) if log_evidence((loss - rival + 1)[:n], 1.0, 5000) > math.log(1 / ALPHA)
        )
        needed.append(n)
    assert np.median(needed) <= samples


values = st.lists(st.floats(0, 100), min_size=1, max_size=40)


@settings(deadline=None)
@given(drawn=values, mean=st.floats(0.01, 100), more=st.integers(1, 100))
def test_the_capital_is_that_of_gamblers_one_bet_at_a_time(drawn, mean, more):
    population = len(drawn) + more
    capital, best, total = np.full(len(STAKES), 1 / len(STAKES)), 1.0, population * mean
    for t, value in enumerate(drawn):
        expected = (total - sum(drawn[:t])) / (population - t)
        if expected <= 1e-6:
            return  # what is left rounds to nothing
        capital = capital * (1 + STAKES * (value / expected - 1))
        best = max(best, capital.sum())
    found = log_evidence(np.array(drawn), mean, population)
    if sum(drawn) > total * (1 + 1e-6) + 1e-6:
        assert found == math.inf
    elif sum(drawn) < total * (1 - 1e-6):
        assert found == pytest.approx(math.log(best), rel=1e-6, abs=1e-9)


@given(drawn=values, mean=st.floats(0.01, 100), more=st.integers(1, 100))
def test_evidence_grows_with_looking_and_shrinks_with_the_claim(drawn, mean, more):
    drawn, population = np.array(drawn), len(drawn) + more
    parts = [log_evidence(drawn[:n], mean, population) for n in range(len(drawn) + 1)]
    assert parts[0] == 0.0
    assert all(a <= b for a, b in pairwise(parts))


def test_a_whole_population_that_has_the_mean_is_no_evidence():
    drawn = np.array([0.0, 2.0, 0.1 + 0.2, 1.7])
    assert log_evidence(drawn, drawn.sum() / 4, 4) < math.inf
    assert log_evidence(drawn, drawn.sum() / 4 - 0.01, 4) == math.inf
