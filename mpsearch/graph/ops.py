"""What the operators of an evaluation graph are: the few facts the rest of the room asks about them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from mpsearch.graph.dropout import dropout
from mpsearch.graph.rows import put_rows, take_rows

aten = torch.ops.aten

CONVOLUTIONS = {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
LINEAR = {aten.linear.default}
PRODUCTS = {aten.matmul.default, aten.bmm.default, aten.mm.default}
ADDED_PRODUCTS = {aten.addmm.default, aten.baddbmm.default}
RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}
CELLS = {
    aten.lstm_cell.default,
    aten.gru_cell.default,
    aten.rnn_tanh_cell.default,
    aten.rnn_relu_cell.default,
}
VECTOR_PRODUCTS = {aten.mv.default, aten.dot.default}
SPARSE_PRODUCTS = {aten._sparse_mm.default}
EMBEDDINGS = {aten.embedding.default}
ATTENTION = {aten.scaled_dot_product_attention.default}
WEIGHTED = CONVOLUTIONS | TRANSPOSED | LINEAR
COMPUTE = WEIGHTED | PRODUCTS | ADDED_PRODUCTS | RECURRENT | ATTENTION

RESHAPES = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.expand.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.clone.default,
    aten.contiguous.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.detach.default,
    dropout,
    put_rows,
}
"""Operators that keep every value, some several times: a site before them is as good as one after."""

PARTS = {
    aten.select.int,
    aten.slice.Tensor,
    aten.constant_pad_nd.default,
    aten.pad.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    take_rows,
}
"""Operators that keep some of the values (and may add zeros, which every grid holds)."""

UNARY = {
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
    aten._native_batch_norm_legit_no_training.default,
    aten.max_pool2d.default,
    aten.max_pool2d_with_indices.default,
    aten.avg_pool2d.default,
}
NORMS = {aten.layer_norm.default, aten.rms_norm.default}
SOFTMAX = {aten.softmax.int, aten._softmax.default}
GATHERS = {aten.index_select.default, aten.index.Tensor, aten.gather.default}
SCATTERS = {
    aten.scatter_add.default,
    aten.index_add.default,
    aten.scatter_reduce.two,
    aten.index_put.default,
    aten.scatter.src,
}

SHAPE_ONLY = {
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_empty.default,
    aten.new_full.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.sym_size.int,
}
"""Operators that read the shape of their input and nothing else."""


def is_call(node: Any, targets: set[Any]) -> bool:
    """Whether `node` calls one of `targets`."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def is_float(node: fx.Node) -> bool:
    """Whether the value is one floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def shape(node: fx.Node) -> tuple[Any, ...]:
    """Shape as traced; axes may be symbolic."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def same_size(a: Any, b: Any) -> bool:
    """Whether two traced axis sizes are the same number or the same symbol."""
    return str(a) == str(b)


def unreshaped(node: Any) -> Any:
    """The value before reshapes, transposes and copies."""
    while is_call(node, RESHAPES):
        node = node.args[0]
    return node


def root(node: Any) -> Any:
    """The value whose numbers these are: before reshapes, slices, splits and zero padding."""
    return list(to_root(node))[-1]


def to_root(node: Any) -> Iterator[Any]:
    """`node` and every value between it and its root, which comes last."""
    yield node
    while is_call(node, RESHAPES) or is_slice(node):
        node = node.args[0].args[0] if is_call(node, {operator.getitem}) else node.args[0]
        yield node


def is_slice(node: Any) -> bool:
    """Whether `node` is a part of another value (or that with zeros around it)."""
    return is_call(node, PARTS) or (is_call(node, {operator.getitem}) and is_call(node.args[0], PARTS))


def normalized(node: Any) -> fx.Node | None:
    """What `node` normalizes over its last axes: the input of a layer or RMS norm, or x where a model writes out
    x * rsqrt(mean(x^2) + eps). None for any other call."""
    if is_call(node, NORMS):
        return node.args[0]
    if not is_call(node, {aten.rsqrt.default}):
        return None
    mean = node.args[0]
    while is_call(mean, {aten.add.Tensor, aten.add.Scalar}):
        mean = mean.args[0]
    square = mean.args[0] if is_call(mean, {aten.mean.dim}) else None
    x = square.args[0] if is_call(square, _SQUARES) else None
    if x is None or (square.target is not aten.square.default and square.args[1] not in (2, x)):
        return None
    scaled = any(is_call(user, {aten.mul.Tensor}) and x in user.args for user in node.users)
    return x if scaled else None


_SQUARES = {aten.pow.Tensor_Scalar, aten.square.default, aten.mul.Tensor}


def ancestors(node: fx.Node) -> Iterator[fx.Node]:
    """Every node that `node` depends on, itself excluded, nearest first."""
    seen = {node}
    queue = [node]
    while queue:
        for source in queue.pop(0).all_input_nodes:
            if source not in seen:
                seen.add(source)
                queue.append(source)
                yield source
