"""What kind of operation a call is, and which calls are operations at all."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Iterable

from torch import Tensor, fx

from mpsearch.cost.workload import Kind
from mpsearch.graph.ops import (
    ADDED_PRODUCTS,
    ATTENTION,
    CELLS,
    COMPUTE,
    CONVOLUTIONS,
    EMBEDDINGS,
    GATHERS,
    LINEAR,
    PRODUCTS,
    RECURRENT,
    RESHAPES,
    SCATTERS,
    SHAPE_ONLY,
    SPARSE_PRODUCTS,
    TRANSPOSED,
    VECTOR_PRODUCTS,
    aten,
    is_call,
    is_slice,
    root,
)
from mpsearch.graph.products import sparse_operand

BAGS = {aten.embedding_bag.default, aten.embedding_bag.padding_idx}
CONTRACTIONS = {aten.einsum.default, aten.bilinear.default}
_KINDS = {
    Kind.CONV: CONVOLUTIONS,
    Kind.CONV_TRANSPOSED: TRANSPOSED,
    Kind.LINEAR: LINEAR,
    Kind.MATMUL: PRODUCTS | ADDED_PRODUCTS | VECTOR_PRODUCTS | SPARSE_PRODUCTS | CONTRACTIONS | ATTENTION,
    Kind.RECURRENT: RECURRENT | CELLS,
    Kind.EMBEDDING: EMBEDDINGS | BAGS,
    Kind.GATHER: GATHERS,
    Kind.SCATTER: SCATTERS,
    Kind.COPY: RESHAPES,
}
_NAMED = {
    Kind.NORM: re.compile(r"(batch|layer|group|instance|rms|response)_norm"),
    Kind.SOFTMAX: re.compile(r"softmax"),
    Kind.POOL: re.compile(r"pool"),
    Kind.COPY: re.compile(r"^(cat|stack|roll|flip|to_copy|sparse_coo_tensor|upsample)|pixel_(un)?shuffle"),
}
_SUMS = {aten.sum.default, aten.sum.dim_IntList}


def kind_of(node: fx.Node, result: fx.Node) -> Kind:
    """What the call `node`, whose first result is `result`, does.

    What is not known by its operator is known by its shapes: an elementwise operator has the shape of its operands
    broadcast, one that gives fewer numbers pools, and one that gives more copies.
    """
    if sparse_operand(node) is not None:
        return Kind.SPMM
    known = next((kind for kind, targets in _KINDS.items() if is_call(node, targets)), None)
    if known is not None:
        return known
    if is_slice(node):
        return Kind.COPY
    named = next((kind for kind, pattern in _NAMED.items() if pattern.search(word(node))), None)
    if named is not None:
        return named
    shapes = [s.meta["shape"] for s in node.all_input_nodes if isinstance(s.meta.get("val"), Tensor)]
    if result.meta["shape"] == _broadcast(shapes):
        return Kind.ELEMENTWISE
    return Kind.POOL if math.prod(result.meta["shape"]) <= max(map(math.prod, shapes)) else Kind.COPY


def word(node: fx.Node) -> str:
    """The operator's name, as people know it."""
    return str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.name))).strip("_")


def results(node: fx.Node) -> list[fx.Node]:
    """The tensors that a call gives: its own value, or those taken from its tuple."""
    if isinstance(node.meta.get("val"), Tensor):
        return [] if is_call(node, {operator.getitem}) and not is_slice(node) else [node]
    found = [user for user in node.users if is_call(user, {operator.getitem})]
    return sorted(found, key=lambda user: user.args[1])


def is_made_up(node: fx.Node) -> bool:
    """Whether a value follows from sizes alone: zeros, ranges, causal masks. Runtimes make such values as they go."""
    if node.op != "call_function":
        return False
    return is_call(node, SHAPE_ONLY) or all(is_made_up(source) for source in node.all_input_nodes)


def is_multiplied_and_added(node: fx.Node) -> bool:
    """Whether a product of elements is only added up, by a sum or a scatter: then each is a multiply-accumulate."""
    if not is_call(node, {aten.mul.Tensor}) or not all(isinstance(a, fx.Node) for a in node.args[:2]):
        return False
    readers, queue = [], [node]
    while queue:
        for user in queue.pop().users:
            if is_call(user, RESHAPES):
                queue.append(user)
            else:
                readers.append(user)
    return bool(readers) and node.args[0] is not node.args[1] and all(map(_adds, readers))


def _adds(node: fx.Node) -> bool:
    if is_call(node, {aten.scatter_reduce.two}):
        return node.args[4] in ("sum", "mean")
    if is_call(node, {aten.index_put.default}):
        return len(node.args) > 3 and bool(node.args[3])
    return is_call(node, _SUMS | {aten.scatter_add.default, aten.index_add.default})


def computed(nodes: Iterable[fx.Node], live: Collection[fx.Node], parameters: Collection[str]) -> set[fx.Node]:
    """The `live` values, and what else parameters and the input make together (of the bags of words, say)."""
    found, given = set(live), set[fx.Node]()
    weighted = COMPUTE | CELLS | CONTRACTIONS | VECTOR_PRODUCTS | EMBEDDINGS | BAGS
    for node in nodes:
        if is_call(node, SHAPE_ONLY):
            continue
        sources = node.all_input_nodes
        if node.op == "placeholder" or any(source in given for source in sources):
            given.add(node)
            roots = [root(source) for source in sources]
            learns = is_call(node, weighted) and any(r.op == "get_attr" and r.target in parameters for r in roots)
            if learns or any(source in found for source in sources):
                found.add(node)
    return found


def _broadcast(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    found: list[int] = []
    for shape in shapes:
        padded = [1] * (len(found) - len(shape)) + list(shape)
        found = [1] * (len(padded) - len(found)) + found
        found = [b if a == 1 else a for a, b in zip(found, padded, strict=True)]
    return tuple(found)
