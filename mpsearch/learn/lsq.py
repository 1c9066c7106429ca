"""Learned steps: the step of a uniform grid is a parameter.

Its gradient is that of LSQ (Esser et al., "Learned step size quantization", arXiv 1902.08153, equations 2 and 3), with
a logarithm inside, as in TQT (Jain et al., arXiv 1903.08066), so that one learning rate suits steps of any size. Values
beyond the ends of such a grid pass no gradient. Every other grid is fitted, with gradients straight through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mpsearch.learn.base import Observe
from mpsearch.learn.straight import Straight
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.binary import BinaryGrid
from mpsearch.quant.grain import PIECE, flattened
from mpsearch.quant.grid import Grid


class Lsq(Straight):
    """Fake quantization; the steps of uniform grids are learned, unless a format names the range `rows`."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: dict[int, nn.Parameter] = {}  # logarithm of the learned step over that of the grid

    def __call__(self, site: int, value: Tensor) -> Tensor:
        step = self._steps.get(site)
        if step is None:
            return super().__call__(site, value)
        grid = self._grids[site]
        assert isinstance(grid, AffineGrid)
        return on_learned_grid(value, grid, grid.scale * step.exp())

    def parameters(self) -> list[nn.Parameter]:
        return list(self._steps.values())

    def fitted(self) -> list[int]:
        return [site for site in super().fitted() if site not in self._steps]

    def learns(self, site: int, grid: Grid) -> bool:
        """Whether the step of `grid` is learned."""
        return type(grid) is AffineGrid and "rows" not in self._formats[site].options

    def fit(self, observe: Observe) -> None:
        todo = self.fitted()
        super().fit(observe)
        for site in todo:
            if self.learns(site, self._grids[site]):
                self._steps[site] = nn.Parameter(torch.zeros_like(step_of(self._grids[site])))

    def state(self) -> dict[str, Tensor]:
        """Learned steps and zero points."""
        found = {}
        for site, step in self._steps.items():
            grid, name = self._grids[site], self._sites[site].name
            found[f"step/{name}"] = (step_of(grid) * step.detach().exp()).clone()
            if isinstance(grid, AffineGrid) and grid.zero_point is not None:
                found[f"zero_point/{name}"] = grid.zero_point.clone()
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for site, step in self._steps.items():
            name = self._sites[site].name
            grid, zero = self._grids[site], state.get(f"zero_point/{name}")
            if isinstance(grid, AffineGrid):
                grid = replace(grid, zero_point=None if zero is None else zero.to(step.device))
            self._grids[site] = with_step(grid, state[f"step/{name}"].to(step.device))
            with torch.no_grad():
                step.zero_()


def step_of(grid: Grid) -> Tensor:
    """Distance between neighbours of a uniform grid, two levels included."""
    assert isinstance(grid, AffineGrid | BinaryGrid)
    return grid.scale if isinstance(grid, AffineGrid) else grid.span


def with_step(grid: Grid, step: Tensor) -> Grid:
    """The uniform grid with another `step_of`."""
    assert isinstance(grid, AffineGrid | BinaryGrid)
    return replace(grid, scale=step) if isinstance(grid, AffineGrid) else replace(grid, span=step)


def on_learned_grid(value: Tensor, grid: AffineGrid, scale: Tensor) -> Tensor:
    """`value` on `grid` with its steps replaced by `scale`; gradients by both."""

    def spread(numbers: Tensor | float) -> Tensor | float:
        return grid.grain.spread(numbers, value.shape) if isinstance(numbers, Tensor) else numbers

    low, high = grid.ends
    return _Learned.apply(value, spread(scale), spread(low), spread(high))


class _Learned(torch.autograd.Function):
    """x on its grid, x^. By x it grows by 1 inside of the ends, by the step s by (x^ - x) / s there, else x^ / s.

    So with the gradients g by x^ and g' by x, that by s is the sum of (g x^ - g' x) / s: two dot products.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
        out = torch.empty_like(value)
        for x, target in _pieces(scale, value, out):
            torch.mul(x, 1.0 / scale, out=target).round_().clamp_(low, high).mul_(scale).add_(0.0)
        ctx.save_for_backward(value, out, scale)
        ctx.ends = low, high
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        value, quantized, scale = ctx.saved_tensors
        ends = [end * scale for end in ctx.ends]
        low, high = torch.minimum(*ends), torch.maximum(*ends)  # a step may be negative
        by_value, by_scale = torch.empty_like(value), torch.zeros_like(scale)
        one = scale.dim() == 0
        bounds = (low.item(), high.item()) if one else (low, high)
        for g, x, q, target in _pieces(scale, gradients[0], value, quantized, by_value):
            torch.eq(x.clamp(*bounds), x, out=target).mul_(g)
            by_scale += torch.dot(g, q) - torch.dot(target, x) if one and g.dim() == 1 else _sum(g, q, target, x, scale)
        return by_value, by_scale / scale, None, None


def _sum(g: Tensor, quantized: Tensor, by_value: Tensor, value: Tensor, scale: Tensor) -> Tensor:
    return (g * quantized).sub_(by_value * value).sum_to_size(scale.shape)


def _pieces(scale: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching pieces of `tensors` that fit the processor's cache where one scale serves them all; else they whole."""
    first = tensors[0]
    flat = [flattened(x) if x.stride() == first.stride() else None for x in tensors]
    whole = [x for x in flat if x is not None]
    if scale.dim() or len(whole) < len(tensors):
        yield tensors
    else:
        yield from zip(*(x.split(PIECE) for x in whole), strict=True)
