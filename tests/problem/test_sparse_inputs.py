"""A sparse adjacency through the whole problem: sites, bins and outputs against the model on the sparse tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from parts import Given, make_problem, make_spec
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.problem.objective import Batch

GENERATOR = torch.Generator().manual_seed(0)
DENSE = (torch.rand(30, 30, generator=GENERATOR) < 0.2).float().fill_diagonal_(0)
X = torch.randn(30, 8, generator=GENERATOR)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GCN": lambda: pyg.GCNConv(8, 4),
    "GAT": lambda: pyg.GATConv(8, 4),
    "AGNN": pyg.AGNNConv,
    "SAGE": lambda: pyg.SAGEConv(8, 4),
    "GIN": lambda: pyg.GINConv(nn.Linear(8, 4)),
    "Transformer": lambda: pyg.TransformerConv(8, 4),
}


class Net(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return self.conv(x, adjacency)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_the_problem_gives_what_the_sparse_model_gives(name: str, layout: torch.layout) -> None:
    """In float; and split into bins, where every bin is alive."""
    torch.manual_seed(0)
    model = Net(LAYERS[name]()).eval()
    adjacency = DENSE.to_sparse(layout=layout)
    data = {split: [Batch((X, adjacency), None, 30)] for split in ("calibration", "validation", "test")}
    bins = {"by": "degree", "edges": [5]}
    spec = make_spec(sites=[{"match": {"role": "feature"}, "formats": ["int1", "fp32"], "bins": bins}])
    found = make_problem(model, data, spec)
    objective = found.objective
    assert isinstance(objective, Given)
    next(iter(found.evaluate([Assignment()])))
    with torch.no_grad():
        torch.testing.assert_close(objective.outputs[-1][0], model(X, adjacency), rtol=1e-5, atol=1e-6)
    base = objective.outputs[-1][0]
    sites = [site.name for site in found.sites if site.bin is not None]
    assert {"conv:feature@deg0-4", "conv:feature@deg5+"} <= set(sites)
    for site in sites:
        next(iter(found.evaluate([Assignment({site: Format.parse("int1")})])))
        assert not torch.equal(objective.outputs[-1][0], base), site


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
@pytest.mark.parametrize("is_buffer", [True, False])
def test_a_sparse_matrix_inside_the_model_is_refused_with_what_to_do(layout: torch.layout, is_buffer: bool) -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(pyg.SAGEConv(8, 4))
            adjacency = DENSE.to_sparse(layout=layout)
            if is_buffer:
                self.net.register_buffer("adjacency", adjacency)
            else:
                self.net.adjacency = adjacency

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x, self.net.adjacency)

    data = {split: [Batch((X,), None, 30)] for split in ("calibration", "validation", "test")}
    with pytest.raises(BadInput, match=r"holds net\.adjacency as a sparse matrix.*edge_index.*to_dense\(\)"):
        make_problem(Holding().eval(), data, make_spec())
