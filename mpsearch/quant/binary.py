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

from mpsearch.quant.grain import Grain, chunks
from mpsearch.quant.grid import Grid, finite
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes


@dataclass(frozen=True, eq=False)
class BinaryGrid(Grid):
    """Two values.

    Args:
        high: the higher value, float32: [] per tensor, [channels] or [channels, groups].
        low: the lower value; None where that is `-high`, and nothing is stored for it.
        grain: which elements share their values.
    """

    high: Tensor
    low: Tensor | None
    grain: Grain

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        low, high, middle = (self.grain.spread(t, x.shape).to(x.dtype) for t in (self._bottom, self.high, self._middle))
        pieces = ((x, out),) if self.high.dim() else chunks(x, out)
        for source, target in pieces:
            torch.where(source >= middle, high, low, out=target)
        return out

    @property
    def _bottom(self) -> Tensor:
        return -self.high if self.low is None else self.low

    @cached_property
    def _middle(self) -> Tensor:
        """From here on up values are high; always above low, so that low stays low where the two are
        neighbours."""
        above = torch.nextafter(self._bottom, torch.full_like(self.high, torch.inf))
        return torch.maximum(above, self._bottom / 2 + self.high / 2)

    def code_bits(self, shape: tuple[int, ...]) -> int:
        return prod(shape)

    def nbits(self, shape: tuple[int, ...]) -> int:
        stored = self.high.numel() * (1 if self.low is None else 2)
        return 8 * (packed_bytes(prod(shape), 1) + 4 * stored)

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        codes = finite(x).float() >= self.grain.spread(self._middle, x.shape)
        stored = {"codes": pack_codes(codes.contiguous(), 1), "high": self.high.cpu()}
        return stored if self.low is None else stored | {"low": self.low.cpu()}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        high = self.grain.spread(stored["high"], shape)
        low = self.grain.spread(stored["low"], shape) if "low" in stored else -high
        return torch.where(unpack_codes(stored["codes"], 1, prod(shape)).reshape(shape) > 0, high, low)
