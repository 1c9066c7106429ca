"""The uniform grid with stochastic rounding: up as often as a number is far from the lower neighbour.

So sums of many rounded numbers are off by chance and not by habit, at the price of twice the squared error. The chances
are drawn from a seed that is worked out from the numbers themselves: the same tensor is rounded the same way, whenever
and wherever, and the next batch another way.

Source: Gupta et al., "Deep Learning with Limited Numerical Precision" (2015, arXiv 1502.02551), section 3. The seed by
content is our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.grid import finite

_SURE = 2.0**-12  # of a step: as close to a level a number takes it, so that levels themselves never move


@dataclass(frozen=True, eq=False)
class StochasticGrid(AffineGrid):
    """The affine grid of up to 8 bits, rounded to one of the two neighbours by chance."""

    @property
    def absorbs_relu(self) -> bool:
        return False  # without its negative numbers a tensor has another seed

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        return out.copy_(self._steps(x).mul_(self.grain.spread(self.scale, x.shape)).add_(0.0))

    def codes(self, x: Tensor) -> Tensor:
        return (self._steps(finite(x)) + self.grain.spread(self._zeros, x.shape)).to(torch.int32).contiguous()

    def _steps(self, x: Tensor) -> Tensor:
        """Codes less the zero point, float32."""
        x = x.float()
        inverse, low, high = (self.grain.spread(t, x.shape) for t in (1.0 / self.scale, self.lowest, self.highest))
        return (x * inverse).add_(_chances(x)).floor_().clamp_(low, high)


def _chances(x: Tensor) -> Tensor:
    """Numbers between 0 and 1, not quite up to either, of the shape of `x`; the same for the same `x`."""
    seed = int(x.contiguous().view(torch.int32).sum(dtype=torch.int64))
    draw = torch.Generator().manual_seed(seed % 2**63)
    return torch.rand(x.shape, generator=draw).mul_(1 - 2 * _SURE).add_(_SURE).to(x.device)
