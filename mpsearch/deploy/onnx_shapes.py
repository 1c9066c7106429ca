"""Operators that move numbers, look them up or add them up by index, in ONNX."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch

from mpsearch.deploy.onnx_call import Call, Converter
from mpsearch.deploy.onnx_layers import repeated
from mpsearch.deploy.onnx_writer import Value
from mpsearch.graph import spmm
from mpsearch.graph.ops import aten

Size = int | Value
_END = 2**63 - 1


def reshape(c: Call, x: Value, sizes: Sequence[Size]) -> Value:
    return c.along(x, c.main("Reshape", x.name, c.writer.sizes(sizes)))


def flatten(c: Call, x: Value, start: int = 0, end: int = -1) -> Value:
    first, last = start % len(x.shape), end % len(x.shape)
    kept = [0] * first + [-1] + [x.shape[i] for i in range(last + 1, len(x.shape))]
    return reshape(c, x, kept)


def unflatten(c: Call, x: Value, axis: int, sizes: Sequence[Size]) -> Value:
    axis %= len(x.shape)
    return reshape(c, x, [*([0] * axis), *sizes, *x.shape[axis + 1 :]])


def permute(c: Call, x: Value, order: Sequence[int]) -> Value:
    return c.along(x, c.main("Transpose", x.name, perm=[i % len(x.shape) for i in order]))


def transpose(c: Call, x: Value, one: int, other: int) -> Value:
    order = list(range(len(x.shape)))
    order[one], order[other] = order[other], order[one]
    return permute(c, x, order)


def unsqueeze(c: Call, x: Value, axis: int) -> Value:
    return c.along(x, c.main("Unsqueeze", x.name, c.writer.integers([axis])))


def squeeze(c: Call, x: Value, axes: Sequence[int] | int | None = None) -> Value:
    wanted = range(len(x.shape)) if axes is None else [axes] if isinstance(axes, int) else axes
    along = [i % len(x.shape) for i in wanted if x.shape[i] == 1]
    return c.along(x, c.main("Squeeze", x.name, c.writer.integers(along)) if along else x.name)


def expand(c: Call, x: Value, sizes: Sequence[Size]) -> Value:
    own = [1] * (len(sizes) - len(x.shape)) + [1] * len(x.shape)  # 1: as it is, to Expand
    wanted = [mine if isinstance(size, int) and size == -1 else size for size, mine in zip(sizes, own, strict=True)]
    return c.along(x, c.main("Expand", x.name, c.writer.sizes(wanted)))


def repeat(c: Call, x: Value, times: Sequence[Size]) -> Value:
    w, new = c.writer, len(times) - len(x.shape)
    wide = w.call("Unsqueeze", x.name, w.integers(list(range(new)))) if new else x.name
    return c.along(x, c.main("Tile", wide, w.sizes(times)))


def repeat_interleave(c: Call, x: Value, times: int, axis: int | None = None) -> Value:
    if axis is None:
        raise NotImplementedError("an axis that is not given")
    return c.along(x, repeated(c, x, times, axis % len(x.shape)))


def sliced(
    c: Call, x: Value, axis: int = 0, start: Size | None = None, end: Size | None = None, step: int = 1
) -> Value:
    w = c.writer
    bounds = [w.sizes([0 if start is None else start]), w.sizes([_END if end is None else end])]
    return c.along(x, c.main("Slice", x.name, *bounds, w.integers([axis]), w.integers([step])))


def select(c: Call, x: Value, axis: int, index: int) -> Value:
    left = [n for i, n in enumerate(x.shape) if i != axis % len(x.shape)]
    return c.along(x, c.main("Gather", x.name, c.writer.number(index, torch.int64), axis=axis), tuple(left))


def split(c: Call, x: Value, sizes: Sequence[int] | int, axis: int = 0) -> list[Value]:
    n = x.shape[axis]
    parts = [min(sizes, n - at) for at in range(0, n, sizes)] if isinstance(sizes, int) else list(sizes)
    made = c.writer.calls("Split", [x.name, c.writer.integers(parts)], len(parts), c.step.name, axis=axis)
    before, behind = x.shape[: axis % len(x.shape)], x.shape[axis % len(x.shape) + 1 :]
    return [c.along(x, name, (*before, part, *behind)) for name, part in zip(made, parts, strict=True)]


def chunk(c: Call, x: Value, parts: int, axis: int = 0) -> list[Value]:
    return split(c, x, -(-x.shape[axis] // parts), axis)


def unbind(c: Call, x: Value, axis: int = 0) -> list[Value]:
    return [select(c, x, axis, i) for i in range(x.shape[axis])]


def pad(c: Call, x: Value, sizes: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """torch names the last axis first, and of each the two sides next to each other."""
    if mode != "constant":
        raise NotImplementedError(f"padding by {mode}")
    w, n = c.writer, len(x.shape)
    ends = [0] * (2 * n)
    for i in range(len(sizes) // 2):
        ends[n - 1 - i], ends[2 * n - 1 - i] = sizes[2 * i], sizes[2 * i + 1]
    found = c.main("Pad", x.name, w.integers(ends), w.number(value or 0, x.dtype))
    return found if value else c.along(x, found)


def cat(c: Call, parts: Sequence[Value], axis: int = 0) -> str:
    return c.main("Concat", *(part.name for part in parts), axis=axis)


def stack(c: Call, parts: Sequence[Value], axis: int = 0) -> str:
    w = c.writer
    return c.main("Concat", *(w.call("Unsqueeze", p.name, w.integers([axis])) for p in parts), axis=axis)


def embedding(c: Call, table: Value, index: Value, *unused: Any) -> str:
    del unused
    return c.main("Gather", table.name, index.name, axis=0)


def index_select(c: Call, x: Value, axis: int, index: Value) -> Value:
    return c.along(x, c.main("Gather", x.name, index.name, axis=axis))


def index(c: Call, x: Value, indices: Sequence[Value | None]) -> Value:
    given = [(axis, one) for axis, one in enumerate(indices) if one is not None]
    w = c.writer
    if len(given) == 1:
        axis, one = given[0]
        if one.dtype == torch.bool:
            if len(one.shape) != 1:
                raise NotImplementedError("a mask of several axes")
            return c.along(x, c.main("Compress", x.name, one.name, axis=axis))
        return c.along(x, c.main("Gather", x.name, one.name, axis=axis))
    if [axis for axis, _ in given] != list(range(len(given))) or any(one.dtype == torch.bool for _, one in given):
        raise NotImplementedError("several indices that are not on the first axes")
    sizes = w.integers(list(torch.broadcast_shapes(*(one.shape for _, one in given))))
    columns = [w.call("Unsqueeze", w.call("Expand", one.name, sizes), w.integers([-1])) for _, one in given]
    return c.along(x, c.main("GatherND", x.name, w.call("Concat", *columns, axis=-1)))


def gather(c: Call, x: Value, axis: int, at: Value, *unused: Any) -> Value:
    del unused
    return c.along(x, c.main("GatherElements", x.name, at.name, axis=axis))


def scatter(
    c: Call, x: Value, axis: int, at: Value, source: Value, reduce: str = "sum", include_self: bool = True
) -> str:
    names = {"sum": "add", "amax": "max", "amin": "min"}
    if reduce not in names:
        raise NotImplementedError(f"scattering by {reduce}")
    w, reduction = c.writer, names[reduce]
    if include_self:
        return c.main("ScatterElements", x.name, at.name, source.name, axis=axis, reduction=reduction)
    if reduction == "add":
        raise NotImplementedError("scattering by sum without what is there")
    # onto what every number beats; where nothing is scattered to, what is there stays
    start = w.number({"max": -math.inf, "min": math.inf}[reduction], c.dtype)
    empty = w.call("Expand", start, w.call("Shape", x.name))
    found = c.main("ScatterElements", empty, at.name, source.name, axis=axis, reduction=reduction)
    return w.call("Where", w.call("Equal", found, start), x.name, found)


def index_add(c: Call, x: Value, axis: int, at: Value, source: Value, alpha: float = 1) -> str:
    if axis % len(x.shape) or alpha != 1:
        raise NotImplementedError("adding along another axis than the first, or scaled")
    w = c.writer
    return c.main("ScatterND", x.name, w.call("Unsqueeze", at.name, w.integers([-1])), source.name, reduction="add")


def full(c: Call, sizes: Sequence[Size], value: float) -> str:
    w = c.writer
    if all(isinstance(size, int) for size in sizes):
        return w.tensor(torch.full(c.shape, value, dtype=c.dtype), c.step.name)
    return c.main("Expand", w.number(value, c.dtype), w.sizes(sizes))


def full_like(c: Call, x: Value, value: float) -> str:
    w = c.writer
    return c.main("Expand", w.number(value, c.dtype), w.call("Shape", x.name))


def arange(c: Call, *bounds: Size, **options: Any) -> str:
    del options
    w = c.writer
    ends = [0, *bounds] if len(bounds) == 1 else list(bounds[:2])
    first, last = (w.operand(end, c.dtype) for end in ends)
    return c.main("Range", first, last, w.operand(bounds[2] if len(bounds) > 2 else 1, c.dtype))


def size(c: Call, x: Value, axis: int) -> str:
    w = c.writer
    return w.call("Squeeze", w.call("Shape", x.name, start=axis % len(x.shape), end=axis % len(x.shape) + 1))


def cast(c: Call, x: Value, *unused: Any, **options: Any) -> Value:
    del unused, options
    return x if x.dtype == c.dtype else Value(c.writer.cast(x.name, c.dtype), c.dtype, c.shape)


def adjacency(
    c: Call, source: Value, target: Value, weight: Value | None, rows: Size, columns: Size
) -> tuple[Any, ...]:
    """A sparse matrix: its entries. Only `product` reads it."""
    del c, columns
    return source, target, weight, rows


def product(c: Call, matrix: tuple[Any, ...], values: Value) -> str:
    """Gather, multiply, scatter-add: runtimes have no sparse product."""
    source, target, weight, rows = matrix
    w = c.writer
    gathered = w.call("Gather", values.name, source.name, axis=0, wish=f"{c.step.name}.gather")
    if weight is not None:
        column = w.call("Reshape", weight.name, w.integers([-1, 1]))
        gathered = w.call("Mul", gathered, column)
    zeros = w.call("Expand", w.number(0.0, c.dtype), w.sizes([rows, values.shape[1]]))
    places = w.call("Unsqueeze", target.name, w.integers([-1]))
    return c.main("ScatterND", zeros, places, gathered, reduction="add")


_SAME = (aten.clone.default, aten.contiguous.default, aten.detach.default, aten.alias.default)
SHAPES: dict[object, Converter] = {
    **dict.fromkeys((aten.reshape.default, aten.view.default, aten._unsafe_view.default), reshape),
    aten.flatten.using_ints: flatten,
    aten.unflatten.int: unflatten,
    aten.permute.default: permute,
    aten.transpose.int: transpose,
    aten.t.default: lambda c, x: permute(c, x, list(range(len(x.shape)))[::-1]),
    aten.unsqueeze.default: unsqueeze,
    **dict.fromkeys((aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims), squeeze),
    aten.expand.default: lambda c, x, sizes, implicit=False: expand(c, x, sizes),
    aten.repeat.default: repeat,
    aten.repeat_interleave.self_int: repeat_interleave,
    aten.slice.Tensor: sliced,
    aten.select.int: select,
    **dict.fromkeys((aten.split.Tensor, aten.split_with_sizes.default), split),
    aten.chunk.default: chunk,
    aten.unbind.int: unbind,
    operator.getitem: lambda c, parts, at: parts[at],
    aten.pad.default: pad,
    aten.constant_pad_nd.default: lambda c, x, sizes, value=0: pad(c, x, sizes, "constant", value),
    aten.cat.default: cat,
    aten.stack.default: stack,
    **dict.fromkeys(_SAME, lambda c, x, **options: x),
}
INDICES: dict[object, Converter] = {
    aten.embedding.default: embedding,
    aten.index_select.default: index_select,
    aten.index.Tensor: index,
    aten.gather.default: gather,
    aten.scatter_add.default: scatter,
    aten.scatter_reduce.two: scatter,
    aten.index_add.default: index_add,
    **dict.fromkeys((aten.zeros.default,), lambda c, sizes, **options: full(c, sizes, 0)),
    **dict.fromkeys((aten.ones.default,), lambda c, sizes, **options: full(c, sizes, 1)),
    aten.full.default: lambda c, sizes, value, **options: full(c, sizes, value),
    aten.new_zeros.default: lambda c, x, sizes, **options: full(c, sizes, 0),
    aten.new_ones.default: lambda c, x, sizes, **options: full(c, sizes, 1),
    aten.new_full.default: lambda c, x, sizes, value, **options: full(c, sizes, value),
    aten.zeros_like.default: lambda c, x, **options: full_like(c, x, 0),
    aten.ones_like.default: lambda c, x, **options: full_like(c, x, 1),
    aten.full_like.default: lambda c, x, value, **options: full_like(c, x, value),
    **dict.fromkeys((aten.arange.default, aten.arange.start, aten.arange.start_step), arange),
    aten.sym_size.int: size,
    **dict.fromkeys((aten._to_copy.default, aten.to.dtype), cast),
    spmm.adjacency: adjacency,
    spmm.product: product,
}
