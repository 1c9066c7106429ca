"""Finetuning: equal to plain training where nothing is quantized, seeded, restored bit for bit, and refused by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from parts import Data, Given, Mlp, Net, images, make_spec, randn, rows, splits
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, Diverged, ObjectiveFailed
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.problem.base import Step
from mpsearch.problem.build import assemble
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch, Scores
from mpsearch.problem.trained import Trained
from mpsearch.problem.trainer import divergence, refuse_to_train
from mpsearch.spec.schema import Recipe


class Labelled(Given):
    """Which of the first three inputs is largest; training rows of its own, another order in each epoch."""

    size = (6,)
    broken_from = math.inf

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output, batch.target)

    def metric(self, outputs: Iterable[Tensor], targets: Iterable[Tensor]) -> Scores:
        losses = [F.cross_entropy(o, t, reduction="none") for o, t in zip(outputs, targets, strict=True)]
        return {"log_loss": torch.cat(losses)}

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        x = randn(40, *self.size, seed=50)
        labels = largest(x)
        if epoch >= self.broken_from:
            x = x * math.nan
        for part in torch.randperm(40, generator=torch.Generator().manual_seed(epoch)).split(16):
            yield Batch((x[part],), labels[part], len(part))


class Pictures(Labelled):
    size = (3, 6, 6)


def largest(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :3].argmax(1)


def labelled(data: Data) -> Data:
    return {s: [Batch(b.args, largest(*b.args), b.n) for b in found] for s, found in data.items()}


def problem_of(model: nn.Module, data: Data, kind: type[Given] = Labelled, correction: str = "none") -> ModelProblem:
    data = labelled(data)
    spec = make_spec(
        ("int2", "int4", "int8", "fp32"), goals=[{"name": "log_loss"}], quantization={"bias_correction": correction}
    )
    return assemble(spec, kind(model.eval(), data), model.eval(), data, torch.device("cpu"))


def assigned(problem: ModelProblem, text: str, values: str | None = None) -> Assignment:
    """`text` at parameters, `values` (or the same) at the other sites."""
    return Assignment(
        {
            s.name: Format.parse(text if s.role.is_parameter else values or text)
            for s in problem.sites
            if s.name in problem.space.choice_of
        }
    )


@pytest.fixture(scope="module")
def mlp() -> ModelProblem:
    return problem_of(Mlp(), splits(rows, 60, 40))


@pytest.fixture(scope="module")
def net() -> ModelProblem:
    return problem_of(Net(), splits(images, 60, 40), Pictures)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_in_float_equals_training_of_the_module(net: ModelProblem, optimizer: str) -> None:
    problem, model = net, Net()
    recipe = Recipe(epochs=3, optimizer=optimizer, learning_rate=0.02, weight_decay=0.01)
    trained = problem.finetune(Assignment(), recipe, seed=0)
    ours = copy.deepcopy(model).train()
    kind = {"sgd": lambda p: torch.optim.SGD(p, 1.0, 0.9, weight_decay=0.01), "adam": None}[optimizer]
    step = kind(ours.parameters()) if kind else torch.optim.Adam(ours.parameters(), weight_decay=0.01)
    states = [copy.deepcopy(ours.state_dict())]
    for epoch, rate in enumerate((0.02, 0.02 * 0.505, 0.02 * 0.01)):  # half a cosine, down to a hundredth
        for group in step.param_groups:
            group["lr"] = rate
        for batch in problem.objective.training_batches(epoch):
            step.zero_grad()
            F.cross_entropy(ours(*batch.args), batch.target).backward()
            step.step()
        states.append(copy.deepcopy(ours.state_dict()))
    assert len(trained.history) == 4
    assert set(trained.tensors) == set(states[0])
    for name, tensor in states[trained.best].items():
        torch.testing.assert_close(trained.tensors[name], tensor, rtol=1e-4, atol=1e-5)
    model.load_state_dict(states[trained.best])
    with torch.no_grad():
        losses = [F.cross_entropy(model(*b.args), b.target) * b.n for b in problem._batches["validation"]]
    wanted = float(sum(losses)) / 100
    assert problem.evaluate_trained(trained).measures["log_loss"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("correction", ["none", "sequential"])
def test_before_training_it_scores_what_the_search_scores(correction: str) -> None:
    mlp = problem_of(Mlp(), splits(rows, 60, 40), correction=correction)
    assignment = assigned(mlp, "int2", "fp32")
    trained = mlp.finetune(assignment, Recipe(epochs=1, learning_rate=1e-12, method="ste"), seed=0)
    searched = next(iter(mlp.evaluate([assignment]))).measures["log_loss"]
    assert trained.history[0].validation_loss == pytest.approx(searched, rel=1e-5)
    assert trained.history[0].training_loss is None


@pytest.mark.parametrize("method", ["lsq", "ste"])
def test_the_same_seed_trains_the_same_and_restores_bit_for_bit(mlp: ModelProblem, method: str) -> None:
    assignment = assigned(mlp, "int2", "int4")
    recipe = Recipe(epochs=4, learning_rate=0.02, method=method)
    goal = Goal("log_loss")
    one = mlp.finetune(assignment, recipe, 3, goal)
    mlp.finetune(assigned(mlp, "int8"), recipe, 3, goal)  # leaves nothing behind
    two = mlp.finetune(assignment, recipe, 3, goal)
    assert one.history == two.history
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    assert one.best > 0
    assert one.history[one.best].score == min(epoch.score for epoch in one.history)
    done = mlp.evaluate_trained(one)
    assert done.measures["log_loss"] == pytest.approx(one.history[one.best].score, abs=1e-12)
    assert done.recipe == recipe.digest
    assert done.measures["memory_bytes"] == next(iter(mlp.evaluate([assignment]))).measures["memory_bytes"]


def test_distillation_alone_minds_the_float_model_and_no_label(mlp: ModelProblem) -> None:
    still = Recipe(epochs=2, optimizer="sgd", learning_rate=0.1, distill=1.0)
    alike = mlp.finetune(Assignment(), still, 0).history
    assert max(abs(epoch.training_loss or 0.0) for epoch in alike) < 1e-6
    recipe = Recipe(epochs=6, learning_rate=0.01, distill=1.0)
    apart = [epoch.training_loss or 0.0 for epoch in mlp.finetune(assigned(mlp, "int2"), recipe, 0).history[1:]]
    assert 0 < apart[-1] < 0.9 * apart[0]


@given(temperature=st.floats(0.05, 20))
def test_the_divergence_at_a_temperature_against_its_definition(temperature: float) -> None:
    ours, theirs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = ((x / temperature).softmax(-1) for x in (theirs, ours))
    defined = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(divergence([ours], [theirs], temperature), defined)
    for far in (100.0, 200.0):  # there half the mean square of what logits differ by, their mean apart
        apart = (theirs - ours - (theirs - ours).mean(-1, keepdim=True)).square().mean(-1).mean() / 2
        torch.testing.assert_close(divergence([ours], [theirs], far), apart, rtol=2 / far, atol=0)


def test_patience_ends_training_early(mlp: ModelProblem) -> None:
    seen: list[Step] = []
    recipe = Recipe(epochs=50, learning_rate=5.0, patience=2, optimizer="sgd", method="ste")
    trained = mlp.finetune(assigned(mlp, "int8"), recipe, 0, watch=seen.append)
    assert len(trained.history) - 1 == trained.best + 2 < 51
    assert [(p.epoch, p.step) for p in seen[:4]] == [(1, 1), (1, 2), (1, 3), (2, 1)]


def test_divergence_names_the_step(mlp: ModelProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Labelled, "broken_from", 1)
    with pytest.raises(Diverged, match="the loss was nan at step 1 of epoch 2"):
        mlp.finetune(assigned(mlp, "int4"), Recipe(epochs=3), 0)


def test_an_objective_without_training_is_refused_by_what_it_lacks() -> None:
    class NoData(Given):
        def loss(self, output: Tensor, batch: Batch) -> Tensor:
            return output.sum()

    with pytest.raises(BadInput, match=r"Given cannot be trained: .*loss\(output, batch\) and training_batches"):
        refuse_to_train(Given(Mlp(), {}))
    with pytest.raises(BadInput, match=r"define training_batches\(epoch\); write"):
        refuse_to_train(NoData(Mlp(), {}))


def test_a_loss_that_raises_is_the_objectives_failure(mlp: ModelProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Labelled, "loss", lambda self, output, batch: output)
    with pytest.raises(ObjectiveFailed, match="must be a tensor without axes"):
        mlp.finetune(Assignment(), Recipe(epochs=1), 0)
    monkeypatch.setattr(Labelled, "loss", lambda self, output, batch: output @ output)
    with pytest.raises(ObjectiveFailed, match="loss raised RuntimeError"):
        mlp.finetune(Assignment(), Recipe(epochs=1), 0)


def test_a_file_restores_a_member_and_another_is_refused(mlp: ModelProblem, tmp_path: Path) -> None:
    trained = mlp.finetune(assigned(mlp, "int2", "int4"), Recipe(epochs=2, learning_rate=0.02), 1)
    trained.save(tmp_path / "weights.safetensors")
    again = Trained.load(tmp_path / "weights.safetensors")
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "weights.safetensors").read_bytes()
    assert (again.assignment, again.recipe, again.history) == (trained.assignment, trained.recipe, trained.history)
    wanted = mlp.evaluate_trained(trained, "test").measures
    assert mlp.evaluate_finetuned(tmp_path / "weights.safetensors", "test").measures == wanted
    (tmp_path / "other").write_bytes(b"no weights")
    with pytest.raises(BadInput, match="not the weights of a finetuned member"):
        Trained.load(tmp_path / "other")
