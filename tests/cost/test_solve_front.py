"""Fronts against enumeration, and the two ways to find one against each other."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_problems import budgets, enumerated, front_of, problems, within

from mpsearch.core.errors import NothingFeasible, OutOfResources
from mpsearch.cost.solve import front as module
from mpsearch.cost.solve import merge
from mpsearch.cost.solve.front import front
from mpsearch.cost.solve.program import best, total
from mpsearch.cost.terms import Cost, Terms

MODERATE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def points(found):
    return sorted(map(tuple, np.column_stack([found.costs, found.score]).tolist()))


@pytest.fixture(params=[0, 1 << 15], ids=["solved", "listed"])
def few(request, monkeypatch):
    """Small problems would all be listed; here they are solved, too."""
    monkeypatch.setattr(module, "_LISTED", request.param)


def check(problem, data, **options):
    score, costs, joint = problem
    _, scores, values = enumerated(*problem)
    limits = budgets(data.draw, values)
    inside = within(values, limits)
    if not inside.any():
        with pytest.raises(NothingFeasible):
            front(score, costs, limits, joint, **options)
        return
    found = front(score, costs, limits, joint, **options)
    assert found.complete
    assert points(found) == front_of(scores, values, inside)
    assert (np.diff(found.costs[:, 0]) >= 0).all()
    assert (total(score, joint, found.indices) == found.score).all()
    assert (np.stack([cost(found.indices) for cost in costs], axis=1) == found.costs).all()


@settings(max_examples=300)
@given(problems(costs=1, rows=1, joint=False, choices=5), st.data())
def test_one_plain_sum(problem, data):
    check(problem, data)


@pytest.mark.usefixtures("few")
@MODERATE
@given(problems(costs=1), st.data())
def test_one_cost_with_joint_terms_and_peaks(problem, data):
    check(problem, data)


@pytest.mark.usefixtures("few")
@MODERATE
@given(problems(costs=3, rows=2, choices=3), st.data())
def test_several_costs(problem, data):
    check(problem, data)


@pytest.mark.usefixtures("few")
@MODERATE
@given(problems(costs=1, rows=1, joint=False))
def test_merging_and_programs_agree(problem):
    score, (cost,), _ = problem
    by_programs = front(score, [cost, cost])  # two costs go the other way
    merged = front(score, [cost])
    assert (merged.costs == by_programs.costs[:, :1]).all()
    assert (merged.score == by_programs.score).all()


@given(problems(costs=1, rows=1, joint=False))
def test_the_same_answer_twice(problem):
    score, costs, _ = problem
    assert (front(score, costs).indices == front(score, costs).indices).all()


BITS = np.array([2, 3, 4, 6, 8])
RNG = np.random.default_rng(3)
SIZES = RNG.integers(10, 1000, 8)
SCORE = [4.0**-BITS * (1 + n % 7) for n in SIZES]
SIZE = Cost((Terms.of([n * BITS for n in SIZES]),), per=8, whole=True)
SPEED = Cost((Terms.of([(n % 50) * (9 - BITS) for n in SIZES]),))


def test_a_thinned_front_is_part_of_the_whole():
    whole, some = front(SCORE, [SIZE]), front(SCORE, [SIZE], most=20)
    assert whole.complete
    assert not some.complete
    assert 15 <= len(some.score) <= 20
    assert set(points(some)) <= set(points(whole))
    assert (some.costs[[0, -1]] == whole.costs[[0, -1]]).all()
    steps = np.diff(np.log(some.costs[:, 0]))
    assert steps.max() < 3 * np.log(whole.costs[-1, 0] / whole.costs[0, 0]) / 20


def test_enough_room_leaves_a_front_whole():
    whole = front(SCORE, [SIZE])
    assert front(SCORE, [SIZE], most=len(whole.score)).complete


KERNELS = Cost(
    (Terms.of([np.zeros(5, int)] * 8, 9, {(i, i + 1, i + 2): RNG.integers(1, 1000, (5, 5, 5)) for i in (0, 2, 4, 5)}),),
    per=1000,
)


@pytest.mark.parametrize(
    "costs",
    [[SIZE, SPEED], [SIZE, SPEED, Cost(SIZE.rows + SPEED.rows)], [SIZE, KERNELS], [KERNELS, SPEED, SIZE]],
    ids=["sums", "a peak", "kernels", "three sums"],
)
def test_several_costs_thinned(costs):
    some = front(SCORE, costs, most=16)
    assert not some.complete
    assert 5 <= len(some.score) <= 16
    for indices, score, values in zip(some.indices, some.score, some.costs, strict=True):
        better = best(SCORE, costs, values.tolist())
        assert total(SCORE, None, [better])[0] == pytest.approx(score, rel=1e-9), indices


def test_points_at_prices_keep_to_limits():
    limits = [float(SIZE([[2] * 8])[0]), None]
    some = front(SCORE, [SIZE, KERNELS], limits, most=20)
    assert len(some.score) == 20
    assert some.costs[:, 0].max() <= limits[0]
    assert some.score.min() == pytest.approx(total(SCORE, None, [best(SCORE, [SIZE, KERNELS], limits)])[0])


def test_a_front_too_large_to_hold_is_refused_or_thinned(monkeypatch):
    monkeypatch.setattr(merge, "STATES", 100)
    with pytest.raises(OutOfResources, match=r"over 100 points after \d of 8 choices"):
        front(SCORE, [SIZE])
    some = front(SCORE, [SIZE], most=10)
    assert not some.complete
    assert 8 <= len(some.score) <= 10
    monkeypatch.undo()
    assert {p[0] for p in points(some)} <= {p[0] for p in points(front(SCORE, [SIZE]))}


def test_without_costs_the_best_alone():
    found = front(SCORE, [])
    assert found.indices.tolist() == [[4] * 8]
    assert found.costs.shape == (1, 0)
