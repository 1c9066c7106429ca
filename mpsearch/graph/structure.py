"""The graph that a GNN is run on: how many nodes and edges, read off its gathers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from mpsearch.cost.graph_memory import Structure
from mpsearch.graph.export import Lowered
from mpsearch.graph.messages import edge_row, gather_axis, gather_index, is_edge_index, is_edge_weight, is_gather
from mpsearch.graph.ops import ancestors, root, same_size
from mpsearch.graph.sites import Discovery


@dataclass(frozen=True)
class EdgeEnd:
    """Nodes that edges are gathered from.

    Args:
        edges: place of the edge_index among the flat inputs.
        row: of it: 0 for sources, 1 for targets.
        fixed: how many nodes there are in every batch; None where that is the size of an input.
        given: place of that input, and its axis.
    """

    edges: int
    row: int
    fixed: int | None
    given: tuple[int, int]

    def nodes(self, inputs: Sequence[Any]) -> int:
        """How many nodes the batch of flat `inputs` has."""
        place, axis = self.given
        return int(inputs[place].shape[axis]) if self.fixed is None else self.fixed


def edge_ends(lowered: Lowered) -> list[EdgeEnd]:
    """What the gathers of a graph look up by an edge_index among its inputs, where the number of nodes is known."""
    placeholders = [node for node in lowered.graph.nodes if node.op == "placeholder"]
    found = []
    for node in lowered.graph.nodes:
        index = gather_index(node) if is_gather(node) else None
        above = [] if index is None else [index, *ancestors(index)]
        table = next(filter(is_edge_index, above), None)
        row = next((row for n in above if (row := edge_row(n)) is not None), None)
        if table is None or row is None:
            continue
        rows = node.args[0].meta["val"].shape[gather_axis(node)]
        given = input_of_size(placeholders, rows)
        fixed = rows if isinstance(rows, int) else None
        if fixed is not None or given is not None:
            found.append(EdgeEnd(placeholders.index(table), row, fixed, given or (0, 0)))
    return list(dict.fromkeys(found))


def input_of_size(placeholders: Sequence[fx.Node], size: Any) -> tuple[int, int] | None:
    """Place and axis of an input that is as long as `size`, a symbol."""
    for place, node in enumerate(placeholders):
        value = node.meta.get("val")
        for axis in range(value.ndim if isinstance(value, Tensor) else 0):
            if same_size(value.shape[axis], size):
                return place, axis
    return None


def structure(lowered: Lowered, discovery: Discovery) -> Structure | None:
    """Nodes and edges of the batch that the graph was measured on; None where nothing is gathered by edges.

    Edges are the columns of the inputs [2, edges] that indices of gathers come from, as they are given: self loops
    that a layer adds are not among them. Weights are inputs of a number per edge that are no site by themselves.
    """
    edges: dict[fx.Node, int] = {}
    nodes = 0
    for node in lowered.graph.nodes:
        if is_gather(node):
            given = [source for source in ancestors(gather_index(node)) if is_edge_index(source)]
            if given:
                nodes = max(nodes, node.args[0].meta["shape"][gather_axis(node)])
            edges |= {source: source.meta["shape"][1] for source in given}
    sited = {root(found.node) for found in discovery.found}
    weights = [node for node in lowered.graph.nodes if is_edge_weight(node) and node not in sited]
    return Structure(nodes, sum(edges.values()), sum(n.meta["shape"][0] for n in weights)) if edges else None
