"""Memory of message passing on a graph, in bits, in the definitions of SGQuant (Feng et al., arXiv 2007.05100).

* `mem_embed`: features that enter each layer, and one attention coefficient per edge and head, or its score where
  that alone has a format. What is gathered to edges is not counted again. The measure `feature_bytes` is this, of the
  sites of a model.
* `mem_notes`: what the authors' code counts: features before and after the linear map, both gathered to the edges, and
  three edge values per head; no weights. The measure `notes_bytes` is this, of the layers of a model with a
  softmax over edges: `mem_notes` itself where a layer has one width for all of it.
* `mem_total`: `mem_embed`, weights, the structure of the graph, and what mixed widths need besides. The measure
  `graph_bytes` is this, of the sites of a model.

Nodes come in bins by degree, each with a width of its own; without bins there is one bin. Edges include self loops
where the layer adds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from mpsearch.cost.memory import Packed, PackedAt, Parameter, Value, feature, memory_parts, part, value_bytes
from mpsearch.cost.model import Measure
from mpsearch.cost.sums import Part, Sum
from mpsearch.cost.workload import Held

Scope = Literal["shared", "bin", "node"]
"""What one range (lowest value and scale) is for."""
Known = Literal["degree", "sorted", "map"]
"""How a node's bin is found."""


@dataclass(frozen=True)
class Layer:
    """The sizes of a layer of a GNN.

    Args:
        features: numbers per node that enter.
        heads: of the attention; 0 without.
        channels: numbers per node and head after the linear map.
    """

    features: int
    heads: int = 0
    channels: int = 0


@dataclass(frozen=True)
class Structure:
    """The size of a graph: nodes, directed edges as they are given to the model, and float weights given with them."""

    nodes: int
    edges: int
    weights: int = 0


def feature_bits(counts: Sequence[int], features: int, bits: Sequence[int], row: int = 1) -> int:
    """Features of nodes, bin by bin.

    Args:
        counts: nodes of each bin. bits: of a feature, by bin.
        row: each node starts at a multiple of so many bits: 8 where rows start on bytes, 1 without gaps.
    """
    each = zip(counts, bits, strict=True)
    return sum(count * -(-features * width // row) * row for count, width in each)


def edge_bits(edges: int, channels: int, bits: int) -> int:
    """Attention coefficients (a channel per head), or messages where a kernel writes them to memory."""
    return edges * channels * bits


def coo_bits(edges: int, index: int = 64) -> int:
    """Source and target of each edge: what torch-geometric holds."""
    return 2 * edges * index


def csr_bits(nodes: int, edges: int, index: int = 32) -> int:
    """Row pointers and the sources of each row's edges."""
    return (nodes + 1 + edges) * index


def range_bits(nodes: int, bins: int, scope: Scope) -> int:
    """Lowest value and scale (two float32) of one quantized tensor: for all of it, per bin, or per node."""
    return 64 * {"shared": 1, "bin": bins, "node": nodes}[scope]


def bin_bits(nodes: int, bins: int, known: Known) -> int:
    """How a node's bin is found: from its degree, which the row pointers give, by the points where the degrees are
    split; from where each bin begins in sorted nodes; or from a map. Then a byte for the width of each bin.
    """
    found = {"degree": (bins - 1) * 32, "sorted": bins * 32, "map": nodes * (bins - 1).bit_length()}[known]
    return found + 8 * bins if bins > 1 else 0


def mem_embed(
    counts: Sequence[int],
    edges: int,
    layers: Sequence[Layer],
    bits: Sequence[Sequence[int]],
    attention: Sequence[int],
    row: int = 1,
) -> int:
    """Bits of the embeddings that enter each layer, and of its attention.

    Args:
        counts: nodes of each bin. edges: with self loops.
        bits: of a feature, by layer and bin. attention: bits of a coefficient, by layer.
        row: as in `feature_bits`.
    """
    features = sum(feature_bits(counts, at.features, own, row) for at, own in zip(layers, bits, strict=True))
    return features + sum(edge_bits(edges, at.heads, own) for at, own in zip(layers, attention, strict=True))


def mem_notes(nodes: int, edges: int, layers: Sequence[Layer], bits: Sequence[int]) -> int:
    """Bits of all that the authors' code counts of attention layers; `bits` by layer, `edges` with self loops."""
    return sum(width * _noted(nodes, edges, layer) for layer, width in zip(layers, bits, strict=True))


def mem_total(
    counts: Sequence[int],
    structure: Structure,
    layers: Sequence[Layer],
    bits: Sequence[Sequence[int]],
    attention: Sequence[int],
    stored: int,
    loops: bool = True,
    scope: Scope = "shared",
    known: Known = "degree",
    row: int = 1,
) -> int:
    """Bits of everything: `mem_embed`, weights and biases, the structure in CSR, ranges and bins.

    Args:
        counts, layers, bits, attention, row: as in `mem_embed`.
        stored: bits of weights and biases.
        loops: whether layers add an edge from each node to itself.
        scope: of the ranges of features; those of an attention are shared.
        known: how a node's bin is found.
    """
    nodes, bins = structure.nodes, len(counts)
    edges = structure.edges + (nodes if loops else 0)
    ranges = sum(range_bits(nodes, bins, scope) + (range_bits(nodes, 1, "shared") if at.heads else 0) for at in layers)
    embed = mem_embed(counts, edges, layers, bits, attention, row)
    return embed + stored + csr_bits(nodes, structure.edges) + ranges + bin_bits(nodes, bins, known)


def graph_measures(
    structure: Structure | None, parameters: Sequence[Parameter], values: Sequence[Value], packed: PackedAt
) -> dict[str, Measure]:
    """`graph_bytes` of a GNN on one batch: `memory_bytes`, `feature_bytes` and the structure in CSR.

    Nothing for a model without a graph (`structure` None) or without features.
    """
    if structure is None or not any(value.is_feature for value in values):
        return {}
    nodes, given = structure.nodes, structure.edges
    stored = memory_parts(parameters, values, packed)
    features = [feature(v, packed, lambda value, taken: 8 * value_bytes(value, taken)) for v in values if v.is_feature]
    edges = Part("(structure)", (), lambda _: csr_bits(nodes, given) + 32 * structure.weights)
    parts = [*stored, *features, edges]
    if bins := [value.bin for value in values if value.bin is not None]:
        parts.append(Part("(bins)", (), lambda _: sum(8 + (32 if of.least else 0) for of in bins)))  # as `bin_bits`
    return {"graph_bytes": Sum(parts, per=8, whole=True)}


def notes_measures(noted: Sequence[tuple[Held, Fraction]], packed: PackedAt) -> dict[str, Measure]:
    """`notes_bytes`, the `mem_notes` of a model; nothing for one without a softmax over edges.

    Args:
        noted: tensors, and how often their numbers count.
    """

    def units(times: Fraction) -> Callable[[Held, Packed | None], int]:
        def bits(held: Held, found: Packed | None) -> int:
            return math.ceil(times * (32 * held.elements if found is None else found.code_bits))

        return bits

    parts = [part(held, packed, units(times)) for held, times in noted]
    return {"notes_bytes": Sum(parts, per=8, whole=True)} if parts else {}


def _noted(nodes: int, edges: int, layer: Layer) -> int:
    """Elements that `mem_notes` counts: x, W x, both ends of each edge, and three values per edge and head."""
    mapped = layer.heads * layer.channels
    return nodes * (layer.features + mapped) + edges * (2 * mapped + 3 * layer.heads)
