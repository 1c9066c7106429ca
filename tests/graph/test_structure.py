"""Nodes and edges of the graph that a GNN runs on."""

from __future__ import annotations

import pytest
from rigs import lower, rig
from tiny_models import OneConv, PlainNet, Smooth, TwoLayerGcn, Weighted, graph, randn
from torch import nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.cost.graph_memory import Structure, graph_measures
from mpsearch.cost.memory import memory_measures
from mpsearch.graph.sites import discover
from mpsearch.graph.structure import structure

LAYERS = {
    "GCN": lambda: pyg.GCNConv(8, 4),
    "GAT": lambda: pyg.GATConv(8, 4, heads=2),
    "SAGE": lambda: pyg.SAGEConv(8, 4),
    "own": Smooth,
}


@pytest.mark.parametrize("name", LAYERS)
def test_edges_are_counted_as_given(name: str) -> None:
    """Whatever self loops a layer adds."""
    layer: nn.Module = LAYERS[name]()
    lowered = lower(OneConv(layer).eval(), graph(nodes=12, edges=40))
    assert structure(lowered, discover(lowered)) == Structure(12, 40)


def test_weights_of_edges_are_stored_beside_them() -> None:
    """Where they are the attention itself, they are a feature already."""
    x, edges = graph(nodes=12, edges=40)
    for layer, weights in ((pyg.GCNConv(8, 4), 40), (Weighted(8, 4), 0)):
        lowered = lower(OneConv(layer).eval(), (x, edges, randn(40)))
        assert structure(lowered, discover(lowered)) == Structure(12, 40, weights)


def test_a_model_without_edges_has_no_structure() -> None:
    lowered = lower(PlainNet().eval(), (randn(2, 3, 6, 6),))
    assert structure(lowered, discover(lowered)) is None


def test_graph_bytes_of_a_gcn() -> None:
    """Weights, features of both layers, and 13 + 40 indices of 4 bytes."""
    found = rig(TwoLayerGcn, graph())
    size = structure(found.lowered, found.discovery)
    assert size is not None
    memory = memory_measures(found.parameters, found.values, found.grids.packed)
    total = graph_measures(size, found.parameters, found.values, found.grids.packed)["graph_bytes"]
    for formats in ({}, {"conv1:feature": "int4", "conv2.lin.weight": "int2"}):
        at = Assignment({name: Format.parse(text) for name, text in formats.items()})
        parts = [memory[name].measure(at) for name in ("memory_bytes", "feature_bytes")]
        assert total.measure(at) == sum(parts) + (13 + 40) * 4
