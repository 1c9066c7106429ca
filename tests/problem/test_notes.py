"""The three memories of SGQuant under their names, on a GAT of the size that the authors' notes count."""

from __future__ import annotations

import torch
from parts import make_problem, make_spec

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.cost.graph_memory import Layer, mem_embed
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch
from mpsearch.zoo.gnn import GAT, GCN

NODES, EDGES, FEATURES, CLASSES = 2708, 10556, 1433, 7
LAYERS = [Layer(FEATURES, 8, 8), Layer(64, 1, CLASSES)]


def cora(formats: list[str], **rule: object) -> ModelProblem:
    """A GAT of 8 heads with 8 features each on a graph of Cora's size: each node points to the next few."""
    source = torch.arange(EDGES) % NODES
    edges = torch.stack([source, (source + 1 + torch.arange(EDGES) // NODES) % NODES])
    x = torch.eye(NODES, FEATURES)
    data = {split: [Batch((x, edges), None, NODES)] for split in ("calibration", "validation", "test")}
    rules = [{"match": {"role": ["feature", "message", "attention"]}, "formats": formats, **rule}]
    return make_problem(GAT(FEATURES, 8, CLASSES).eval(), data, make_spec(sites=rules))


def test_the_figures_of_the_authors_on_the_exported_model() -> None:
    """6,487,760 elements, 6,070,004 of them in the first layer; 37.65 megabits at 4 bits there and float after."""
    found = cora(["int4:max", "fp32"])
    assert 8 * found.costs(Assignment())["notes_bytes"] == 6_487_760 * 32 == 207_608_320
    shares = found.shares("notes_bytes", Assignment())
    assert 8 * sum(part for name, part in shares.items() if name.startswith("conv1:")) == 6_070_004 * 32
    assert 8 * sum(part for name, part in shares.items() if name.startswith("conv2:")) == 417_756 * 32
    sites = [site for choice in found.space.choices for site in choice.sites]
    int4 = Format.parse("int4:max")
    first = Assignment({site: int4 for site in sites if site.startswith("conv1:")})
    assert 8 * found.costs(first)["notes_bytes"] == 37_648_208
    every = Assignment(dict.fromkeys(sites, int4))
    assert 8 * found.costs(every)["feature_bytes"] == mem_embed([NODES], EDGES + NODES, LAYERS, [[4], [4]], [4, 4])
    assert found.costs(every)["graph_bytes"] == sum(
        found.costs(every)[name] for name in ("memory_bytes", "feature_bytes")
    ) + 4 * (NODES + 1 + EDGES)
    tables = found.cost("notes_bytes")
    assert tables is not None
    assert 8 * tables([found.space.encode(first)])[0] == 37_648_208


def test_bins_of_equal_bits_count_what_the_whole_counts() -> None:
    found = cora(["int4:max"], bins={"edges": [4]})
    sites = [site for choice in found.space.choices for site in choice.sites]
    assert len(sites) == 12
    every = Assignment(dict.fromkeys(sites, Format.parse("int4:max")))
    assert 8 * found.costs(every)["notes_bytes"] == 6_487_760 * 4


def test_a_model_without_a_softmax_over_edges_has_no_notes() -> None:
    x, edges = torch.randn(12, 8), torch.randint(0, 12, (2, 40))
    data = {split: [Batch((x, edges), None, 12)] for split in ("calibration", "validation", "test")}
    found = make_problem(GCN(8, 6, 3).eval(), data, make_spec(sites=[{"match": "*", "formats": ["int8"]}]))
    assert "feature_bytes" in found.costs(Assignment())
    assert "notes_bytes" not in found.costs(Assignment())
