"""The nine settings that HAWQ-V3 published for ResNet-18, bit for bit, by every solver that can find them."""

import hawq_v3 as hawq
import numpy as np
import pytest

from mpsearch.cost.solve.front import front
from mpsearch.cost.solve.program import best, tightest, total
from mpsearch.cost.solve.sweep import sweep
from mpsearch.cost.terms import Cost, Terms

BITS = np.array([[4, 8]])
SCORE = hawq.merged(hawq.table(hawq.ERRORS_4, hawq.ERRORS_8) * np.array(hawq.TRACES.split(), dtype=float)[:, None])


def cost(rows, per=1):
    return Cost((Terms.of([np.round(row).astype(np.int64) for row in hawq.merged(rows)]),), per)


COSTS = {
    "size": cost(hawq.table(hawq.WEIGHTS, hawq.WEIGHTS) * BITS, per=8 << 20),
    "bops": cost(hawq.table(hawq.MACS, hawq.MACS) * BITS**2),
    "latency": cost(hawq.table(hawq.NANOSECONDS_4, hawq.NANOSECONDS_8) * 100, per=10**11),
}
FRONTS = {name: front(SCORE, [found]) for name, found in COSTS.items()}


def budget(name, share):
    low, high = COSTS[name]([[0] * 16, [1] * 16])
    return float(low + share * (high - low))


@pytest.mark.parametrize(("name", "share"), hawq.PUBLISHED)
def test_a_published_setting(name, share):
    bits, perturbation = hawq.PUBLISHED[name, share]
    by_program = best(SCORE, [COSTS[name]], [budget(name, share)])
    assert hawq.unmerged(by_program) == bits
    assert total(SCORE, None, [by_program])[0] == pytest.approx(perturbation, abs=1e-6)
    on_front = np.flatnonzero(FRONTS[name].costs[:, 0] <= budget(name, share))[-1]
    assert hawq.unmerged(tuple(FRONTS[name].indices[on_front])) == bits


def test_all_three_budgets_at_once():
    found = best(SCORE, list(COSTS.values()), [budget(name, 0.5) for name in COSTS])
    every = np.array(list(np.ndindex(*[2] * 16)))
    inside = np.all([COSTS[name](every) <= budget(name, 0.5) for name in COSTS], axis=0)
    assert total(SCORE, None, [found])[0] == pytest.approx(total(SCORE, None, every[inside]).min(), rel=1e-12)


def test_sums_and_extremes():
    assert tightest(COSTS["size"]) == pytest.approx(10.625 / 2, abs=0.3)
    assert FRONTS["latency"].costs[[0, -1], 0] == pytest.approx([3.14867227e-3, 5.34368732e-3], rel=1e-9)
    assert FRONTS["size"].score[[0, -1]] == pytest.approx([1.30771, 0.004258], rel=1e-3)


@pytest.mark.parametrize("name", COSTS)
def test_the_hull_is_part_of_the_front(name):
    hull = sweep(SCORE, [COSTS[name]])
    whole = set(map(tuple, FRONTS[name].indices.tolist()))
    assert set(map(tuple, hull.indices.tolist())) <= whole
    assert len(hull.score) == 17
