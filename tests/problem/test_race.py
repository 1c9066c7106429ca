"""Evaluations batch by batch: those that see all batches score as ever, the others what they saw."""

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


@settings(max_examples=20)
@given(order=st.permutations(range(3)), most=st.integers(1, 4), which=st.integers(0, 4))
def test_survivors_score_bit_for_bit_and_the_others_what_they_saw(order, most, which):  # type: ignore[no-untyped-def]
    found, rng = make("raced"), np.random.default_rng(0)
    asked = [Assignment(), *(found.space.sample(rng) for _ in range(4))][which]
    [expected] = make("whole").evaluate([asked])
    seen: list[Any] = []

    def goes_on(scores: Any) -> bool:
        seen.append(scores)
        return len(seen) < most

    found.forget()
    done = found.race(asked, order, goes_on)
    batches = order[:most]
    assert len(seen) == len(batches)
    assert (done.fidelity, done.n) == (len(batches) / 3, sum(SIZES[b] for b in batches))
    if len(batches) == 3:
        assert numbers(done) == numbers(expected)
    assert found.costs(asked).items() <= done.measures.items()
    for so_far, scores in enumerate(seen, start=1):
        assert set(scores) == {"score"}, "no numbers, and no tensors of another length"
        outputs = [found.runner.run(asked, "validation", b)[:, 0] for b in order[:so_far]]
        assert scores["score"].tolist() == torch.cat(outputs).double().tolist()
    assert seen[-1]["score"].mean() == pytest.approx(done.measures["score"], rel=1e-6)


def test_a_failure_ends_a_race_and_reads_as_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = make("raced")
    whole = found.runner.run
    asked: list[Any] = []

    def run(assignment: Assignment, split: str, batch: int) -> Any:
        if batch == 1:
            raise RuntimeError("no kernel")
        return whole(assignment, split, batch)

    monkeypatch.setattr(found.runner, "run", run)
    one = found.space.decode([0] * len(found.space.choices))
    [plain] = found.evaluate([one])
    assert plain.failure is not None
    assert numbers(found.race(one, [2, 1, 0], lambda scores: not asked.append(scores))) == numbers(plain)
    assert [len(scores["score"]) for scores in asked] == [SIZES[2]]
