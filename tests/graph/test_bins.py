"""Values split by the degree of their nodes: the same numbers as whole, a site alive for each bin, costs by bin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs import Rig, distance, rig, same
from tiny_models import OneConv, Smooth, TwoLayerGcn, graph, perceptron
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.cost.graph_memory import feature_bits
from mpsearch.graph.rows import bins_of, in_degrees, rows_in
from mpsearch.quant.binary import BinaryGrid
from mpsearch.quant.grain import Grain
from mpsearch.spec.schema import BinsSpec

X, EDGES = graph(40, 180)
DEGREES = torch.bincount(EDGES[1], minlength=40)
SPLIT = (Role.FEATURE, Role.MESSAGE, Role.ATTENTION, Role.AGGREGATE)


def of(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    @cache
    def build() -> nn.Module:
        torch.manual_seed(0)
        return OneConv(layer())

    return build


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GCN": of(lambda: pyg.GCNConv(8, 6)),
    "GAT": of(lambda: pyg.GATConv(8, 4, heads=2)),
    "AGNN": of(pyg.AGNNConv),
    "SAGE": of(lambda: pyg.SAGEConv(8, 4)),
    "GIN": of(lambda: pyg.GINConv(perceptron(8, 6))),
    "Transformer": of(lambda: pyg.TransformerConv(8, 4, heads=2)),
    "own layer": of(Smooth),
    "two GCN": cache(TwoLayerGcn),
}


def bins(**fields: Any) -> BinsSpec:
    return BinsSpec.model_validate(fields)


@cache
def whole(name: str) -> Rig:
    return rig(LAYERS[name](), (X, EDGES), (X[:30] - 1, EDGES[:, (EDGES < 30).all(0)]))


@cache
def binned(name: str, spec: BinsSpec, roles: tuple[Role, ...] = SPLIT) -> Rig:
    wanted = {site.name: spec for site in whole(name).discovery.sites if site.role in roles}
    return rig(LAYERS[name](), (X, EDGES), (X[:30] - 1, EDGES[:, (EDGES < 30).all(0)]), bins=wanted)


def spread(found: Rig, texts: Mapping[str, str]) -> dict[str, str]:
    """The format of a value for each of its bins."""
    return {site.name: texts[site.whole] for site in found.program.sites if site.whole in texts}


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=6)
@given(data=st.data())
def test_equal_bits_in_all_bins_with_shared_ranges_is_uniform(name: str, data: st.DataObject) -> None:
    """Bit for bit, on batches of different size, whatever is split."""
    spec = data.draw(st.sampled_from([bins(edges=[4]), bins(edges=[3, 4, 6]), bins(quantiles=4)]))
    roles = data.draw(st.sampled_from([SPLIT, (Role.FEATURE,), (Role.MESSAGE,)]))
    one, other = whole(name), binned(name, spec, roles)
    option = st.sampled_from(["int1", "int2", "int3:max", "int8", "fp32"])
    texts = {site.name: data.draw(option) for site in one.program.sites if not site.role.is_parameter}
    batch = data.draw(st.integers(0, 1))
    assert same(one.run(texts, batch), other.run(spread(other, texts), batch))


@pytest.mark.parametrize("name", LAYERS)
def test_32_bits_are_the_float_model(name: str) -> None:
    """Not one bit differs: whole, and taken apart into bins and put together again."""
    for found in (whole(name), binned(name, bins(edges=[4, 6]))):
        assert same(found.run({site.name: "fp32" for site in found.program.sites}), found.replay[0])
        torch.testing.assert_close(*found.replay, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("spec", [bins(edges=[4, 6], ranges="node"), bins(quantiles=3, ranges="node")], ids=str)
def test_ranges_of_nodes_know_no_bins(name: str, spec: BinsSpec) -> None:
    """But for attention of one head, which has no rows: a bin of it has one range."""
    one, other = whole(name), binned(name, spec)
    alone = [s.name for s in one.program.sites if not s.role.is_parameter and len(s.shape) > 1]
    for text in ("rowrange1", "rowrange3"):
        for batch in (0, 1):
            texts = dict.fromkeys(alone, text)
            assert same(one.run(texts, batch), other.run(spread(other, texts), batch))


def test_ranges_of_nodes_are_stored_with_each_node() -> None:
    """A row of eight numbers of 3 bits is three bytes, one of six as well; least value and scale are eight."""
    found = binned("two GCN", bins(edges=[4, 6], ranges="node"), (Role.FEATURE,))
    at = Assignment({s.name: Format.parse("rowrange3") for s in found.program.sites if s.bin})
    assert found.memory.at(at)["feature_bytes"] - found.memory.at(Assignment())["feature_bytes"] == (
        2 * 40 * (3 + 8) - 4 * 40 * (8 + 6)
    )


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("ranges", ["shared", "bin"])
def test_every_bin_is_live(name: str, ranges: str) -> None:
    found = binned(name, bins(edges=[4, 6], ranges=ranges))
    machine = found.machine()
    base = machine.run(found.formats({}))
    sites = [s for s in found.program.sites if s.bin is not None]
    assert {s.bin.label for s in sites if s.bin} == {"deg0-3", "deg4-5", "deg6+"}
    assert len(sites) == 3 * len({s.whole for s in sites}) >= 9
    assert not [s.name for s in sites if not distance(base, machine.run(found.formats({s.name: "int1"})))]


@settings(max_examples=15)
@given(walk=st.lists(st.tuples(st.integers(0, 17), st.sampled_from(["int2", "int4", "fp32"]), st.integers(0, 1))))
@pytest.mark.parametrize("cache_bytes", [0, 20_000, 1 << 30])
def test_a_walk_gives_what_a_cold_run_gives(walk: list[tuple[int, str, int]], cache_bytes: int) -> None:
    found = binned("two GCN", bins(edges=[4, 6], ranges="bin"))
    machine = found.machine("sequential", cache_bytes)
    texts: dict[str, str] = {}
    for site, text, batch in walk:
        texts[found.program.sites[site].name] = text
        formats = found.formats(texts)
        assert same(machine.run(formats, batch), found.machine("sequential").run(formats, batch))


@pytest.mark.parametrize("ranges", ["shared", "bin"])
def test_widths_that_differ_against_the_formula(ranges: str) -> None:
    """out = A (X W) + b: each row of X at the bits of its node, each message at those of its source."""
    found = binned("GCN", bins(edges=[4, 6], ranges=ranges), (Role.FEATURE, Role.MESSAGE))
    conv: Any = found.model.conv
    number = torch.bucketize(DEGREES, torch.tensor([4, 6]), right=True)
    widths = dict(zip(("deg0-3", "deg4-5", "deg6+"), ("int8", "int4", "int2"), strict=True))
    texts = {s.name: widths[s.bin.label] for s in found.program.sites if s.bin}
    (source, target), norm = gcn_norm(EDGES, num_nodes=40)

    def quantized(value: Tensor, of_row: Tensor, name: str) -> Tensor:
        out = value.clone()
        for k, (label, text) in enumerate(widths.items()):
            index = [s.name for s in found.program.sites].index(f"{name}@{label}")
            out[of_row == k] = found.grids.grid(index, Format.parse(text)).round_trip(value[of_row == k])
        return out

    with torch.no_grad():
        hidden = quantized(X, number, "conv:feature") @ conv.lin.weight.T
        sent = norm[:, None] * quantized(hidden[source], number[source], "conv:message")
        out = torch.zeros(40, 6).index_add_(0, target, sent) + conv.bias
    torch.testing.assert_close(found.run(texts)[0], out, rtol=1e-5, atol=1e-5)


def test_rows_of_bins_are_found_once_per_batch() -> None:
    """They depend on no choice, also where batches differ in size: the interpreter computes such steps once."""
    steps = binned("two GCN", bins(edges=[4, 6])).program.steps
    found = [step for step in steps if step.call in (bins_of, in_degrees, rows_in)]
    assert len(found) == 1 + 1 + 3 + 2 * 3, "features and aggregates share theirs; a layer has its own sources"
    assert not any(step.upstream for step in found)


def test_ranges_are_of_all_nodes_or_of_the_bin() -> None:
    shared, own = (binned("GCN", bins(edges=[4, 6], ranges=r)) for r in ("shared", "bin"))
    int4 = Format.parse("int4:max")
    for found, differs in ((shared, False), (own, True)):
        sites = [i for i, s in enumerate(found.program.sites) if s.whole == "conv:feature"]
        scales = {float(found.grids.grid(i, int4).scale) for i in sites}  # type: ignore[attr-defined]
        assert (len(scales) > 1) == differs


def test_quantiles_hold_about_equally_many_nodes() -> None:
    found = binned("GCN", bins(quantiles=4))
    counts = [s.shape[0] for s in found.program.sites if s.whole == "conv:feature"]
    assert sum(counts) == 40
    ordered = DEGREES.sort().values.tolist()
    starts = sorted({ordered[10 * k] for k in (1, 2, 3)})
    assert [s.bin.least for s in found.program.sites if s.bin and s.whole == "conv:feature"] == [0, *starts]


def test_memory_by_bin_against_the_formula() -> None:
    """A row of a bin starts on a byte: six numbers of 3 bits take three."""
    found = binned("two GCN", bins(edges=[4, 6]))
    widths = {"deg0-3": 8, "deg4-5": 3, "deg6+": 1}
    texts = {s.name: f"int{widths[s.bin.label]}" for s in found.program.sites if s.bin}
    at = Assignment({name: Format.parse(text) for name, text in texts.items()})
    nodes = [int(((a <= DEGREES) & (b > DEGREES)).sum()) for a, b in ((0, 4), (4, 6), (6, 99))]
    expected = sum(feature_bits(nodes, width, list(widths.values()), row=8) for width in (8, 6))
    assert found.memory.at(at)["feature_bytes"] == expected / 8


@pytest.mark.parametrize("name", LAYERS)
def test_bins_in_float_cost_what_the_whole_costs(name: str) -> None:
    one, other = whole(name), binned(name, bins(edges=[4, 6]))
    assert one.memory.at(Assignment()) == other.memory.at(Assignment())


@pytest.mark.parametrize(
    ("spec", "roles", "words"),
    [
        (
            bins(edges=[4, 90]),
            SPLIT,
            r"no node of validation.*25 from degree 4, 0 from degree 90\); use edges: \[4\], or",
        ),
        (bins(edges=[90]), SPLIT, "use quantiles, or leave bins out"),
        (bins(edges=[4]), (Role.WEIGHT,), "'conv.lin.weight' is of role weight"),
    ],
)
def test_bins_that_cannot_be_are_refused(spec: BinsSpec, roles: tuple[Role, ...], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        binned("GCN", spec, roles)


def test_a_graph_of_one_degree_has_no_quantiles() -> None:
    ring = torch.stack([torch.arange(40), (torch.arange(40) + 1) % 40])
    with pytest.raises(BadInput, match="split nothing"):
        rig(LAYERS["GCN"](), (X, ring), bins={"conv:feature": bins(quantiles=4)})


def test_a_model_without_a_graph_has_no_bins() -> None:
    with pytest.raises(BadInput, match="need a graph"):
        rig(nn.Linear(8, 3), (X,), bins={"in": bins(edges=[4])})


def test_degrees_rise() -> None:
    for fields, words in (
        ({"edges": [8, 4]}, "must rise"),
        ({"edges": [4, 4]}, "must rise"),
        ({"edges": [0, 4]}, "greater than 0"),
        ({}, "either 'edges' or 'quantiles'"),
        ({"edges": [4], "quantiles": 2}, "either 'edges' or 'quantiles'"),
        ({"quantiles": 1}, "greater than or equal to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            bins(**fields)


@pytest.mark.parametrize("ranges", ["shared", "bin"])
def test_integers_of_several_widths_are_rematched_by_the_bin_of_the_source(ranges: str) -> None:
    """out_i - b = sum over bins of s_a s_h sum(a c) + s_a z_h sum(a) + z_a s_h sum(c) + z_a z_h n, sums over the
    edges into i whose source is in the bin, a and c the codes of attention and message: SGQuant's rematching."""
    found = binned("GCN", bins(edges=[4, 6], ranges=ranges), (Role.MESSAGE, Role.ATTENTION))
    conv: Any = found.model.conv
    names = [site.name for site in found.program.sites]
    widths = {"deg0-3": (8, 4), "deg4-5": (4, 3), "deg6+": (2, 2)}
    texts = {f"conv:message@{label}": f"int{m}:max" for label, (m, _) in widths.items()}
    texts |= {f"conv:attention@{label}": f"int{a}:max" for label, (_, a) in widths.items()}
    (source, target), norm = gcn_norm(EDGES, num_nodes=40)
    number = torch.bucketize(DEGREES, torch.tensor([4, 6]), right=True)[source]

    def coded(name: str, value: Tensor) -> tuple[Tensor, float, float]:
        grid: Any = found.grids.grid(names.index(name), Format.parse(texts[name]))
        scale = float(grid.scale)
        return grid.codes(value).long(), scale, -scale * float(grid.zero_point)

    with torch.no_grad():
        hidden, total = X @ conv.lin.weight.T, torch.zeros(40, 6, dtype=torch.float64)
        for k, (label, (bits_h, bits_a)) in enumerate(widths.items()):
            of_bin = number == k
            into, edges = target[of_bin], int(of_bin.sum())
            c, s_h, z_h = coded(f"conv:message@{label}", hidden[source[of_bin]])
            a, s_a, z_a = coded(f"conv:attention@{label}", norm[of_bin])
            a = a[:, None]

            def summed(codes: Tensor, into: Tensor = into) -> Tensor:
                return torch.zeros(40, codes.shape[1], dtype=torch.int64).index_add_(0, into, codes)

            most = int(torch.bincount(into).max())
            assert summed(a * c).max() < 2 ** (bits_a + bits_h + (most - 1).bit_length())
            ones = torch.ones(edges, 1, dtype=torch.int64)
            total += (
                s_a * s_h * summed(a * c) + s_a * z_h * summed(a) + z_a * s_h * summed(c) + z_a * z_h * summed(ones)
            )
    torch.testing.assert_close(found.run(texts)[0], total.float() + conv.bias, rtol=1e-5, atol=1e-5)


