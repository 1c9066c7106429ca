"""Tables of integers against sums written out."""

import time
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.cost import largest, lookup, passes
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


def written_out(rows, indices):
    """Units of each assignment, in plain Python."""
    found = []
    for at in indices.tolist():
        values = []
        for terms in rows:
            value = terms.constant + sum(int(row[k]) for row, k in zip(terms.unary, at, strict=True))
            values.append(value + sum(int(table[tuple(at[i] for i in key)]) for key, table in terms.joint.items()))
        found.append(max(values))
    return found


@st.composite
def rows_over_choices(draw):
    """Rows with edges; those of a peak often share their tables, and some entries need all of 64 bits."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 7, 140, 300]), min_size=1, max_size=5))
    keys = [key for n in (2, 3) for key in combinations(range(len(sizes)), n)]
    keys = [key for key in keys if np.prod([sizes[i] for i in key]) < 10**5]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.sampled_from([2, 1000, 2**29, 2**31, 2**58]))
    step = draw(st.sampled_from([1, 64]))

    def table(shape):
        return rng.integers(-(top // step), top // step + 1, shape) * step

    shared = [[np.zeros(n, dtype=np.int64), np.full(n, 5), table(n)] for n in sizes]
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        joint = draw(st.lists(st.sampled_from(keys), unique=True, max_size=3)) if keys else []
        unary = [options[draw(st.integers(0, 2))] for options in shared]
        constant = draw(st.integers(-top, top))
        rows.append(Terms.of(unary, constant, {key: table([sizes[i] for i in key]) for key in joint}))
    indices = np.stack([rng.integers(0, n, 30) for n in sizes], axis=1)
    return rows, indices


@settings(max_examples=100, deadline=None)
@given(rows_over_choices(), st.sampled_from([0, 512]), st.sampled_from([7, 30, 4096]))
def test_every_way_to_look_up_agrees_with_sums_written_out(problem, few, block):
    rows, indices = problem
    kind = draw_type(indices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_FEW", few)
        patch.setattr(passes.Passes, "block", block)
        patch.setattr(lookup._Product, "block", block)
        for given_as in (indices, indices.astype(kind), np.asfortranarray(indices.astype(kind)), indices.tolist()):
            for own in [rows, rows[:1]]:
                expected = written_out(own, indices)
                assert Cost(tuple(own))._lookup(given_as).tolist() == expected
                assert Cost(tuple(own))(given_as).tolist() == [float(units) for units in expected]
            found = rows[0](given_as)
            assert found.dtype == np.int64
            assert found.tolist() == written_out(rows[:1], indices)


@settings(max_examples=100, deadline=None)
@given(rows_over_choices())
def test_passes_and_largest_agree_with_sums_written_out(problem):
    """Both, where a lookup would take one: of a whole block, and of a shorter one after it."""
    rows, indices = problem
    look_up = Cost(tuple(rows))._lookup
    if not look_up._rows:
        return
    expected = written_out(rows, indices)
    for kind in (passes.Passes, largest.Largest):
        evaluate = kind(look_up._sizes, look_up._rows).ready(20)
        found = np.empty(30, dtype=np.int64)
        for part in (slice(0, 20), slice(20, 30)):
            evaluate(indices[part].astype(draw_type(indices)), found[part])
        assert (found if look_up._least is None else np.maximum(found, look_up._least)).tolist() == expected


def draw_type(indices):
    """The narrowest type of integers that holds `indices`, and wider ones in turn."""
    kinds = [np.uint8, np.int16, np.uint16, np.int32, np.uint64]
    return kinds[int(indices.sum()) % 5] if indices.max() < 256 else np.int16


@pytest.mark.parametrize("n", [1, 600])
@pytest.mark.parametrize("rows", [1, 2])
def test_what_is_no_option_is_refused(n, rows):
    cost = Cost((TERMS, Terms.of([[0, 0], [0, 9, 0], [0]]))[:rows])
    indices = np.zeros((n, 3), dtype=np.int16)
    for wrong in (-1, 3, 256):
        indices[-1, 1] = wrong
        with pytest.raises(IndexError, match=f"option {wrong} of choice 1 does not exist; it has options 0 to 2"):
            cost(indices)
    with pytest.raises(IndexError, match=r"\[n, 3 choices\], got \[1, 2\]"):
        cost([(0, 0)])
    with pytest.raises(IndexError, match="integers, not float64"):
        cost([(0.0, 0.0, 0.0)])


def test_nothing_to_choose():
    assert Terms.of([], 7)([()]).tolist() == [7]
    assert Terms.of([[4]], 7)(np.zeros((600, 1), dtype=int)).tolist() == [11] * 600
    assert TERMS(np.zeros((0, 3), dtype=int)).tolist() == []


def test_a_million_assignments_take_less_than_a_second():
    rng = np.random.default_rng(0)
    terms = Terms.of(list(rng.integers(0, 10**12, (53, 49))))
    indices = rng.integers(0, 49, (200_000, 53)).astype(np.uint8)
    assert terms(indices[:200]).tolist() == written_out([terms], indices[:200])
    assert terms(indices)[:200].tolist() == written_out([terms], indices[:200])
    spent = []
    for _ in range(3):
        began = time.process_time()
        terms(indices)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.2


@pytest.mark.parametrize("name", ["memory_bytes", "latency_s"])
def test_the_toy_tells_its_costs(name):
    toy = Toy()
    every = list(product(range(3), repeat=4))
    assert toy.cost(name)(every).tolist() == [toy.costs(toy.space.decode(i))[name] for i in every]
    assert toy.cost("accuracy") is None
    assert np.isfinite(toy.cost(name)(every)).all()
