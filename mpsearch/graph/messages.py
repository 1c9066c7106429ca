"""The parts of a message-passing layer, read off the graph: no layer is known by name.

A message is the gather of node values to edges, attention what it is multiplied with, the score what a softmax over the
edges makes attention of, the aggregate the scatter back to nodes, and a feature the node-level value that enters the
layer or a linear layer. The vocabulary and the components are those of SGQuant (Feng et al., arXiv 2007.05100); scores
are ours: they have one range however many edges a node has, while attention is as small as a node has many.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from mpsearch.core.site import Role
from mpsearch.graph.export import module_path
from mpsearch.graph.ops import GATHERS, LINEAR, SCATTERS, aten, is_call, is_float, root, same_size, unreshaped


@dataclass(frozen=True)
class Part:
    """One value of a message-passing layer, its role and the layer's module path."""

    node: fx.Node
    role: Role
    module: str


def find(nodes: Iterable[fx.Node], live: set[fx.Node]) -> list[Part]:
    """Scores, attention, messages, features and aggregates, in that order of precedence; empty for what is no GNN."""
    nodes = list(nodes)
    live = live - weights_of_edges(nodes, live)
    gathers = [n for n in nodes if is_gather(n) and n.args[0] in live]
    scatters = [n for n in nodes if is_call(n, SCATTERS) and scattered(n) in live and not _in_softmax(n)]
    if not gathers or not scatters:
        return []
    parts: list[Part] = []
    layers = set()
    aggregates: dict[fx.Node, str] = {}
    for scatter in scatters:
        factors = _factors(scattered(scatter), live)
        if not any(f in live and f in gathers for f in factors) and not _from_edges(scatter, gathers):
            continue  # pooling of nodes into graphs: no messages
        module = _layer(scatter)
        layers.add(module)
        aggregates[_mean(scatter)] = module
        for factor in factors:
            if factor in gathers:
                parts.append(Part(factor, Role.MESSAGE, module))
            elif is_edge_softmax(factor) or factor not in live:
                if is_float(factor):
                    parts.append(Part(factor, Role.ATTENTION, module))
                score = score_of(factor)
                if score is not None and score in live:
                    parts.append(Part(score, Role.SCORE, module))
            else:
                parts.append(Part(factor, Role.MESSAGE, module))
    rows = {g.args[0].meta["shape"][gather_axis(g)] for g in gathers}
    parts += _features(nodes, live, gathers, rows, layers, set(aggregates))
    parts += [Part(node, Role.AGGREGATE, layer) for node, layer in aggregates.items()]
    order = [Role.SCORE, Role.ATTENTION, Role.MESSAGE, Role.FEATURE, Role.AGGREGATE]
    return sorted(parts, key=lambda part: order.index(part.role))


def weights_of_edges(nodes: Sequence[fx.Node], live: set[fx.Node]) -> set[fx.Node]:
    """What follows from the structure and from edge weights that are given as an input: coefficients of messages, like
    the degree normalisation of a GCN, and no node values."""
    found: set[fx.Node] = set()
    for node in nodes:
        sources = [source for source in node.all_input_nodes if source in live]
        if node in live and (is_edge_weight(node) or (sources and found.issuperset(sources))):
            found.add(node)
    return found


def is_edge_index(node: fx.Node) -> bool:
    """Whether an input of the model is a table of two rows of whole numbers."""
    value = node.meta.get("val")
    is_table = isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point()
    return node.op == "placeholder" and is_table and str(value.shape[0]) == "2"


def is_edge_weight(node: fx.Node) -> bool:
    """Whether an input of the model is a list of one number per edge of another."""
    if node.op != "placeholder" or not is_float(node) or node.meta["val"].ndim != 1:
        return False
    edges = node.meta["val"].shape[0]
    return any(is_edge_index(n) and same_size(n.meta["val"].shape[1], edges) for n in node.graph.nodes)


def scattered(node: fx.Node) -> fx.Node:
    """What a scatter adds up."""
    return node.args[2] if is_call(node, {aten.index_put.default}) else node.args[3]


def is_gather(node: fx.Node) -> bool:
    """Whether rows of a floating-point value are looked up by one list of indices."""
    return is_float(node) and gather_index(node) is not None


def gather_index(node: fx.Node) -> fx.Node | None:
    """The one list of indices that a gather looks up; None for any other node."""
    if is_call(node, {aten.index.Tensor}):
        indices = [i for i in node.args[1] if i is not None]
        found = indices[0] if len(indices) == 1 else None
    else:
        found = node.args[2] if is_call(node, {aten.index_select.default}) else None
    return found if _is_index(found) else None