class Nothing(BinaryGrid):
    """Takes every value to zero."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(()), torch.zeros(()), Grain())


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "two GCN"])
@pytest.mark.parametrize("part", ["feature", "message", "attention", "aggregate"])
def test_a_part_that_is_nothing_leaves_what_does_not_pass_it(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number goes around a site: without features a layer is its bias, without messages what nodes do alone."""
    found = whole(name)
    if f"conv:{part}" not in found.sites:
        assert part == "attention"
        assert name in ("SAGE", "GIN", "own layer")
        return
    conv: Any = found.model.conv
    alone: dict[str, Callable[[Tensor], Tensor]] = {
        "GCN": lambda x: conv.bias.expand(40, -1),
        "GAT": lambda x: conv.bias.expand(40, -1),
        "AGNN": torch.zeros_like,
        "SAGE": lambda x: conv.lin_l.bias + conv.lin_r(x),
        "GIN": lambda x: conv.nn((1 + conv.eps) * x),
        "Transformer": lambda x: conv.lin_skip(x),
        "own layer": torch.zeros_like,
    }
    monkeypatch.setattr(found.grids, "grid", lambda site, fmt: Nothing())
    with torch.no_grad():
        expected = conv(0 * X, EDGES) if part == "feature" else alone[name](X)
        torch.testing.assert_close(found.run({f"conv:{part}": "int1"})[0], expected, rtol=1e-5, atol=1e-6)
