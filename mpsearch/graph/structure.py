"""The graph that a GNN is run on: how many nodes and edges, read off its gathers."""

from __future__ import annotations

from torch import Tensor, fx

from mpsearch.cost.graph_memory import Structure
from mpsearch.graph.export import Lowered
from mpsearch.graph.messages import gather_axis, gather_index, is_gather
from mpsearch.graph.ops import ancestors


def structure(lowered: Lowered) -> Structure | None:
    """Nodes and edges of the batch that the graph was measured on; None where nothing is gathered by edges.

    Edges are the columns of the inputs [2, edges] that indices of gathers come from, as they are given: self loops
    that a layer adds are not among them.
    """
    edges: dict[fx.Node, int] = {}
    nodes = 0
    for node in lowered.graph.nodes:
        if is_gather(node):
            given = [source for source in ancestors(gather_index(node)) if is_edge_index(source)]
            if given:
                nodes = max(nodes, node.args[0].meta["shape"][gather_axis(node)])
            edges |= {source: source.meta["shape"][1] for source in given}
    return Structure(nodes, sum(edges.values())) if edges else None


def is_edge_index(node: fx.Node) -> bool:
    """Whether an input of the model is a table of two rows of whole numbers."""
    value = node.meta.get("val")
    is_table = isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point()
    return node.op == "placeholder" and is_table and node.meta["shape"][0] == 2
