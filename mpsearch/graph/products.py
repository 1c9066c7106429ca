"""Sizes of the matrix products of a call, and so its multiply-accumulates, from the shapes that `measure` noted.

Convolutions, linear layers, products of tensors, attention, recurrent layers, and what torch keeps whole besides:
`einsum`, bilinear layers, recurrent cells, products with a sparse matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from mpsearch.cost.workload import Gemm
from mpsearch.graph.ops import (
    ADDED_PRODUCTS,
    ATTENTION,
    CELLS,
    CONVOLUTIONS,
    LINEAR,
    PRODUCTS,
    RECURRENT,
    SPARSE_PRODUCTS,
    TRANSPOSED,
    VECTOR_PRODUCTS,
    aten,
    is_call,
    root,
)

Shape = tuple[int, ...]


def macs(node: fx.Node) -> int:
    """Multiply-accumulates of one call; 0 for what only moves, adds or normalises."""
    sparse = sparse_operand(node)
    if sparse is not None:
        dense = next(a for a in operands(node) if a is not sparse)
        return int(sparse.meta["nnz"] * math.prod(dense.meta["shape"]) // _contracted(node))
    return sum(gemm.macs for gemm in gemms(node))


def gemms(node: fx.Node) -> list[Gemm]:
    """The products of one call, in the order in which they are computed; none for any other call."""
    if is_call(node, CONVOLUTIONS):
        return [_convolution(node)]
    if is_call(node, TRANSPOSED):
        return [_transposed(node)]
    if is_call(node, LINEAR):
        value, weight = (a.meta["shape"] for a in node.args[:2])
        return [Gemm(math.prod(value) // weight[-1], math.prod(weight[:-1]), weight[-1])]
    if is_call(node, PRODUCTS | VECTOR_PRODUCTS | ADDED_PRODUCTS | SPARSE_PRODUCTS):
        left, right = operands(node)
        return [_product(left.meta["shape"], right.meta["shape"], is_tensor(left) and not is_tensor(right))]
    if is_call(node, ATTENTION):
        query, key, value = (a.meta["shape"] for a in operands(node))
        count, steps = math.prod(query[:-2]), query[-2]
        return [Gemm(steps, key[-2], query[-1], count), Gemm(steps, value[-1], key[-2], count)]
    if is_call(node, RECURRENT | CELLS):
        return [matrix.gemm for matrix in matrices(node)]
    if is_call(node, {aten.einsum.default, aten.bilinear.default}):
        return list(contractions(node))
    return []


def operands(node: fx.Node) -> list[fx.Node]:
    """The factors of a product, an attention, an `einsum` or a bilinear layer, in the order of the product."""
    given: Any = node.args
    if is_call(node, ADDED_PRODUCTS):
        return list(given[1:3])
    if is_call(node, {aten.einsum.default}):
        return list(given[1])
    if is_call(node, {aten.bilinear.default}):
        return [given[0], given[2], given[1]]
    return list(given[: 3 if is_call(node, ATTENTION) else 2])


def is_tensor(operand: object) -> bool:
    """Whether `operand` is a parameter, buffer or constant, or a part of one."""
    node = root(operand)
    return isinstance(node, fx.Node) and node.op == "get_attr"


def sparse_operand(node: fx.Node) -> fx.Node | None:
    """The factor of a product of tensors that is a sparse matrix."""
    if not is_call(node, PRODUCTS | ADDED_PRODUCTS | SPARSE_PRODUCTS):
        return None
    return next((a for a in operands(node) if "nnz" in a.meta), None)


def _contracted(node: fx.Node) -> int:
    left = operands(node)[0].meta["shape"]
    return int(left[-1])


def argument(node: fx.Node, place: int, name: str, default: object) -> object:
    """An argument of a call, by its place or its name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _convolution(node: fx.Node) -> Gemm:
    value, weight, out = node.args[0].meta["shape"], node.args[1].meta["shape"], node.meta["shape"]
    axes = len(weight) - 2
    groups = value[-axes - 1] // weight[1]
    window = math.prod(weight[2:])
    positions = math.prod(out) // weight[0]
    given = argument(node, 3, "stride", [1])
    strides = list(given) if isinstance(given, Sequence) else [given]
    stride = math.prod(strides if len(strides) == axes else strides * axes)
    return Gemm(positions, weight[0] // groups, weight[1] * window, groups, window, stride)


def _transposed(node: fx.Node) -> Gemm:
    value, weight, out = node.args[0].meta["shape"], node.args[1].meta["shape"], node.meta["shape"]
    axes = len(weight) - 2
    groups = out[-axes - 1] // weight[1]
    return Gemm(math.prod(value) // weight[0], math.prod(weight[1:]), weight[0] // groups, groups)


def _product(left: Shape, right: Shape, turned: bool) -> Gemm:
    """`turned`: whether the left factor is the weight, so that its rows are the output channels."""
    left = left if len(left) > 1 else (1, *left)
    right = right if len(right) > 1 else (*right, 1)
    m, k, n = left[-2], left[-1], right[-1]
    depth = max(len(left), len(right)) - 2
    pairs = zip(_padded(left[:-2], depth), _padded(right[:-2], depth), strict=True)
    count = math.prod(max(pair) if min(pair) else 0 for pair in pairs)
    if math.prod(left[:-2]) == 1 and (turned or count > 1):
        return Gemm(count * n, m, k)  # one left factor for all: its rows are multiplied with every column
    return Gemm(count * m, n, k) if math.prod(right[:-2]) == 1 else Gemm(m, n, k, count)


def _padded(shape: Shape, depth: int) -> Shape:
    return (1,) * (depth - len(shape)) + shape


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of a recurrent layer or cell.

    Args:
        weight, biases: its nodes.
        layer: number of its layer.
        suffix: its layer and direction, as torch names parameters: `l0`, `l0_reverse`.
        reads_input, reads_state: whether it is multiplied with the input of its layer, or with the hidden state; a
            projection is with neither.
        is_last: whether it is the last that its layer needs, in its direction.
    """

    weight: fx.Node
    biases: tuple[fx.Node, ...]
    gemm: Gemm
    layer: int
    suffix: str
    reads_input: bool
    reads_state: bool
    is_last: bool


def matrices(node: fx.Node) -> list[Matrix]:
    """The weight matrices of a recurrent layer or cell, layer by layer and direction by direction.

    What is multiplied with the input takes all steps at once, what is multiplied with the state one after the other.
    """
    given: Any = node.args
    shape = given[0].meta["shape"]
    if is_call(node, CELLS):
        groups, layers, steps, samples = [given[2:]], 1, 1, math.prod(shape[:-1])
    else:
        _, _, weights, _, layers, _, _, is_both_ways, is_batch_first = given
        steps, samples = (shape[1], shape[0]) if is_batch_first else shape[:2]
        size = len(weights) // (layers * (2 if is_both_ways else 1))
        groups = [weights[i : i + size] for i in range(0, len(weights), size)]
    found = []
    for number, group in enumerate(groups):
        tensors = [t for t in group if isinstance(t, fx.Node)]
        weights = [t for t in tensors if len(t.meta["shape"]) == 2]
        biases = [(t,) for t in tensors if len(t.meta["shape"]) == 1]
        for i, weight in enumerate(weights):
            n, k = weight.meta["shape"]
            gemm = Gemm(samples * steps, n, k) if i == 0 else Gemm(samples, n, k, steps)
            own = biases[i] if i < len(biases) else ()
            layer, way = divmod(number, len(groups) // layers)
            suffix = f"l{layer}_reverse" if way else f"l{layer}"
            found.append(Matrix(weight, own, gemm, layer, suffix, i == 0, i == 1, i == len(weights) - 1))
    return found


def contractions(node: fx.Node) -> Iterator[Gemm]:
    """The products of an `einsum` or a bilinear layer, its operands multiplied from left to right."""
    shapes = [a.meta["shape"] for a in operands(node)]
    if is_call(node, {aten.bilinear.default}):
        terms, result = ["...i", "oij", "...j"], "...o"
    else:
        equation = node.args[0].replace(" ", "")
        left, arrow, result = equation.partition("->")
        terms = left.split(",")
        if not arrow:
            letters = "".join(terms).replace(".", "")
            result = ("..." if "..." in left else "") + "".join(c for c in sorted(letters) if letters.count(c) == 1)
    sizes: dict[str, int] = {}
    axes: list[set[str]] = []
    for term, shape in zip(terms, shapes, strict=True):
        named = len(term.replace("...", ""))
        hidden = [f".{i}" for i in range(len(shape) - named, 0, -1)]  # counted from the right, as they are broadcast
        before, dots, after = term.partition("...")
        labels = [*before, *hidden, *after] if dots else list(term)
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
        axes.append(set(labels))
    kept = set(result.replace(".", "")) | {label for label in sizes if label.startswith(".") and "..." in result}
    done = axes[0]
    for i, other in enumerate(axes[1:], start=1):
        later = kept.union(*axes[i + 1 :])
        one, two = done & (later | other), other & (later | done)  # what only one factor has is summed beforehand
        both = one & two
        size = {name: math.prod(sizes[c] for c in found) for name, found in _split(one, two, both, later).items()}
        yield Gemm(size["m"], size["n"], size["k"], size["count"])
        done = (one | two) & later


def _split(one: set[str], two: set[str], both: set[str], later: set[str]) -> dict[str, set[str]]:
    return {"m": one - both, "n": two - both, "k": both - later, "count": both & later}
