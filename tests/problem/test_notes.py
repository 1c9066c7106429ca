"""The three memories of SGQuant under their names, on a GAT of the size that the authors' notes count."""

from __future__ import annotations

import torch
from parts import make_problem, make_spec

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.cost.graph_memory import Layer, mem_embed
from mpsearch.problem.objective import Batch
from mpsearch.zoo.gnn import GAT

NODES, EDGES, FEATURES, CLASSES = 2708, 10556, 1433, 7
LAYERS = [Layer(FEATURES, 8, 8), Layer(64, 1, CLASSES)]


def test_the_figures_of_the_authors_on_the_exported_model() -> None:
    """6,487,760 elements, 6,070,004 of them in the first layer; 37.65 megabits at 4 bits there and float after.

    The same where values are split into bins.
    """
    source = torch.arange(EDGES) % NODES
    edges = torch.stack([source, (source + 1 + torch.arange(EDGES) // NODES) % NODES])  # each node to the next few
    data = {s: [Batch((torch.eye(NODES, FEATURES), edges), None, NODES)] for s in ("calibration", "validation", "test")}
    roles = {"match": {"role": ["feature", "message", "attention"]}, "formats": ["int4:max", "fp32"]}
    spec = make_spec(sites=[roles | {"bins": {"edges": [4]}}])
    found = make_problem(GAT(FEATURES, 8, CLASSES).eval(), data, spec)
    assert 8 * found.costs(Assignment())["notes_bytes"] == 6_487_760 * 32 == 207_608_320
    shares = found.shares("notes_bytes", Assignment())
    assert 8 * sum(part for name, part in shares.items() if name.startswith("conv1:")) == 6_070_004 * 32
    assert 8 * sum(part for name, part in shares.items() if name.startswith("conv2:")) == 417_756 * 32
    sites = [site for choice in found.space.choices for site in choice.sites]
    assert len(sites) == 12
    int4 = Format.parse("int4:max")
    first = Assignment({site: int4 for site in sites if site.startswith("conv1:")})
    assert 8 * found.costs(first)["notes_bytes"] == 37_648_208
    tables = found.cost("notes_bytes")
    assert tables is not None
    assert 8 * tables([found.space.encode(first)])[0] == 37_648_208

    costs = found.costs(Assignment(dict.fromkeys(sites, int4)))
    nodes = [site.shape[0] for site in found.sites if site.whole == "conv1:feature"]
    embedded = mem_embed(nodes, EDGES + NODES, LAYERS, [[4, 4], [4, 4]], [4, 4], row=8)
    assert 0 <= 8 * costs["feature_bytes"] - embedded <= 2 * 4, "attention of a bin is filled up to a byte"
    stored = costs["memory_bytes"] + costs["feature_bytes"]
    assert costs["graph_bytes"] == stored + 4 * (NODES + 1 + EDGES) + 6 * (1 + 1 + 4), "two bins of six values"
