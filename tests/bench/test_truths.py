"""The enumerated truths are what the models measure, and the benchmark counts their hypervolume as the core does."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from truth.curves import Shares, Volume, first_at, search
from truth.eager import Eager, Timed, nsga2
from truth.report import figures
from truth.results import Results
from truth.table import LOSSES, NAMES, TableProblem, Truth, build

from mpsearch.core.assignment import Assignment
from mpsearch.core.front import hypervolume


@pytest.fixture(scope="module", params=NAMES)
def truth(request):
    torch.set_num_threads(1)
    return Truth.load(request.param)


@pytest.fixture(scope="module")
def some(truth):
    rng = np.random.default_rng(5)
    return [truth.space.sample(rng) for _ in range(3)]


def test_a_truth_is_what_the_model_measures(truth, some):
    problem, size = build(truth.name)
    assert (problem.fingerprint, problem.space, size) == (truth.fingerprint, truth.space, truth.size_name)
    assert (found := problem.cost(size)) is not None
    rng, options = np.random.default_rng(0), [len(choice.options) for choice in truth.space.choices]
    every = rng.integers(options, size=(500, len(options)))
    assert np.array_equal(found(every), truth.size(every))
    kept, asked = TableProblem(truth), [*some, Assignment()]
    assert list(kept.work) == pytest.approx(list(problem.work))
    for measured, known in zip(problem.evaluate(asked), kept.evaluate(asked), strict=True):
        assert measured.n == known.n
        assert measured.measures[size] == known.measures[size] == kept.costs(measured.assignment)[size]
        # on the machine that made the file they are equal; another rounds differently
        assert measured.measures["log_loss"] == pytest.approx(known.measures["log_loss"], rel=1e-3)
        assert measured.measures["error"] == pytest.approx(known.measures["error"], abs=1 / truth.n)


def test_the_plain_evaluation_scores_the_same_thing(truth, some):
    eager = Eager(truth)
    for assignment in some:
        expected = truth.measures(truth.number(assignment))["log_loss"]
        # where sums are rounded differently, a value may fall into the next of 255 steps
        assert eager.log_loss(truth.space.encode(assignment)) == pytest.approx(expected, rel=5e-3)
    assert eager.log_loss(None) == pytest.approx(truth.baseline["log_loss"], rel=1e-5)
    stopped = nsga2(eager, truth, seed=0, share=1e-6, most=60)
    assert stopped.seconds is not None
    assert stopped.difference < 1e-3
    assert nsga2(eager, truth, seed=0, share=1.0, most=2).evaluations is None


@pytest.mark.parametrize("loss", LOSSES)
def test_the_whole_space_has_all_of_the_hypervolume(truth, loss):
    shares = Shares(truth, loss)
    order = np.random.default_rng(0).permutation(truth.space.size)
    curve = shares.curve([None, *order.tolist()])
    assert curve[0] == 0.0
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == pytest.approx(1.0, abs=1e-9)
    assert curve[200] == pytest.approx(hypervolume(shares.points[order[:200]]) / shares.whole)


def test_a_search_keeps_its_budget_and_repeats_itself(truth):
    first, again, other = (search(TableProblem(truth), "log_loss", "random", {}, seed, 40) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == len(set(first)) == 40
    uniform = [truth.number(assignment) for assignment in truth.space.uniform().values()]
    assert first[: len(uniform) + 1] == [None, *uniform]


@given(st.lists(st.tuples(*[st.integers(-2, 12).map(lambda x: x / 10)] * 2), min_size=1, max_size=30))
def test_the_volume_of_points_as_they_come(points):
    volume = Volume()
    for n, point in enumerate(points, start=1):
        assert volume.add(*point) == pytest.approx(hypervolume(np.array(points[:n])), abs=1e-12)


def test_when_a_share_is_first_reached():
    curve = np.array([0.1, 0.5, 0.5, 0.9])
    assert [first_at(curve, share) for share in (0.05, 0.5, 0.9, 0.91)] == [1, 2, 4, None]


def test_how_many_times_faster():
    results = Results()
    for seed, (theirs, ours) in enumerate([(30.0, 1.0), (50.0, 1.0), (10.0, 4.0)]):
        results.add_time("cnn", "nsga2", seed, Timed(theirs, 500, 0.0))
        results.add_time("cnn", "frontier", seed, Timed(ours, 50, 0.0))
    found = figures(results, ["cnn"])["truths"]["cnn"]
    assert found["speedup_to_99"] == 27.5
    assert (found["speedup_to_99_of_means"], found["speedup_to_99_of_medians"]) == (15.0, 30.0)
    results.add_time("cnn", "frontier", 2, Timed(None, None, 0.0))
    assert figures(results, ["cnn"])["speedup_to_99"] is None
