"""A sparse adjacency is taken as the edge list it stands for."""

import pytest
import torch
from torch_geometric.nn import AGNNConv, GATConv, GCNConv, GINConv, SAGEConv, TransformerConv

from mpsearch.core.errors import BadInput
from mpsearch.graph.sparse import edge_index, with_edges

LAYERS = {
    "GCNConv": lambda: GCNConv(6, 4),
    "GATConv": lambda: GATConv(6, 4),
    "SAGEConv": lambda: SAGEConv(6, 4),
    "GINConv": lambda: GINConv(torch.nn.Linear(6, 4)),
    "AGNNConv": lambda: AGNNConv(),
    "TransformerConv": lambda: TransformerConv(6, 4),
}


def _adjacency() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(9, 9, generator=generator) < 0.3).float().fill_diagonal_(0)


@pytest.mark.parametrize("name", LAYERS)
def test_edges_give_what_the_sparse_adjacency_gives(name: str) -> None:
    torch.manual_seed(0)
    layer, x, dense = LAYERS[name]().eval(), torch.randn(9, 6), _adjacency()
    with torch.no_grad():
        expected = layer(x, dense.to_sparse_csr())
        torch.testing.assert_close(layer(x, edge_index(dense.to_sparse_csr())), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer(x, edge_index(dense.to_sparse_coo())), expected, rtol=1e-5, atol=1e-6)


def test_edges_are_sorted_by_target() -> None:
    edges = edge_index(_adjacency().to_sparse_coo())
    assert (edges[1].diff() >= 0).all()


def test_only_sparse_leaves_change() -> None:
    x, ids = torch.randn(9, 6), torch.arange(9)
    args, kwargs = with_edges(((x, _adjacency().to_sparse_csr()), {"ids": ids}))
    assert args[0] is x
    assert kwargs["ids"] is ids
    assert args[1].shape[0] == 2


def test_other_values_are_refused() -> None:
    with pytest.raises(BadInput, match="edge weights"):
        edge_index((0.5 * _adjacency()).to_sparse_csr())
