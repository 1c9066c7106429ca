"""What the exam does not ask of `abs`: that its trees lead somewhere, that limits hold, and its options."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation, Failure
from mpsearch.core.format import Format
from mpsearch.core.front import hypervolume, non_dominated
from mpsearch.core.goal import Goal, Limit
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost, Terms
from mpsearch.drivers.abs import Abs, best_by_layers
from mpsearch.drivers.base import SearchOver, Session
from mpsearch.drivers.random import Random

LOSS, SIZE = Goal("loss"), Goal("size_bytes")


class Additive(Session):
    """Loss is a sum over choices, size another whose table the problem knows; `limit` evaluations are allowed."""

    def __init__(self, seed=0, *, choices=8, formats="int2 int3 int4 int8", goals=(LOSS, SIZE), limit=120, fails=False):
        options = tuple(Format.parse(text) for text in formats.split())
        rng = np.random.default_rng(1000 + seed)
        self.loss = np.exp(rng.normal(0, 1.5, (choices, 1))) * [
            4.0 ** -(fmt.bits + i / 9) for i, fmt in enumerate(options)
        ]
        sizes = rng.integers(10, 1000, (choices, 1)) * [int(fmt.bits) for fmt in options]
        self.size = Cost((Terms.of(list(sizes)),), per=8)
        self.space = Space(tuple(Choice(f"w{i}", (f"w{i}",), options) for i in range(choices)))
        self.seed, self.goals, self.problem, self.limit, self.fails = seed, goals, self, limit, fails
        self.asked, self.batches = [], []

    def cost(self, name):
        return self.size if name == "size_bytes" else None

    @property
    def evaluations(self):
        return []

    @property
    def budget_left(self):
        return self.limit

    def evaluate(self, assignments, label=""):
        self.batches.append(len(assignments))
        self.asked += [self.space.encode(a) for a in assignments]
        if len(self.asked) >= self.limit:
            raise SearchOver
        if self.fails:
            return [Evaluation(a, failure=Failure("error", "no luck")) for a in assignments]
        scored = self.losses(self.asked[-len(assignments) :])
        return [
            Evaluation(a, dict(zip(("loss", "size_bytes"), row, strict=True)))
            for a, row in zip(assignments, scored, strict=True)
        ]

    def losses(self, codes):
        at = np.array(codes)
        return np.stack([self.loss[np.arange(at.shape[1]), at].sum(axis=1), self.size(at)], axis=1)

    def after(self, driver):
        """Losses [limit, 2] of what `driver` asked."""
        with pytest.raises(SearchOver):
            driver.search(self)
        return self.losses(self.asked[: self.limit])


def test_it_finds_better_fronts_than_random_search():
    won = 0
    for seed in range(12):
        found = [np.log2(Additive(seed).after(driver)) for driver in (Abs(), Random())]
        low, high = np.min(np.concatenate(found), axis=0), np.max(np.concatenate(found), axis=0)
        ours, random = (hypervolume((losses - low) / (high - low)) for losses in found)
        won += ours > random
    assert won >= 10


@pytest.mark.parametrize(("limit", "least"), [(60, 14), (120, 18)])
def test_it_finds_a_lower_loss_than_random_search_with_120_evaluations(limit, least):
    """The invariant of the paper's scheme: one goal, additive, fewer measurements. Of 20 problems."""
    won = 0
    for seed in range(20):
        random = Additive(seed, goals=(LOSS,), limit=120).after(Random())[:, 0].min()
        won += Additive(seed, goals=(LOSS,), limit=limit).after(Abs())[:, 0].min() < random
    assert won >= least


def test_a_limit_on_memory_is_kept_in_every_round():
    session = Additive(goals=(LOSS, Goal("size_bytes", limit=Limit.parse("<= 1500"))))
    assert (Additive().after(Abs(explore=0.0))[:, 1] > 1500).any()
    assert (session.after(Abs(explore=0.2))[:, 1] <= 1500).all()


def test_a_limit_that_nothing_meets_is_approached():
    session = Additive(goals=(LOSS, Goal("size_bytes", limit=Limit.parse("<= 1"))))
    sizes = session.after(Abs(explore=0.0))[:, 1]
    assert sizes[20:].max() < np.median(sizes[:20])


@pytest.mark.parametrize("choices", [1, 3])
def test_a_small_space_is_asked_whole_and_once(choices):
    for n_pool in (2000, 5):  # larger and smaller than the space
        session = Additive(choices=choices, limit=10**9)
        Abs(n_meas=4, n_pool=n_pool).search(session)
        assert len(session.asked) == len(set(session.asked)) == session.space.size


def test_nothing_is_asked_twice():
    session = Additive(choices=4, limit=200)
    session.after(Abs())
    assert len(set(session.asked)) == len(session.asked)


@pytest.mark.parametrize(("limit", "batch"), [(1, 1), (7, 1), (40, 10), (300, 20), (None, 20)])
def test_rounds_are_small_beside_a_small_budget(limit, batch):
    driver = Abs()
    driver.start(Additive(limit=limit))
    assert driver.batch == batch


def test_too_few_points_for_a_tree_are_said(caplog):
    with caplog.at_level(logging.WARNING, "mpsearch.drivers"):
        Additive(limit=12).after(Abs(n_meas=1))
    assert [r.getMessage() for r in caplog.records] == [
        f"abs: a tree needs 4 evaluations that succeeded, there are {n}; this round is random." for n in (1, 2, 3)
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mpsearch.drivers"):
        session = Additive(limit=40, fails=True)
        session.after(Abs())
    assert len(caplog.records) == 3  # all rounds after the first
    assert len(set(session.asked)) == len(session.asked) == 40


def test_formats_of_equal_bits_are_told_apart():
    """int4 and int4:g32 differ only in their options: without their index no tree could prefer one."""
    session = Additive(formats="int4 int4:g32", choices=10, goals=(LOSS,), limit=200)
    losses = session.after(Abs(explore=0.0))[:, 0]
    assert losses.min() == pytest.approx(session.loss.min(axis=1).sum(), rel=0.05)


@given(arrays(float, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.integers(0, 5)), st.integers(1, 30))
def test_layers(losses, n):
    picked = best_by_layers(losses, n)
    assert len(picked) == len(set(picked)) == min(n, len(losses))
    front = set(np.flatnonzero(non_dominated(losses)))
    assert set(picked) <= front or front <= set(picked)
    if losses.shape[1] == 1:
        assert sorted(losses[picked, 0]) == sorted(losses[:, 0])[:n]
    elif len(front) > n >= 2:
        assert losses[picked].min(axis=0)[0] == losses[:, 0].min()  # the ends of a front stay


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_meas": 0}, "n_meas=0"),
        ({"n_pool": 0}, "n_pool=0"),
        ({"n_meas": 30, "n_pool": 20}, "at least n_meas=30"),
        ({"explore": 1.5}, "explore=1.5"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(BadInput, match=message):
        Abs(**options)
