"""The operations of message passing against formulas written by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import OneConv, Smooth, graph, perceptron
from torch import Tensor, nn
from torch_geometric import nn as pyg
from workloads import Call, listed, moved, only, sites

from mpsearch.core.assignment import Assignment
from mpsearch.cost.operations import operation_measures
from mpsearch.cost.workload import Kind

NODES, EDGES, CHANNELS = 12, 40, 8


def without_loops() -> tuple[Tensor, Tensor]:
    x, edges = graph(NODES, EDGES, CHANNELS)
    return x, edges[:, edges[0] != edges[1]]


def test_gcn() -> None:
    """N din dout + (E + N) dout; the gather reads E + N rows, the scatter writes N."""
    x, edges = without_loops()
    e = edges.shape[1] + NODES
    found = listed(OneConv(pyg.GCNConv(CHANNELS, 6)), x, edges)
    assert found.macs == NODES * CHANNELS * 6 + e * 6
    gather, scale, scatter = only(found, Kind.GATHER, Kind.SCALE, Kind.SCATTER)
    assert sites(found, scale) == ("conv:attention", "conv:message")
    assert moved(found, gather)[1] == {"conv:message": e * 6}
    assert gather.reads[0].elements == e * 6
    assert scatter.write is not None
    assert moved(found, scatter)[1] == {"conv:aggregate": NODES * 6}
    assert [a.elements for a in scatter.reads] == [e, e * 6]
    assert found.tensors[scatter.reads[0].tensor].float_bits == 64


class AggregateFirst(pyg.MessagePassing):
    """Weighted neighbours first, the linear layer after."""

    def __init__(self) -> None:
        super().__init__(aggr="add")
        self.lin = nn.Linear(CHANNELS, 6)

    def forward(self, x: Tensor, edges: Tensor, weight: Tensor) -> Tensor:
        return self.lin(self.propagate(edges, x=x, weight=weight))

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight[:, None] * x_j


def test_the_order_of_a_layer_is_read_off_its_graph() -> None:
    x, edges = without_loops()
    found = listed(AggregateFirst(), x, edges, torch.ones(edges.shape[1]))
    assert found.macs == edges.shape[1] * CHANNELS + NODES * CHANNELS * 6
    order = [o.kind for o in found.operations]
    assert order == [Kind.GATHER, Kind.SCALE, Kind.SCATTER, Kind.LINEAR]


@pytest.mark.parametrize("heads", [1, 3])
def test_gat(heads: int) -> None:
    x, edges = without_loops()
    e, out = edges.shape[1] + NODES, heads * 4
    found = listed(OneConv(pyg.GATConv(CHANNELS, 4, heads=heads)), x, edges)
    assert found.macs == NODES * CHANNELS * out + 2 * NODES * out + e * out
    vectors = [o for o in only(found, Kind.SCALE) if o.macs == NODES * out]
    assert [found.tensors[o.reads[o.weight or 0].tensor].name for o in vectors] == ["conv.att_src", "conv.att_dst"]
    assert sites(found, only(found, Kind.SCALE)[-1]) == ("conv:attention", "conv:message")


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (pyg.SAGEConv(CHANNELS, 4), 2 * NODES * CHANNELS * 4),
        (pyg.GINConv(perceptron(CHANNELS, 6)), NODES * (CHANNELS * 6 + 36)),
        (pyg.TransformerConv(CHANNELS, 4, heads=2), 4 * NODES * CHANNELS * 8 + 2 * EDGES * 8),
        (pyg.GATv2Conv(CHANNELS, 4, heads=2, add_self_loops=False), 2 * NODES * CHANNELS * 8 + 2 * EDGES * 8),
        (pyg.EdgeConv(perceptron(2 * CHANNELS, 4)), EDGES * (2 * CHANNELS * 4 + 16)),
        (pyg.AGNNConv(add_self_loops=False), 2 * EDGES * CHANNELS),
        (Smooth(), NODES * CHANNELS * 8),
    ],
    ids=["SAGE", "GIN", "Transformer", "GATv2", "EdgeConv", "AGNN", "own layer"],
)
def test_message_passing(layer: nn.Module, macs: int) -> None:
    """Messages that are only added up multiply nothing; a product of two vectors is a multiply-accumulate each."""
    found = listed(OneConv(layer), *graph(NODES, EDGES, CHANNELS))
    assert found.macs == macs
    assert only(found, Kind.GATHER)
    assert only(found, Kind.SCATTER)


def test_sparse_products_count_what_is_stored() -> None:
    def propagate(x: Tensor, edges: Tensor) -> Tensor:
        return torch.sparse_coo_tensor(edges, torch.ones(edges.shape[1]), (12, 12)) @ x

    found = listed(Call(propagate), *graph())
    (operation,) = found.operations
    assert (operation.kind, operation.macs) == (Kind.SPMM, 40 * 8)
    matrix = found.operand(operation, operation.weight)
    assert matrix is not None
    assert (matrix.elements, matrix.float_bits) == (40, 32 + 2 * 64)


def test_two_values_with_a_choice_each_are_two_tensors() -> None:
    """An aggregate, and the features that an activation function makes of it."""

    class Gcn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = pyg.GCNConv(8, 6, bias=False), pyg.GCNConv(6, 3, bias=False)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.conv2(F.relu(self.conv1(x, edges)), edges)

    model = Gcn()
    both = listed(model, *graph())
    assert {"conv1:aggregate", "conv2:feature"} <= {t.site for t in both.tensors}
    one = listed(model, *graph(), active=["conv2:feature"])
    assert "conv1:aggregate" not in {t.site for t in one.tensors}
    assert len(one.operations) == len(both.operations) - 1


def test_bops_of_a_graph_with_and_without_sites() -> None:
    """GAT's attention vectors have no site: they multiply in float32, whatever the values are."""
    x, edges = without_loops()
    e = edges.shape[1] + NODES
    found = listed(OneConv(pyg.GATConv(CHANNELS, 4, heads=2)), x, edges)
    chosen = {"conv.lin.weight": "int4", "conv:feature": "int8", "conv:attention": "int2", "conv:message": "int3"}
    bops = operation_measures(found)["bops"]
    expected = NODES * CHANNELS * 8 * 32 + 2 * NODES * 8 * 1024 + e * 8 * 6
    assert bops.measure(Assignment.parse(chosen)) == expected
    assert bops.measure(Assignment.parse({})) == found.macs * 1024
