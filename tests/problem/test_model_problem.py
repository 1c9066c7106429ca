"""A model made ready to be evaluated: results, failures, costs, and what does not change them."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import Data, Given, Mlp, Net, images, make_problem, make_spec, randn, rows, splits
from safetensors.torch import load_file
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, ObjectiveFailed
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.problem import build as build_module
from mpsearch.problem import model as model_module
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch


@cache
def problem(mode: str = "sequential", cache_bytes: int = 1 << 28) -> ModelProblem:
    spec = make_spec(quantization={"bias_correction": mode}, engine={"cache_bytes": cache_bytes})
    return make_problem(Net(), splits(images, 4, 4, 3), spec)


@cache
def asked(n: int = 6) -> tuple[Assignment, ...]:
    rng = np.random.default_rng(0)
    found = problem()
    return (Assignment(), *(found.space.sample(rng) for _ in range(n)))


def results(evaluations: list[Evaluation]) -> list[tuple[Assignment, dict[str, float], dict[str, float]]]:
    assert all(e.failure is None for e in evaluations)
    return [(e.assignment, dict(e.measures), dict(e.stderr)) for e in evaluations]


@pytest.mark.parametrize("mode", ["none", "per_site", "sequential"])
def test_results_do_not_depend_on_order_chunks_or_cache(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = {a: results(list(problem(mode).evaluate([a])))[0] for a in asked()}
    assert len({tuple(m.items()) for _, m, _ in one_by_one.values()}) > 4, "assignments differ"

    @settings(max_examples=8)
    @given(
        order=st.permutations(range(len(asked()))),
        chunk=st.integers(1, 9),
        cache_bytes=st.sampled_from((30_000, 1 << 28) if mode == "sequential" else (1 << 28,)),
        forgets=st.booleans(),
    )
    def check(order: list[int], chunk: int, cache_bytes: int, forgets: bool) -> None:
        found = problem(mode, cache_bytes)
        if forgets:
            found.forget()
        monkeypatch.setattr(found, "_chunk", chunk)
        todo = [asked()[i] for i in order]
        assert results(list(found.evaluate(todo))) == [one_by_one[a] for a in todo]

    check()


def test_outputs_come_in_the_order_of_the_batches() -> None:
    found = problem("none")
    objective = found.objective
    assert isinstance(objective, Given)
    for assignment in (Assignment(), Assignment()):
        list(found.evaluate([assignment]))
        with torch.no_grad():
            expected = [objective.model()(*batch.args) for batch in objective.batches("validation")]
        for ours, theirs in zip(objective.outputs[-1], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_measures_and_standard_errors(split: str) -> None:
    found = problem("none")
    objective = found.objective
    assert isinstance(objective, Given)
    evaluation = next(found.evaluate([Assignment({"head.weight": Format.parse("int8")})], split))
    scores = torch.cat(objective.outputs[-1]).double().mean(1)
    assert (evaluation.n, evaluation.split, evaluation.fidelity) == (11, split, 1.0)
    assert evaluation.measures["score"] == pytest.approx(scores.mean().item(), rel=1e-12)
    expected = math.sqrt(sum((x - scores.mean().item()) ** 2 for x in scores.tolist()) / 10 / 11)
    assert evaluation.stderr == {"score": pytest.approx(expected, rel=1e-9)}


def test_validation_and_test_differ() -> None:
    found = problem("none")
    validation, test = (next(found.evaluate([Assignment()], split)) for split in ("validation", "test"))
    assert validation.measures["checksum"] != test.measures["checksum"]


def test_costs_are_the_measures_without_a_forward_pass() -> None:
    found = problem()
    for assignment in asked():
        before = found.forwards
        costs = found.costs(assignment)
        assert found.forwards == before
        measures = next(found.evaluate([assignment])).measures
        assert costs == {name: value for name, value in measures.items() if name not in ("checksum", "score")}
    held = {"memory_bytes", "activation_sum_bytes", "activation_peak_bytes", "weight_bits", "activation_bits"}
    assert held | {"bops", "bops_baskin", "macs_bits"} == set(costs)


def test_forward_equivalents_grow_by_what_is_computed() -> None:
    found = make_problem(Net(), splits(images, 4, 4, 3), make_spec(quantization={"bias_correction": "none"}))
    start = found.forwards  # calibration: 7 images of 11
    assert start == pytest.approx(7 / 11, rel=0.01)
    list(found.evaluate([Assignment()]))
    assert found.forwards - start == pytest.approx(1.0, rel=0.01)
    last = found.space.choices[-1]
    assert last.name == "head.weight"
    before = found.forwards
    list(found.evaluate([Assignment({"head.weight": last.options[0]})]))
    assert 0 < found.forwards - before < 0.05, "only the head was computed again"
    before = found.forwards
    found.forget()
    list(found.evaluate([Assignment()]))
    assert found.forwards - before == pytest.approx(1.0, rel=0.01)


def raises(error: BaseException) -> Any:
    def metric(outputs: Any, targets: Any) -> Any:
        raise error

    return metric


@pytest.mark.parametrize(
    ("metric", "kind", "message"),
    [
        (raises(ValueError("no labels")), "error", "ValueError: no labels"),
        (raises(KeyError("logits")), "error", "KeyError: 'logits'"),
        (raises(AssertionError()), "error", "AssertionError: "),
        (raises(MemoryError()), "memory", "out of memory"),
        (lambda outputs, targets: {"score": math.nan}, "nan", "score is not a finite number"),
        (lambda outputs, targets: {"score": 1.0, "loss": -math.inf}, "nan", "loss is not a finite number"),
        (lambda outputs, targets: {"score": torch.tensor([1.0, math.nan])}, "nan", "score is not a finite number"),
        (lambda outputs, targets: {"score": "high"}, "error", "ValueError: could not convert"),
        (lambda outputs, targets: None, "error", "metric gave None; it gives a dict"),
    ],
    ids=["value", "key", "assertion", "memory", "nan", "infinity", "nan in a sample", "text", "nothing"],
)
def test_an_objective_that_fails_is_a_failed_evaluation(
    metric: Any, kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = perceptron(monkeypatch, metric)
    first, second = found.evaluate([Assignment(), asked_of(found)])
    for evaluation in (first, second):
        assert evaluation.failure is not None
        assert (evaluation.failure.kind, message in evaluation.failure.message) == (kind, True)
        assert (evaluation.measures, evaluation.stderr) == ({}, {})


@cache
def mlp() -> ModelProblem:
    return make_problem(Mlp(), splits(rows, 4))


def perceptron(monkeypatch: pytest.MonkeyPatch, metric: Any) -> ModelProblem:
    """One problem, scored by `metric` during a test."""
    monkeypatch.setattr(mlp(), "objective", Given(mlp().objective.model(), splits(rows, 4), metric))
    return mlp()


def asked_of(found: ModelProblem) -> Assignment:
    return found.space.sample(np.random.default_rng(0))


def test_a_stop_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = perceptron(monkeypatch, raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        list(found.evaluate([Assignment()]))


def test_one_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def metric(outputs: Any, targets: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise RuntimeError("once")
        return {"score": 1.0}

    seen: list[int] = []
    found = perceptron(monkeypatch, metric)
    failures = [e.failure for e in found.evaluate([Assignment(), asked_of(found), Assignment()])]
    assert [f is None for f in failures] == [True, False, True]


class FixesItsBatch(nn.Module):
    """Branches on the size of the batch; has an input that is no batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.lin = nn.Linear(6, 3)

    def forward(self, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        y = self.lin(x) + shift
        return {"logits": y if x.shape[0] == 5 else y.tanh(), "shift": shift}


def test_a_last_batch_of_another_size_is_padded_and_its_surplus_dropped() -> None:
    shift = randn(3, seed=9)

    def with_shift(*sizes: int, seed: int = 0) -> list[Batch]:
        return [Batch((*batch.args, shift), None, batch.n) for batch in rows(*sizes, seed=seed)]

    data: Data = {
        "calibration": with_shift(5, seed=100),
        "validation": with_shift(5, 2),
        "test": with_shift(3, seed=200),
    }
    found = make_problem(FixesItsBatch(), data, metric=lambda outputs, targets: {"score": 0.0})
    objective = found.objective
    assert isinstance(objective, Given)
    assert not found.limits
    for split, sizes in (("validation", [5, 2]), ("test", [3])):
        next(found.evaluate([Assignment()], split))
        outputs = objective.outputs[-1]
        assert [len(o["logits"]) for o in outputs] == sizes
        for output, batch in zip(outputs, data[split], strict=True):
            expected = objective.model().lin(batch.args[0]) + shift
            torch.testing.assert_close(output["logits"], expected.detach(), rtol=1e-5, atol=1e-6)
            assert torch.equal(output["shift"], shift)


def test_a_last_batch_of_another_size_needs_no_padding_where_the_export_allows() -> None:
    found = problem("none")
    evaluation = next(found.evaluate([Assignment()]))
    objective = found.objective
    assert isinstance(objective, Given)
    assert [len(o) for o in objective.outputs[-1]] == [4, 4, 3]
    assert evaluation.n == 11


def test_keywords_in_any_order() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(6, 3)

        def forward(self, *, x: Tensor, scale: Tensor) -> Tensor:
            return self.lin(x) * scale

    def batch(seed: int, keys: tuple[str, str]) -> Batch:
        inputs = {"x": randn(4, 6, seed=seed), "scale": randn(4, 3, seed=seed + 1)}
        return Batch((), None, 4, {key: inputs[key] for key in keys})

    data = {
        "calibration": [batch(0, ("x", "scale"))],
        "validation": [batch(2, ("x", "scale")), batch(4, ("scale", "x"))],
        "test": [batch(6, ("scale", "x"))],
    }
    found = make_problem(Keyed(), data)
    objective = found.objective
    assert isinstance(objective, Given)
    for split in ("validation", "test"):
        assert next(found.evaluate([Assignment()], split)).failure is None
        for output, given_batch in zip(objective.outputs[-1], data[split], strict=True):
            with torch.no_grad():
                torch.testing.assert_close(output, objective.model()(**given_batch.kwargs))


def test_a_graph_that_differs_from_the_model_is_refused() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x + torch.rand_like(x))

    with pytest.raises(ObjectiveFailed, match=r"differs from the model.*deterministic"):
        make_problem(Noisy(), splits(rows, 4))


