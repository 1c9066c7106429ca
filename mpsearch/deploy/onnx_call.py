"""What a converter is given: the step to write down, its operands, and whether it runs on integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from mpsearch.deploy.onnx_writer import Codes, Value, Writer
from mpsearch.graph.program import Step
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.grid import Grid


@dataclass(frozen=True)
class Stored:
    """A parameter, buffer or constant: written where it is read, in the form in which it is read.

    Args:
        tensor: its numbers, on its grid where it has one.
        grid: None where it stays in floating point.
    """

    name: str
    tensor: Tensor
    grid: Grid | None = None


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Args:
        writer: of the graph.
        step: the call; its name is the name of the node that does the work.
        dtype, shape: of the (first) result.
        integer: whether it is to run on integers: its operands are quantized, and so is its result where it must be.
    """

    writer: Writer
    step: Step
    dtype: torch.dtype
    shape: tuple[int, ...]
    integer: bool = False

    def main(self, operator: str, *inputs: str | None, **attributes: Any) -> str:
        """The node that does the work: named after the step, so that it can be found again in an optimised graph."""
        return self.writer.call(operator, *inputs, wish=self.step.name, **attributes)

    def name(self, operand: Value | Stored) -> str:
        """An operand in floating point."""
        return operand.name if isinstance(operand, Value) else self.writer.tensor(operand.tensor, operand.name)

    def weight(self, operand: Value | Stored, transposed: bool = False) -> str:
        """A weight: as codes that are dequantized where the call runs on integers, else as the numbers it has."""
        if isinstance(operand, Value):
            return self.writer.call("Transpose", operand.name, perm=[1, 0]) if transposed else operand.name
        if not self.integer:
            return self.writer.tensor(operand.tensor.t() if transposed else operand.tensor, operand.name)
        codes, scale = weight_codes(operand)
        writer, axis = self.writer, None if scale.ndim == 0 else grid_axis(operand)
        stored = Codes(
            writer.tensor(codes.t() if transposed else codes, f"{operand.name}.codes"),
            writer.tensor(scale, f"{operand.name}.scale"),
            writer.tensor(torch.zeros_like(scale, dtype=torch.int8), f"{operand.name}.zero"),
            1 - axis if transposed and axis is not None else axis,
        )
        return writer.dequantize(stored, f"{operand.name}.float")

    def bias(self, operand: Value | Stored | None, x: Value, weight: Value | Stored) -> str | None:
        """A bias: for integers as int32 in units of the product of the two scales."""
        if operand is None:
            return None
        if not self.integer or isinstance(operand, Value):
            return self.name(operand)
        assert x.codes is not None
        assert isinstance(weight, Stored)
        scale = (weight_codes(weight)[1].double() * x.codes.step).expand(operand.tensor.shape)
        codes = (operand.tensor.double() / scale).round().clamp(-(2**31), 2**31 - 1).to(torch.int32)
        writer = self.writer
        stored = Codes(
            writer.tensor(codes, f"{operand.name}.codes"),
            writer.tensor(scale.float(), f"{operand.name}.scale"),
            writer.tensor(torch.zeros_like(codes), f"{operand.name}.zero"),
            0,
        )
        return writer.dequantize(stored, f"{operand.name}.float")

    def along(self, x: Value, result: str, shape: tuple[int, ...] | None = None) -> Value:
        """`result`, which moved the numbers of `x` and changed none: on the same grid, if `x` has one for all.

        Args:
            shape: of the result, where it is not that of the call.
        """
        sizes = self.shape if shape is None else shape
        if x.codes is None or x.codes.axis is not None:
            return Value(result, x.dtype, sizes)
        codes = x.codes
        moved = replace(codes, name=self.writer.quantize(result, codes, f"{result}.codes"), source=result)
        return Value(self.writer.dequantize(moved, f"{result}.float"), x.dtype, sizes, moved)


Converter = Callable[..., Any]


def value_fits(grid: Grid | None) -> bool:
    """Whether integer kernels read values on this grid: 8 bits, one scale for all."""
    return _is_affine(grid) and grid.bits == 8 and grid.scale.ndim == 0 and grid.scale.item() > 0


def weight_fits(grid: Grid | None) -> bool:
    """Whether integer kernels read weights on this grid: at most 8 bits, symmetric, one scale or one per channel."""
    return (
        _is_affine(grid)
        and grid.bits <= 8
        and grid.zero_point is None
        and grid.grain.group is None
        and grid.grain.blocks is None
    )


def _is_affine(grid: Grid | None) -> TypeGuard[AffineGrid]:
    """Whether it is the uniform grid itself: what derives from it means something else by its scales."""
    return type(grid) is AffineGrid


def weight_codes(stored: Stored) -> tuple[Tensor, Tensor]:
    """Codes as int8 and scales above zero. A mirrored grid becomes one with mirrored codes."""
    grid = stored.grid
    assert isinstance(grid, AffineGrid)
    sign = grid.scale.sign()
    codes = grid.codes(stored.tensor) * grid.grain.spread(sign, stored.tensor.shape).to(torch.int32)
    return codes.to(torch.int8), grid.scale.abs()


def grid_axis(stored: Stored) -> int:
    """The axis of a weight along which its scales run."""
    assert isinstance(stored.grid, AffineGrid)
    return (stored.grid.grain.axis or 0) % stored.tensor.ndim
