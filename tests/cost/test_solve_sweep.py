"""The hull of a front against the front, and against the hull of everything there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import enumerated, front_of, problems

from mpsearch.core.errors import OutOfResources
from mpsearch.cost.solve import elimination
from mpsearch.cost.solve.front import front
from mpsearch.cost.solve.sweep import sweep
from mpsearch.cost.terms import Cost, Terms

MODERATE = settings(max_examples=150)


def sums(costs):
    """Problems whose scores are plain sums, and whose costs are sums, half of the time plain ones."""
    plain, joint = (problems(costs=costs, rows=1, joint=joint, choices=n) for joint, n in ((False, 5), (True, 4)))
    return st.one_of(plain, joint)


def points(found):
    return {tuple(row) for row in np.column_stack([found.costs, found.score]).tolist()}


def corners(x, y):
    """Corners of the falling part of the lower hull of points, by asking of each whether any other is in its way."""
    order = sorted(set(zip(x.tolist(), y.tolist(), strict=True)))
    hull = []
    for point in order:
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (point[0] - hull[-2][0]) >= (point[1] - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        if not hull or (point[0] > hull[-1][0] and point[1] < hull[-1][1]):
            hull.append(point)
    return hull


@MODERATE
@given(sums(1))
def test_one_cost_has_every_corner_and_nothing_off_the_front(problem):
    score, (cost,), _ = problem
    cost = Cost(cost.rows, cost.per)
    _, scores, values = enumerated(score, [cost], None)
    found = points(sweep(score, [cost]))
    assert found <= set(front_of(scores, values, np.ones(len(scores), dtype=bool)))
    assert set(corners(values[:, 0], scores)) <= found


@MODERATE
@given(sums(3), st.booleans())
def test_several_costs_stay_on_the_front(problem, given_prices):
    score, costs, _ = problem
    costs = [Cost(cost.rows, cost.per) for cost in costs]
    _, scores, values = enumerated(*problem[:1], costs, None)
    prices = np.random.default_rng(0).uniform(0.1, 1, (4, len(costs))) if given_prices else None
    found = sweep(score, costs, prices)
    assert points(found) <= set(front_of(scores, values, np.ones(len(scores), dtype=bool)))
    assert scores.min() == found.score.min()
    assert not found.complete


def test_thousands_of_choices():
    rng = np.random.default_rng(1)
    bits = np.array([2, 3, 4, 6, 8])
    sizes = rng.integers(10**3, 10**6, 3000)
    score = [4.0**-bits * w for w in np.exp(rng.normal(size=3000))]
    cost = Cost((Terms.of([int(n) * bits for n in sizes], 77),), per=8)
    whole, some = sweep(score, [cost]), sweep(score, [cost], most=50)
    assert len(whole.score) == 1 + 4 * 3000
    slopes = np.diff(whole.score) / np.diff(whole.costs[:, 0])
    assert (np.diff(slopes) >= -1e-9 * abs(slopes).max()).all()
    at = rng.integers(0, len(whole.score), 20)
    assert (cost(whole.indices[at]) == whole.costs[at, 0]).all()
    assert whole.score[at] == pytest.approx(
        [sum(s[k] for s, k in zip(score, i, strict=True)) for i in whole.indices[at]]
    )
    assert len(some.score) == 50
    assert points(some) <= points(whole)


def test_what_is_no_sum_is_refused():
    terms = Terms.of([[1, 2]])
    with pytest.raises(ValueError, match="costs that are sums"):
        sweep([np.zeros(2)], [Cost((terms, terms))])
    with pytest.raises(ValueError, match=r"positive numbers \[directions, 1 costs\]"):
        sweep([np.zeros(2)], [Cost((terms,))], [[0.0]])


def test_too_much_together_is_refused(monkeypatch):
    monkeypatch.setattr(elimination, "_WIDEST", 8)
    cost = Cost((Terms.of([[0, 0, 0]] * 3, joint={(0, 1): np.ones((3, 3), int), (1, 2): np.ones((3, 3), int)}),))
    with pytest.raises(OutOfResources, match="9 combinations"):
        sweep([np.zeros(3)] * 3, [cost])


def test_the_sweep_meets_the_front_at_its_ends():
    rng = np.random.default_rng(2)
    score = [rng.random(4) for _ in range(10)]
    cost = Cost((Terms.of([rng.integers(1, 100, 4) for _ in range(10)]),))
    hull, whole = sweep(score, [cost]), front(score, [cost])
    assert hull.costs[[0, -1]].tolist() == whole.costs[[0, -1]].tolist()
    assert hull.score[[0, -1]] == pytest.approx(whole.score[[0, -1]])
    assert len(hull.score) < len(whole.score)
