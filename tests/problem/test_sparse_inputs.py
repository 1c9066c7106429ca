"""A sparse adjacency through the whole problem: sites, bins and outputs against the model on the sparse tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from parts import Given, make_problem, make_spec
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, ObjectiveFailed
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch

GENERATOR = torch.Generator().manual_seed(0)
DENSE = (torch.rand(30, 30, generator=GENERATOR) < 0.2).float().fill_diagonal_(0)
VALUES = DENSE * torch.rand(30, 30, generator=GENERATOR)
X = torch.randn(30, 8, generator=GENERATOR)


class Own(pyg.MessagePassing):
    """Sums neighbours, each times the weight of its edge."""

    def __init__(self) -> None:
        super().__init__(aggr="sum")
        self.lin = nn.Linear(8, 4)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x), edge_weight=edge_weight)

    def message(self, x_j: Tensor, edge_weight: Tensor | None) -> Tensor:
        return x_j if edge_weight is None else x_j * edge_weight.view(-1, 1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GCN": lambda: pyg.GCNConv(8, 4),
    "GAT": lambda: pyg.GATConv(8, 4),
    "AGNN": pyg.AGNNConv,
    "SAGE": lambda: pyg.SAGEConv(8, 4),
    "GIN": lambda: pyg.GINConv(nn.Linear(8, 4)),
    "Transformer": lambda: pyg.TransformerConv(8, 4),
    "own layer": Own,
}


class Net(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return self.conv(x, adjacency)


def problem(model: nn.Module, adjacency: Tensor, **rule: object) -> ModelProblem:
    data = {split: [Batch((X, adjacency), None, 30)] for split in ("calibration", "validation", "test")}
    return make_problem(model, data, make_spec(sites=[{"match": {"role": "feature"}, "formats": ["int1"], **rule}]))


def output(found: ModelProblem, assignment: Assignment) -> Tensor:
    objective = found.objective
    assert isinstance(objective, Given)
    next(iter(found.evaluate([assignment])))
    first: Tensor = objective.outputs[-1][0]
    return first


ONES, WEIGHTED = DENSE.to_sparse_csr(), VALUES.to_sparse_coo()


@pytest.mark.parametrize(
    ("name", "adjacency"),
    [("GCN", ONES), ("SAGE", ONES), *((name, WEIGHTED) for name in LAYERS)],
    ids=["GCN, ones", "SAGE, ones", *LAYERS],
)
def test_the_problem_gives_what_the_sparse_model_gives(name: str, adjacency: Tensor) -> None:
    """In float; and split into bins, where every bin is alive."""
    torch.manual_seed(0)
    model = Net(LAYERS[name]()).eval()
    found = problem(model, adjacency, match={"role": ["feature", "message", "attention"]}, bins={"edges": [5]})
    assert found.limits == ()
    base = output(found, Assignment())
    with torch.no_grad():
        torch.testing.assert_close(base, model(X, adjacency), rtol=1e-5, atol=1e-6)
    sites = [site for site in found.sites if site.bin is not None]
    assert {"conv:feature@deg0-4", "conv:feature@deg5+"} <= {site.name for site in sites}
    for site in sites:
        assert not torch.equal(output(found, Assignment({site.name: Format.parse("int1")})), base), site
    takes_values = name in ("GCN", "SAGE", "GIN", "own layer")
    attention = {site.whole for site in found.sites if site.role is Role.ATTENTION}
    if takes_values and adjacency is WEIGHTED:
        assert attention == {"conv:attention"}, "one coefficient per edge, however many factors it has"
        stored = found.costs(Assignment())["graph_bytes"] - found.costs(Assignment())["feature_bytes"]
        assert stored - found.costs(Assignment())["memory_bytes"] == 4 * (31 + adjacency._nnz()) + (
            4 * adjacency._nnz() if name == "GCN" else 0
        ) + 6 * len({site.whole for site in sites}), "a GCN's coefficients are not the values that it is given"


def test_a_model_that_multiplies_by_itself_runs_by_hooks_on_the_matrix() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(8, 4)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            return torch.sparse.mm(adjacency, self.lin(x))

    model = Product().eval()
    found = problem(model, VALUES.to_sparse_csr(), match="lin.weight")
    assert found.limits
    with torch.no_grad():
        torch.testing.assert_close(output(found, Assignment()), model(X, VALUES.to_sparse_csr()))


def test_loops_that_a_layer_treats_otherwise_are_refused() -> None:
    """A GCN adds a second loop to one in a sparse adjacency, and none to one in a list."""
    with pytest.raises(ObjectiveFailed, match=r"a layer does otherwise with a sparse adjacency .* give edge_index"):
        problem(Net(pyg.GCNConv(8, 4)).eval(), (DENSE + torch.eye(30)).to_sparse_csr())


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
