"""Fake quantization that can be trained through: values move to their grid, gradients pass straight through.

Learned steps: the step of a uniform grid is a parameter, with the gradient of LSQ (Esser et al., "Learned step size
quantization", arXiv 1902.08153, equations 2 and 3) and a logarithm inside, as in TQT (Jain et al., arXiv 1903.08066),
so that one learning rate suits steps of any size. Values beyond the ends of such a grid pass no gradient.

Every other grid is fitted anew whenever `fit` is called, and passes gradients everywhere, beyond its ends too: the
straight-through estimator of SGQuant (Feng et al., arXiv 2007.05100), whose range clips.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mpsearch.core.errors import ObjectiveFailed
from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Site
from mpsearch.graph.joined import joined
from mpsearch.graph.training import Look
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.bank import Bank
from mpsearch.quant.grain import PIECE, flattened
from mpsearch.quant.grid import Grid

Observe = Callable[[Look], object]
"""Runs the model on the calibration batches with these quantizers at its sites."""


class FakeQuantization:
    """What stands at the sites of a program while it is trained at one assignment.

    Args:
        sites: of the program.
        formats: one per site.
        learns: whether steps of uniform grids are learned; a grid whose format names the range `rows` is fitted.
        weights: parameters by index of their site, as they are when a grid is fitted on them.
    """

    def __init__(
        self, sites: Sequence[Site], formats: Sequence[Format], learns: bool, weights: Mapping[int, Tensor]
    ) -> None:
        self._sites, self._weights, self._learns = tuple(sites), weights, learns
        self._formats = {i: fmt for i, fmt in enumerate(formats) if fmt != FP32}
        self._grids: dict[int, Grid] = {}
        self._steps: dict[int, nn.Parameter] = {}  # logarithm of the learned step over that of the grid
        self._fitted_on: dict[int, weakref.ref[Tensor]] = {}
        self._last: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def __call__(self, site: int, value: Tensor) -> Tensor:
        grid = self._grids.get(site)
        if grid is None:
            return value
        step = self._steps.get(site)
        if step is not None:
            assert isinstance(grid, AffineGrid)
            return on_learned_grid(value, grid, grid.scale * step.exp())
        known = self._last.get(site)
        if known is not None and known[0]() is value:
            return known[1]
        quantized = straight(value, grid)
        if torch.is_grad_enabled() and not value.requires_grad:  # the features of a graph, the same in every step
            self._last[site] = weakref.ref(value), quantized
        return quantized

    def parameters(self) -> list[nn.Parameter]:
        """The learned steps."""
        return list(self._steps.values())

    def fit(self, observe: Observe) -> None:
        """Fit every grid whose step is not learned: parameters as they are, values on the calibration batches.

        Values are fitted twice, first with no value quantized before them that is fitted here, then with all of them:
        what comes out depends on nothing but parameters and learned steps. Raises `ObjectiveFailed` on NaN and
        infinity.
        """
        todo = [site for site in self._formats if site not in self._steps]
        values = {site for site in todo if site not in self._weights}
        for site in todo:
            if site in self._weights:
                self._grids[site] = self._fitted(site, self._weights[site].detach())
        if any(site not in self._fitted_on or self._fitted_on[site]() is None for site in values):
            self._fit_values(values, observe)
        for site in todo if self._learns else ():
            grid = self._grids[site]
            if type(grid) is AffineGrid and "rows" not in self._formats[site].options:
                self._steps[site] = nn.Parameter(torch.zeros_like(grid.scale))

    def _fit_values(self, sites: set[int], observe: Observe) -> None:
        before = {site: self._grids.pop(site) for site in sites if site in self._grids}
        for _ in range(2):
            found: dict[int, list[Tensor]] = {site: [] for site in sites}

            def look(site: int, value: Tensor, found: dict[int, list[Tensor]] = found) -> None:
                if site in found:
                    found[site].append(value)

            with torch.no_grad():
                observe(look)
            for site, parts in found.items():
                sample = joined(parts, self._sites[site].axis)
                known = self._fitted_on.get(site)
                same = known is not None and known() is sample  # the features of a graph, say
                self._grids[site] = before[site] if same else self._fitted(site, sample)
                self._fitted_on[site] = weakref.ref(sample)
            before = {site: self._grids[site] for site in sites}

    def _fitted(self, site: int, sample: Tensor) -> Grid:
        noun, fmt = self._sites[site], self._formats[site]
        self._last.pop(site, None)
        try:
            return Bank(lambda _: sample, 0).grid(noun, fmt)
        except ValueError as error:
            raise ObjectiveFailed(f"site {noun.name!r} in {fmt}: {error}") from error

    def state(self) -> dict[str, Tensor]:
        """Learned steps and zero points, by name of the site: with the parameters, all that `fit` cannot find."""
        found = {}
        for site, step in self._steps.items():
            grid, name = self._grids[site], self._sites[site].name
            assert isinstance(grid, AffineGrid)
            found[f"step/{name}"] = (grid.scale * step.detach().exp()).clone()
            if grid.zero_point is not None:
                found[f"zero_point/{name}"] = grid.zero_point.clone()
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take learned steps and zero points from `state`; after `fit` has made the grids that they belong to."""
        for site, step in self._steps.items():
            grid, name = self._grids[site], self._sites[site].name
            zero = state.get(f"zero_point/{name}")
            zero = None if zero is None else zero.to(grid.scale.device)
            assert isinstance(grid, AffineGrid)
            self._grids[site] = replace(grid, scale=state[f"step/{name}"].to(grid.scale), zero_point=zero)
            with torch.no_grad():
                step.zero_()


def straight(value: Tensor, grid: Grid) -> Tensor:
    """`value` on `grid`; the gradient is that of the identity."""
    return _Straight.apply(value, grid)


def on_learned_grid(value: Tensor, grid: AffineGrid, scale: Tensor) -> Tensor:
    """`value` on `grid` with its steps replaced by `scale`; gradients by both."""

    def spread(numbers: Tensor | float) -> Tensor | float:
        return grid.grain.spread(numbers, value.shape) if isinstance(numbers, Tensor) else numbers

    low, high = grid.ends
    return _Learned.apply(value, spread(scale), spread(low), spread(high))


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, grid: Grid) -> Tensor:
        del ctx
        return grid.round_trip(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None


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
