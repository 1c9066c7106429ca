"""Sixteen-bit floats: the IEEE half (`fp16`) and the brain float (`bf16`). No scale, no calibration."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.grid import Grid, Quantizer, finite


@dataclass(frozen=True)
class CastGrid(Grid):
    """The finite values of a floating-point type; what lies beyond takes the largest.

    Args:
        dtype: a 16-bit floating-point type of torch.
    """

    dtype: torch.dtype

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        return out.copy_(self._cast(x))

    def _cast(self, x: Tensor) -> Tensor:
        most = torch.finfo(self.dtype).max
        # By way of float32: a clamp in a narrower type than this one would round its own bounds to infinity.
        return (x if x.dtype == torch.float64 else x.float()).clamp(-most, most).to(self.dtype)

    def code_bits(self, shape: tuple[int, ...]) -> int:
        return 16 * prod(shape)

    def nbits(self, shape: tuple[int, ...]) -> int:
        return 16 * prod(shape)

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        return {"codes": self._cast(finite(x)).cpu().contiguous()}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return stored["codes"].float().reshape(shape)


def _without_options(fmt: Format, scheme: str) -> Format:
    if fmt != Format(scheme, 16):
        raise BadInput(f"format {str(fmt)!r} does not exist. Allowed: {scheme}16, without options.")
    return fmt


class Float(Quantizer):
    """`fp16`: 5 bits of exponent, 10 of mantissa. (`fp32` is the model as it is and reaches no quantizer.)"""

    scheme = "fp"

    def canonical(self, fmt: Format, role: Role) -> Format:
        del role
        return _without_options(fmt, self.scheme)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> CastGrid:
        del fmt, role, axis
        finite(sample)
        return CastGrid(torch.float16)


class BrainFloat(Quantizer):
    """`bf16`: 8 bits of exponent, 7 of mantissa; the range of float32."""

    scheme = "bf"

    def canonical(self, fmt: Format, role: Role) -> Format:
        del role
        return _without_options(fmt, self.scheme)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> CastGrid:
        del fmt, role, axis
        finite(sample)
        return CastGrid(torch.bfloat16)
