"""Graphs among the inputs of a model: edges, degrees, sparse adjacencies; what is checked of them before a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.graph.bins import add_degrees
from mpsearch.graph.export import Example, Lowered
from mpsearch.graph.sparse import is_sparse, is_weighted, passes_messages, with_edges
from mpsearch.graph.structure import edge_ends
from mpsearch.problem.objective import Batch

Examples = Mapping[str, Sequence[Example]]
Flat = Mapping[str, Sequence[Sequence[Any]]]
"""By split and batch: the leaves of the inputs."""


def check_graphs(model: nn.Module, given: Examples) -> None:
    """Raise `BadInput` where a model that passes messages gets no list of edges, but what may be meant for one."""
    if not any(map(passes_messages, model.modules())):
        return
    for split, found in given.items():
        for number, example in enumerate(found):
            tables = [leaf for leaf in example.leaves() if isinstance(leaf, Tensor) and leaf.ndim == 2]
            whole = [not leaf.is_floating_point() for leaf in tables]
            if any(map(is_sparse, example.leaves())) or any(
                is_whole and len(leaf) == 2 for leaf, is_whole in zip(tables, whole, strict=True)
            ):
                continue
            for leaf, is_whole in zip(tables, whole, strict=True):
                if is_whole and leaf.shape[1] == 2:
                    advice = "edge_index has sources above targets, [2, edges]: give edge_index.t()"
                elif not is_whole and len(leaf) == 2:
                    advice = "edge_index holds whole numbers: give edge_index.long()"
                else:
                    continue
                raise BadInput(
                    f"batch {number} of {split} has no edge_index [2, edges] of whole numbers among its inputs; there "
                    f"is {leaf.dtype} of shape {tuple(leaf.shape)}. {advice}."
                )


def edges_listed(given: Examples) -> dict[str, list[Example]]:
    """`given` with edges in place of sparse adjacencies; with their values, where one in any batch is not one."""
    weighted = any(is_weighted((e.args, dict(e.kwargs))) for found in given.values() for e in found)

    def listed(example: Example) -> Example:
        return Example(*with_edges((example.args, dict(example.kwargs)), weighted))

    return {split: [listed(example) for example in found] for split, found in given.items()}


def check_edges(lowered: Lowered, flat: Flat) -> None:
    """Raise `BadInput` where an edge of a batch begins or ends at a node that is not there."""
    ends = edge_ends(lowered)
    for split, found in flat.items():
        for number, inputs in enumerate(found):
            for end in ends:
                nodes = end.nodes(inputs)
                index = inputs[end.edges][end.row]
                wrong = index[(index < 0) | (index >= nodes)]
                if len(wrong):
                    raise BadInput(
                        f"edge_index of batch {number} of {split}: row {end.row} names node {int(wrong[0])}, and there "
                        f"are {nodes} nodes; allowed are 0 to {nodes - 1}. Number the nodes of each batch from 0."
                    )


def with_degrees(lowered: Lowered, flat: Flat, batches: Mapping[str, Sequence[Batch]]) -> dict[str, list[list[Any]]]:
    """`flat` with the in-degrees that batches give, and `lowered` with an input for them; as they are without.

    Raises `BadInput` where some batches give degrees and others not, or not one for each node.
    """
    given = {split: [batch.degrees for batch in found] for split, found in batches.items()}
    missing = [degrees is None for found in given.values() for degrees in found]
    if all(missing):
        return {split: [list(inputs) for inputs in found] for split, found in flat.items()}
    if any(missing):
        raise BadInput("some batches have degrees and others have none; give every Batch degrees=..., or none.")
    ends = edge_ends(lowered)
    found: dict[str, list[list[Any]]] = {}
    for split, all_inputs in flat.items():
        found[split] = []
        for number, (inputs, degrees) in enumerate(zip(all_inputs, given[split], strict=True)):
            assert degrees is not None
            nodes = max((end.nodes(inputs) for end in ends), default=len(degrees))
            if degrees.shape != (nodes,) or degrees.is_floating_point() or bool((degrees < 0).any()):
                raise BadInput(
                    f"degrees of batch {number} of {split}: {degrees.dtype} of shape {tuple(degrees.shape)}; give the "
                    f"in-degree of each of the {nodes} nodes in the whole graph, as whole numbers of at least 0."
                )
            found[split].append([*inputs, degrees])
    add_degrees(lowered, found["validation"][0][-1])
    return found
