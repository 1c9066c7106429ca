"""What a graph stores and when: the numbers that the memory model is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, fx

from mpsearch.core.site import Role
from mpsearch.cost.memory import Parameter, Value
from mpsearch.graph.export import Lowered
from mpsearch.graph.ops import LINEAR, RESHAPES, UNARY, WEIGHTED, is_call, is_float, is_slice, root
from mpsearch.graph.sites import Discovery, live_nodes


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
        chosen = site.name if site is not None and site.name in names else None
        counts = site is not None and site.role is Role.WEIGHT
        bits = tensor.numel() * tensor.element_size() * 8
        found.append(
            Parameter(bits, chosen, counts, tensor.numel() if counts else 0, gains.get(name, 0) if chosen else 0)
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

    A reshape or slice is the tensor it was taken from, and an activation function overwrites what it alone reads, as
    runtimes do: both add nothing.
    """
    nodes = list(lowered.graph.nodes)
    live = live_nodes(nodes)
    order = {node: i for i, node in enumerate(nodes)}
    sited = {f.node: f.site for f in discovery.found if f.part is None}
    holder: dict[fx.Node, fx.Node] = {}
    born: dict[fx.Node, int] = {}
    shared: dict[fx.Node, int] = {}
    for node in nodes:
        if node not in live or node.op == "output":
            continue
        source = _alias_of(node)
        whole = holder.get(source) if source is not None else None
        holder[node], born[node] = node, order[node]
        if whole is not None and not (is_slice(node) and node in sited):
            holder[node] = whole
        elif whole is not None and whole not in sited:  # one of several slices with a format each, of one tensor
            born[node] = born[whole]
            shared[whole] = shared.get(whole, 0) + _bits(node)
    dies = {node: order[node] for node in nodes}
    for node in nodes:
        for source in node.all_input_nodes:
            if source in holder:
                dies[holder[source]] = max(dies[holder[source]], order[node])
    sites = {holder[node]: site for node, site in sited.items() if node in holder}
    found = []
    for node in dict.fromkeys(holder.values()):
        bits = _bits(node) - shared.get(node, 0)
        site = sites.get(node)
        if bits > 0:
            is_feature = site is not None and site.role in (Role.FEATURE, Role.ATTENTION)
            found.append(Value(bits, born[node], dies[node], site.name if site else None, is_feature))
    counted = {value.site for value in found}
    return tuple(found) + _only_with_a_choice(discovery, set(active) - counted, order)


def _only_with_a_choice(discovery: Discovery, active: set[str], order: dict[fx.Node, int]) -> tuple[Value, ...]:
    """Scores and probabilities of fused attention, edge weights that follow from the structure of a graph."""
    found = []
    for f in discovery.found:
        if f.site.name in active and not f.site.role.is_parameter:
            found.append(Value(32 * math.prod(f.site.shape), order[f.node], order[f.node], f.site.name))
    return tuple(found)


def _alias_of(node: fx.Node) -> fx.Node | None:
    if is_call(node, RESHAPES) or is_slice(node):
        source = node.args[0]
        return source if isinstance(source, fx.Node) else None
    if is_call(node, UNARY) and len(node.args[0].users) == 1 and node.args[0].meta["shape"] == node.meta["shape"]:
        return node.args[0]
    return None


def _bits(node: fx.Node) -> int:
    value = node.meta.get("val")
    if not is_float(node) or not isinstance(value, Tensor):
        return 0
    return math.prod(node.meta["shape"]) * value.dtype.itemsize * 8
