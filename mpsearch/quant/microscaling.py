"""Microscaling: small floats in blocks of 32 that share a power of two of 8 bits.

Text: `mx4`; `mx6[:e2m3|:e3m2]`; `mx8[:e4m3|:e5m2|:int]`, each with `[:mse|:max|:up]`. The first type is the default;
`int` are 8-bit integers.

Blocks run along what a product adds up over: the elements of an output channel of a parameter, the channels of a
value. The scale is a power of two:

* `max`: 2^(floor(log2 of the largest magnitude) - exponent of the largest number of the type), the rule of the
  specification. Magnitudes beyond the largest number are cut, by up to a quarter.
* `up`: the same, or twice that where something would be cut: scales are rounded up (Mishra et al., "Recipes for
  Pre-training LLMs with MXFP8", 2025, arXiv 2506.08027, from the abstract).
* `mse`: whichever of the two has less squared error in the block; a choice of our own.

Parameters are stored; their default is `mse`. Values get their scales while the model runs, from the block itself:
nothing is calibrated, nothing is static, and the scales are part of what a value takes. Their default is `max` at 4
bits and for `int`, else `up`: on normal numbers it has 18 % less squared error with `e4m3`, 4 % less with `e3m2` and
`e5m2`, 1 % more with `e2m1` and `int`.

As `e2m3` and `e4m3` both have 3 bits of mantissa, `mx8` gains range over `mx6` and little precision; `mx8:int` has ten
times less squared error on normal numbers.

So an `mx4` takes 4.25 bits per number. Format and rule: Rouhani et al., "Microscaling Data Formats for Deep Learning"
(2023, arXiv 2310.10537); Open Compute Project, "Microscaling Formats Specification" 1.0 (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import ClassVar

import torch
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.block import BlockGrid
from mpsearch.quant.floating import KINDS
from mpsearch.quant.grid import Quantizer, finite
from mpsearch.quant.minifloat import MiniFloat
from mpsearch.quant.options import Options, refuse, short
from mpsearch.quant.rows import Rows

_INT8 = MiniFloat(1, 6, 0)  # multiples of 2^-6 up to 127
_KINDS = {**KINDS, 8: {**KINDS[8], "int": _INT8}}
_OPTIONS = Options(
    ("e2m3", "e3m2", "e4m3", "e5m2", "int", "mse", "max", "up"), kind="e[0-9]m[0-9]|int", range="mse|max|up"
)


@dataclass(frozen=True, eq=False)
class MicroscalingGrid(BlockGrid):
    """Small floats in blocks of 32. The code of a scale is its exponent plus 127, that of a float32 (E8M0).

    Args:
        up: whether the rule of the scale cuts nothing.
    """

    up: bool = False

    block: ClassVar[int] = 32

    def scales(self, codes: Tensor) -> Tensor:
        exponents = codes.to(torch.int32) << 23
        return torch.where(exponents > 0, exponents, 1 << 22).view(torch.float32)  # code 0 is 2^-127

    def candidates(self, largest: Tensor) -> Sequence[Tensor]:
        exponent = (largest.view(torch.int32) >> 23) - int(log2(self.kind.most))
        usual, twice = ((exponent + more).clamp(0, 254).to(torch.uint8) for more in (0, 1))
        if self.up:
            return [torch.where(largest > self.kind.most * self.scales(usual), twice, usual)]
        return [usual, twice]


class Microscaling(Quantizer):
    """Small floats with a power of two per block of 32: `mx4`, `mx6`, `mx8`, `mx8:int`."""

    scheme = "mx"
    menu = ("mx4", "mx6", "mx8", "mx8:int")

    def canonical(self, fmt: Format, role: Role) -> Format:
        words, defaults = _read(fmt, role)
        kinds = _KINDS[fmt.bits]
        if words["kind"] not in kinds:
            refuse(fmt, f"there is no {words['kind']} of {fmt.bits:g} bits. Allowed: {', '.join(kinds)}.")
        refuse_search_of_values(fmt, words["range"], role)
        return short(fmt, words, defaults)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> MicroscalingGrid:
        words, _ = _read(self.canonical(fmt, role), role)
        kind, up = _KINDS[fmt.bits][words["kind"]], words["range"] == "up"
        grid = MicroscalingGrid(kind, Rows.of_role(role, axis), up=up)
        x = finite(sample)
        if not role.is_parameter:
            return grid
        return grid.fitted(x) if words["range"] == "mse" else grid.by_rule(x)

    def width(self, fmt: Format) -> Width:
        return Width(int(fmt.bits), "mxint" if "int" in fmt.options else "mx")


def refuse_search_of_values(fmt: Format, rule: str, role: Role) -> None:
    """Raise `BadInput` where scales that are worked out while the model runs would have to be searched."""
    if rule == "mse" and not role.is_parameter:
        refuse(fmt, "block scales of values are worked out while the model runs, not searched; drop mse.")


def _read(fmt: Format, role: Role) -> tuple[dict[str, str], dict[str, str]]:
    if fmt.bits not in _KINDS:
        refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: {', '.join(f'mx{bits}' for bits in _KINDS)}.")
    kind = next(iter(_KINDS[fmt.bits]))
    defaults = {"kind": kind, "range": "mse"}
    if not role.is_parameter:
        given = _OPTIONS.read(fmt, defaults)["kind"]
        defaults["range"] = "max" if given == "int" or fmt.bits == 4 else "up"
    return _OPTIONS.read(fmt, defaults), defaults
