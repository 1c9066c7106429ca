"""Layers and attention in ONNX: what multiplies matrices. These converters see weights as they are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mpsearch.deploy.onnx_call import Call, Converter, Stored
from mpsearch.deploy.onnx_writer import Value
from mpsearch.graph import attention
from mpsearch.graph.ops import aten

Operand = Value | Stored


def conv(
    c: Call,
    x: Value,
    weight: Operand,
    bias: Operand | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> str:
    kernel = _shape(weight)[2:]
    axes = len(kernel)
    dilations = _each(dilation, axes)
    if isinstance(padding, str):  # same: the odd one goes behind
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    else:
        pads = [*_each(padding, axes), *_each(padding, axes)]
    return c.main(
        "Conv",
        x.name,
        c.weight(weight),
        c.bias(bias, x, weight),
        kernel_shape=list(kernel),
        strides=_each(stride, axes),
        pads=pads,
        dilations=dilations,
        group=groups,
    )


def conv_transposed(
    c: Call,
    x: Value,
    weight: Operand,
    bias: Operand | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> str:
    kernel = _shape(weight)[2:]
    axes = len(kernel)
    return c.main(
        "ConvTranspose",
        x.name,
        c.weight(weight),
        c.bias(bias, x, weight),
        kernel_shape=list(kernel),
        strides=_each(stride, axes),
        pads=[*_each(padding, axes), *_each(padding, axes)],
        output_padding=_each(output_padding, axes),
        dilations=_each(dilation, axes),
        group=groups,
    )


def linear(c: Call, x: Value, weight: Operand, bias: Operand | None = None) -> str:
    """As a product of two matrices: runtimes have integer kernels with a bias for that form alone."""
    w = c.writer
    if len(x.shape) == 2:
        return c.main("Gemm", x.name, c.weight(weight), c.bias(bias, x, weight), transB=1)
    flat = c.along(x, w.call("Reshape", x.name, w.integers([-1, x.shape[-1]])))
    made = c.main("Gemm", flat.name, c.weight(weight), c.bias(bias, x, weight), transB=1)
    return w.call("Reshape", made, w.integers([-1, *c.shape[1:]]))


def matmul(c: Call, a: Operand, b: Operand) -> str:
    return c.main("MatMul", c.name(a), c.weight(b))


def addmm(c: Call, added: Operand, a: Operand, b: Operand, beta: float = 1, alpha: float = 1) -> str:
    product = c.main("MatMul", c.name(a), c.weight(b))
    w = c.writer
    scaled = product if alpha == 1 else w.call("Mul", product, w.number(alpha, c.dtype))
    other = c.name(added) if beta == 1 else w.call("Mul", c.name(added), w.number(beta, c.dtype))
    return w.call("Add", scaled, other)


def scores(c: Call, query: Value, key: Value, scale: float | None = None) -> str:
    w = c.writer
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    order = [*range(len(key.shape) - 2), len(key.shape) - 1, len(key.shape) - 2]
    turned = w.call("Transpose", key.name, perm=order)
    product = c.main("MatMul", query.name, c.along(key, turned).name)
    return w.call("Mul", product, w.number(factor, c.dtype))


def masked(c: Call, values: Value, mask: Value | None, is_causal: bool) -> str:
    w, size = c.writer, values.shape[-2:]
    if is_causal:
        allowed = w.tensor(torch.ones(size, dtype=torch.bool).tril(), "causal")
    elif mask is None:
        return values.name
    elif mask.dtype != torch.bool:
        return w.call("Add", values.name, w.operand(mask, c.dtype))
    else:
        allowed = mask.name
    return w.call("Where", allowed, values.name, w.number(-math.inf, c.dtype))


def softmax(c: Call, values: Value) -> str:
    """A row that is masked out entirely gives zeros."""
    w = c.writer
    found = c.main("Softmax", values.name, axis=-1)
    above = c.step.node.all_input_nodes[0] if c.step.node is not None else None
    if above is None or above.target is not attention.masked:
        return found
    return w.call("Where", w.call("IsNaN", found), w.number(0.0, c.dtype), found)


def mixed(c: Call, probabilities: Value, value: Value) -> str:
    return c.main("MatMul", probabilities.name, value.name)


def heads(c: Call, tensor: Value, query: Value) -> Value:
    times = query.shape[-3] // tensor.shape[-3]
    return c.along(tensor, repeated(c, tensor, times, len(tensor.shape) - 3))


def repeated(c: Call, x: Value, times: int, axis: int) -> str:
    """Each slice along `axis` so many times, one after the other."""
    w, size = c.writer, [1] * (len(x.shape) + 1)
    size[axis + 1] = times
    wide = w.call("Tile", w.call("Unsqueeze", x.name, w.integers([axis + 1])), w.integers(size))
    shape = [0] * len(x.shape)  # 0: as it is
    shape[axis] = x.shape[axis] * times
    # after `axis` every dimension has moved by one
    final = [n if i == axis else (0 if i < axis else m) for i, (n, m) in enumerate(zip(shape, x.shape, strict=True))]
    return w.call("Reshape", wide, w.integers(final))


def fused_attention(
    c: Call,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> str:
    del dropout  # the graph is in evaluation mode
    w = c.writer
    if enable_gqa:
        key, value = heads(c, key, query), heads(c, value, query)
    score = scores(c, query, key, scale)
    shape = (*query.shape[:-1], key.shape[-2])
    allowed = masked(c, Value(score, c.dtype, shape), mask, is_causal)
    probabilities = w.call("Softmax", allowed, axis=-1)
    if allowed != score:
        probabilities = w.call("Where", w.call("IsNaN", probabilities), w.number(0.0, c.dtype), probabilities)
    return w.call("MatMul", probabilities, value.name)


def _shape(operand: Operand) -> tuple[int, ...]:
    return operand.shape if isinstance(operand, Value) else tuple(operand.tensor.shape)


def _each(given: Sequence[int] | int, axes: int) -> list[int]:
    values = [given] if isinstance(given, int) else list(given)
    return values * axes if len(values) == 1 else values


LAYERS: dict[object, Converter] = {
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), conv),
    **dict.fromkeys((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), conv),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), conv_transposed
    ),
    aten.linear.default: linear,
    **dict.fromkeys((aten.matmul.default, aten.bmm.default, aten.mm.default), matmul),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), addmm),
}
"""By operator; they take weights as `Stored`."""
ATTENTION: dict[object, Converter] = {
    attention.scores: scores,
    attention.masked: masked,
    attention.softmax: softmax,
    attention.mixed: mixed,
    attention.heads: heads,
    aten.scaled_dot_product_attention.default: fused_attention,
}
