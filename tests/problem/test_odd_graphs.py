"""Graphs that are empty, tiny or wrong: they work, or a message says what to do before anything is searched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parts import Given, make_problem, make_spec
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 8, generator=GENERATOR)
EDGES = torch.randint(0, 12, (2, 40), generator=GENERATOR)
NONE = EDGES[:, :0]
ALL = ("feature", "message", "aggregate")


class Net(nn.Module):
    """Two layers: one that adds a loop to each node, one that does not."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edges)
        return x


def sage() -> Net:
    torch.manual_seed(0)
    return Net(pyg.SAGEConv(8, 4))


def make(net: Net, graph: tuple[Tensor, Tensor], calibration: Any = None, roles: Any = ALL) -> ModelProblem:
    data = {split: [Batch(graph, None, len(graph[0]))] for split in ("calibration", "validation", "test")}
    if calibration is not None:
        data["calibration"] = [Batch(calibration, None, len(calibration[0]))]
    sites = [{"match": {"role": list(roles)}, "formats": ["int1", "int4"]}]
    return make_problem(net.eval(), data, make_spec(sites=sites))


@pytest.mark.parametrize(
    ("graph", "calibration"),
    [
        ((X[:1], EDGES[:, :1] * 0), None),
        ((X[:1], NONE), (X, EDGES)),
        ((X, NONE), (X, EDGES)),
        ((0 * X, EDGES), None),
    ],
    ids=["one node and its loop", "one node alone", "no edges", "zeros"],
)
def test_an_odd_graph_is_run(graph: tuple[Tensor, Tensor], calibration: Any) -> None:
    torch.manual_seed(0)
    found = make(Net(pyg.GATConv(8, 8), pyg.SAGEConv(8, 4)), graph, calibration)
    objective = found.objective
    assert isinstance(objective, Given)
    for assignment in (Assignment(), *found.space.uniform().values()):
        assert next(iter(found.evaluate([assignment]))).failure is None
        output = objective.outputs[-1][0]
        assert torch.isfinite(output).all()
        if not graph[0].any():
            assert torch.equal(output, objective.model()(*graph)), "zeros stay zeros in every format"


def test_layers_that_add_loops_need_no_edges() -> None:
    assert next(iter(make(Net(pyg.GCNConv(8, 4)), (X, NONE)).evaluate([Assignment()]))).failure is None


@pytest.mark.parametrize(
    ("graph", "calibration", "words"),
    [
        ((X, NONE), None, r"'layers.0:message': calibration has no numbers .* leave the site out"),
        ((X, EDGES + 3), None, r"row 0 names node 1[2-4], and there are 12 nodes; allowed are 0 to 11"),
        ((X, EDGES), (X, EDGES - 1), "batch 0 of calibration: row [01] names node -1"),
        ((X, EDGES.float()), None, r"torch.float32 of shape \(2, 40\). .* give edge_index.long\(\)"),
        ((X, EDGES.t()), None, r"of shape \(40, 2\). .* give edge_index.t\(\)"),
    ],
    ids=["no messages", "beyond the last node", "negative", "not whole", "transposed"],
)
def test_a_wrong_graph_is_refused(graph: tuple[Tensor, Tensor], calibration: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make(sage(), graph, calibration)


def test_attention_that_a_layer_does_not_have_is_refused() -> None:
    with pytest.raises(BadInput, match=r"of role attention matches no site\. Roles of this model: .*message"):
        make(sage(), (X, EDGES), roles=("attention",))
