"""What a graph stores and when: the numbers that the memory model is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import fx

from mpsearch.core.site import Role, Site
from mpsearch.cost.memory import Parameter, Value
from mpsearch.graph.export import Lowered, module_path
from mpsearch.graph.holders import holders, numel
from mpsearch.graph.messages import score_of
from mpsearch.graph.ops import CONVOLUTIONS, LINEAR, SHAPE_ONLY, WEIGHTED, aten, is_call, is_float, root
from mpsearch.graph.rows import put_rows
from mpsearch.graph.sites import Discovery, live_nodes

ELEMENTWISE = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.relu.default,
    aten.hardtanh.default,
    aten.relu6.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.gelu.default,
    aten.silu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.hardswish.default,
    aten.exp.default,
}
"""Operators that make each number of the numbers at the same place of their operands."""


def parameters(lowered: Lowered, discovery: Discovery, active: Iterable[str], corrects: bool) -> tuple[Parameter, ...]:
    """Every tensor that the graph reads.

    Args:
        active: names of the sites that have a choice.
        corrects: whether biases are corrected, so that a quantized layer without bias gains one.
    """
    names = set(active)
    site_of = {f.node.target: f.site for f in discovery.found if f.site.role.is_parameter}
    gains = _bias_gained(lowered) if corrects else {}
    found = []
    for name, tensor in lowered.tensors.items():
        site = site_of.get(name)
        is_chosen = site is not None and site.name in names
        found.append(
            Parameter(
                name,
                tensor.numel(),
                rows=1 if site is None else tensor.shape[site.axis],
                float_bits=8 * tensor.element_size(),
                site=site.name if is_chosen else None,
                counts=site is not None and site.role is Role.WEIGHT,
                correction_bits=gains.get(name, 0) if is_chosen else 0,
            )
        )
    return tuple(found)


def _is_tensor(operand: object) -> bool:
    node = root(operand)
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _bias_gained(lowered: Lowered) -> dict[str, int]:
    """Bits of the bias that correction adds, by weight, for layers that have none."""
    layers: dict[str, list[fx.Node]] = {}
    for node in lowered.graph.nodes:
        if is_call(node, WEIGHTED) and _is_tensor(node.args[1]):
            layers.setdefault(root(node.args[1]).target, []).append(node)
    gained = {}
    for weight, nodes in layers.items():
        node = nodes[0]
        if len(nodes) == 1 and (len(node.args) < 3 or node.args[2] is None):
            axis = -1 if is_call(node, LINEAR) else 1
            gained[weight] = 32 * node.meta["shape"][axis]
    return gained


def values(lowered: Lowered, discovery: Discovery, active: Iterable[str]) -> tuple[Value, ...]:
    """Every floating-point value that depends on the input, held from the step that makes it to its last reader.

    What lies in the tensor of another one adds nothing (`mpsearch.graph.holders`). What else could be made in place
    says so (`Value.overwrites`).
    """
    nodes = list(lowered.graph.nodes)
    names = set(active)
    order = {node: i for i, node in enumerate(nodes)}
    held_by = holders(nodes, live_nodes(nodes), discovery, names)
    holder = held_by.of
    born = dict(order) | {part: order[whole] for whole, parts in held_by.slices.items() for part in parts}
    dies = {node: order[node] for node in nodes}
    for node in nodes:
        for source in () if is_call(node, SHAPE_ONLY) else node.all_input_nodes:
            if source in holder:
                dies[holder[source]] = max(dies[holder[source]], order[node])
    for node in nodes:
        if is_call(node, {put_rows}) and node in holder:  # who reads all rows reads the tensor of each bin
            for part in held_by.slices.get(holder[node], ()):
                dies[part] = max(dies[part], dies[holder[node]])
    left = {node: held_by.elements(node) for node in dict.fromkeys(holder.values()) if is_float(node)}
    held = [node for node, elements in left.items() if elements > 0]
    over = _made_over(held, holder, order, dies, left)
    found = []
    for node in held:
        site = held_by.site.get(node)
        found.append(
            Value(
                site.name if site else module_path(node) or node.name,
                left[node],
                rows=value_rows(site) if site else 1,
                float_bits=8 * node.meta["val"].dtype.itemsize,
                site=site.name if site else None,
                born=born[node],
                dies=dies[node],
                is_feature=site is not None and site.role in (Role.FEATURE, Role.ATTENTION),
                overwrites=over.get(node),
                is_depthwise=_is_depthwise(node),
                bin=site.bin if site else None,
            )
        )
    of_site = {value.site: value for value in found}
    for attention, score in scored(discovery, names):
        place = found.index(of_site[attention])
        found[place] = replace(found[place], score=of_site[score])
    return tuple(found) + _only_with_a_choice(discovery, names - of_site.keys(), order)


def value_rows(site: Site) -> int:
    """How many rows a value lies in: nodes, positions or samples, each with all its channels.

    Attention of a bin of edges is one: it is read in the order in which it lies, and no edge is looked up.
    """
    if site.role is Role.ATTENTION and site.bin is not None:
        return 1
    return math.prod(n for axis, n in enumerate(site.shape) if axis != site.axis)


def scored(discovery: Discovery, active: set[str]) -> list[tuple[str, str]]:
    """Attention of a GNN and the score that it is made of, by name, where the score has a choice."""
    chosen = {f.node: f.site.name for f in discovery.found if f.part is None and f.site.name in active}
    pairs = [(f.site.name, score_of(f.node)) for f in discovery.found if f.site.role is Role.ATTENTION]
    return [(name, chosen[score]) for name, score in pairs if score is not None and score in chosen]


def _only_with_a_choice(discovery: Discovery, active: set[str], order: dict[fx.Node, int]) -> tuple[Value, ...]:
    """Scores and probabilities of fused attention, edge weights that follow from the structure of a graph."""
    found = []
    for f in discovery.found:
        if f.site.name in active and not f.site.role.is_parameter:
            name, at = f.site.name, order[f.node]
            rows, of_bin = value_rows(f.site), f.site.bin
            found.append(Value(name, math.prod(f.site.shape), rows, site=name, born=at, dies=at, bin=of_bin))
    return tuple(found)


def _made_over(
    held: Sequence[fx.Node],
    holder: Mapping[fx.Node, fx.Node],
    order: Mapping[fx.Node, int],
    dies: Mapping[fx.Node, int],
    left: Mapping[fx.Node, int],
) -> dict[fx.Node, int]:
    """Place in `held` of the operand that each elementwise or depthwise operator could write its result over.

    Args:
        holder: the value whose numbers a node holds.
        order: step of each node. dies: step that reads each value for the last time.
        left: elements of each value that its slices do not have.
    """
    place = {node: i for i, node in enumerate(held)}
    found: dict[fx.Node, int] = {}
    for node in held:
        if not is_call(node, ELEMENTWISE) and not _is_depthwise(node):
            continue
        sources = [holder.get(operand) for operand in node.all_input_nodes]
        for operand, over in zip(node.all_input_nodes, sources, strict=True):
            if over not in place or over.op == "placeholder" or dies[over] != order[node] or sources.count(over) > 1:
                continue  # read again later, or turned: numbers would be gone before they are read
            if left[over] == numel(over) == numel(operand) >= numel(node):
                found[node] = place[over]
    return found


def _is_depthwise(node: fx.Node) -> bool:
    """Whether each channel of a convolution is made of the same channel of its input."""
    if not is_call(node, CONVOLUTIONS):
        return False
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return bool(groups > 1 and node.args[0].meta["shape"][1] == groups == node.meta["shape"][1])
