"""Evaluations in stages: those that see all batches score as ever, the others what they saw."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import Net, images, make_problem, make_spec, splits

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation

SIZES = (4, 4, 3)


def metric(outputs: Any, targets: Any) -> dict[str, Any]:
    flat = torch.cat(outputs)
    if not flat.isfinite().all():
        raise ArithmeticError("too large")
    return {"score": flat[:, 0], "worst": float(flat.min()), "pairs": flat[: len(flat) // 2, 0]}


@cache
def make(which: str) -> Any:
    return make_problem(Net(), splits(images, *SIZES), make_spec(), metric)


def numbers(done: Evaluation) -> tuple[Any, ...]:
    return done.assignment, dict(done.measures), dict(done.stderr), done.n, done.fidelity, done.failure


@settings(max_examples=10, deadline=None)
@given(
    order=st.permutations(range(3)), cut=st.integers(1, 3), leaves=st.sets(st.integers(0, 4)), chunk=st.integers(1, 6)
)
def test_survivors_score_bit_for_bit_and_the_others_what_they_saw(order, cut, leaves, chunk):  # type: ignore[no-untyped-def]
    found, rng = make("raced"), np.random.default_rng(0)
    asked = [Assignment(), *(found.space.sample(rng) for _ in range(4))]
    expected = [numbers(done) for done in make("whole").evaluate(asked)]
    stages = [part for part in (order[:cut], order[cut:]) if part]
    seen: dict[Assignment, list[Any]] = {a: [] for a in asked}
    found._chunk = chunk
    found.forget()

    def goes_on(assignment: Assignment, scores: Any) -> bool:
        seen[assignment].append(scores)
        return asked.index(assignment) not in leaves

    for i, done in enumerate(found.race(asked, stages, goes_on)):
        scores = seen[done.assignment][-1]
        if i not in leaves or cut == 3:
            assert numbers(done) == expected[i]
            batches = order
        else:
            batches = stages[0]
            assert (done.fidelity, done.n) == (len(batches) / 3, sum(SIZES[b] for b in batches))
            assert found.costs(done.assignment).items() <= done.measures.items()
        assert set(scores) == {"score"}, "no numbers, and no tensors of another length"
        assert scores["score"].mean() == pytest.approx(done.measures["score"], rel=1e-6)
        outputs = [found.runner.run(done.assignment, "validation", b)[:, 0] for b in batches]
        assert scores["score"].tolist() == torch.cat(outputs).double().tolist()


def test_a_failure_ends_a_race_and_reads_as_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = make("raced")
    whole = found.runner.run
    asked: list[Assignment] = []

    def run(assignment: Assignment, split: str, batch: int) -> Any:
        if batch == 1 and assignment:
            raise RuntimeError("no kernel")
        return whole(assignment, split, batch)

    monkeypatch.setattr(found.runner, "run", run)
    two = [Assignment(), found.space.decode([0] * len(found.space.choices))]
    plain = [numbers(done) for done in found.evaluate(two)]
    raced = found.race(two, [[1], [0, 2]], lambda assignment, scores: not asked.append(assignment))
    assert [numbers(done) for done in raced] == plain
    assert plain[1][-1] is not None
    assert asked == [Assignment(), Assignment()]