def gather_axis(node: fx.Node) -> int:
    """The axis along which a gather looks up."""
    if is_call(node, {aten.index.Tensor}):
        return next(i for i, index in enumerate(node.args[1]) if index is not None)
    return int(node.args[1])


def edge_row(node: fx.Node) -> int | None:
    """Which row of a table of edges `node` takes out; None for any other node."""
    if is_call(node, {aten.select.int}) and node.args[1] == 0:
        return int(node.args[2])
    is_part = is_call(node, {operator.getitem}) and is_call(node.args[0], {aten.unbind.int})
    return int(node.args[1]) if is_part else None


def _is_index(node: object) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.ndim == 1 and value.dtype in (torch.int64, torch.int32)


def _in_softmax(scatter: fx.Node) -> bool:
    """Whether a scatter computes the maximum or the sum of an edge softmax."""
    if is_call(unreshaped(scattered(scatter)), {aten.exp.default}):
        return True
    if not is_call(scatter, {aten.scatter_reduce.two}) or scatter.args[4] != "amax":
        return False
    gathered = [u for u in scatter.users if is_call(u, GATHERS)]
    return bool(gathered) and all(is_call(u, {aten.sub.Tensor}) for g in gathered for u in g.users)


def is_edge_softmax(node: fx.Node) -> bool:
    """Whether a value is a softmax over the edges into each node: attention that is computed, not given."""
    if not is_call(node, {aten.div.Tensor}) or not is_call(unreshaped(node.args[0]), {aten.exp.default}):
        return False
    return is_call(unreshaped(node.args[1]), GATHERS)


def score_of(attention: fx.Node) -> fx.Node | None:
    """What a softmax over edges is taken of: its exponent before the largest of the node is subtracted."""
    if not is_edge_softmax(attention):
        return None
    exponent = unreshaped(unreshaped(attention.args[0]).args[0])
    return unreshaped(exponent.args[0]) if is_call(exponent, {aten.sub.Tensor}) else None


def _factors(node: fx.Node, live: set[fx.Node]) -> list[fx.Node]:
    """The values whose product `node` is; what follows from the structure alone is one factor."""
    node = unreshaped(node)
    if node in live and is_call(node, {aten.mul.Tensor}) and all(isinstance(a, fx.Node) for a in node.args[:2]):
        return [f for a in node.args[:2] for f in _factors(a, live)]
    return [node]


def _from_edges(scatter: fx.Node, gathers: list[fx.Node]) -> bool:
    """Whether what is scattered was computed on edges, from gathered values."""
    rows = scattered(scatter).meta["shape"][0]
    seen, queue, known = set(), [scattered(scatter)], set(gathers)
    while queue:
        node = queue.pop()
        if node in seen or not node.meta.get("shape") or node.meta["shape"][0] != rows:
            continue
        if node in known:
            return True
        seen.add(node)
        queue.extend(node.all_input_nodes)
    return False


def _layer(scatter: fx.Node) -> str:
    return module_path(scatter).removesuffix("aggr_module").rstrip(".")


def _mean(scatter: fx.Node) -> fx.Node:
    """A sum that is only read to be divided by a count is a mean: the aggregate is the quotient."""
    users = list(scatter.users)
    if len(users) == 1 and is_call(users[0], {aten.div.Tensor}) and users[0].args[0] is scatter:
        return users[0]
    return scatter


def _features(
    nodes: list[fx.Node],
    live: set[fx.Node],
    gathers: list[fx.Node],
    rows: set[int],
    layers: set[str],
    aggregates: set[fx.Node],
) -> list[Part]:
    """Node-level values that enter a layer from outside, or a linear layer."""

    def layer_of(path: str) -> str:
        inside = [layer for layer in layers if layer and (path == layer or path.startswith(layer + "."))]
        return max(inside, key=len, default="")

    parts = []
    for node in nodes:
        if is_call(node, LINEAR):
            source, reader = root(node.args[0]), module_path(node)
        elif node in gathers:
            source, reader = root(node.args[0]), layer_of(module_path(node))
        else:
            continue
        if source not in live or not is_float(source) or source.meta["shape"][0] not in rows:
            continue
        layer = layer_of(module_path(node))
        entered = not layer or layer_of(module_path(source)) != layer
        if entered or (is_call(node, LINEAR) and source not in aggregates):
            parts.append(Part(source, Role.FEATURE, layer if layer and entered else reader))
    return parts
