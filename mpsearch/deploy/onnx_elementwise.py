"""Elementwise operators, reductions, pools and normalisations in ONNX."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from mpsearch.deploy.onnx_call import Call, Converter
from mpsearch.deploy.onnx_writer import Value
from mpsearch.graph.ops import aten

Operand = Value | float


def unary(name: str, c: Call, x: Value, *unused: Any, **options: Any) -> str:
    del unused, options
    return c.main(name, x.name)


def binary(name: str, c: Call, a: Operand, b: Operand, alpha: float = 1) -> str:
    w, dtype = c.writer, _common(c, a, b)
    left, right = w.operand(a, dtype), w.operand(b, dtype)
    if alpha != 1:
        right = w.call("Mul", right, w.number(alpha, dtype))
    return c.main(name, left, right)


def compared(name: str, c: Call, a: Operand, b: Operand) -> str:
    found = binary({"NotEqual": "Equal"}.get(name, name), c, a, b)
    return c.writer.call("Not", found) if name == "NotEqual" else found


def divided(c: Call, a: Operand, b: Operand, rounding_mode: str | None = None) -> str:
    w = c.writer
    quotient = c.main("Div", w.operand(a, c.dtype), w.operand(b, c.dtype))
    if rounding_mode == "floor" and c.dtype.is_floating_point:
        return w.call("Floor", quotient)
    return quotient


def rsqrt(c: Call, x: Value) -> str:
    return c.writer.call("Reciprocal", c.main("Sqrt", x.name))


def silu(c: Call, x: Value) -> str:
    return c.writer.call("Mul", x.name, c.main("Sigmoid", x.name))


def clamp(c: Call, x: Value, low: float | None = None, high: float | None = None) -> str:
    w = c.writer
    return c.main(
        "Clip",
        x.name,
        None if low is None else w.number(low, c.dtype),
        None if high is None else w.number(high, c.dtype),
    )


def gelu(c: Call, x: Value, approximate: str = "none") -> str:
    return c.main("Gelu", x.name, approximate=approximate)


def elu(c: Call, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> str:
    del scale, input_scale  # 1 unless it is a selu, which is an operator of its own
    return c.main("Elu", x.name, alpha=float(alpha))


def where(c: Call, condition: Value, a: Operand, b: Operand) -> str:
    return c.main("Where", condition.name, c.writer.operand(a, c.dtype), c.writer.operand(b, c.dtype))


def masked_fill(c: Call, x: Value, mask: Value, value: Operand) -> str:
    return c.main("Where", mask.name, c.writer.operand(value, c.dtype), x.name)


def reduced(
    name: str, c: Call, x: Value, axes: Sequence[int] | int | None = None, keepdim: bool = False, **options: Any
) -> str:
    del options
    w = c.writer
    along = None if axes is None or axes == [] else w.integers([axes] if isinstance(axes, int) else axes)
    return c.main(name, w.operand(x, c.dtype), along, keepdims=int(keepdim))


def vector_norm(c: Call, x: Value, order: float = 2, axes: Sequence[int] | None = None, keepdim: bool = False) -> str:
    if order not in (1, 2):
        raise NotImplementedError(f"a norm of order {order}")
    return reduced(f"ReduceL{int(order)}", c, x, axes, keepdim)


def softmax(c: Call, x: Value, axis: int, *unused: Any) -> str:
    del unused
    return c.main("Softmax", x.name, axis=axis)


def layer_norm(
    c: Call, x: Value, sizes: Sequence[int], weight: Value | None = None, bias: Value | None = None, *rest: Any
) -> str:
    w = c.writer
    scale = w.tensor(torch.ones(tuple(sizes)), f"{c.step.name}.ones") if weight is None else weight.name
    epsilon = float(rest[0]) if rest else 1e-5
    return c.main("LayerNormalization", x.name, scale, bias.name if bias else None, axis=-len(sizes), epsilon=epsilon)


def batch_norm(
    c: Call, x: Value, weight: Value | None, bias: Value | None, mean: Value, variance: Value, *rest: Any
) -> list[str | None]:
    w, channels = c.writer, mean.shape
    scale = weight.name if weight else w.tensor(torch.ones(channels), f"{c.step.name}.ones")
    shift = bias.name if bias else w.tensor(torch.zeros(channels), f"{c.step.name}.zeros")
    # two axes are written as four: the kernels of some runtimes know images alone
    return [c.main("BatchNormalization", x.name, scale, shift, mean.name, variance.name, epsilon=float(rest[-1]))]


def max_pool(
    c: Call,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Value:
    axes = len(x.shape) - 2
    found = c.main(
        "MaxPool",
        x.name,
        kernel_shape=_each(kernel, axes),
        strides=_each(stride or kernel, axes),
        pads=_each(padding, axes) * 2,
        dilations=_each(dilation, axes),
        ceil_mode=int(ceil_mode),
    )
    return c.along(x, found)


def average_pool(
    c: Call,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> str:
    if divisor is not None:
        raise NotImplementedError("a divisor of its own")
    axes = len(x.shape) - 2
    return c.main(
        "AveragePool",
        x.name,
        kernel_shape=_each(kernel, axes),
        strides=_each(stride or kernel, axes),
        pads=_each(padding, axes) * 2,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
    )


def adaptive_average_pool(c: Call, x: Value, sizes: Sequence[int]) -> str:
    given = x.shape[-len(sizes) :]
    if all(size == 1 for size in sizes):
        return c.main("GlobalAveragePool", x.name)
    if any(n % size for n, size in zip(given, sizes, strict=True)):
        raise NotImplementedError(f"windows of different sizes, {list(given)} to {list(sizes)}")
    kernel = [n // size for n, size in zip(given, sizes, strict=True)]
    return c.main("AveragePool", x.name, kernel_shape=kernel, strides=kernel)


def _common(c: Call, a: Operand, b: Operand) -> torch.dtype:
    """The type in which two operands meet: that of the result, or for comparisons theirs."""
    if c.dtype != torch.bool:
        return c.dtype
    given = [v.dtype if isinstance(v, Value) else torch.tensor(v).dtype for v in (a, b)]
    if not isinstance(b, Value) and (given[0].is_floating_point or not given[1].is_floating_point):
        return given[0]
    return torch.promote_types(*given)


def _each(given: Sequence[int] | int, axes: int) -> list[int]:
    values = [given] if isinstance(given, int) else list(given)
    return values * axes if len(values) == 1 else values


ELEMENTWISE: dict[object, Converter] = {
    **{
        getattr(aten, ours).default: partial(unary, theirs)
        for ours, theirs in {
            "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "log": "Log", "sqrt": "Sqrt",
            "abs": "Abs", "neg": "Neg", "erf": "Erf", "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos",
            "floor": "Floor", "hardswish": "HardSwish", "logical_not": "Not", "bitwise_not": "Not",
            "isnan": "IsNaN", "isinf": "IsInf", "sign": "Sign",
        }.items()
    },
    **{
        target: partial(binary, theirs)
        for theirs, targets in {
            "Add": (aten.add.Tensor, aten.add.Scalar, operator.add),
            "Sub": (aten.sub.Tensor, aten.sub.Scalar, operator.sub),
            "Mul": (aten.mul.Tensor, aten.mul.Scalar, operator.mul),
            "Pow": (aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor),
            "Max": (aten.maximum.default,),
            "Min": (aten.minimum.default,),
            "And": (aten.logical_and.default, aten.__and__.Tensor, aten.bitwise_and.Tensor),
            "Or": (aten.logical_or.default, aten.__or__.Tensor, aten.bitwise_or.Tensor),
        }.items()
        for target in targets
    },
    **{
        getattr(getattr(aten, ours), form): partial(compared, theirs)
        for ours, theirs in {
            "eq": "Equal", "ne": "NotEqual", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"
        }.items()
        for form in ("Tensor", "Scalar")
    },
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar, aten.div.Tensor_mode, operator.floordiv), divided),
    aten.square.default: lambda c, x: c.main("Mul", x.name, x.name),
    aten.rsqrt.default: rsqrt,
    aten.silu.default: silu,
    **dict.fromkeys((aten.clamp.default, aten.clamp_min.default), clamp),
    aten.relu6.default: lambda c, x: clamp(c, x, 0.0, 6.0),
    aten.hardtanh.default: lambda c, x, low=-1.0, high=1.0: clamp(c, x, low, high),
    aten.leaky_relu.default: lambda c, x, slope=0.01: c.main("LeakyRelu", x.name, alpha=float(slope)),
    aten.gelu.default: gelu,
    aten.elu.default: elu,
    **dict.fromkeys((aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf), where),
    **dict.fromkeys((aten.masked_fill.Scalar, aten.masked_fill.Tensor), masked_fill),
    **dict.fromkeys((aten.mean.dim, aten.mean.default), partial(reduced, "ReduceMean")),
    **dict.fromkeys((aten.sum.dim_IntList, aten.sum.default), partial(reduced, "ReduceSum")),
    aten.amax.default: partial(reduced, "ReduceMax"),
    aten.amin.default: partial(reduced, "ReduceMin"),
    aten.linalg_vector_norm.default: vector_norm,
    **dict.fromkeys((aten.softmax.int, aten._softmax.default), softmax),
    aten.layer_norm.default: layer_norm,
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    **dict.fromkeys((aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default), max_pool),
    aten.max_pool2d_with_indices.default: lambda c, *given: [max_pool(c, *given)],
    **dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default), average_pool),
    **dict.fromkeys(
        (aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default),
        adaptive_average_pool,
    ),
}  # fmt: skip
