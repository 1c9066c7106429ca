"""Models that cannot be exported run by module hooks: the same results, fewer features, said aloud."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parts import Data, Given, Mlp, Net, images, make_problem, make_spec, randn, rows, splits
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.graph.export import ExportError
from mpsearch.graph.hooks import LIMITS
from mpsearch.problem import graphed
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch

PLAIN = {"quantization": {"bias_correction": "none"}}
EVERY_BIT = ("int1", "int2", "int4", "int8", "fp16", "fp32")


def both(model: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelProblem, ModelProblem]:
    """The same problem on the exported graph and by hooks."""
    spec = make_spec(EVERY_BIT, **PLAIN)
    graph = make_problem(model, data, spec)

    def refuse(*_: Any) -> None:
        raise ExportError("Net cannot be exported: this is a test.")

    monkeypatch.setattr(graphed, "export", refuse)
    return graph, make_problem(model, data, spec)


def outputs(problem: ModelProblem, assignment: Assignment) -> Tensor:
    assert next(problem.evaluate([assignment])).failure is None
    assert isinstance(problem.objective, Given)
    return torch.cat(list(problem.objective.outputs[-1]))


@pytest.mark.parametrize(("model", "make"), [(Mlp(), rows), (Net(), images)], ids=["mlp", "cnn"])
def test_both_paths_agree(model: nn.Module, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, hooks = both(model, splits(make, 4, 3), monkeypatch)
    assert graph.limits == ()
    assert hooks.limits == ("Net cannot be exported: this is a test. Falling back to module hooks.", *LIMITS)
    assert {s.name: (s.role, s.shape, s.axis) for s in graph.sites} == {
        s.name: (s.role, s.shape, s.axis) for s in hooks.sites
    }
    assert graph.space == hooks.space
    choices = graph.space.choices
    mixed = [graph.space.decode([(i + shift) % 6 for i in range(len(choices))]) for shift in range(6)]
    alone = [Assignment({choice.name: choice.options[1]}) for choice in choices]
    for assignment in [Assignment(), *graph.space.uniform().values(), *mixed, *alone]:
        torch.testing.assert_close(outputs(graph, assignment), outputs(hooks, assignment), rtol=1e-4, atol=1e-5)
        ours, theirs = graph.costs(assignment), hooks.costs(assignment)
        assert ours["memory_bytes"] == theirs["memory_bytes"]
        assert ours["weight_bits"] == theirs["weight_bits"]
        assert "activation_peak_bytes" not in theirs


def test_hooks_find_linear_layers_exactly_where_the_graph_does(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, hooks = both(Mlp(), splits(rows, 4), monkeypatch)
    for assignment in graph.space.uniform().values():
        assert torch.equal(outputs(graph, assignment), outputs(hooks, assignment))


def test_every_hook_site_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    _, hooks = both(Net(), splits(images, 4), monkeypatch)
    base = outputs(hooks, Assignment())
    for choice in hooks.space.choices:
        assert not torch.equal(outputs(hooks, Assignment({choice.name: choice.options[0]})), base), choice.name
    assert torch.equal(outputs(hooks, Assignment()), base), "nothing sticks to the model"


def test_forwards_count_whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    _, hooks = both(Mlp(), splits(rows, 4, 3), monkeypatch)
    before = hooks.forwards
    list(hooks.evaluate([Assignment(), Assignment()]))
    assert hooks.forwards - before == 2


X, EDGES = randn(12, 8), torch.randint(0, 12, (2, 40), generator=torch.Generator().manual_seed(1))


class Relational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.lin = pyg.RGCNConv(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.lin(self.conv(x, edges, edges[0] % 3).relu())


class Selecting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.pool, self.out = nn.Linear(8, 8), pyg.TopKPooling(8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.out(self.pool(self.lin(x), edges)[0])


class Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        return self.out(pyg.global_mean_pool(self.lin(x), batch))


@pytest.mark.parametrize(
    ("model", "second", "named"),
    [
        (Relational(), EDGES, "module 'conv' (RGCNConv)"),
        (Selecting(), EDGES, "module 'pool.select' (SelectTopK)"),
        (Pooling(), torch.arange(12) // 4, "Pooling"),
    ],
    ids=["RGCN", "TopK", "pooling without size"],
)
def test_what_does_not_export_falls_back_and_says_so(
    model: nn.Module, second: Tensor, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = {split: [Batch((X + i, second), None, 12)] for i, split in enumerate(("calibration", "validation", "test"))}
    found = make_problem(model, data)
    assert capfd.readouterr() == ("", "")  # torch would print the graph that it could not finish
    assert named in found.limits[0]
    assert found.limits[0].endswith(" Falling back to module hooks.")
    assert found.limits[1:] == LIMITS
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert {f"{name}{end}" for name in linear for end in (":in", ".weight")} <= {s.name for s in found.sites}
    with torch.no_grad():
        assert torch.equal(outputs(found, Assignment()), model(X + 1, second))
    narrow = next(iter(found.space.uniform().values()))
    assert not torch.equal(outputs(found, narrow), outputs(found, Assignment()))
    assert found.costs(narrow)["memory_bytes"] < found.costs(Assignment())["memory_bytes"]


def test_tied_weights_are_one_site_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens).relu())

    tokens = torch.arange(8).reshape(2, 4)
    data = {split: [Batch((tokens,), None, 2)] for split in ("calibration", "validation", "test")}
    graph, hooks = both(Tied(), data, monkeypatch)
    assignment = Assignment.parse({"table.weight": "int4"})
    for found in (graph, hooks):
        assert [s.name for s in found.sites if s.role.is_parameter] == ["table.weight"]
        assert found.costs(Assignment())["memory_bytes"] == 9 * 4 * 4
        assert found.costs(assignment)["memory_bytes"] == 9 * 4 // 2 + 9 * 4
    torch.testing.assert_close(outputs(graph, assignment), outputs(hooks, assignment), rtol=1e-5, atol=1e-6)
