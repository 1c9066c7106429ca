"""Finetuning: equal to plain training where nothing is quantized, seeded, restored bit for bit, and refused by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from parts import Data, Given, Mlp, Net, images, make_spec, randn, rows, splits
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, Diverged
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.problem.base import Step
from mpsearch.problem.build import assemble
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch, Scores
from mpsearch.spec.schema import Recipe

NO_CORRECTION = {"quantization": {"bias_correction": "none"}}


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


def problem_of(model: nn.Module, data: Data, kind: type[Given] = Labelled) -> ModelProblem:
    data = labelled(data)
    spec = make_spec(("int2", "int4", "int8", "fp32"), goals=[{"name": "log_loss"}], **NO_CORRECTION)
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


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_in_float_equals_training_of_the_module(optimizer: str) -> None:
    model = Net()
    problem = problem_of(model, splits(images, 60, 40), Pictures)
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


def test_before_training_it_scores_what_the_search_scores(mlp: ModelProblem) -> None:
    assignment = assigned(mlp, "int4", "fp32")
    trained = mlp.finetune(assignment, Recipe(epochs=1, learning_rate=1e-12, steps="fitted"), seed=0)
    searched = next(iter(mlp.evaluate([assignment]))).measures["log_loss"]
    assert trained.history[0].validation_loss == pytest.approx(searched, rel=1e-5)
    assert trained.history[0].training_loss is None


@pytest.mark.parametrize("steps", ["learned", "fitted"])
def test_the_same_seed_trains_the_same_and_restores_bit_for_bit(mlp: ModelProblem, steps: str) -> None:
    assignment = assigned(mlp, "int2", "int4")
    recipe = Recipe(epochs=4, learning_rate=0.02, steps=steps)
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


def test_patience_ends_training_early(mlp: ModelProblem) -> None:
    seen: list[Step] = []
    recipe = Recipe(epochs=50, learning_rate=5.0, patience=2, optimizer="sgd", steps="fitted")
    trained = mlp.finetune(assigned(mlp, "int8"), recipe, 0, watch=seen.append)
    assert len(trained.history) - 1 == trained.best + 2 < 51
    assert [(p.epoch, p.step) for p in seen[:4]] == [(1, 1), (1, 2), (1, 3), (2, 1)]


def test_divergence_names_the_step() -> None:
    class Broken(Labelled):
        broken_from = 1

    problem = problem_of(Mlp(), splits(rows, 60, 40), Broken)
    with pytest.raises(Diverged, match="the loss was nan at step 1 of epoch 2"):
        problem.finetune(assigned(problem, "int4"), Recipe(epochs=3), 0)


def test_an_objective_without_training_is_refused_by_what_it_lacks() -> None:
    class NoData(Given):
        def loss(self, output: Tensor, batch: Batch) -> Tensor:
            return output.sum()

    with pytest.raises(BadInput, match=r"Given cannot be trained: .*loss\(output, batch\) and training_batches"):
        problem_of(Mlp(), splits(rows, 4), Given).require_training()
    with pytest.raises(BadInput, match=r"define training_batches\(epoch\); write"):
        problem_of(Mlp(), splits(rows, 4), NoData).require_training()
