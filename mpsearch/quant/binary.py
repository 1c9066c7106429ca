"""The one-bit grid: two values, whichever is nearer.

Parameters take plus or minus the mean magnitude, which is the pair that loses least among all that are
symmetric (Rastegari et al., "XNOR-Net", 2016); values take a pair that need not be symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.quant.grain import Grain, chunks
from mpsearch.quant.grid import Grid, finite
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes


@dataclass(frozen=True, eq=False)
class BinaryGrid(Grid):
    """The values `low` and `low + span`.

    Args:
        span: distance between the two, float32: [] per tensor, [channels] or [channels, groups].
        low: the lower value; None where the two are plus and minus half the span, and nothing is stored for it.
        grain: which elements share their values.
    """

    span: Tensor
    low: Tensor | None
    grain: Grain

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        middle, span, low = (self.grain.spread(t, x.shape).to(x.dtype) for t in (self._middle, self.span, self._bottom))
        pieces = ((x, out),) if self.span.dim() else chunks(x, out)
        for source, target in pieces:  # 0 or 1 as floats: 15 times faster than `torch.where`
            torch.ge(source, middle, out=target).mul_(span).add_(low)
        return out

    @property
    def _bottom(self) -> Tensor:
        return self.span / -2 if self.low is None else self.low

    @cached_property
    def _middle(self) -> Tensor:
        """From here on up a value is high; always above low, so that low stays low where the two are neighbours."""
        above = torch.nextafter(self._bottom, torch.full_like(self.span, torch.inf))
        return torch.maximum(above, self._bottom + self.span / 2)

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return (Codes(prod(shape), 1),)

    def nbits(self, shape: tuple[int, ...]) -> int:
        stored = self.span.numel() * (1 if self.low is None else 2)
        return 8 * (packed_bytes(prod(shape), 1) + 4 * stored)

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        codes = finite(x).float() >= self.grain.spread(self._middle, x.shape)
        return {"codes": pack_codes(codes.contiguous(), 1), **self.static()}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        span = stored["span"]
        low = stored.get("low", span / -2)
        codes = unpack_codes(stored["codes"], 1, prod(shape)).reshape(shape).float()
        return codes.mul_(self.grain.spread(span, shape)).add_(self.grain.spread(low, shape))
