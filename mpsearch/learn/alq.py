"""Adaptive loss-aware quantization: bases and coordinates of binary bases are what is trained, and are pruned by loss.

Source: Qu et al., "Adaptive Loss-aware Quantization for Multi-bit Networks" (CVPR 2020, arXiv 1912.08883), from the
code in zqu1992/ALQ, whose defaults for LeNet-5 the options have. Per round, some epochs choose signs and solve for
coordinates after each step, some move coordinates alone, one removes coordinates by what the loss would rise by; after
the rounds float weights are moved and followed by signs and coordinates, then coordinates move alone once more. The
estimates of gradient and curvature are AMSGrad's, so no step takes more than one backward pass.

Published are the steps (`mpsearch.learn.binary`), their order and rates. Our own: epochs are shared out in proportion
where there are fewer than published; pruning goes to a target, the average bits of each layer's format, by the same
factor in each round, where the published one removes a fixed share; a layer at its target moves its coordinates
instead; with `even` bases nothing is removed. What is scored after an epoch is pruned to the target for that, so that
every epoch gives a model of the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, floor

import torch
from torch import Tensor
from torch.nn.functional import pad

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.learn.base import Observe
from mpsearch.learn.binary import Moments, Quadratic, Sums, importance, prune
from mpsearch.learn.lsq import Lsq
from mpsearch.quant.bank import Bank
from mpsearch.quant.bases import Bases, BasesGrid
from mpsearch.quant.grid import Grid

SCHEME = "multibit"
BASIS, COORDINATE, PRUNE, FLOAT = "basis", "coordinate", "prune", "float"
_IN_ROUND = {BASIS: 20, COORDINATE: 10, PRUNE: 1}  # published epochs
_AFTER = {FLOAT: 50, COORDINATE: 20}
_ROUNDS = 4
_ENDS = {BASIS: 0.8**20, COORDINATE: 0.8**10, FLOAT: 0.95**50}  # rate at the end of a phase over that at its start
_EVERYTHING = 1e-9  # is offered for removal, where no more than this share of what is offered is removed


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

    goal: tuple[int, int]  # digits and coordinates that the format allows at most
    can_prune: bool
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

    @property
    def has_spare(self) -> bool:
        return self.can_prune and any(n > most for n, most in zip(self.holds, self.goal, strict=True))

    def finish(self, sums: Sums, parameter: Tensor) -> None:
        """Have the weights finished at `sums`, and `parameter` equal to them."""
        sums = sums.compact()
        most = self.grid.coordinates.shape[1]
        coordinates = pad(sums.coordinates, (0, most - sums.coordinates.shape[1]))
        if self.grid.coordinate_bits == 16:
            coordinates = coordinates.clamp(max=torch.finfo(torch.float16).max).half().float()
        self.take(coordinates, sums.places, parameter)

    def take(self, coordinates: Tensor, places: Tensor, parameter: Tensor) -> None:
        """The same at coordinates as they are stored, largest first, and places."""
        grid = self.grid
        counts = grid.counts if grid.most is None else (coordinates > 0).sum(dim=1)
        self.grid, self.places = replace(grid, coordinates=coordinates, counts=counts), places
        rows = Bases(coordinates).levels.gather(1, places.long())
        with torch.no_grad():
            parameter.copy_(grid.groups.back(rows))
        self.finished = parameter.detach().clone()


class Alq(Lsq):
    """Binary bases are trained where a format is `multibit`; everything else as by `lsq`.

    Args:
        rate: learning rate of bases, coordinates and the float weights; that of a recipe is for everything else.
        rounds: of the first three phases; fewer where there are not three epochs for each.
        merged: how much of what layers offer for removal is removed in a step, a share.
    """

    def __init__(self, rate: float = 1e-3, rounds: int = _ROUNDS, merged: float = 0.4) -> None:
        super().__init__()
        if rate <= 0 or rounds < 1 or not 0 < merged <= 1:
            raise BadInput(
                f"alq: rate={rate}, rounds={rounds}, merged={merged} is not possible; a rate is above 0, there is at "
                "least 1 round, and merged is a share above 0."
            )
        self._rate, self._rounds, self._merged = rate, rounds, merged
        self._layers: dict[int, _Layer] = {}
        self._leaves: dict[int, Tensor] = {}
        self._phase, self._now, self._share = BASIS, rate, 1.0
        self._taken, self._of_epoch, self._in_epoch = 0, 0, 0  # in all, in the last epoch, in this one so far
        self._began: dict[int, tuple[int, int]] = {}  # what layers held at the start of the epoch

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
            for site, layer in self._layers.items():
                values = self._importance(layer, layer.moments.by_coordinates(layer.sums))
                pool = [(layer.sums, layer.sizes, values)]
                sums = prune(pool, layer.goal, _EVERYTHING)[0] if layer.has_spare else layer.sums
                layer.finish(sums, self._weights[site])
        super().fit(observe)

    def _begin(self, site: int, fmt: Format) -> _Layer:
        weights = self._weights[site].detach()
        grid = self._fitted(site, weights)
        assert isinstance(grid, BasesGrid)
        most, sizes = grid.coordinates.shape[1], grid.groups.sizes().to(weights.device)
        full: Grid = grid
        if grid.most is not None:
            words = tuple(word for word in fmt.options if word != "adaptive")
            full = Bank(lambda _: weights, 0).grid(self._sites[site], Format(SCHEME, most, words))
        assert isinstance(full, BasesGrid)
        rows = grid.groups.of(weights)
        held = torch.arange(rows.shape[1], device=rows.device) < sizes[:, None]
        sums = Sums.of(full.coordinates, Bases(full.coordinates).nearest(rows)[0], held)
        digits = floor(fmt.bits * weights.numel())
        goal = digits, max(int(grid.counts.sum()), digits // grid.groups.size)
        moments = Moments(*(torch.zeros_like(rows) for _ in range(3)))
        places = Bases(grid.coordinates).nearest(rows)[0].to(torch.uint8)
        layer = _Layer(
            goal, grid.most is not None, sizes, sums, moments, moments.by_coordinates(sums), rows, grid, places, weights
        )
        layer.take(grid.coordinates, places, self._weights[site])
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
        for site, leaf in self._leaves.items():
            layer = self._layers[site]
            if leaf.grad is not None:
                self._step(layer, layer.grid.groups.of(leaf.grad))
        self._leaves = {}
        if self._phase == PRUNE and self._of_epoch:
            self._prune(min(1.0, self._in_epoch / self._of_epoch))

    def _step(self, layer: _Layer, gradient: Tensor) -> None:
        layer.moments.add(gradient)
        if self._phase in (BASIS, FLOAT):
            origin = layer.sums.rows if self._phase == BASIS else layer.floats
            model = Quadratic(origin, *layer.moments.at(self._taken, self._now))
            layer.sums, layer.floats = model.solve(model.assign(layer.sums)), model.target
            return
        layer.own.add(layer.sums.along(gradient))
        if self._phase == COORDINATE or not layer.has_spare:
            slope, curvature = layer.own.at(self._taken, self._now)
            layer.sums = layer.sums.moved(layer.sums.coordinates - slope / curvature)
            layer.own.mean = layer.sums.along(layer.moments.mean)

    def _prune(self, done: float) -> None:
        """To where layers shall be when that share of the epoch is done."""
        for site, layer in self._layers.items():
            if layer.has_spare:
                passed, pairs = done * self._share, zip(self._began[site], layer.goal, strict=True)
                goal = [was ** (1 - passed) * max(1, end) ** passed for was, end in pairs]
                pool = [(layer.sums, layer.sizes, self._importance(layer, layer.own))]
                layer.sums = prune(pool, goal, self._merged)[0]

    def _importance(self, layer: _Layer, own: Moments) -> Tensor:
        return importance(layer.sums.coordinates, *own.at(self._taken, self._rate))

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

            held = torch.arange(layer.floats.shape[1], device=device) < layer.sizes[:, None]
            layer.sums, layer.floats = Sums.of(of("coordinates"), of("places"), held), of("floats")
            layer.moments, layer.own = (
                Moments(*(of(f"{kind}.{key}") for key in ("mean", "square", "largest"))) for kind in ("moments", "own")
            )
