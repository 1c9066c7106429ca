"""Graphs that are empty, tiny or wrong: they work, or a message says what to do before anything is searched."""

from __future__ import annotations

import pytest
import torch
from parts import Given, make_problem, make_spec
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.site import Role, Site
from mpsearch.graph.export import Example, export
from mpsearch.problem.inputs import Inputs
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch
from mpsearch.problem.rules import build_space

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 8, generator=GENERATOR)
EDGES = torch.randint(0, 12, (2, 40), generator=GENERATOR)
NONE = EDGES[:, :0]


class Net(nn.Module):
    """Two layers: one that adds a loop to each node, one that does not."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edges)
        return x


def make(net: Net, *validation: tuple[Tensor, Tensor], calibration: tuple[Tensor, Tensor] = (X, EDGES)) -> ModelProblem:
    data = {split: [Batch(graph, None, len(graph[0])) for graph in validation] for split in ("validation", "test")}
    data["calibration"] = [Batch(calibration, None, len(calibration[0]))]
    sites = [{"match": {"role": ["feature", "message", "aggregate"]}, "formats": ["int1", "int4"]}]
    return make_problem(net.eval(), data, make_spec(sites=sites))


def outputs(found: ModelProblem) -> list[Tensor]:
    """In float, and at every uniform assignment."""
    objective = found.objective
    assert isinstance(objective, Given)
    for assignment in (Assignment(), *found.space.uniform().values()):
        assert next(iter(found.evaluate([assignment]))).failure is None
    return [output for outputs in objective.outputs for output in outputs]


def test_a_graph_without_edges_and_a_single_node_are_run() -> None:
    found = outputs(make(Net(pyg.GATConv(8, 8), pyg.SAGEConv(8, 4)), (X[:1], NONE), (X, NONE)))
    assert len(found) == 6
    assert all(torch.isfinite(output).all() for output in found)


def test_features_that_are_all_zero_stay_zero_in_every_format() -> None:
    net, graph = Net(pyg.GATConv(8, 8), pyg.SAGEConv(8, 4)), (0 * X, EDGES)
    found = outputs(make(net, graph, calibration=graph))
    assert len(found) == 3
    assert all(torch.equal(output, net(*graph)) for output in found)


def test_messages_without_edges_are_refused() -> None:
    with pytest.raises(BadInput, match=r"'layers.0:message': calibration has no numbers .* leave the site out"):
        make(Net(pyg.SAGEConv(8, 4)), (X, EDGES), calibration=(X, NONE))


def test_edges_of_nodes_that_are_not_there_are_refused() -> None:
    net = Net(pyg.GATConv(8, 8), pyg.SAGEConv(8, 4)).eval()
    part = X[:9], EDGES[:, (EDGES < 9).all(0)]
    inputs = Inputs.of_graph(export(net, [Example((X, EDGES)), Example(part)]), Example((X, EDGES)))
    for graph in ((X, EDGES), part, (X, NONE)):
        assert inputs.of(Example(graph)) == ([*graph], 0)
    for graph, words in (
        ((X, EDGES.clamp(min=2) - 3), r"row [01] of edge_index names node -1, and there are 12 nodes"),
        ((X, EDGES + torch.tensor([[3], [0]])), r"row 0 of edge_index names node 1[2-4], .*; allowed are 0 to 11"),
        ((X, EDGES + torch.tensor([[0], [3]])), "row 1 of edge_index names node"),
        ((X[:9], EDGES), "there are 9 nodes"),
    ):
        with pytest.raises(BadInput, match=words):
            inputs.of(Example(graph))


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        (EDGES.float(), r"batch 0 of validation: .* torch.float32 of shape \(2, 40\)\. .* give edge_index.long\(\)"),
        (EDGES.t(), r"batch 0 of validation: .* of shape \(40, 2\)\. .* give edge_index.t\(\)"),
    ],
    ids=["not whole", "transposed"],
)
def test_what_is_no_edge_index_is_refused(edges: Tensor, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make(Net(pyg.SAGEConv(8, 4)), (X, edges))


def test_attention_that_no_layer_has_is_refused() -> None:
    sites = [Site("conv:feature", Role.FEATURE, (12, 8), 1), Site("conv:message", Role.MESSAGE, (40, 8), 1)]
    spec = make_spec(sites=[{"match": {"role": "attention"}, "formats": ["int4"]}])
    with pytest.raises(BadInput, match=r"of role attention matches no site\. Roles of this model: feature, message"):
        build_space(spec, sites, ())
