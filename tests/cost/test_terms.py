"""Tables of integers against sums written out."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.cost.terms import Cost, Terms
from mpsearch.testing.toy import Toy

TERMS = Terms.of([[1, 2], [10, 20, 30], [100]], constant=1000, joint={(0, 1): [[0, 0, 7], [5, 0, 0]]})


def test_a_sum_with_pairs():
    assert TERMS([(0, 0, 0), (0, 2, 0), (1, 0, 0)]).tolist() == [1111, 1138, 1117]


def test_the_largest_row_counts():
    other = Terms.of([[0, 0], [0, 0, 0], [0]], constant=1120)
    assert Cost((TERMS, other))([(0, 0, 0), (0, 2, 0)]).tolist() == [1120, 1138]


@pytest.mark.parametrize(("whole", "expected"), [(True, 139), (False, 1111 / 8)])
def test_units(whole, expected):
    assert Cost((TERMS,), per=8, whole=whole)([(0, 0, 0)]).tolist() == [expected]


@given(st.integers(0, 10**12), st.integers(1, 10**6), st.booleans())
def test_a_budget_admits_what_measures_no_more(units, per, whole):
    cost = Cost((), per, whole)
    (measure,) = cost.measure([units])
    budget = cost.units(measure)
    assert units <= budget
    assert cost.measure([budget])[0] == pytest.approx(measure, rel=1e-12)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="smaller unit"):
        Terms.of([[0.5]])
    with pytest.raises(ValueError, match=r"choices \(0, 1\) has shape"):
        Terms.of([[1], [1, 2]], joint={(0, 1): [[1]]})
    with pytest.raises(ValueError, match=r"choices \(1, 0\)"):
        Terms.of([[1], [1]], joint={(1, 0): [[1]]})


@pytest.mark.parametrize("name", ["memory_bytes", "latency_s"])
def test_the_toy_tells_its_costs(name):
    toy = Toy()
    every = list(product(range(3), repeat=4))
    assert toy.cost(name)(every).tolist() == [toy.costs(toy.space.decode(i))[name] for i in every]
    assert toy.cost("accuracy") is None
    assert np.isfinite(toy.cost(name)(every)).all()
