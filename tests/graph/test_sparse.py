"""A sparse adjacency is taken as the edge list it stands for, its values as an input beside it."""

from __future__ import annotations

import pytest
import torch
from tiny_models import Weighted
from torch import Tensor
from torch_geometric import nn as pyg

from mpsearch.core.errors import BadInput
from mpsearch.graph.sparse import Edges, is_weighted, taken_by_layers, with_edges

LAYERS = {
    "GCN": lambda: pyg.GCNConv(6, 4),
    "GCN, normalised before": lambda: pyg.GCNConv(6, 4, normalize=False),
    "GAT": lambda: pyg.GATConv(6, 4),
    "SAGE": lambda: pyg.SAGEConv(6, 4),
    "SAGE, largest": lambda: pyg.SAGEConv(6, 4, aggr="max"),
    "GIN": lambda: pyg.GINConv(torch.nn.Linear(6, 4)),
    "AGNN": pyg.AGNNConv,
    "Transformer": lambda: pyg.TransformerConv(6, 4),
    "own layer": lambda: Weighted(6, 4),
    "own layer, values from the adjacency alone": lambda: Unnamed(6, 4),
}


class Unnamed(Weighted):
    """Its `forward` has no place for weights: messages find them in a sparse adjacency, or nowhere."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x), edge_weight=None)


def adjacency(weighted: bool) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    dense = (torch.rand(9, 9, generator=generator) < 0.3).float().fill_diagonal_(0)
    return dense * torch.rand(9, 9, generator=generator) if weighted else dense


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_a_layer_gives_what_it_gives_on_the_sparse_adjacency(name: str, weighted: bool, layout: torch.layout) -> None:
    torch.manual_seed(0)
    layer, x, matrix = LAYERS[name]().eval(), torch.randn(9, 6), adjacency(weighted).to_sparse(layout=layout)
    with torch.no_grad():
        expected = layer(x, matrix)
        with taken_by_layers(layer):
            found = layer(*with_edges((x, matrix), weighted))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer(x, matrix), expected, msg="the layer is as it was")


class SparseTensor:
    """As much of torch-sparse's matrix as is asked for."""

    def __init__(self, dense: Tensor, has_values: bool = True) -> None:
        row, column = dense.nonzero().T
        self.entries = row, column, dense[row, column] if has_values else None

    def coo(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.entries


def test_edges_are_sorted_by_target_whatever_the_matrix() -> None:
    dense = adjacency(weighted=True)
    target, source = dense.nonzero().T
    for matrix in (dense.to_sparse_csr(), dense.to_sparse_coo(), dense.to_sparse_csc(), SparseTensor(dense)):
        found = with_edges(matrix, weighted=True)
        assert isinstance(found, Edges)
        assert torch.equal(found.index, torch.stack([source, target]))
        assert torch.equal(found.weight, dense[target, source])


def test_only_sparse_leaves_change() -> None:
    x, ids = torch.randn(9, 6), torch.arange(9)
    args, kwargs = with_edges(((x, adjacency(weighted=False).to_sparse_csr()), {"ids": ids}))
    assert args[0] is x
    assert kwargs["ids"] is ids
    assert isinstance(args[1], Tensor)
    assert args[1].shape[0] == 2


def test_ones_need_no_weights() -> None:
    ones, others = adjacency(weighted=False), adjacency(weighted=True)
    assert not is_weighted([ones.to_sparse_csr(), SparseTensor(ones, has_values=False), others])
    assert is_weighted([others.to_sparse_csr()])
    assert is_weighted([SparseTensor(others)])
    with pytest.raises(BadInput, match="which no batch had"):
        with_edges(others.to_sparse_csr())


def test_several_numbers_per_edge_are_refused() -> None:
    matrix = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 3), (2, 2, 3))
    with pytest.raises(BadInput, match="holds \\(3,\\) numbers per edge"):
        with_edges(matrix)
