"""Which tensor holds each value of a graph.

A reshape or slice lies in the tensor it was taken from, and an activation function, or a multiplication with a number,
overwrites what it alone reads, as runtimes do. Slices that have a format each are tensors of their own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from mpsearch.core.site import Site
from mpsearch.graph.ops import RESHAPES, UNARY, aten, is_call, is_slice
from mpsearch.graph.rows import take_rows
from mpsearch.graph.sites import Discovery

_SCALINGS = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}


@dataclass(frozen=True)
class Holders:
    """The tensors of the values that depend on the input.

    Args:
        of: by node, the node that makes the tensor which holds its value.
        site: whose format each tensor has, by the node that makes it.
        slices: parts of a tensor that have a format each, by the node that makes it. The tensor itself is what is left.
    """

    of: Mapping[fx.Node, fx.Node]
    site: Mapping[fx.Node, Site]
    slices: Mapping[fx.Node, Sequence[fx.Node]]

    def elements(self, maker: fx.Node) -> int:
        """How many numbers the tensor of `maker` holds, without what its slices hold."""
        return max(0, numel(maker) - sum(map(numel, self.slices.get(maker, ()))))

    def path(self, node: fx.Node) -> list[fx.Node]:
        """`node` and every value between it and the tensor that holds it, which comes last."""
        found = [node]
        while self.of[found[-1]] is not found[-1]:
            source = source_of(found[-1])
            assert source is not None
            found.append(source)
        return found


def holders(nodes: Iterable[fx.Node], live: Collection[fx.Node], discovery: Discovery, active: set[str]) -> Holders:
    """Find the tensors of the `live` values.

    Args:
        nodes: of the graph, in order.
        live: values that depend on the input.
        active: names of the sites that have a choice: two of them never share a tensor.

    What is split by the bins of its rows has no tensor but theirs.
    """
    sited = {f.node: f.site for f in discovery.found if f.part is None and not f.site.role.is_parameter}
    of: dict[fx.Node, fx.Node] = {}
    site: dict[fx.Node, Site] = {}
    slices: dict[fx.Node, list[fx.Node]] = {}
    nodes = list(nodes)
    apart = {node.args[0] for node in nodes if is_call(node, {take_rows})}  # their rows have formats, they have none
    for node in nodes:
        if node not in live or node.op == "output":
            continue
        own = sited.get(node)
        source = source_of(node)
        whole = of.get(source) if source is not None else None
        of[node] = node
        if whole is not None and own is None and not (node in apart and whole in site):
            of[node] = whole
        elif whole is not None and is_slice(node):
            if whole not in site:
                slices.setdefault(whole, []).append(node)
        elif whole is not None and numel(whole) == numel(node):
            taken = whole in site and site[whole].name in active
            if not taken or (own is not None and own.name not in active):
                of[node] = whole
                own = site[whole] if taken else own
        if own is not None:
            site[of[node]] = own
    return Holders(of, site, slices)


def source_of(node: fx.Node) -> fx.Node | None:
    """The value in whose tensor `node` lies, if nothing speaks against it."""
    source = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(source, fx.Node):
        return None
    if is_call(node, RESHAPES) or is_slice(node):
        return source
    is_alone = len(source.users) == 1 and source.meta["shape"] == node.meta["shape"]
    return source if is_alone and (is_call(node, UNARY) or _is_scaling(node)) else None


def _is_scaling(node: fx.Node) -> bool:
    return is_call(node, _SCALINGS) and not isinstance(node.args[1], fx.Node)


def numel(node: fx.Node) -> int:
    """Numbers that a value holds: a sparse matrix, those that it stores."""
    return int(node.meta.get("nnz", math.prod(node.meta["shape"]))) if isinstance(node.meta.get("val"), Tensor) else 0
