"""SGQuant's definitions against the figures of its authors' code, published sizes of graphs, and sums over nodes."""

from __future__ import annotations

import math
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.site import Bin
from mpsearch.core.space import Choice, Space
from mpsearch.cost.graph_memory import (
    Layer,
    Structure,
    bin_bits,
    coo_bits,
    csr_bits,
    feature_bits,
    graph_measures,
    mem_embed,
    mem_notes,
    mem_total,
    range_bits,
)
from mpsearch.cost.memory import Packed, Parameter, Value, memory_measures

GRAPHS = {
    "Cora": (2708, 13264, 1433, 7),
    "Citeseer": (3327, 12431, 3703, 6),
    "PubMed": (19717, 108365, 500, 3),
    "Amazon Computers": (13752, 505474, 767, 10),
    "Amazon Photo": (7650, 245812, 745, 8),
    "Reddit": (232965, 114848857, 602, 41),
}
"""Nodes, directed edges with self loops, features and classes."""

FLOAT_SIZES = {
    "Cora": "15.0 15.3 15.5 36.0 0.10 0.46 26.0",
    "Citeseer": "47.2 47.6 47.8 73.0 0.09 0.43 59.4",
    "PubMed": "38.8 41.2 42.4 191.6 0.83 3.72 119.6",
    "Amazon Computers": "41.1 42.8 43.6 147.7 3.86 17.35 403.6",
    "Amazon Photo": "22.2 23.1 23.6 81.5 1.88 8.44 195.1",
    "Reddit": "549 578 592 2355 876 3943 109595",
}
"""MiB of the features of GCN 16, AGNN 16, GAT 8 x 8 and GAT 8 x 256, of the attention of the AGNN and of a GAT; MB that
the notes count of GAT 8 x 8."""


def gcn(features: int) -> list[Layer]:
    return [Layer(features), Layer(16)]


def agnn(features: int) -> list[Layer]:
    return [Layer(features), Layer(16, heads=1), Layer(16, heads=1), Layer(16)]


def gat(features: int, classes: int, channels: int = 8) -> list[Layer]:
    return [Layer(features, 8, channels), Layer(8 * channels, 1, classes)]


def embedded(nodes: int, edges: int, layers: list[Layer], bits: int, attention: int) -> int:
    return mem_embed([nodes], edges, layers, [[bits]] * len(layers), [attention] * len(layers))


@pytest.mark.parametrize("name", GRAPHS)
def test_sizes_in_float(name: str) -> None:
    nodes, edges, features, classes = GRAPHS[name]
    models = [gcn(features), agnn(features), gat(features, classes), gat(features, classes, 256)]
    embed = [embedded(nodes, edges, layers, 32, 0) for layers in models]
    attention = [embedded(nodes, edges, layers, 0, 32) for layers in models]
    notes = mem_notes(nodes, edges, gat(features, classes), [32, 32])
    mebibytes = [bits / 8 / 2**20 for bits in (*embed, attention[1], attention[2])]
    assert attention[0] == 0
    assert attention[2] == attention[3]
    for found, text in zip([*mebibytes, notes / 8 / 1e6], FLOAT_SIZES[name].split(), strict=True):
        assert float(text) == pytest.approx(found, abs=0.51 * 10.0 ** -len(text.partition(".")[2]))


def test_the_notes_of_the_authors() -> None:
    """GAT 8 x 8 on Cora: elements, megabits at 32 bits, and at 4 bits in the first layer with the second in float."""
    nodes, edges, features, classes = GRAPHS["Cora"]
    layers = gat(features, classes)
    assert [mem_notes(nodes, edges, [layer], [1]) for layer in layers] == [6_070_004, 417_756]
    assert mem_notes(nodes, edges, layers, [1, 1]) == 6_487_760
    assert mem_notes(nodes, edges, layers, [32, 32]) == 207_608_320
    assert mem_notes(nodes, edges, layers, [4, 32]) == 37_648_208


@pytest.mark.parametrize(
    ("name", "size"), [("Cora", 15_522_256), ("Citeseer", 3327 * 3703 * 4), ("PubMed", 19717 * 500 * 4)]
)
def test_input_features(name: str, size: int) -> None:
    nodes, _, features, _ = GRAPHS[name]
    assert feature_bits([nodes], features, [32]) == feature_bits([nodes], features, [32], row=8) == 8 * size
    assert name != "Cora" or size / 2**20 == pytest.approx(14.803, abs=5e-4)


bins = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 20), min_size=n, max_size=n), st.lists(st.integers(1, 8), min_size=n, max_size=n)
    )
)


@given(bins, st.integers(1, 40), st.sampled_from((1, 8, 32)))
def test_features_are_a_sum_over_nodes(found: tuple[list[int], list[int]], features: int, row: int) -> None:
    counts, bits = found
    each = [width for count, width in zip(counts, bits, strict=True) for width in repeat(width, count)]
    assert feature_bits(counts, features, bits, row) == sum(math.ceil(features * w / row) * row for w in each)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 50), st.integers(1, 8), st.integers(1, 8))
