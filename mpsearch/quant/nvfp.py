"""NVFP4: four-bit floats in blocks of 16 that share a float of 8 bits, all times one float32.

Text: `nvfp4[:mse|:max]`.

The scale of a block is an E4M3 number times the scale of the tensor: the largest magnitude over 6 (`max`). The scale
of the tensor makes the largest block scale 448, the largest E4M3 number; of values it is found on the calibration
sample and stored with the model, and block scales are worked out while the model runs, from the block itself. Blocks
of parameters take, by `mse`, their default, the scale of least squared error out of six: that which the largest
magnitude over 6, 5.5, 5, 4.5, 4 or 7 is nearest to. That choice is our own.

So a number takes 4.5 bits. Block scales are normal numbers here, from 2^-6 up: with subnormal ones a block that is
read back would choose another scale than it was written with. Blocks below 2^-14.8 of the largest magnitude lose by
it. Format: NVIDIA, "Pretraining Large Language Models with NVFP4" (2025, arXiv 2509.25149).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.block import BlockGrid
from mpsearch.quant.floating import E2M1, E4M3
from mpsearch.quant.grid import Quantizer, finite
from mpsearch.quant.microscaling import refuse_search_of_values
from mpsearch.quant.options import Options, refuse, short
from mpsearch.quant.rows import Rows
from mpsearch.quant.scale import DEAD

_OPTIONS = Options(("mse", "max"), range="mse|max")
_MEETS = (E2M1.most, 5.5, 5.0, 4.5, 4.0, 7.0)  # what the largest magnitude of a block becomes
_LEAST = 2.0**E4M3.lowest


@dataclass(frozen=True, eq=False)
class NvfpGrid(BlockGrid):
    """Four-bit floats in blocks of 16.

    Args:
        whole: the scale of the tensor, float32 []. Above 0.
    """

    whole: Tensor = field(kw_only=True)

    block: ClassVar[int] = 16

    def scales(self, codes: Tensor) -> Tensor:
        return codes.view(torch.float8_e4m3fn).float() * self.whole

    def candidates(self, largest: Tensor) -> Sequence[Tensor]:
        share = largest / self.whole
        wanted = ((share / meets).clamp_(_LEAST, E4M3.most) for meets in _MEETS)
        return [number.to(torch.float8_e4m3fn).view(torch.uint8) for number in wanted]

    def nbits(self, shape: tuple[int, ...]) -> int:
        return super().nbits(shape) + 32

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return super(NvfpGrid, replace(self, whole=stored["whole"])).unpack(stored, shape)


class Nvfp(Quantizer):
    """Four-bit floats with an 8-bit float per block of 16 and one float32: `nvfp4`."""

    scheme = "nvfp"
    menu = ("nvfp4",)

    def canonical(self, fmt: Format, role: Role) -> Format:
        words, defaults = _read(fmt, role)
        refuse_search_of_values(fmt, words["range"], role)
        return short(fmt, words, defaults)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> NvfpGrid:
        words, _ = _read(self.canonical(fmt, role), role)
        x = finite(sample)
        largest = x.float().abs().amax()
        whole = torch.where(largest > DEAD, largest / (E2M1.most * E4M3.most), 1.0)
        grid = NvfpGrid(E2M1, Rows.of_role(role, axis), whole=whole)
        if not role.is_parameter:
            return grid
        return grid.fitted(x) if words["range"] == "mse" else grid.by_rule(x)

    def width(self, fmt: Format) -> Width:
        return Width(int(fmt.bits), "nvfp")


def _read(fmt: Format, role: Role) -> tuple[dict[str, str], dict[str, str]]:
    if fmt.bits != 4:
        refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: nvfp4.")
    defaults = {"range": "mse" if role.is_parameter else "max"}
    return _OPTIONS.read(fmt, defaults), defaults
