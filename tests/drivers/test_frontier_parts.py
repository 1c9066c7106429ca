"""The parts of the frontier driver: surrogate, expected improvement, candidates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpsearch.core.format import Format
from mpsearch.core.front import hypervolume, non_dominated
from mpsearch.core.space import Choice, Space
from mpsearch.cost.solve import elimination
from mpsearch.cost.terms import Cost, Terms
from mpsearch.drivers.candidates import (
    Prefixes,
    aims,
    anywhere,
    cheapest,
    neighbours,
    one_at_a_time,
    predicted_front,
    towards,
    unseen,
)
from mpsearch.drivers.improvement import Belief, boxes, expected_improvement
from mpsearch.drivers.menu import Menu
from mpsearch.drivers.surrogate import Coordinates, Surrogate

FORMATS = tuple(map(Format.parse, ("int2", "int3", "int4", "int8", "int4:g32")))
SPACE = Space(tuple(Choice(f"w{i}", (f"w{i}",), FORMATS) for i in range(6)))
MENU = Menu.whole(SPACE)


def points(n, goals):
    return arrays(float, st.tuples(n, st.just(goals)), elements=st.integers(0, 12).map(lambda k: k / 10))


@given(st.integers(1, 4).flatmap(lambda goals: st.tuples(points(st.integers(0, 6), goals), points(st.just(5), goals))))
def test_of_certain_losses_it_is_the_gain_in_hypervolume(case):
    front, candidates = case
    found = expected_improvement(front, [Belief(candidates[:, j]) for j in range(front.shape[1])])
    gains = [hypervolume(np.vstack([front, c])) - hypervolume(front) for c in candidates]
    assert found == pytest.approx(gains, abs=1e-12)


@given(points(st.integers(1, 6), 3))
def test_boxes_are_what_the_front_leaves(front):
    lower, upper = boxes(front)
    volume = (upper.clip(0, 1) - lower.clip(0, 1)).clip(0).prod(axis=1).sum()
    assert volume == pytest.approx(1 - hypervolume(front), abs=1e-12)


def test_of_uncertain_losses_it_is_the_mean_gain():
    rng = np.random.default_rng(0)
    front = np.array([[0.2, 0.8], [0.5, 0.3]])
    sure = np.array([0.25, 0.6])
    belief = Belief(np.array([-1.0, -0.4]), np.array([0.5, 0.3]), base=0.1, ideal=0.2, worst=1.4)
    found = expected_improvement(front, [belief, Belief(sure)])
    for k in range(2):
        draws = (0.1 + np.exp(rng.normal(belief.mean[k], belief.deviation[k], 4000)) - 0.2) / 1.2
        gains = [hypervolume(np.vstack([front, [x, sure[k]]])) - hypervolume(front) for x in np.maximum(draws, 0)]
        below = np.maximum(-draws, 0) * (1 - sure[k])  # the box does not end at 0: losses may be better than the best
        assert found[k] == pytest.approx(np.mean(gains + below), abs=4 * np.std(gains) / 60)


def test_distances_follow_the_noise_of_formats():
    x = Coordinates(SPACE)(np.array([[k] * 6 for k in range(5)]))

    def apart(a, b):
        return float(((x[a] - x[b]) ** 2).sum())

    assert apart(0, 1) == pytest.approx(6 * 4 * (2**-2 - 2**-3))
    assert apart(0, 1) + apart(1, 2) == pytest.approx(apart(0, 2))
    assert 0 < apart(2, 4) < apart(1, 2)  # the same width in groups


def measured(rows):
    harm = np.array([4.0**-f.bits for f in FORMATS])[rows] * np.array([9, 3, 1, 0.3, 0.1, 0.1])
    return 0.2 + harm.sum(axis=1) + 5 * harm[:, 0] * harm[:, 1]


def test_the_surrogate_learns_and_knows_how_well():
    rng = np.random.default_rng(0)
    seen, new = anywhere(MENU.kept, 80, rng), anywhere(MENU.kept, 300, rng)
    surrogate = Surrogate(SPACE)
    surrogate.fit(seen, measured(seen), learn=True)
    mean, deviation = surrogate.predict(new)
    truth = np.log(measured(new) - surrogate.base)
    assert np.var(mean - truth) < 0.05 * np.var(truth)
    assert np.mean(np.abs(mean - truth) < 2 * deviation) > 0.8
    again, sure = surrogate.predict(seen)
    assert np.abs(again - np.log(measured(seen) - surrogate.base)).max() < 0.1
    assert sure.max() < deviation.mean()


def test_the_additive_part_ranks_what_matters():
    rows = anywhere(MENU.kept, 200, np.random.default_rng(1))
    surrogate = Surrogate(SPACE)
    surrogate.fit(rows, measured(rows), learn=False)
    spreads = [np.ptp(effects) for effects in surrogate.additive()]
    assert np.argsort(spreads)[::-1][:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [0.0, 3.0, 1e9, -1e12])
@pytest.mark.parametrize("step", [0.0, 1.0])
def test_equal_losses_can_be_learned(value, step):
    rng = np.random.default_rng(2)
    rows, surrogate = anywhere(MENU.kept, 20, rng), Surrogate(SPACE)
    losses = value + step * np.spacing(value) * (rng.random(20) > 0.4)
    surrogate.fit(rows, losses, learn=True)
    assert np.isfinite(surrogate.predict(rows)).all()


def test_losses_of_any_size_are_compared():
    rng = np.random.default_rng(3)
    rows, surrogate = np.repeat(anywhere(MENU.kept, 1, rng), 60, axis=0), Surrogate(SPACE)
    losses = 10 ** rng.uniform(0, 300, 60)  # perplexities of what does not work at all
    surrogate.fit(rows, losses, learn=True)
    mean, deviation = surrogate.predict(rows)
    belief = Belief(mean, deviation, surrogate.base, losses.min(), losses.max())
    for doubted in (belief, belief.doubted()):
        assert np.isfinite(expected_improvement(np.array([[0.5, 0.5]]), [doubted, Belief(rng.random(60))])).all()


def test_too_few_losses_are_refused():
    with pytest.raises(ValueError, match="at least 4 losses, got 2"):
        Surrogate(SPACE).fit(anywhere(MENU.kept, 2, np.random.default_rng(0)), np.ones(2), learn=True)


def test_neighbours_differ_in_one_choice_at_most():
    rows = anywhere(MENU.kept, 3, np.random.default_rng(0))
    every = neighbours(rows, MENU.kept, 10_000, np.random.default_rng(0))
    assert len(every) == 3 * sum(map(len, MENU.kept))
    assert ((every[:, None] != rows).sum(axis=2).min(axis=1) <= 1).all()
    assert len(neighbours(rows, MENU.kept, 7, np.random.default_rng(0))) == 7


def test_one_at_a_time():
    base = (0, 3, 2, 0, 0, 0)
    rows = one_at_a_time(MENU, base, 100)
    changed = [np.flatnonzero(row != base).tolist() for row in rows]
    assert changed == [[i] for i in range(6)]
    assert [int(row[i]) for i, row in enumerate(rows)] == [3, 0, 3, 3, 3, 3]
    assert [np.flatnonzero(row != base).tolist() for row in one_at_a_time(MENU, base, 2)] == [[0, 1, 2], [3, 4, 5]]


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 1)] * 4), min_size=1, max_size=8), st.tuples(*[st.integers(0, 1)] * 4))
def test_what_is_left_to_compute(known, row):
    work = [1.0, 1.0, 0.6, 0.6, 0.1]
    prefixes = Prefixes(work)
    for other in known:
        prefixes.add(np.array(other, dtype=np.int16))
    shared = max(next((i for i in range(4) if other[i] != row[i]), 4) for other in known)
    assert prefixes.left(np.array([row], dtype=np.int16)).tolist() == [work[shared]]


def every(rows):
    return [np.arange(len(row), dtype=np.int16) for row in rows]


def test_a_predicted_front_is_exact_for_few_choices_and_a_hull_for_many():
    rng = np.random.default_rng(0)
    for choices in (4, 30):
        score = [np.sort(rng.random(3))[::-1] for _ in range(choices)]
        cost = Cost((Terms.of([[2 * n, 3 * n, 4 * n] for n in rng.integers(1, 99, choices)]),))
        rows = predicted_front(score, [cost], [None], every(score), 1000)
        values = np.array([sum(s[k] for s, k in zip(score, row, strict=True)) for row in rows])
        assert (np.diff(cost(rows)) > 0).all()
        assert (np.diff(values) < 0).all()
    assert predicted_front(score, [], [], every(score), 10).tolist() == [[2] * 30]


def test_unseen_rows_come_once():
    rows = np.array([[1, 2], [1, 2], [3, 4]], dtype=np.int16)
    assert unseen(rows, {rows[2].tobytes()}).tolist() == [[1, 2]]
    assert unseen(rows[:0], set()).shape == (0, 2)


def test_towards_the_cheapest():
    aims = np.array([cheapest(Cost((Terms.of([[5, 1, 9]] * 6),)))])
    rows = towards(np.zeros((200, 6), dtype=np.int16), aims, np.random.default_rng(0))
    shares = (rows == 1).mean(axis=1)
    assert set(np.unique(rows)) == {0, 1}
    assert shares.min() < 0.2
    assert shares.max() > 0.8


def test_aims_leave_alone_what_a_cost_does_not_depend_on():
    left = Cost((Terms.of([[5, 1, 9], [0, 0, 0]]),))
    right = Cost((Terms.of([[3, 3, 3], [7, 8, 2]]),))
    assert aims([left, right]).tolist() == [[1, -1], [-1, 2]]
    rows = towards(np.zeros((500, 2), dtype=np.int16), aims([left, right]), np.random.default_rng(0))
    assert set(map(tuple, rows.tolist())) == {(0, 0), (0, 2), (1, 0), (1, 2)}


def kernels(seed, choices=9, options=3):
    """A table for every three neighbours; what is least alone is seldom least together."""
    rng = np.random.default_rng(seed)
    tables = {(i, i + 1, i + 2): rng.integers(0, 1000, [options] * 3) for i in range(choices - 2)}
    return Cost((Terms.of([np.zeros(options, int)] * choices, 0, tables),))


@pytest.mark.parametrize(("widest", "share"), [(1 << 16, 0.0), (2, 0.3)])
def test_the_cheapest_of_what_costs_together(monkeypatch, widest, share):
    monkeypatch.setattr(elimination, "_WIDEST", widest)
    every = np.array(list(np.ndindex(*[3] * 9)))
    costs = [kernels(seed) for seed in range(10)]
    assert np.mean([(cost(every) < cost([cheapest(cost)])).mean() for cost in costs]) <= share


@pytest.mark.parametrize("choices", [9, 24])
def test_a_predicted_front_against_several_costs(choices):
    rng = np.random.default_rng(0)
    score = [np.sort(rng.random(3))[::-1] for _ in range(choices)]
    size = Cost((Terms.of([[2 * n, 3 * n, 4 * n] for n in rng.integers(1, 99, choices)]),))
    time = kernels(1, choices)
    rows = predicted_front(score, [size, time, Cost(size.rows + time.rows)], [None] * 3, every(score), 100)
    points = np.column_stack([size(rows), time(rows), sum(s[rows[:, i]] for i, s in enumerate(score))])
    assert non_dominated(points).sum() >= len(np.unique(points, axis=0)) - 1
    alone = [set(map(bytes, predicted_front(score, [cost], [None], every(score), 100))) for cost in (size, time)]
    assert all(found <= set(map(bytes, rows)) for found in alone)
    assert len(set(map(bytes, rows)) - set.union(*alone)) > 20
