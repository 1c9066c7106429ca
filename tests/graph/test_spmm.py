"""Gather, multiply, scatter-add as one sparse product."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs import Rig, calls, rig
from tiny_models import OneConv, TwoLayerGcn, graph, perceptron, randn
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.graph.spmm import adjacency, product

X, EDGES = graph()


@settings(max_examples=30)
@given(
    edges=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=25),
    weighted=st.sampled_from(("none", "vector", "column")),
    seed=st.integers(0, 99),
)
def test_product_equals_gather_multiply_scatter(edges: list[tuple[int, int]], weighted: str, seed: int) -> None:
    """Isolated nodes, parallel edges, self loops, no edges at all; 5 sources and 7 targets."""
    source, target = (torch.tensor([e[i] for e in edges], dtype=torch.int64) for i in (0, 1))
    values, weight = randn(5, 3, seed=seed), randn(len(edges), seed=seed + 1)
    given_weight = {"none": None, "vector": weight, "column": weight[:, None]}[weighted]
    messages = values[source] * (1 if given_weight is None else weight[:, None])
    expected = torch.zeros(7, 3).index_add_(0, target, messages)
    ours = product(adjacency(source, target, given_weight, 7, 5), values)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


class Weighted(nn.Module):
    """A GCN layer with edge weights that the model itself computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.score = pyg.GCNConv(8, 4), nn.Linear(8, 1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        strength = torch.sigmoid(self.score(x))[edge_index[0], 0]
        return self.conv(x, edge_index, strength)


FUSIBLE: dict[str, tuple[nn.Module, int]] = {
    "GCN": (TwoLayerGcn(), 2),
    "GCN, live weights": (Weighted(), 1),
    "SAGE": (OneConv(pyg.SAGEConv(8, 4)), 1),
    "SAGE sum": (OneConv(pyg.SAGEConv(8, 4, aggr="sum")), 1),
    "GIN": (OneConv(pyg.GINConv(perceptron(8, 4))), 1),
    "GraphConv": (OneConv(pyg.GraphConv(8, 4)), 1),
}
WHOLE: dict[str, nn.Module] = {
    "largest": OneConv(pyg.SAGEConv(8, 4, aggr="max")),
    "heads": OneConv(pyg.GATConv(8, 4, heads=2)),
    "on edges": OneConv(pyg.EdgeConv(perceptron(16, 4))),
    "activated": OneConv(pyg.GINEConv(perceptron(8, 4), edge_dim=8)),
}


def fused(model: nn.Module, active: Iterable[str] = (), *more: Tensor) -> Rig:
    return rig(model, (X, EDGES, *more), active=active)


@pytest.mark.parametrize("name", FUSIBLE)
def test_fused_equals_the_unfused_graph(name: str) -> None:
    model, count = FUSIBLE[name]
    found = fused(model)
    assert calls(found.program).count("product") == count
    torch.testing.assert_close(found.run({})[0], found.replay[0][0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_such_product_stays(name: str) -> None:
    found = fused(WHOLE[name], (), *([randn(40, 8)] if name == "activated" else []))
    assert "product" not in calls(found.program)
    torch.testing.assert_close(found.run({})[0], found.replay[0][0], rtol=0, atol=0)


def test_a_message_with_a_choice_is_not_fused_away() -> None:
    with_messages = fused(TwoLayerGcn(), ["conv1:message"])
    assert calls(with_messages.program).count("product") == 1, "the second layer's alone"
    assert "index_select.default" in calls(with_messages.program)
    assert not torch.equal(with_messages.run({"conv1:message": "int2"})[0], with_messages.run({})[0])


def test_an_attention_with_a_choice_is_in_the_matrix() -> None:
    found = fused(TwoLayerGcn(), ["conv1:attention", "conv2:attention"])
    whole = fused(TwoLayerGcn(), ["conv1:attention", "conv2:attention", "conv1:message", "conv2:message"])
    texts = {"conv1:attention": "int3", "conv2:attention": "int2"}
    assert calls(found.program).count("product") == 2
    torch.testing.assert_close(found.run(texts)[0], whole.run(texts)[0], rtol=1e-5, atol=1e-6)


def test_the_matrix_is_made_once_while_only_features_change() -> None:
    found = fused(TwoLayerGcn(), ["conv1:feature", "conv1.lin.weight"])
    matrices = [s for s in found.program.steps if getattr(s.call, "__name__", "") == "adjacency"]
    assert len(matrices) in (1, 2)
    assert not any(step.upstream for step in matrices)


class Readout(nn.Module):
    """A graph-level model: convolution, pooling by graph, classification."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lin = pyg.GCNConv(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, graphs: Tensor) -> Tensor:
        pooled = pyg.global_mean_pool(self.conv(x, edge_index).relu(), batch, graphs.shape[0])
        return self.lin(pooled)


def batch_of_graphs(graphs: int, seed: int) -> tuple[Tensor, ...]:
    x, edge_index = graph(4 * graphs, 11 * graphs, seed=seed)
    return x, edge_index, torch.arange(4 * graphs) // 4, torch.zeros(graphs)


def test_sizes_may_be_symbols() -> None:
    """Batches of different numbers of nodes, edges and graphs run through one graph."""
    torch.manual_seed(0)
    batches = [batch_of_graphs(graphs, seed) for seed, graphs in enumerate((5, 3, 6))]
    found = rig(Readout(), *batches, active=["conv:feature", "lin.weight"])
    assert "product" in calls(found.program)
    machine = found.machine()
    for index, inputs in enumerate(batches):
        with torch.no_grad():
            expected = found.model(*inputs)
        ours = machine.run(found.formats({}), index)[0]
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(machine.run(found.formats({"conv:feature": "int2"}), index)[0], ours)
