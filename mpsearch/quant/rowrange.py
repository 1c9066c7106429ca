"""Integers with a range of each row's own: from the least to the largest of its values. For features of nodes.

Text: `rowrange BITS` with 1 to 8 or 16 bits, for values only. A row runs along the channel axis: the features of a
node, a token, a position; numbers with one axis are one row.

    scale = (largest - least) / (2^bits - 1)     code = round((x - least) / scale)     x_hat = code * scale + least

This is the per-node granularity of SGQuant (Feng et al., arXiv 2007.05100). The range is worked out while the model
runs, so nothing is calibrated and nothing is static; two floats of each row are part of what a tensor takes, which at
16 features of 4 bits is as much as the codes. A row of equal values is stored without loss, zeros among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.options import Options, refuse
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes
from mpsearch.quant.rows import Rows

_OPTIONS = Options(("(none)",))
_BITS = (*range(1, 9), 16)
_END_BITS = 32
"""Of the least value of a row, and of its scale."""


@dataclass(frozen=True)
class RowRangeGrid(Grid):
    """Codes 0 to 2^bits - 1, spread over the range of each row.

    Args:
        bits: of a code.
        rows: how rows run.
    """

    bits: int
    rows: Rows

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        codes, scale, least = self._coded(self.rows.of(x))
        return out.copy_(self.rows.back(_decoded(codes, scale, least), x.shape))

    def _coded(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes as floats [rows, n]; scale and least value [rows, 1]. A row without a range has a scale of 1."""
        least, most = rows.aminmax(dim=1, keepdim=True)
        top = 2**self.bits - 1
        scale = ((most.double() - least) / top).float()  # ends may be further apart than a float reaches
        scale = scale.masked_fill(scale == 0, 1.0)
        return ((rows - least) / scale).round_().clamp_(0, top), scale, least

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        ends = Codes(self.rows.size(shape)[0], _END_BITS)
        return Codes(prod(shape), self.bits), ends, ends

    def nbits(self, shape: tuple[int, ...]) -> int:
        return 8 * packed_bytes(prod(shape), self.bits) + 2 * _END_BITS * self.rows.size(shape)[0]

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        codes, scale, least = self._coded(self.rows.of(finite(x)))
        ranges = {"scale": scale[:, 0].cpu(), "least": least[:, 0].cpu()}
        return {"codes": pack_codes(codes.to(torch.int32).contiguous(), self.bits), **ranges}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        codes = unpack_codes(stored["codes"], self.bits, prod(shape)).reshape(self.rows.size(shape)).float()
        return self.rows.back(_decoded(codes, stored["scale"][:, None], stored["least"][:, None]), shape).contiguous()


def _decoded(codes: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    """What `codes` stand for, written over them."""
    return codes.mul_(scale).add_(least).add_(0.0)


class RowRange(Quantizer):
    """Integers with a range per row: `rowrange4`."""

    scheme = "rowrange"
    menu = ("rowrange2", "rowrange4")

    def canonical(self, fmt: Format, role: Role) -> Format:
        if fmt.bits not in _BITS:
            refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: {', '.join(map(str, _BITS))}.")
        _OPTIONS.read(fmt, {})
        if role.is_parameter:
            refuse(fmt, f"ranges of rows are for values, not for a parameter ({role}). Use int{fmt.bits:g}.")
        return fmt

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> RowRangeGrid:
        self.canonical(fmt, role)
        finite(sample)
        return RowRangeGrid(int(fmt.bits), Rows.of_role(role, axis))

    def width(self, fmt: Format) -> Width:
        """Its bits: the scale of a row multiplies what the row is summed to, the least value its sum of weights."""
        return Width(int(fmt.bits))
