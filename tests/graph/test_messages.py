"""The parts of message-passing layers, read off the graph: which value is what, by their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rigs import Rig, rig
from tiny_models import OneConv, Smooth, TwoLayerGcn, graph, perceptron
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.site import Role

X, EDGES = graph()
PARTS = ("feature", "message", "attention", "aggregate")


def parts(found: Rig) -> dict[str, tuple[Role, tuple[int, ...]]]:
    roles = {Role(part) for part in (*PARTS, "score")}
    return {s.name: (s.role, s.shape) for s in found.discovery.sites if s.role in roles}


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: pyg.GCNConv(8, 6), {"feature": (12, 8), "message": (52, 6), "attention": (52,), "aggregate": (12, 6)}),
        (
            lambda: pyg.GATConv(8, 4, heads=2),
            {
                "feature": (12, 8),
                "message": (52, 2, 4),
                "score": (52, 2),
                "attention": (52, 2),
                "aggregate": (12, 2, 4),
            },
        ),
        (
            lambda: pyg.GATv2Conv(8, 4, heads=2),
            {
                "feature": (12, 8),
                "message": (52, 2, 4),
                "score": (52, 2),
                "attention": (52, 2),
                "aggregate": (12, 2, 4),
            },
        ),
        (lambda: pyg.SAGEConv(8, 4), {"feature": (12, 8), "message": (40, 8), "aggregate": (12, 8)}),
        (
            lambda: pyg.TransformerConv(8, 4, heads=2),
            {
                "feature": (12, 8),
                "message": (40, 2, 4),
                "score": (40, 2),
                "attention": (40, 2),
                "aggregate": (12, 2, 4),
            },
        ),
        (
            pyg.AGNNConv,
            {"feature": (12, 8), "message": (52, 8), "score": (52,), "attention": (52,), "aggregate": (12, 8)},
        ),
        (lambda: pyg.EdgeConv(perceptron(16, 4)), {"feature": (12, 8), "message": (40, 4), "aggregate": (12, 4)}),
        (Smooth, {"feature": (12, 8), "message": (40, 8), "aggregate": (12, 8)}),
    ],
    ids=["GCN", "GAT", "GATv2", "SAGE", "Transformer", "AGNN", "EdgeConv", "own layer"],
)
def test_one_layer_has_one_of_each_part(layer: Callable[[], nn.Module], expected: dict[str, tuple[int, ...]]) -> None:
    """Self loops that a layer adds are edges, too: 40 edges of which some are loops already, and 12 nodes."""
    edges = EDGES[:, EDGES[0] != EDGES[1]]
    lost = EDGES.shape[1] - edges.shape[1]
    found = parts(rig(OneConv(layer()), (X, edges)))

    def shape(part: str) -> tuple[int, ...]:
        first, *rest = expected[part]
        return (first - lost if part in ("message", "score", "attention") else first, *rest)

    assert found == {f"conv:{part}": (Role(part), shape(part)) for part in expected}


def test_features_between_the_layers_of_a_perceptron_are_features_of_nodes() -> None:
    found = parts(rig(OneConv(pyg.GINConv(perceptron(8, 6))), (X, EDGES)))
    assert {name for name, (role, _) in found.items() if role is Role.FEATURE} == {
        "conv:feature",
        "conv.nn.0:feature",
        "conv.nn.2:feature",
    }


def test_layers_are_told_apart_by_their_paths() -> None:
    found = parts(rig(TwoLayerGcn, (X, EDGES)))
    assert set(found) == {f"conv{i}:{part}" for i in (1, 2) for part in PARTS}
    assert found["conv2:feature"][1] == (12, 6), "after the activation function"


@pytest.mark.parametrize("part", PARTS)
def test_a_quantized_part_of_gcn_against_the_formula(part: str) -> None:
    """out = A (X W) + b, one factor at a time moved to its own grid."""
    torch.manual_seed(0)
    found = rig(OneConv(pyg.GCNConv(8, 6)), (X, EDGES))
    conv: Any = found.model.conv
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    (source, target), norm = gcn_norm(EDGES, num_nodes=12)
    name = f"conv:{part}"
    index = [s.name for s in found.program.sites].index(name)
    fmt = found.formats({name: "int3"})[index]

    def quantized(value: Tensor, at: str) -> Tensor:
        return found.grids.grid(index, fmt).round_trip(value) if at == part else value

    with torch.no_grad():
        hidden = quantized(X, "feature") @ conv.lin.weight.T
        sent = quantized(norm, "attention")[:, None] * quantized(hidden[source], "message")
        out = quantized(torch.zeros(12, 6).index_add_(0, target, sent), "aggregate") + conv.bias
    torch.testing.assert_close(found.run({name: "int3"})[0], out, rtol=1e-5, atol=1e-5)


def test_quantized_scores_of_agnn_against_the_formula() -> None:
    """Codes of scores make attention that sums to one at every node."""
    from torch_geometric.utils import add_self_loops, remove_self_loops, softmax

    found = rig(OneConv(pyg.AGNNConv()), (X, EDGES))
    source, target = add_self_loops(remove_self_loops(EDGES)[0], num_nodes=12)[0]
    index = [s.name for s in found.program.sites].index("conv:score")
    unit = X / X.norm(dim=1, keepdim=True)
    grid = found.grids.grid(index, found.formats({"conv:score": "int1"})[index])
    scores = grid.round_trip((unit[source] * unit[target]).sum(1))
    assert len(scores.unique()) == 2
    out = torch.zeros(12, 8).index_add_(0, target, softmax(scores, target, num_nodes=12)[:, None] * X[source])
    torch.testing.assert_close(found.run({"conv:score": "int1"})[0], out, rtol=1e-5, atol=1e-5)


class PoolingOnly(nn.Module):
    """Rows gathered into groups, without any edges."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        return self.out(pyg.global_add_pool(self.lin(x), batch, 3))


def test_pooling_alone_is_no_message_passing() -> None:
    found = rig(PoolingOnly(), (X, torch.arange(12) // 4))
    assert not parts(found)
    assert {"lin:in", "lin.weight", "out:in", "out.weight"} == set(found.sites)


def test_pooling_after_message_passing_is_none_either() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = pyg.GINConv(nn.Linear(8, 6)), nn.Linear(6, 3)

        def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
            return self.out(pyg.global_add_pool(torch.relu(self.conv(x, edges)), batch, 3))

    found = rig(Pooled(), (X, EDGES, torch.arange(12) // 4))
    assert {name for name, (role, _) in parts(found).items() if role is not Role.FEATURE} == {
        "conv:message",
        "conv:aggregate",
    }
    assert found.sites["out:in"].role is Role.ACTIVATION


def test_an_embedding_look_up_is_no_message() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(9, 8), nn.Linear(8, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.table(tokens).mean(1))

    assert not parts(rig(Bag(), (torch.randint(0, 9, (4, 5)),)))


def test_structure_alone_is_no_site_but_the_factor_it_gives_is() -> None:
    """A GCN's degrees depend on no number of the model; their product on the edges is its attention."""
    found = rig(OneConv(pyg.GCNConv(8, 6)), (X, EDGES))
    assert [n for n, s in found.sites.items() if s.role is Role.ATTENTION] == ["conv:attention"]
