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
from dataclasses import dataclass
from math import ceil, floor, inf

import torch
from torch import Tensor
from torch.nn.functional import pad

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.space import Space
from mpsearch.cost.terms import Cost
from mpsearch.learn.base import Observe
from mpsearch.learn.binary import Moments, Quadratic, Sums, importance, prune
from mpsearch.learn.lsq import Lsq
from mpsearch.quant.bank import Bank
from mpsearch.quant.bases import Bases, BasesGrid
from mpsearch.quant.multibit import is_adaptive, most_bases

SCHEME = "multibit"
BASIS, COORDINATE, PRUNE, FLOAT = "basis", "coordinate", "prune", "float"
_IN_ROUND = {BASIS: 20, COORDINATE: 10, PRUNE: 1}  # published epochs
_AFTER = {FLOAT: 50, COORDINATE: 20}
_ROUNDS = 4
_ENDS = {BASIS: 0.8**20, COORDINATE: 0.8**10, FLOAT: 0.95**50}  # rate at the end of a phase over that at its start
_SHARING = {"even", "adaptive", "mse", "gain"}  # words of a format that do not say how bases are stored


def schedule(epochs: int, rounds: int = _ROUNDS) -> list[tuple[str, float]]:
    """Phase of each epoch, and the share of the learning rate that it has; a round ends with an epoch of pruning."""
    after, whole = sum(_AFTER.values()), rounds * sum(_IN_ROUND.values())
    last = round(epochs * after / (after + whole))
    rounds = max(1, min(rounds, (epochs - last) // len(_IN_ROUND)))
    found = []
    for i in range(rounds):
        ends = [(epochs - last) * (i + k) // rounds for k in (0, 1)]
        train = ends[1] - ends[0] - 1
        basis = ceil(train * _IN_ROUND[BASIS] / (_IN_ROUND[BASIS] + _IN_ROUND[COORDINATE]))
        found += _falling(BASIS, basis) + _falling(COORDINATE, train - basis) + [(PRUNE, _ENDS[COORDINATE])]
    moved = ceil(last * _AFTER[FLOAT] / after)
    return found + _falling(FLOAT, moved) + _falling(COORDINATE, last - moved)


def _falling(phase: str, epochs: int) -> list[tuple[str, float]]:
    return [(phase, _ENDS[phase] ** (i / epochs)) for i in range(epochs)]


@dataclass
class _Layer:
    """A site in training; rows are groups."""

    fmt: Format
    sizes: Tensor  # weights of each group
    sums: Sums
    moments: Moments  # of the weights
    own: Moments  # of the coordinates
    floats: Tensor  # the weights that signs and coordinates follow in the phase of that name
    grid: BasesGrid  # of the finished weights
    places: Tensor  # of the finished weights on it
    finished: Tensor  # weights, of the shape of the parameter

    @property
    def holds(self) -> tuple[int, int]:
        """Digits and coordinates."""
        counts = self.sums.counts
        return int((counts * self.sizes).sum()), int(counts.sum())

    def allowed(self, fmt: Format) -> tuple[float, float]:
        """Digits and coordinates in `fmt`, at most as many as it is stored with."""
        if not is_adaptive(fmt):
            return inf, inf
        digits = floor(fmt.bits * self.finished.numel())
        return digits, digits // self.grid.groups.size

    def finish(self, parameter: Tensor) -> None:
        """Have the finished weights, and `parameter`, equal to what was trained so far."""
        sums, grid = self.sums.compact(), self.grid
        coordinates = pad(sums.coordinates, (0, most_bases(self.fmt) - sums.coordinates.shape[1]))
        if grid.coordinate_bits == 16:
            coordinates = coordinates.clamp(max=torch.finfo(torch.float16).max).half().float()
        self.take(coordinates, sums.places, parameter)

    def take(self, coordinates: Tensor, places: Tensor, parameter: Tensor) -> None:
        """The same at coordinates as they are stored, largest first, and places."""
        groups, most = self.grid.groups, most_bases(self.fmt)
        varied = is_adaptive(self.fmt)
        counts = (coordinates > 0).sum(dim=1) if varied else torch.full_like(self.sizes, most)
        self.grid = BasesGrid(coordinates, counts, groups, self.grid.coordinate_bits, most if varied else None)
        self.places = places
        with torch.no_grad():
            parameter.copy_(groups.back(Bases(coordinates).levels.gather(1, places.long())))
        self.finished = parameter.detach().clone()


class Alq(Lsq):
    """Binary bases are trained where a format is `multibit`; everything else as by `lsq`.

    Args:
        rate: learning rate of bases, coordinates and the float weights; that of a recipe is for everything else.
        rounds: of the first three phases; fewer where there are not three epochs for each.
        merged: how much of what layers offer for removal is removed in a step, a share.
        average: bits that a weight of all these sites has in the end; None for those of each format.
    """

    def __init__(
        self, rate: float = 1e-3, rounds: int = _ROUNDS, merged: float = 0.4, average: float | None = None
    ) -> None:
        super().__init__()
        if rate <= 0 or rounds < 1 or not 0 < merged <= 1 or (average is not None and average <= 0):
            raise BadInput(
                f"alq: rate={rate}, rounds={rounds}, merged={merged}, average={average} is not possible; rates and "
                "bits are above 0, there is at least 1 round, and merged is a share above 0."
            )
        self._rate, self._rounds, self._merged, self._average = rate, rounds, merged, average
        self._layers: dict[int, _Layer] = {}
        self._leaves: dict[int, Tensor] = {}
        self._space: Space | None = None
        self._phase, self._now, self._share = BASIS, rate, 1.0
        self._taken, self._of_epoch, self._in_epoch = 0, 0, 0  # steps in all, in the last epoch, in this one so far
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
            weights = torch.empty_like(layer.finished).copy_(layer.grid.groups.back(layer.sums.rows))
            self._leaves[site] = weights.requires_grad_()
        return self._leaves[site]

    def fitted(self) -> list[int]:
        return [site for site in super().fitted() if self._formats[site].scheme != SCHEME]

    def fit(self, observe: Observe) -> None:
        for site, fmt in self._formats.items():
            if fmt.scheme == SCHEME and site not in self._layers:
                self._layers[site] = self._begin(site, fmt)
        if self._taken:
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

    def _begin(self, site: int, fmt: Format) -> _Layer:
        weights = self._weights[site].detach()
        words = tuple(word for word in fmt.options if word not in ("even", "adaptive"))
        grid = Bank(lambda _: weights, 0).grid(self._sites[site], Format(SCHEME, most_bases(fmt), words))
        assert isinstance(grid, BasesGrid)
        rows, sizes = grid.groups.of(weights), grid.groups.sizes().to(weights.device)
        places = Bases(grid.coordinates).nearest(rows)[0]
        sums = Sums.of(grid.coordinates, places, _held(rows, sizes))
        moments = Moments(*(torch.zeros_like(rows) for _ in range(3)))
        own = moments.by_coordinates(sums)
        layer = _Layer(fmt, sizes, sums, moments, own, rows, grid, places.to(torch.uint8), weights)
        layer.finish(self._weights[site])
        return layer

    def advance(self, epoch: int, epochs: int) -> None:
        phases = schedule(epochs, self._rounds)
        before, (self._phase, factor) = phases[epoch - 1][0] if epoch else "", phases[epoch]
        self._now, self._of_epoch, self._in_epoch = self._rate * factor, self._in_epoch, 0
        self._share = 1 / max(1, sum(phase == PRUNE for phase, _ in phases[epoch:]))
        for layer in self._layers.values():
            if self._phase in (BASIS, FLOAT) and before != self._phase:
                layer.sums = layer.sums.compact()
                layer.floats = layer.sums.rows
            if self._phase in (COORDINATE, PRUNE) and before not in (COORDINATE, PRUNE):
                layer.own = layer.moments.by_coordinates(layer.sums)
        self._began = {site: layer.holds for site, layer in self._layers.items()}

    @torch.no_grad()
    def stepped(self) -> None:
        self._taken += 1
        self._in_epoch += 1
        pruned = self._over() if self._phase == PRUNE else set()
        for site, leaf in self._leaves.items():
            layer = self._layers[site]
            if leaf.grad is not None:
                self._step(layer, layer.grid.groups.of(leaf.grad), site in pruned)
        self._leaves = {}
        if self._phase == PRUNE and self._of_epoch:
            self._prune(min(1.0, self._in_epoch / self._of_epoch))

    def _step(self, layer: _Layer, gradient: Tensor, is_pruned: bool) -> None:
        layer.moments.add(gradient)
        if self._phase in (BASIS, FLOAT):
            origin = layer.sums.rows if self._phase == BASIS else layer.floats
            model = Quadratic(origin, *layer.moments.at(self._taken, self._now))
            layer.sums, layer.floats = model.solve(model.assign(layer.sums)), model.target
            return
        layer.own.add(layer.sums.along(gradient))
        if self._phase == COORDINATE or not is_pruned:
            slope, curvature = layer.own.at(self._taken, self._now)
            layer.sums = layer.sums.moved(layer.sums.coordinates - slope / curvature)
            layer.own.mean = layer.sums.along(layer.moments.mean)

    def _pools(self) -> list[tuple[list[int], tuple[float, float]]]:
        """Sites that are pruned together, and the digits and coordinates that they may keep."""
        if self._average is None or self._chosen:
            return [([site], layer.allowed(layer.fmt)) for site, layer in self._layers.items()]
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
        pool = [(layer.sums, layer.sizes, self._importance(layer)) for layer in layers]
        for layer, sums in zip(layers, prune(pool, goal, self._merged), strict=True):
            layer.sums = sums

    def _choose(self) -> None:
        """Have each layer at the offered format with the least bits that holds its digits, and within it."""
        assert self._space is not None
        for choice in self._space.choices:
            sites = [site for site in self._layers if self._sites[site].name in choice.sites]
            if sites:
                options = self._options(sites[0])
                wide = [o for o in options if all(self._average_of(site) <= o.bits for site in sites)]
                for site in sites:
                    self._chosen[site] = self._layers[site].fmt = fmt = (wide or options[-1:])[0]
                    self._cap(self._layers[site], most_bases(fmt))
                    self._keep([site], self._layers[site].allowed(fmt))

    def _average_of(self, site: int) -> float:
        return self._layers[site].holds[0] / self._layers[site].finished.numel()

    def _options(self, site: int) -> list[Format]:
        """Offered formats that are stored alike, of the least bits first."""
        assert self._space is not None
        options = self._space.choice_of[self._sites[site].name].options
        alike = [fmt for fmt in options if fmt.scheme == SCHEME and _storage(fmt) == _storage(self._formats[site])]
        return sorted(alike)

    def _cap(self, layer: _Layer, most: int) -> None:
        """No group keeps more than `most` coordinates."""
        values = self._importance(layer).masked_fill(layer.sums.coordinates == 0, -inf)
        rank = values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        layer.sums = layer.sums.without(rank >= most)

    def _importance(self, layer: _Layer) -> Tensor:
        return importance(layer.sums.coordinates, *layer.own.at(self._taken, self._rate))

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

    def grids(self) -> dict[str, BasesGrid]:
        """The grid of the finished weights, by name of the site: `nbits` says what they take."""
        return {self._sites[site].name: layer.grid for site, layer in self._layers.items()}

    def extra(self) -> dict[str, Tensor]:
        found = {"alq": torch.tensor([self._taken, self._in_epoch])}
        for site, fmt in self._chosen.items():
            found[f"alq.chosen/{self._sites[site].name}"] = torch.tensor(self._options(site).index(fmt))
        for site, layer in self._layers.items():
            of = {"coordinates": layer.sums.coordinates, "places": layer.sums.places, "floats": layer.floats}
            of |= {f"moments.{key}": value for key, value in vars(layer.moments).items()}
            of |= {f"own.{key}": value for key, value in vars(layer.own).items()}
            found |= {f"alq.{key}/{self._sites[site].name}": value.clone() for key, value in of.items()}
        return found

    def take_extra(self, extra: Mapping[str, Tensor]) -> None:
        self._taken, self._in_epoch = (int(n) for n in extra["alq"])
        for site, layer in self._layers.items():
            device, name = layer.finished.device, self._sites[site].name

            def of(key: str, name: str = name, device: torch.device = device) -> Tensor:
                return extra[f"alq.{key}/{name}"].to(device)

            if f"alq.chosen/{name}" in extra:
                self._chosen[site] = layer.fmt = self._options(site)[int(of("chosen"))]
            layer.floats = of("floats")
            layer.sums = Sums.of(of("coordinates"), of("places"), _held(layer.floats, layer.sizes))
            layer.moments, layer.own = (
                Moments(*(of(f"{kind}.{key}") for key in ("mean", "square", "largest"))) for kind in ("moments", "own")
            )


def _held(rows: Tensor, sizes: Tensor) -> Tensor:
    """Where rows hold weights, bool [groups, n]."""
    return torch.arange(rows.shape[1], device=rows.device) < sizes[:, None]


def _storage(fmt: Format) -> set[str]:
    return set(fmt.options) - _SHARING