def test_outputs_may_be_infinite_where_the_model_says_so() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x).masked_fill(torch.tensor([False, False, True]), -math.inf)

    def metric(outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {"score": torch.cat(outputs)[:, :2].mean(1)}

    data = splits(rows, 4)
    assert next(make_problem(Masked(), data, metric=metric).evaluate([Assignment()])).failure is None


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "gave no Batch"),
        ([(torch.ones(2, 6),)], "gave a tuple; each must be a Batch"),
        ([Batch((torch.ones(2, 6),), None, 0)], "gave a Batch of n=0; at least 1"),
        ([Batch((), None, 2, {"y": torch.ones(2, 6)})], "first batch of validation, raised TypeError"),
    ],
    ids=["none", "a tuple", "no samples", "what the model does not take"],
)
def test_batches_that_cannot_be_used(batches: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dict.fromkeys(("calibration", "validation", "test"), batches)
    monkeypatch.setattr(build_module, "make_objective", lambda spec: Given(Mlp(), data))
    with pytest.raises(ObjectiveFailed, match=re.escape(message)):
        build_module.build_problem(make_spec())


def test_a_model_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "make_objective", lambda spec: Given(3, {}))  # type: ignore[arg-type]
    with pytest.raises(ObjectiveFailed, match=r"gave int, not a torch\.nn\.Module"):
        build_module.build_problem(make_spec())


def test_kept_weights_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    make_problem(Net(), splits(images, 4)).save_weights(path)
    monkeypatch.setattr(build_module, "make_objective", lambda spec: Given(Mlp(), splits(rows, 4)))
    whole = path.read_bytes()
    for content in (whole, whole[:100], b""):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="not the weights of this model"):
            build_module.build_problem(make_spec(), path)


def test_values_that_no_grid_holds_name_their_site() -> None:
    class Infinite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.log(torch.relu(self.a(x)))).sigmoid()

    with pytest.raises(ObjectiveFailed):
        make_problem(Infinite(), splits(rows, 4))


def test_the_fingerprint_is_of_the_weights(tmp_path: Path) -> None:
    one, same_again, other = Mlp(), Mlp(), Mlp()
    other.a.weight.data[0, 0] += 1e-6
    prints = [make_problem(m, splits(rows, 4)).fingerprint for m in (one, same_again, other)]
    assert prints[0] == prints[1] != prints[2]
    found = make_problem(one, splits(rows, 4))
    found.save_weights(tmp_path / "weights.safetensors")
    kept = load_file(tmp_path / "weights.safetensors")
    assert model_module.fingerprint(kept) == found.fingerprint
    assert not found.keeps_weights
