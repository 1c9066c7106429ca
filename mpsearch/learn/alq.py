"""Adaptive loss-aware quantization: bases and coordinates of binary bases are what is trained, and are pruned by loss.

Source: Qu et al., "Adaptive Loss-aware Quantization for Multi-bit Networks" (CVPR 2020, arXiv 1912.08883), from the
code in zqu1992/ALQ, whose defaults for LeNet-5 the options have. Per round, some epochs choose signs and solve for
coordinates after each step, some move coordinates alone, one removes coordinates by what the loss would rise by; after
the rounds float weights are moved and followed by signs and coordinates, then coordinates move alone once more. The
estimates of gradient and curvature are AMSGrad's, so no step takes more than one backward pass.

Published are the steps (`mpsearch.learn.binary`), their order and rates. Our own: epochs are shared out in proportion
where there are fewer than published; pruning goes to a target, by the same factor in each round, where the published
one removes a fixed share; a layer at its target moves its coordinates instead. The target is the average bits of each
layer's format, and with `even` bases nothing is removed; or one average over all layers, as published: then each layer
ends at the offered format with the least bits that holds what it was left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.space import Space
from mpsearch.cost.terms import Cost
from mpsearch.learn.base import Observe
from mpsearch.learn.binary import prune
from mpsearch.learn.layer import Layer
from mpsearch.learn.lsq import Lsq
from mpsearch.learn.phases import COORDINATE, PRUNE, ROUNDS, schedule
from mpsearch.quant.grid import Grid

SCHEME = "multibit"
_SHARING = {"even", "adaptive", "mse", "gain"}  # words of a format that do not say how bases are stored


class Alq(Lsq):
    """Binary bases are trained where a format is `multibit`; everything else as by `lsq`.

    Args:
        rate: learning rate of bases, coordinates and the float weights; that of a recipe is for everything else.
        rounds: of the first three phases; fewer where there are not three epochs for each.
        merged: how much of what layers offer for removal is removed in a step, a share.
        average: bits that a weight of all these sites has in the end; None for those of each format.
    """

    def __init__(
        self, rate: float = 1e-3, rounds: int = ROUNDS, merged: float = 0.4, average: float | None = None
    ) -> None:
        super().__init__()
        if rate <= 0 or rounds < 1 or not 0 < merged <= 1 or (average is not None and average <= 0):
            raise BadInput(
                f"alq: rate={rate}, rounds={rounds}, merged={merged}, average={average} is not possible; rates and "
                "bits are above 0, there is at least 1 round, and merged is a share above 0."
            )
        self._rate, self._rounds, self._merged, self._average = rate, rounds, merged, average
        self._layers: dict[int, Layer] = {}
        self._leaves: dict[int, Tensor] = {}
        self._space: Space | None = None
        self._phase, self._now, self._share = "", rate, 1.0
        self._of_epoch, self._in_epoch = 0, 0  # steps in the last epoch, and in this one so far
        self._began: dict[int, tuple[int, int]] = {}  # what layers held at the start of the epoch
        self._chosen: dict[int, Format] = {}

    def offer(self, space: Space, cost: Callable[[str], Cost | None]) -> None:
        del cost
        self._space = space

    def __call__(self, site: int, value: Tensor) -> Tensor:
        layer = self._layers.get(site)
        if layer is None:
            return super().__call__(site, value)
        if not self.training:
            return layer.finished
        if site not in self._leaves:  # no part of the parameter's graph: its optimizer finds no gradient
            self._leaves[site] = layer.weights.requires_grad_()
        return self._leaves[site]

    def fitted(self) -> list[int]:
        return [site for site in super().fitted() if self._formats[site].scheme != SCHEME]

    def fit(self, observe: Observe) -> None:
        for site, fmt in self._formats.items():
            if fmt.scheme == SCHEME and site not in self._layers:
                self._layers[site] = Layer.begin(self._sites[site], fmt, self._weights[site])
        if self._in_epoch:
            if self._phase == PRUNE:
                self._prune(1.0)
            if self._average is not None and not self._chosen and not self._over():
                self._choose()
            for site, layer in self._layers.items():
                layer.finish(self._weights[site])
        super().fit(observe)

    @property
    def settled(self) -> bool:
        """Whether formats hold what is left."""
        return bool(self._chosen or self._average is None) and not self._over()

    def changed(self) -> Mapping[int, Format]:
        return self._chosen

    def advance(self, epoch: int, epochs: int) -> None:
        phases = schedule(epochs, self._rounds)
        before, (self._phase, factor) = phases[epoch - 1][0] if epoch else "", phases[epoch]
        self._now, self._of_epoch, self._in_epoch = self._rate * factor, self._in_epoch, 0
        self._share = 1 / max(1, sum(phase == PRUNE for phase, _ in phases[epoch:]))
        for layer in self._layers.values():
            layer.enter(self._phase, before)
        self._began = {site: layer.holds for site, layer in self._layers.items()}

    @torch.no_grad()
    def stepped(self) -> None:
        self._in_epoch += 1
        pruned = self._over() if self._phase == PRUNE else set()
        for site, leaf in self._leaves.items():
            if leaf.grad is not None:
                phase = COORDINATE if self._phase == PRUNE and site not in pruned else self._phase
                self._layers[site].step(leaf.grad, phase, self._now)
        self._leaves = {}
        if self._phase == PRUNE and self._of_epoch:
            self._prune(min(1.0, self._in_epoch / self._of_epoch))

    def _pools(self) -> list[tuple[list[int], tuple[float, float]]]:
        """Sites that are pruned together, and the digits and coordinates that they may keep."""
        if self._average is None or self._chosen:
            return [([site], layer.allowed) for site, layer in self._layers.items()]
        weights = sum(layer.finished.numel() for layer in self._layers.values())
        return [(list(self._layers), (self._average * weights, inf))]

    def _over(self) -> set[int]:
        """Sites that keep more than they may."""
        return {site for sites, most in self._pools() if self._exceeds(sites, most) for site in sites}

    def _exceeds(self, sites: Sequence[int], most: Sequence[float]) -> bool:
        held = (self._layers[site].holds for site in sites)
        return any(sum(n) > end for n, end in zip(zip(*held, strict=True), most, strict=True))

    def _prune(self, done: float) -> None:
        """To where layers shall be when that share of the epoch is done."""
        passed = done * self._share
        for sites, most in self._pools():
            if passed == 1:
                self._keep(sites, most)
            elif self._exceeds(sites, most):
                began = zip(*(self._began[site] for site in sites), strict=True)
                pairs = zip((sum(n) for n in began), most, strict=True)
                self._remove(sites, [was ** (1 - passed) * max(1, end) ** passed for was, end in pairs])

    def _keep(self, sites: Sequence[int], most: Sequence[float]) -> None:
        while self._exceeds(sites, most):  # groups of several sizes may need more than what was offered first
            self._remove(sites, most)

    def _remove(self, sites: Sequence[int], goal: Sequence[float]) -> None:
        layers = [self._layers[site] for site in sites]
        pool = [(layer.sums, layer.sizes, layer.importance(self._rate)) for layer in layers]
        for layer, sums in zip(layers, prune(pool, goal, self._merged), strict=True):
            layer.sums = sums

    def _choose(self) -> None:
        """Have each layer at the offered format with the least bits that holds its digits, and within it."""
        assert self._space is not None
        for choice in self._space.choices:
            sites = [site for site in self._layers if self._sites[site].name in choice.sites]
            for site in sites:
                layer, options = self._layers[site], self._options(site)
                wide = [fmt for fmt in options if all(self._layers[i].average <= fmt.bits for i in sites)]
                self._chosen[site] = layer.fmt = (wide or options[-1:])[0]
            for site in sites:
                layer = self._layers[site]
                layer.cap(layer.importance(self._rate))
                self._keep([site], layer.allowed)

    def _options(self, site: int) -> list[Format]:
        """Offered formats that are stored alike, of the least bits first."""
        assert self._space is not None
        mine = set(self._formats[site].options) - _SHARING
        options = self._space.choice_of[self._sites[site].name].options
        alike = sorted(fmt for fmt in options if fmt.scheme == SCHEME and set(fmt.options) - _SHARING == mine)
        return alike or [self._formats[site]]

    def state(self) -> dict[str, Tensor]:
        """Also the coordinates of the finished weights, and which of them each weight adds."""
        found = super().state()
        for site, layer in self._layers.items():
            name = self._sites[site].name
            found[f"coordinates/{name}"], found[f"places/{name}"] = layer.grid.coordinates.clone(), layer.places.clone()
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        for site, layer in self._layers.items():
            name, device = self._sites[site].name, layer.finished.device
            coordinates, places = (state[f"{part}/{name}"].to(device) for part in ("coordinates", "places"))
            layer.take(coordinates, places, self._weights[site])

    def grid(self, site: int) -> Grid | None:
        layer = self._layers.get(site)
        return super().grid(site) if layer is None else layer.grid

    def extra(self) -> dict[str, Tensor]:
        found = {"alq": torch.tensor(self._in_epoch)}
        for site, layer in self._layers.items():
            of = layer.extra()
            if site in self._chosen:
                of["chosen"] = torch.tensor(self._options(site).index(layer.fmt))
            found |= {f"alq.{key}/{self._sites[site].name}": value for key, value in of.items()}
        return found

    def take_extra(self, extra: Mapping[str, Tensor]) -> None:
        self._in_epoch = int(extra["alq"])
        for site, layer in self._layers.items():
            name, device = self._sites[site].name, layer.finished.device
            layer.take_extra(lambda key, name=name, device=device: extra[f"alq.{key}/{name}"].to(device))  # type: ignore[misc]
            if f"alq.chosen/{name}" in extra:
                self._chosen[site] = layer.fmt = self._options(site)[int(extra[f"alq.chosen/{name}"])]
