"""Bins from a space file: rules, ties and starts that name them, what they cost, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from parts import Given, make_problem, make_spec
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Bin, Role, Site
from mpsearch.engine.run import _start_assignments
from mpsearch.graph.export import Example, export
from mpsearch.problem.inputs import Inputs
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch
from mpsearch.problem.rules import build_space, of_nodes
from mpsearch.quant.integer import Integer

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 8, generator=GENERATOR)
EDGES = torch.randint(0, 40, (2, 180), generator=GENERATOR)
DATA = {split: [Batch((X, EDGES), None, 40)] for split in ("calibration", "validation", "test")}
DEGREES = torch.bincount(EDGES[1], minlength=40)
RANGES = ((0, 4), (4, 6), (6, 99))
LABELS = ("deg0-3", "deg4-5", "deg6+")
EDGES_OF = {"by": "degree", "edges": [4, 6]}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = pyg.SAGEConv(8, 6), pyg.GCNConv(6, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


@cache
def model() -> nn.Module:
    return Net().eval()


def rule(role: Any, formats: Any, bins: Any = EDGES_OF, **match: Any) -> dict[str, Any]:
    found = {"match": {"role": role, **match}, "formats": formats}
    return found if bins is None else found | {"bins": bins}


def problem(*sites: Mapping[str, Any], **fields: Any) -> ModelProblem:
    return make_problem(model(), DATA, make_spec(sites=list(sites), **fields))


def names(found: ModelProblem) -> list[str]:
    return [site for choice in found.space.choices for site in choice.sites]


def test_a_rule_splits_what_it_matches_and_others_may_name_a_bin() -> None:
    found = problem(rule("feature", ["int1"], None, name="*@deg6+"), rule("feature", ["int2", "int8"]))
    assert names(found) == [f"{conv}:feature@{label}" for conv in ("conv1", "conv2") for label in LABELS]
    options = {c.name: list(map(str, c.options)) for c in found.space.choices}
    assert options["conv1:feature@deg6+"] == ["int1"]
    assert options["conv1:feature@deg0-3"] == ["int2", "int8"]


def test_the_first_rule_that_matches_says_whether_a_value_is_split() -> None:
    found = problem(rule("feature", ["int8"], None, name="conv1:*"), rule("feature", ["int2", "int8"]))
    assert names(found)[:2] == ["conv1:feature", "conv2:feature@deg0-3"]


def test_bins_decide_together_where_they_are_tied() -> None:
    found = problem(rule("feature", ["int2", "int8"]), tie=[{"match": "conv1:feature@*"}])
    assert [len(c.sites) for c in found.space.choices] == [3, 1, 1, 1]
    found = problem(rule("feature", ["int2", "int8"]), tie=[{"group": ["conv1", "conv2"]}])
    assert [c.sites for c in found.space.choices] == [(f"conv1:feature@{b}", f"conv2:feature@{b}") for b in LABELS]


def test_a_start_names_a_bin_or_all_of_a_value() -> None:
    found = problem(rule("feature", ["int2", "int8"]))
    (start,) = _start_assignments(found.space, [{"*@deg6+": "int2", "conv1:feature": "int2", "conv2:*": "int8"}])
    assert {name: str(start.at(name)) for name in names(found)[:4]} == {
        "conv1:feature@deg0-3": "int2",
        "conv1:feature@deg4-5": "int2",
        "conv1:feature@deg6+": "int2",
        "conv2:feature@deg0-3": "int8",
    }


GOALS = [
    {"name": "score", "maximise": True},
    {"name": "latency_s", "accelerator": "nvidia-t4"},
    {"name": "activation_peak_bytes", "accelerator": "nvidia-t4"},
]


@cache
def rich() -> ModelProblem:
    return problem(
        rule(["feature", "message", "attention"], ["int1", "int4", "fp32"]),
        rule(["weight", "aggregate"], ["int2", "int8"], None),
        goals=GOALS,
    )


def test_tables_equal_measures() -> None:
    found, rng = rich(), np.random.default_rng(0)
    tables = {name: found.cost(name) for name in found.costs(Assignment())}
    assert {"bops", "feature_bytes", "latency_s@nvidia-t4", "activation_peak_bytes"} <= set(tables)
    assert "notes_bytes" not in tables, "of layers with a softmax over edges alone"
    for _ in range(20):
        assignment = found.space.sample(rng)
        costs = found.costs(assignment)
        for name, cost in tables.items():
            assert cost is not None
            assert cost([found.space.encode(assignment)])[0] == pytest.approx(costs[name], rel=1e-12), name


def test_products_are_counted_at_the_bits_of_each_bin() -> None:
    """Linear layers over features: nodes of a bin. Messages times attention: edges whose source is in it."""
    found = rich()
    widths = dict(zip(LABELS, (32, 4, 1), strict=True))
    chosen = {
        s.name: Format.parse(f"int{widths[s.bin.label]}" if widths[s.bin.label] < 32 else "fp32")
        for s in found.sites
        if s.bin is not None
    }
    loops = torch.arange(40)
    kept = EDGES[:, EDGES[0] != EDGES[1]]
    sources = torch.cat([kept[0], loops])  # GCN adds a loop to each node, once

    def at(degrees: Tensor, low: int, high: int) -> int:
        return int(((degrees >= low) & (degrees < high)).sum())

    expected = 0
    for (low, high), bits in zip(RANGES, widths.values(), strict=True):
        nodes, edges = at(DEGREES, low, high), at(DEGREES[sources], low, high)
        expected += nodes * 8 * 6 * bits * 32  # conv1.lin_r, float weights
        expected += nodes * 6 * 4 * bits * 32  # conv2.lin
        expected += edges * 4 * bits * bits  # messages of conv2 times the normalisation, which is of the same bin
    expected += 40 * 8 * 6 * 32 * 32  # conv1.lin_l of the float aggregate
    assert found.costs(Assignment(chosen))["bops"] == expected


def test_passes_over_bins_have_all_that_the_whole_has() -> None:
    binned = rich().cost_model.workload
    whole = problem(
        rule(["feature", "message", "attention"], ["int1", "int4", "fp32"], None),
        rule(["weight", "aggregate"], ["int2", "int8"], None),
    ).cost_model.workload
    assert binned is not None
    assert whole is not None
    assert binned.macs == whole.macs
    by_name = {op.name: op for op in whole.operations}
    for name, operation in by_name.items():
        parts = [op for op in binned.operations if op.name.partition("@")[0] in (name, f"{name}:{'linear'}")]
        assert sum(op.macs for op in parts) == operation.macs, name
        for end in ("reads", "writes"):
            mine = [a.elements for a in getattr(operation, end) if not whole.tensors[a.tensor].is_parameter]
            theirs = [a.elements for op in parts for a in getattr(op, end) if not binned.tensors[a.tensor].is_parameter]
            assert sum(theirs) == sum(mine), (name, end)


def test_a_model_that_cannot_be_exported_has_no_bins() -> None:
    class Loop(Net):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return super().forward(x * (2.0 if x.sum().item() > 0 else 1.0), edge_index)

    with pytest.raises(BadInput, match="bins split values of the exported graph"):
        make_problem(Loop().eval(), DATA, make_spec(sites=[rule("feature", ["int2"])]))


def test_a_bin_without_nodes_in_calibration_is_refused() -> None:
    few = torch.stack([torch.arange(40), (torch.arange(40) + 1) % 40])
    data = DATA | {"calibration": [Batch((X, few), None, 40)]}
    with pytest.raises(BadInput, match=r"no node of calibration \(40 from degree 0, 0 from degree 4, .*use quantiles"):
        make_problem(model(), data, make_spec(sites=[rule("feature", ["int2"])]))


def test_degrees_of_the_whole_graph_decide_where_a_batch_gives_them() -> None:
    """As in a batch of sampled neighbours; batches differ in size."""
    degrees = torch.arange(40) % 9
    batches = [Batch((X, EDGES), None, 40, degrees=degrees)]
    batches.append(Batch((X[:30], EDGES[:, (EDGES < 30).all(0)]), None, 30, degrees=degrees[:30]))
    data = {"calibration": batches, "validation": batches[::-1], "test": batches}
    found = make_problem(model(), data, make_spec(sites=[rule("feature", ["int2"])]))
    counts = {s.bin.label: s.shape[0] for s in found.sites if s.bin is not None and s.whole == "conv1:feature"}
    given = degrees[:30]
    assert counts == {
        name: int(((given >= a) & (given < b)).sum()) for name, (a, b) in zip(LABELS, RANGES, strict=True)
    }
    quantized = X.clone()
    grid = Integer().fit(torch.cat([X, X[:30]]), Format.parse("int2"), Role.FEATURE, -1)
    quantized[degrees >= 6] = grid.round_trip(quantized[degrees >= 6])
    next(iter(found.evaluate([Assignment({"conv1:feature@deg6+": Format.parse("int2")})], "test")))
    assert isinstance(found.objective, Given)
    with torch.no_grad():
        torch.testing.assert_close(found.objective.outputs[-1][0], model()(quantized, EDGES), rtol=1e-5, atol=1e-5)


def test_degrees_that_cannot_be_are_refused() -> None:
    inputs = replace(Inputs.of_graph(export(model(), [Example((X, EDGES))]), Example((X, EDGES))), takes_degrees=True)
    assert inputs.of(Example((X, EDGES), degrees=DEGREES))[0][-1] is DEGREES
    for degrees, words in (
        (None, "it has no degrees, and others have"),
        (torch.arange(39), r"torch.int64 of shape \(39,\); give the in-degree of each of the 40 nodes"),
        (torch.ones(40), "torch.float32 of shape"),
        (torch.arange(40) - 1, "whole numbers of at least 0"),
    ):
        with pytest.raises(BadInput, match=words):
            inputs.of(Example((X, EDGES), degrees=degrees))


def test_ranges_of_nodes_make_integers_formats_with_a_range_per_row() -> None:
    spec = make_spec(sites=[rule("feature", ["int1", "int3", "mx4", "fp32"], EDGES_OF | {"ranges": "node"})])
    space = build_space(spec, [Site("conv:feature@deg6+", Role.FEATURE, (9, 8), 1, Bin(6, None, shares=False))], ())
    assert list(map(str, space.choices[0].options)) == ["rowrange1", "rowrange3", "mx4", "fp32"]


@pytest.mark.parametrize("text", ["int4:max", "int1:sym"])
def test_ranges_of_nodes_have_no_options(text: str) -> None:
    with pytest.raises(BadInput, match=r"ranges: node .* has no options"):
        of_nodes(Format.parse(text))
