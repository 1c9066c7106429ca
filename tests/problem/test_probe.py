"""The probe of a real problem: single samples, errors on deployed grids, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parts import Data, Given, Mlp, Net, images, make_problem, make_spec, randn, rows, splits
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32
from mpsearch.engine.proxies import hypervolumes
from mpsearch.engine.run import run
from mpsearch.problem.base import Problem
from mpsearch.problem.build import assemble
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.model_probe import ModelProbe
from mpsearch.problem.objective import Batch
from mpsearch.spec.schema import Spec
from mpsearch.testing.toy import Toy

FORMATS = ("int2", "int4", "int8", "fp32")


class Labelled(Given):
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output, batch.target)


class Paired(Given):
    """Compares the first half of the outputs with the second, so that no sample has a loss of its own."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        first, second = output.chunk(2)
        return ((first * second).sum(1) - batch.target).square().mean()


def labelled(data: Data, classes: int = 3) -> Data:
    """The same batches with a label for each row."""

    def label(batch: Batch) -> Batch:
        return Batch(batch.args, torch.arange(batch.n) % classes, batch.n)

    return {split: [label(batch) for batch in found] for split, found in data.items()}


def probe_of(model: nn.Module, data: Data, objective: type[Given] = Labelled) -> ModelProbe:
    problem = make_problem(model, data, make_spec(FORMATS))
    return ModelProbe(objective(model, data), problem.runner, problem.space, data["calibration"])


