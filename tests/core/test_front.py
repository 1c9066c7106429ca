"""The front and its geometry, against definitions written out in full and against dice."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation, Failure
from mpsearch.core.format import Format
from mpsearch.core.front import Front, Scale, hypervolume, is_feasible, non_dominated
from mpsearch.core.goal import Goal, Limit

GOALS = (Goal("accuracy", maximise=True), Goal("memory_bytes"))
coarse = st.integers(0, 6).map(lambda i: i / 6)


def point(number, accuracy, memory_bytes, **more):
    site = {f"site{number}": Format("int", 4)}
    return Evaluation(Assignment(site), {"accuracy": accuracy, "memory_bytes": memory_bytes, **more})


points = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), max_size=20).map(
    lambda pairs: [point(i, a / 8, 100 * m) for i, (a, m) in enumerate(pairs)]
)


def losses_of(goals):
    return st.lists(st.tuples(*[coarse] * goals), max_size=12).map(lambda rows: np.array(rows).reshape(-1, goals))


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@given(st.integers(1, 4).flatmap(losses_of))
def test_non_dominated_is_the_definition(losses):
    keep = non_dominated(losses)
    for i, row in enumerate(losses):
        beaten = any(dominates(other, row) for other in losses)
        repeated = any((other == row).all() for other in losses[:i])
        assert keep[i] == (not beaten and not repeated)


@given(st.integers(1, 4).flatmap(losses_of))
def test_hypervolume_counts_the_dominated_cells(losses):
    """On a grid of sixths the volume is a count of cells: those whose lower corner some point is at or below."""
    goals = losses.shape[1]
    cells = itertools.product(range(6), repeat=goals)
    cell_losses = np.round(losses * 6).astype(int)
    count = sum(any(all(p <= c for p, c in zip(row, cell, strict=True)) for row in cell_losses) for cell in cells)
    assert hypervolume(losses) == pytest.approx(count / 6**goals, abs=1e-12)


@pytest.mark.parametrize("goals", [1, 2, 3, 5])
def test_hypervolume_agrees_with_dice(goals):
    rng = np.random.default_rng(goals)
    losses = rng.random((15, goals))
    dice = rng.random((200_000, goals))
    hit = np.zeros(len(dice), dtype=bool)
    for row in losses:
        hit |= (dice >= row).all(axis=1)
    assert hypervolume(losses) == pytest.approx(hit.mean(), abs=0.005)


def test_hypervolume_known_values():
    assert hypervolume(np.empty((0, 2))) == 0.0
    assert hypervolume(np.array([[0.0, 0.0, 0.0]])) == 1.0
    assert hypervolume(np.array([[1.0, 0.0]])) == 0.0
    assert hypervolume(np.array([[0.5, 0.5]])) == 0.25
    assert hypervolume(np.array([[0.25, 0.5], [0.5, 0.25]])) == pytest.approx(0.375 + 0.125)
    assert hypervolume(np.array([[-3.0, 0.5], [2.0, -1.0]])) == 0.5  # clipped to the box
    corners = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    assert hypervolume(corners) == pytest.approx(0.5)  # 3 * 1/4 - 3 * 1/8 + 1/8


@given(losses_of(3), st.tuples(coarse, coarse, coarse))
def test_hypervolume_grows_with_points_and_ignores_dominated_ones(losses, extra):
    grown = hypervolume(np.vstack([losses, [extra]]))
    assert grown >= hypervolume(losses) - 1e-12
    worse = [np.minimum(row + 0.1, 1.0) for row in losses]
    assert hypervolume(np.vstack([losses, *worse])) == pytest.approx(hypervolume(losses))


@given(points, st.randoms())
def test_front_does_not_depend_on_order_nor_on_dominated_points(evaluations, random):
    front = Front.of(evaluations, GOALS)
    shuffled = list(evaluations)
    random.shuffle(shuffled)
    assert Front.of(shuffled, GOALS) == front
    assert Front.of(front.members, GOALS) == front
    if front.members:
        first = front.members[0].measures
        dominated = point(99, first["accuracy"] - 0.01, first["memory_bytes"] + 1)
        assert Front.of([*evaluations, dominated], GOALS).members == front.members


@given(points)
def test_front_members_are_sorted_by_the_last_goal_and_dominate_the_rest(evaluations):
    front = Front.of(evaluations, GOALS)
    memory = [e.measures["memory_bytes"] for e in front.members]
    assert memory == sorted(memory)
    losses = [[g.loss(e.measures) for g in GOALS] for e in front.members]
    for e in evaluations:
        mine = [g.loss(e.measures) for g in GOALS]
        assert any(mine == row or dominates(row, mine) for row in losses)


def test_failed_evaluations_are_ignored():
    failed = Evaluation(Assignment({"x": Format("int", 2)}), failure=Failure("error", "boom"))
    good = point(0, 0.9, 100)
    assert Front.of([failed, good], GOALS).members == (good,)
    assert not is_feasible(failed, GOALS, {})
    assert Front.of([failed], GOALS).members == ()


def test_limits_choose_members_else_the_nearest_are_kept():
    goals = (Goal("accuracy", True, Limit.parse(">= baseline - 0.05")), Goal("memory_bytes"))
    evaluations = [point(i, a, m) for i, (a, m) in enumerate([(0.9, 400), (0.86, 300), (0.8, 100)])]
    base = {"accuracy": 0.9, "memory_bytes": 400}
    front = Front.of(evaluations, goals, base)
    assert [e.measures["accuracy"] for e in front.members] == [0.86, 0.9]
    assert front.nearest == ()
    nothing = Front.of(evaluations, goals, {"accuracy": 0.99})
    assert nothing.members == ()
    assert [e.measures["accuracy"] for e in nothing.nearest] == [0.9, 0.86, 0.8]


def test_picks():
    front = Front.of([point(i, a, m) for i, (a, m) in enumerate([(0.5, 100), (0.88, 128), (0.9, 800)])], GOALS)
    small, middle, large = front.members
    assert front.pick("knee") == middle
    assert front.pick("best:accuracy") == large
    assert front.pick("cheapest:memory_bytes") == small
    assert front.pick(f"key:{middle.key[:6]}") == middle
    assert front.pick("2") == large
    for wrong in ("3", "-1", "kne", "best:loss", "best", "key:", "key:zz", "knee:1", ""):
        with pytest.raises(BadInput):
            front.pick(wrong)
    with pytest.raises(BadInput, match="empty"):
        Front(GOALS, ()).pick("knee")


def test_scale_compares_bytes_by_ratio_and_accuracy_by_difference():
    evaluations = [point(0, 0.9, 800), point(1, 0.5, 100), point(2, 0.7, 200)]
    scale = Scale.of(evaluations, evaluations[:2], GOALS)
    assert scale.losses(evaluations) == pytest.approx(np.array([[0, 1], [1, 0], [0.5, 1 / 3]]))
    assert scale.reference == {"accuracy": 0.5, "memory_bytes": 800}
    assert Front.of(evaluations, GOALS).hypervolume(scale) == pytest.approx(0.5 * 2 / 3)


def test_scale_of_a_goal_that_never_changes():
    evaluations = [point(0, 0.9, 800), point(1, 0.9, 100)]
    scale = Scale.of(evaluations, evaluations, GOALS)
    assert np.isfinite(scale.losses(evaluations)).all()


numbers = st.floats(0, 1e12, allow_nan=False).map(lambda x: round(x, 6))
limits = st.one_of(
    st.builds(Limit, st.sampled_from(["<=", ">="]), numbers),
    st.builds(Limit, st.sampled_from(["<=", ">="]), numbers, st.sampled_from("+-*")),
)


@given(limits)
def test_limit_text_round_trip(limit):
    assert Limit.parse(str(limit)) == limit


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("<= 200_000", 200_000),
        (">=0.9", 0.9),
        ("<= 1e6", 1e6),
        (">= -2", -2),
        (">= baseline", 8),
        (">= baseline - 0.5", 7.5),
        ("<= baseline + 2", 10),
        ("<= baseline*0.125", 1),
    ],
)
def test_limit_bounds(text, bound):
    assert Limit.parse(text).bound(8.0) == bound


@pytest.mark.parametrize("text", ["", "< 3", "<= x", "baseline", "<= 3 bytes", "<= baseline / 2", "<= 1.2.3", "== 1"])
def test_limits_that_are_not_understood(text):
    with pytest.raises(BadInput, match="write for example"):
        Limit.parse(text)


@settings(max_examples=200)
@given(st.integers(1, 1000), st.data())
def test_a_limit_met_exactly_is_met(n, data):
    """Accuracies are counts over n: losing exactly one sample is allowed by `baseline - 1/n`, rounding or not."""
    right = data.draw(st.integers(1, n))
    limit = Limit(">=", 1 / n, "-")
    assert limit.excess((right - 1) / n, right / n) == 0.0
    assert limit.excess((right - 1) / n - 1e-6, right / n) > 0.0


def test_goal_flips_the_sign_and_refuses_what_is_not_a_number():
    assert Goal("a", maximise=True).loss({"a": 2.0}) == -2.0
    assert Goal("a").loss({"a": 2.0}) == 2.0
    for measures in ({}, {"a": math.nan}, {"a": math.inf}):
        with pytest.raises(ValueError, match="finite"):
            Goal("a").loss(measures)


def test_goals_on_a_log_scale():
    names = [n for n in ("memory_bytes", "latency_s", "energy_j", "weight_bits", "accuracy") if Goal(n).on_log_scale]
    assert names == ["memory_bytes", "latency_s", "energy_j", "weight_bits"]
