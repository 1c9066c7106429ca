"""The straight-through estimator: values move to their grid, gradients pass as if they had not.

Every grid is fitted anew whenever `fit` is called, and passes gradients everywhere, beyond its ends too: the estimator
of SGQuant (Feng et al., arXiv 2007.05100), whose range clips.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mpsearch.core.errors import ObjectiveFailed
from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Site
from mpsearch.graph.joined import joined
from mpsearch.learn.base import Learner, Observe
from mpsearch.quant.bank import Bank
from mpsearch.quant.grid import Grid


class Straight(Learner):
    """Fake quantization on fitted grids."""

    def __init__(self) -> None:
        self._sites: tuple[Site, ...] = ()
        self._formats: dict[int, Format] = {}
        self._weights: Mapping[int, Tensor] = {}
        self._grids: dict[int, Grid] = {}
        self._fitted_on: dict[int, weakref.ref[Tensor]] = {}
        self._last: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def place(self, sites: Sequence[Site], formats: Sequence[Format], weights: Mapping[int, Tensor]) -> None:
        self._sites, self._weights = tuple(sites), weights
        self._formats = {i: fmt for i, fmt in enumerate(formats) if fmt != FP32}

    def __call__(self, site: int, value: Tensor) -> Tensor:
        grid = self._grids.get(site)
        if grid is None:
            return value
        known = self._last.get(site)
        if known is not None and known[0]() is value:
            return known[1]
        quantized = straight(value, grid)
        if torch.is_grad_enabled() and not value.requires_grad:  # the features of a graph, the same in every step
            self._last[site] = weakref.ref(value), quantized
        return quantized

    def grid(self, site: int) -> Grid | None:
        return self._grids.get(site)

    def fitted(self) -> list[int]:
        """Sites whose grids are fitted whenever `fit` is called."""
        return list(self._formats)

    def fit(self, observe: Observe) -> None:
        """Fit every grid: parameters as they are, values on the calibration batches.

        Values are fitted twice, first with no value quantized before them that is fitted here, then with all of them:
        what comes out depends on nothing but parameters and what is learned.
        """
        todo = self.fitted()
        values = {site for site in todo if site not in self._weights}
        for site in todo:
            if site in self._weights:
                self._grids[site] = self._fitted(site, self._weights[site].detach())
        if any(site not in self._fitted_on or self._fitted_on[site]() is None for site in values):
            self._fit_values(values, observe)

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
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        del state


def straight(value: Tensor, grid: Grid) -> Tensor:
    """`value` on `grid`; the gradient is that of the identity."""
    return _Straight.apply(value, grid)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, grid: Grid) -> Tensor:
        del ctx
        return grid.round_trip(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None
