"""The program against enumeration, and what it says where nothing is feasible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import budgets, enumerated, problems, within

from mpsearch.core.errors import NothingFeasible
from mpsearch.cost.solve import program
from mpsearch.cost.solve.program import best, tightest, total
from mpsearch.cost.terms import Cost, Terms

MODERATE = settings(max_examples=60)


@MODERATE
@given(problems(costs=3), st.data())
def test_the_best_is_what_enumeration_finds(problem, data):
    score, costs, joint = problem
    _, scores, values = enumerated(*problem)
    limits = budgets(data.draw, values)
    inside = within(values, limits)
    if not inside.any():
        with pytest.raises(NothingFeasible):
            best(score, costs, limits, joint)
        return
    found = np.array([best(score, costs, limits, joint)])
    assert within(np.stack([cost(found) for cost in costs], axis=1), limits).all()
    assert total(score, joint, found)[0] == scores[inside].min()


@MODERATE
@given(problems(costs=1, rows=4))
def test_the_tightest_is_what_enumeration_finds(problem):
    _, (cost,), _ = problem
    assert tightest(cost) == enumerated(*problem)[2].min()


def test_options_outside_the_first_core_are_found(monkeypatch):
    monkeypatch.setattr(program, "_CORE", 1)
    rng = np.random.default_rng(5)
    score = [rng.integers(0, 100, 6) / 4 for _ in range(5)]
    cost = Cost((Terms.of([rng.integers(0, 30, 6) for _ in range(5)]),))
    _, scores, values = enumerated(score, [cost], None)
    for budget in np.unique(values)[::6]:
        found = best(score, [cost], [float(budget)])
        assert total(score, None, [found])[0] == scores[values[:, 0] <= budget].min()


def test_what_the_solver_lets_through_is_forbidden(monkeypatch):
    monkeypatch.setattr(program, "_LARGEST", 1e-6)  # its tolerance is then as large as any cost
    score = [np.array([3.0, 1.5, 0.0]), np.array([4.0, 1.0, 0.0])]
    cost = Cost((Terms.of([[0, 5, 9], [0, 4, 7]]),))
    assert best(score, [cost], [9.0]) == (1, 1)


def test_a_large_sum_is_kept_to_the_unit():
    sizes = [10**11 + 1, 10**11 + 3, 10**11 + 7]
    cost = Cost((Terms.of([[0, size] for size in sizes]),))
    score = [np.array([1.0, 0.0])] * 3
    assert cost([best(score, [cost], [2.0 * 10**11 + 4])]) == 2 * 10**11 + 4
    assert sum(best(score, [cost], [2.0 * 10**11 + 3])) == 1


SMALL, LARGE = Cost((Terms.of([[1, 9], [2, 9]]),)), Cost((Terms.of([[9, 1], [9, 2]], constant=5),))
FLAT = [np.zeros(2), np.zeros(2)]


def test_a_limit_out_of_reach_is_named_with_what_can_be():
    with pytest.raises(
        NothingFeasible, match=r"size is at least 3 and may be 2; steps is at least 8 and may be 30"
    ) as e:
        best(FLAT, [SMALL, LARGE], [2.0, 30.0], names=["size", "steps"])
    assert "not all together" not in str(e.value)


def test_limits_that_only_conflict_are_said_to():
    with pytest.raises(NothingFeasible, match="alone, but not all together: cost 0 is at least 3 and may be 4; cost"):
        best(FLAT, [SMALL, LARGE], [4.0, 9.0])


def test_a_limit_that_is_not_given_is_not_told():
    with pytest.raises(NothingFeasible) as error:
        best(FLAT, [SMALL, LARGE], [None, 1.0])
    assert "cost 0" not in str(error.value)


def test_of_equal_options_the_first():
    assert best([np.ones(3), np.zeros(2)], [], []) == (0, 0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        best([np.array([np.inf, 0.0])], [], [])
    with pytest.raises(ValueError, match="same options"):
        best([np.zeros(3)], [Cost((Terms.of([[1, 2]]),))], [5.0])


def test_the_solver_prints_nothing(capfd):
    rng = np.random.default_rng(0)
    bits = np.array([2, 3, 4, 6, 8])
    score = [4.0**-bits * np.exp(rng.normal()) for _ in range(30)]
    costs = [Cost((Terms.of([int(n) * bits for n in rng.integers(10**3, 10**6, 30)]),)) for _ in range(3)]
    best(score, costs, [float(1.6 * tightest(cost)) for cost in costs])
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_a_row_of_very_different_numbers():
    """The relaxation without bounded coefficients ends in no known state."""
    first = Terms.of(
        [[2, 0, 0], [26, 2241636, 2102], [168036074, 0, 0]],
        joint={(1, 2): [[0, 0, 0], [0, 0, 0], [0, 20, 63]], (0, 1): [[0, 0, 0], [2, 0, 0], [2, 0, 0]]},
    )
    second = Terms.of([[0, 0, 0], [375023, 0, 14], [0, 0, 0]])
    cost = Cost((first, second))
    every = list(np.ndindex(3, 3, 3))
    assert tightest(cost) == cost(every).min()