class Neighbours(nn.Module):
    """Every row reads the others, as nodes of a graph do; outputs are more than there are samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.b(x + x.mean(0))


class Nodes(Labelled):
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        nodes, labels = batch.target
        return F.cross_entropy(output[nodes], labels)


def nodes() -> Data:
    x, scored = randn(9, 6), torch.tensor([1, 4, 5, 8])
    batch = Batch((x,), (scored, scored % 3), 4)
    return {split: [batch] for split in ("calibration", "validation", "test")}


def fisher_by_hand(model: nn.Module, data: Data, objective: type[Given], name: str) -> Tensor:
    """Mean over samples of the squared gradient, one sample after another."""
    parameter, found = model.get_parameter(name), []
    for batch in data["calibration"]:
        for j in range(batch.n):
            output, target = model(*batch.args), batch.target
            if objective is Nodes:
                loss = F.cross_entropy(output[target[0][j : j + 1]], target[1][j : j + 1])
            else:
                loss = F.cross_entropy(output[j : j + 1], target[j : j + 1])
            found.append(torch.autograd.grad(loss, parameter)[0] ** 2)
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("case", ["rows", "images", "nodes"])
def test_fisher_is_of_single_samples(case: str) -> None:
    model, data, objective = {
        "rows": (Mlp(), labelled(splits(rows, 4, 3)), Labelled),
        "images": (Net(), labelled(splits(images, 4, 3)), Labelled),
        "nodes": (Neighbours(), nodes(), Nodes),
    }[case]
    problem = make_problem(model, data, make_spec(FORMATS))
    probe = ModelProbe(objective(model, data), problem.runner, problem.space, data["calibration"])
    means, weighed = probe.mean_fisher(), probe.fisher_errors()
    site_of = {site.name: i for i, site in enumerate(problem.runner.interpreter.program.sites)}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        by_hand = fisher_by_hand(model, data, objective, name)
        assert means[name] == pytest.approx(float(by_hand.mean()), rel=1e-3)
        options = problem.space.choice_of[name].options
        moved = [problem.runner.interpreter.grids.parameter(site_of[name], fmt) - parameter for fmt in options]
        assert weighed[name] == pytest.approx([float((by_hand * m.square()).sum()) for m in moved], rel=1e-3)
        assert weighed[name][-1] == 0  # float


def test_fisher_of_a_value_is_that_of_the_mean_loss() -> None:
    """Of the input of the last layer of an MLP: g_j = W^T (p_j - y_j), each row its own sample."""
    model, data = Mlp(), labelled(splits(rows, 4, 3))
    probe = probe_of(model, data)
    squares, elements = 0.0, 0
    for batch in data["calibration"]:
        p = model(*batch.args).softmax(1) - F.one_hot(batch.target, 3)
        squares += float((p @ model.c.weight).square().sum())
        elements += batch.n * 16
    samples = sum(batch.n for batch in data["calibration"])
    assert probe.mean_fisher()["c:in"] == pytest.approx(squares / elements / samples, rel=1e-3)


def test_errors_fall_with_bits_and_are_those_of_the_deployed_grid() -> None:
    model, data = Net(), labelled(splits(images, 4, 3))
    problem = make_problem(model, data, make_spec(FORMATS))
    errors = ModelProbe(Labelled(model, data), problem.runner, problem.space, data["calibration"]).squared_errors()
    assert set(errors) == {site for choice in problem.space.choices for site in choice.sites}
    program, grids = problem.runner.interpreter.program, problem.runner.interpreter.grids
    for i, site in enumerate(program.sites):
        assert np.all(np.diff(errors[site.name]) < 0)
        assert errors[site.name][-1] == 0
        if site.role.is_parameter:
            options = problem.space.choice_of[site.name].options
            expected = [
                0.0 if fmt == FP32 else float((grids.parameter(i, fmt) - program.tensors[site.name]).square().sum())
                for fmt in options
            ]
            assert errors[site.name] == pytest.approx(expected, rel=1e-5)


def test_traces_come_with_their_errors_and_repeat_themselves() -> None:
    probe = probe_of(Mlp(), labelled(splits(rows, 4, 3)))
    one, again = (probe.mean_traces(5, 1e-9, 16, 48) for _ in range(2))
    assert one == again
    assert set(one) == {"a.weight", "b.weight", "c.weight"}
    assert {e.draws for e in one.values()} == {48}
    assert {e.draws for e in probe.mean_traces(5, 1e9, 16, 48).values()} == {16}
    assert all(e.stderr > 0 for e in one.values())
    last = one["c.weight"]  # the loss is convex in the last layer
    assert last.mean > 0


def test_a_loss_that_joins_samples_is_refused_only_where_samples_are_needed() -> None:
    batch = Batch((randn(6, 6),), torch.zeros(3), 3)
    data: Data = {split: [batch] for split in ("calibration", "validation", "test")}
    probe = probe_of(Mlp(), data, Paired)
    assert probe.mean_traces(0, 0.5, 16, 16)
    with pytest.raises(BadInput, match=r"single sample.*sensitivity"):
        probe.mean_fisher()


@pytest.mark.parametrize("driver", ["hessian", "fisher", "sensitivity"])
def test_a_whole_run_on_a_real_model(driver: str, tmp_path: Path) -> None:
    model, data = Net().eval(), labelled(splits(images, 4, 3))
    options = {"probes": 16} if driver == "hessian" else {}
    spec = make_spec(driver={"use": driver, "budget": 25, "options": options}, tracking={"enabled": False})

    def build(spec: Spec, weights: Path | None) -> ModelProblem:
        del weights
        return assemble(spec, Labelled(model, data), model, data, torch.device("cpu"))

    result = run(spec, tmp_path / "run", build=build, show_progress=False, bare=True)
    assert result.status == "complete"
    assert result.failed == 0
    assert sum(e.asked_by.startswith(driver) for e in result.evaluations) >= 10
    assert set(hypervolumes(result)) == (set() if driver == "sensitivity" else {"proxy", "constant", "random"})


def test_no_loss_no_gradients() -> None:
    problem = make_problem(Mlp(), splits(rows, 4, 3))
    with pytest.raises(BadInput, match=r"defines no loss.*sensitivity"):
        problem.probe().require_loss()
    assert problem.probe() is problem.probe()
    assert problem.probe().squared_errors()  # needs none


def test_where_there_is_no_graph_there_is_no_probe() -> None:
    class Branches(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > -1e9 else x

    problem = make_problem(Branches(), splits(rows, 4, 3))
    assert problem.limits
    with pytest.raises(BadInput, match=r"module hooks.*sensitivity"):
        problem.probe()
    with pytest.raises(BadInput, match="frontier or sensitivity"):
        Problem.probe(Toy())


class Reader(nn.Module):
    """An LSTM read at its last step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def test_errors_of_a_state_are_those_of_all_its_steps() -> None:
    def sequences(*sizes: int, seed: int = 0) -> list[Batch]:
        return [Batch((randn(n, 6, 4, seed=seed + i),), None, n) for i, n in enumerate(sizes)]

    data = labelled(splits(sequences, 3))
    model = Reader()
    probe = probe_of(model, data)
    problem = make_problem(model, data, make_spec(FORMATS))
    with torch.no_grad():
        states = [model.rnn(batch.args[0])[0] for batch in data["calibration"]]
    site = [site.name for site in problem.runner.interpreter.program.sites].index("rnn:hidden_l0")
    options = next(c.options for c in problem.space.choices if "rnn:hidden_l0" in c.sites)
    for fmt, found in zip(options, probe.squared_errors()["rnn:hidden_l0"], strict=True):
        grid = None if fmt == FP32 else problem.runner.interpreter.grids.grid(site, fmt)
        missed = [torch.zeros(1) if grid is None else grid.round_trip(x) - x for x in states]
        assert found == pytest.approx(sum(float(x.square().sum()) for x in missed), rel=1e-4, abs=1e-9)
    fisher = probe.mean_fisher()
    assert fisher["rnn:hidden_l0"] > 0
    assert fisher["rnn:cell_l0"] > 0