def test_one_width_in_all_bins_is_no_bins(counts: list[int], edges: int, bits: int, attention: int) -> None:
    layers = gat(30, 5)
    binned = mem_embed(counts, edges, layers, [[bits] * len(counts)] * 2, [attention] * 2, row=8)
    assert binned == mem_embed([sum(counts)], edges, layers, [[bits]] * 2, [attention] * 2, row=8)


def test_structure_ranges_and_bins() -> None:
    nodes, directed = 2708, 10556
    assert coo_bits(directed) == 2 * 10556 * 64
    assert csr_bits(nodes, directed) == (2709 + 10556) * 32
    assert [range_bits(nodes, 4, scope) for scope in ("shared", "bin", "node")] == [64, 256, 64 * 2708]
    assert [bin_bits(nodes, 4, known) for known in ("degree", "sorted", "map")] == [
        3 * 32 + 32,
        4 * 32 + 32,
        2 * 2708 + 32,
    ]
    assert [bin_bits(nodes, 1, known) for known in ("degree", "sorted", "map")] == [0, 0, 0]
    assert bin_bits(nodes, 5, "map") == 3 * 2708 + 40


def test_all_that_a_gat_takes() -> None:
    """Two degree bins, ranges per tensor; then ranges per node, and no self loops."""
    counts, layers, cora = [1000, 1708], gat(12, 7), Structure(2708, 10556)
    bits, weights = [[8, 4], [4, 2]], 32 * (12 * 64 + 64 * 7)
    features = 1000 * 96 + 1708 * 48 + 1000 * 64 * 4 + 1708 * 64 * 2
    attention = 13264 * 8 * 4 + 13264 * 8
    shared = mem_total(counts, cora, layers, bits, [4, 8], weights)
    ranges = 2 * (64 + 64)
    assert shared == features + attention + weights + (2709 + 10556) * 32 + ranges + (32 + 16)
    per_node = mem_total(counts, cora, layers, bits, [4, 8], weights, scope="node")
    assert per_node - shared == 2 * 64 * 2707
    unlooped = mem_total(counts, cora, layers, bits, [4, 8], weights, loops=False)
    assert shared - unlooped == 2708 * (8 * 4 + 8)


def packed(name: str, fmt: Format) -> Packed:
    codes = int(name.split(".")[1]) * int(fmt.bits)
    return Packed(-(-codes // 8) * 8 + 64, codes, 64)


def test_graph_bytes_are_weights_features_and_structure() -> None:
    parameters = [Parameter("w.20", 20, 4, site="w.20", counts=True)]
    values = [
        Value("x.33", 33, 3, site="x.33", is_feature=True),
        Value("alpha.7", 7, site="alpha.7", is_feature=True),
        Value("message.50", 50, site="message.50"),
    ]
    measures = memory_measures(parameters, values, packed) | graph_measures(Structure(3, 5), parameters, values, packed)
    formats = tuple(map(Format.parse, ("int2", "int3", "fp32")))
    space = Space(tuple(Choice(held.name, (held.name,), formats) for held in (*parameters, *values)))
    for assignment in space.assignments():
        at = {name: measure.measure(assignment) for name, measure in measures.items()}
        assert at["graph_bytes"] == at["memory_bytes"] + at["feature_bytes"] + (3 + 1 + 5) * 4
        assert measures["graph_bytes"].cost(space)([space.encode(assignment)]) == at["graph_bytes"]
    assert measures["graph_bytes"].shares(Assignment())["(structure)"] == 36
    assert graph_measures(None, parameters, values, packed) == {}
    assert graph_measures(Structure(3, 5), parameters, values[2:], packed) == {}


@given(
    counts=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    width=st.integers(1, 9),
    stored=st.lists(st.sampled_from([1, 2, 3, 8]), min_size=4, max_size=4),
)
def test_bins_of_a_value_take_what_the_definitions_say(counts: list[int], width: int, stored: list[int]) -> None:
    """Rows that start on bytes, a scale and zero point per bin, points where degrees are split, a width for each."""
    bins = [Bin(i, None if i == len(counts) - 1 else i) for i in range(len(counts))]
    values = [
        Value(f"x@{of.label}", n * width, n, site=f"x@{of.label}", is_feature=True, bin=of)
        for n, of in zip(counts, bins, strict=True)
    ]
    rows = dict(zip((v.name for v in values), counts, strict=True))

    def packed(name: str, fmt: Format) -> Packed:
        codes = rows[name] * width * int(fmt.bits)
        return Packed(codes + 64, codes, 64)

    nodes = sum(counts)
    measures = memory_measures([], values, packed) | graph_measures(Structure(nodes, 5), [], values, packed)
    bits = stored[: len(counts)]
    at = Assignment({v.name: Format.parse(f"int{b}") for v, b in zip(values, bits, strict=True)})
    features = feature_bits(counts, width, bits, row=8)
    assert measures["feature_bytes"].measure(at) == features / 8
    total = features + range_bits(nodes, len(counts), "bin") + bin_bits(nodes, len(counts), "degree")
    assert measures["graph_bytes"].measure(at) == -(-(total + csr_bits(nodes, 5)) // 8)
