"""The uniform grid: equally spaced values, zero among them.

    x_hat = clamp(round(x * (1 / scale)), qmin - zero_point, qmax - zero_point) * scale

Ties go to the even code and the division is a multiplication by the reciprocal, so the result equals
`torch.fake_quantize_per_tensor_affine` and `..._per_channel_affine` bit for bit (a negative scale, which
those refuse, mirrors the grid). onnxruntime divides instead, and adds the zero point before rounding: the two
differ on ties only.

Formulas: Wu et al., "Integer Quantization for Deep Learning Inference" (2020), sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, Self

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.quant.grain import Grain, chunks
from mpsearch.quant.grid import Grid, finite
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes


@dataclass(frozen=True, eq=False)
class AffineGrid(Grid):
    """Integer codes `qmin` to `qmax`, scaled.

    Args:
        bits: of a code.
        qmin: lowest code.
        qmax: highest code, at most `qmin + 2**bits - 1`.
        scale: distance between neighbours, float32: [] per tensor, [channels] or [channels, groups]. Not 0;
            may be negative, which mirrors a range of codes that is not symmetric.
        zero_point: code of zero, int32 of the same shape; None where that is 0.
        grain: which elements share a scale.
    """

    bits: int
    qmin: int
    qmax: int
    scale: Tensor
    zero_point: Tensor | None
    grain: Grain

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        if x.dtype not in (torch.float32, torch.float64):  # 16-bit floats cannot hold the codes in between
            return out.copy_(self.round_trip(x.float()))
        if self.scale.dim():
            spread = self.grain.spread
            low, high, scale = (spread(t, x.shape) for t in (self.lowest, self.highest, self.scale))
            torch.mul(x, spread(1.0 / self.scale, x.shape), out=out)
            return out.round_().clamp_(low, high).mul_(scale).add_(0.0)
        inverse, bottom, top, step, zero = self._numbers
        for source, target in chunks(x, out):
            torch.mul(source, inverse, out=target).round_().clamp_(bottom, top)
            torch.add(zero, target, alpha=step, out=target)  # a product that turns -0.0 into 0.0 at no cost
        return out

    @cached_property
    def absorbs_relu(self) -> bool:
        return self.scale.dim() == 0 and self.lowest.item() == 0 and self.scale.item() > 0

    @cached_property
    def lowest(self) -> Tensor:
        """The lowest value in steps, shaped like `scale`."""
        return self.qmin - self._zeros

    @cached_property
    def highest(self) -> Tensor:
        """The highest value in steps, shaped like `scale`."""
        return self.qmax - self._zeros

    @cached_property
    def ends(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """`lowest` and `highest`: plain numbers where one scale serves all, which nothing waits for."""
        return (self.lowest, self.highest) if self.scale.dim() else (self.lowest.item(), self.highest.item())

    @property
    def _zeros(self) -> Tensor:
        return torch.zeros_like(self.scale) if self.zero_point is None else self.zero_point.to(self.scale.dtype)

    @cached_property
    def _numbers(self) -> tuple[float, float, float, float, Tensor]:
        """Reciprocal, lowest and highest code, scale as plain numbers: nothing waits for a device later."""
        plain = ((1.0 / self.scale).item(), self.lowest.item(), self.highest.item(), self.scale.item())
        return *plain, torch.zeros((), device=self.scale.device)

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return (Codes(prod(shape), self.bits),)

    def nbits(self, shape: tuple[int, ...]) -> int:
        zero_points = 0 if self.zero_point is None else packed_bytes(self.zero_point.numel(), self.bits)
        return 8 * (packed_bytes(prod(shape), self.bits) + 4 * self.scale.numel() + zero_points)

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        return {"codes": self._pack(self.codes(x)), **self.static()}

    def static(self) -> dict[str, Tensor]:
        stored = {"scale": self.scale.cpu().contiguous()}
        return stored if self.zero_point is None else stored | {"zero_point": self._pack(self.zero_point)}

    @classmethod
    def from_static(cls, static: Mapping[str, Tensor], shape: tuple[int, ...], **plain: Any) -> Self:
        scale = static["scale"]
        grid = cls(**{**plain, "scale": scale, "zero_point": None})
        if "zero_point" not in static:
            return grid
        return replace(grid, zero_point=grid._unpack(static["zero_point"], tuple(scale.shape)))

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        codes, scale = self._unpack(stored["codes"], shape), stored["scale"]
        if "zero_point" in stored:
            codes -= self.grain.spread(self._unpack(stored["zero_point"], scale.shape), shape)
        return (codes.float() * self.grain.spread(scale, shape)).add_(0.0)

    def _pack(self, codes: Tensor) -> Tensor:
        return pack_codes(codes - self.qmin, self.bits)

    def _unpack(self, stream: Tensor, shape: tuple[int, ...]) -> Tensor:
        return unpack_codes(stream, self.bits, prod(shape)).reshape(shape) + self.qmin

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of `x`, int32 in [qmin, qmax], contiguous. Raises `ValueError` on NaN or infinity."""
        inverse, low, high, zeros = (
            self.grain.spread(t, x.shape) for t in (1.0 / self.scale, self.lowest, self.highest, self._zeros)
        )
        steps = (finite(x).float() * inverse).round_().clamp_(low, high)
        return (steps + zeros).to(torch.int32).contiguous()
