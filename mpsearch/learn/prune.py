"""Quantization-aware pruning: zeros are added as training goes on, and stay (Hawks et al., arXiv 2102.11289).

Before each epoch the smallest of the weights that are left become zero, until in the last of the epochs named by `rise`
as many are as the format says; the epochs after it train what is left. Between, the model is scored as it would be
finished: with all the zeros of its formats. Weights that are zero have no gradient, and are set to zero after every
step, which what the optimizer remembers would move them by.

How many zeros each layer has is said by its format (`mpsearch.quant.pattern.joint_shares` gives those of global
pruning), so that costs are known before training. Steps are learned as by `lsq`, those of pruned weights too; the mean
magnitudes of ternary weights are fitted after each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Site
from mpsearch.learn.base import Observe
from mpsearch.learn.lsq import Lsq
from mpsearch.quant.grid import Grid
from mpsearch.quant.pattern import Pattern
from mpsearch.quant.pruned import Pruned, PrunedGrid, pattern_of


class Prune(Lsq):
    """Fake quantization of weights that are pruned step by step.

    Args:
        rise: share of the epochs over which zeros are added.
    """

    def __init__(self, rise: float = 0.5) -> None:
        super().__init__()
        if not isinstance(rise, (int, float)) or isinstance(rise, bool) or not 0 < rise <= 1:
            raise BadInput(f"option rise of prune: {rise!r} is no share of the epochs. Allowed: above 0, at most 1.")
        self._rise = rise
        self._finished: dict[int, Tensor] = {}
        self.masks: dict[int, Tensor] = {}
        """By site, which weights are left, bool."""

    def place(self, sites: Sequence[Site], formats: Sequence[Format], weights: Mapping[int, Tensor]) -> None:
        super().place(sites, formats, weights)
        pruned = [site for site, fmt in self._formats.items() if fmt.scheme == Pruned.scheme]
        self.masks = {i: torch.ones_like(weights[i], dtype=torch.bool) for i in pruned if weights[i].requires_grad}

    def __call__(self, site: int, value: Tensor) -> Tensor:
        quantized = super().__call__(site, value)
        kept = (self.masks if self.training else self._finished).get(site)
        return quantized if kept is None else quantized.masked_fill(~kept, 0.0)

    def grid(self, site: int) -> Grid | None:
        inner, kept, noun = super().grid(site), self._finished.get(site), self._sites[site]
        if inner is None or kept is None:
            return inner
        fmt = self._formats[site]
        return PrunedGrid(inner, int(fmt.bits), kept, noun.axis, pattern_of(fmt))

    def fit(self, observe: Observe) -> None:
        self._finished = {site: self._mask(site, 1.0) for site in self.masks}
        super().fit(observe)

    def _fitted(self, site: int, sample: Tensor) -> Grid:
        grid = super()._fitted(site, sample)
        return grid.inner if isinstance(grid, PrunedGrid) and site in self.masks else grid

    def advance(self, epoch: int, epochs: int) -> None:
        done = min(1.0, (epoch + 1) / math.ceil(self._rise * epochs))
        for site, mask in self.masks.items():
            mask &= self._mask(site, done)
        self.stepped()

    def _mask(self, site: int, done: float) -> Tensor:
        """Which weights are left once a share `done` of all zeros is there, by the weights as they are."""
        pattern = part_of(pattern_of(self._formats[site]), done)
        return pattern.mask(self._weights[site], self._sites[site].axis)

    @torch.no_grad()
    def stepped(self) -> None:
        for site, mask in self.masks.items():
            self._weights[site].mul_(mask)

    def extra(self) -> dict[str, Tensor]:
        return {f"mask/{self._sites[site].name}": mask.clone() for site, mask in self.masks.items()}

    def take_extra(self, extra: Mapping[str, Tensor]) -> None:
        for site, mask in self.masks.items():
            mask.copy_(extra[f"mask/{self._sites[site].name}"])


def part_of(pattern: Pattern, done: float) -> Pattern:
    """The share `done` of the zeros of `pattern`; of N of M whole ones, and at least one."""
    if not pattern.of:
        return Pattern(pattern.share * done)
    kept = pattern.of - max(1, round((pattern.of - pattern.kept) * done))
    return Pattern(1 - kept / pattern.of, kept, pattern.of)
