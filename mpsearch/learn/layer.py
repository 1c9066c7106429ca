"""One parameter of binary bases in training, and what of it is finished: stored in its format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, inf

import torch
from torch import Tensor
from torch.nn.functional import pad

from mpsearch.core.format import Format
from mpsearch.core.site import Site
from mpsearch.learn.binary import Moments, Quadratic, Sums, importance
from mpsearch.learn.phases import BASIS, COORDINATE, FLOAT, PRUNE
from mpsearch.quant.bank import Bank
from mpsearch.quant.bases import Bases, BasesGrid
from mpsearch.quant.multibit import is_adaptive, most_bases


@dataclass
class Layer:
    """A parameter; rows are groups of its weights.

    Args:
        fmt: what it is finished in.
        sizes: weights of each group.
        sums: as they are trained.
        moments, own: of the gradients by weights and by coordinates.
        floats: the weights that signs and coordinates follow in the phase of that name.
        grid, places: of the finished weights.
        finished: these, of the shape of the parameter.
        steps: that the moments are made of.
    """

    fmt: Format
    sizes: Tensor
    sums: Sums
    moments: Moments
    own: Moments
    floats: Tensor
    grid: BasesGrid
    places: Tensor
    finished: Tensor
    steps: int = 0

    @classmethod
    def begin(cls, site: Site, fmt: Format, parameter: Tensor) -> Layer:
        """With all the bases that a group may have, fitted to `parameter`, which becomes equal to their sums."""
        weights = parameter.detach()
        words = tuple(word for word in fmt.options if word not in ("even", "adaptive"))
        grid = Bank(lambda _: weights, 0).grid(site, Format(fmt.scheme, most_bases(fmt), words))
        assert isinstance(grid, BasesGrid)
        rows, sizes = grid.groups.of(weights), grid.groups.sizes().to(weights.device)
        places = Bases(grid.coordinates).nearest(rows)[0]
        sums, moments = Sums.of(grid.coordinates, places, _held(rows, sizes)), Moments.zero(rows)
        layer = cls(fmt, sizes, sums, moments, moments.by_coordinates(sums), rows, grid, places, weights)
        layer.finish(parameter)
        return layer

    @property
    def holds(self) -> tuple[int, int]:
        """Digits of all bases (a basis of n weights has n), and coordinates."""
        counts = self.sums.counts
        return int((counts * self.sizes).sum()), int(counts.sum())

    @property
    def average(self) -> float:
        """Bases that a weight has."""
        return self.holds[0] / self.finished.numel()

    @property
    def allowed(self) -> tuple[float, float]:
        """Digits and coordinates that its format holds: stored, no more than what a fit of it to any weights takes."""
        if not is_adaptive(self.fmt):
            return inf, inf
        digits = floor(self.fmt.bits * self.finished.numel())
        return digits, digits // self.grid.groups.size

    @property
    def weights(self) -> Tensor:
        """As they are trained, of the shape of the parameter."""
        return torch.empty_like(self.finished).copy_(self.grid.groups.back(self.sums.rows))

    def importance(self, rate: float) -> Tensor:
        """Of each coordinate, [groups, most]."""
        return importance(self.sums.coordinates, *self.own.at(max(1, self.steps), rate))

    def enter(self, phase: str, before: str) -> None:
        """`phase` begins, after `before`."""
        if phase in (BASIS, FLOAT) and phase != before:  # what was pruned has changed the gradients
            self.sums = self.sums.compact()
            self.floats = self.sums.rows
            self.moments, self.steps = Moments.zero(self.floats), 0
        if phase != before and {phase, before} != {COORDINATE, PRUNE}:
            self.own = self.moments.by_coordinates(self.sums)

    def step(self, gradient: Tensor, phase: str, rate: float) -> None:
        """One step down, `gradient` of the shape of the parameter; in the phase of pruning none but in the moments."""
        rows = self.grid.groups.of(gradient)
        self.steps += 1
        self.moments.add(rows)
        if phase in (BASIS, FLOAT):
            origin = self.sums.rows if phase == BASIS else self.floats
            model = Quadratic(origin, *self.moments.at(self.steps, rate))
            self.sums, self.floats = model.solve(model.assign(self.sums)), model.target
            return
        self.own.add(self.sums.along(rows))
        if phase == COORDINATE:
            slope, curvature = self.own.at(self.steps, rate)
            self.sums = self.sums.moved(self.sums.coordinates - slope / curvature)
            self.own.mean = self.sums.along(self.moments.mean)

    def cap(self, values: Tensor) -> None:
        """No group keeps more coordinates than its format has, those of the largest `values`."""
        rank = values.masked_fill(self.sums.coordinates == 0, -inf).argsort(dim=1, descending=True, stable=True)
        self.sums = self.sums.without(rank.argsort(dim=1) >= most_bases(self.fmt))

    def finish(self, parameter: Tensor) -> None:
        """Have the finished weights, and `parameter`, equal to what was trained so far."""
        sums = self.sums.compact()
        coordinates = pad(sums.coordinates, (0, most_bases(self.fmt) - sums.coordinates.shape[1]))
        if self.grid.coordinate_bits == 16:
            coordinates = coordinates.clamp(max=torch.finfo(torch.float16).max).half().float()
        self.take(coordinates, sums.places, parameter)

    def take(self, coordinates: Tensor, places: Tensor, parameter: Tensor) -> None:
        """The same at coordinates as they are stored, largest first, and places."""
        groups, most, varied = self.grid.groups, most_bases(self.fmt), is_adaptive(self.fmt)
        counts = (coordinates > 0).sum(dim=1) if varied else torch.full_like(self.sizes, most)
        self.grid = BasesGrid(coordinates, counts, groups, self.grid.coordinate_bits, most if varied else None)
        self.places = places
        with torch.no_grad():
            parameter.copy_(groups.back(Bases(coordinates).levels.gather(1, places.long())))
        self.finished = parameter.detach().clone()

    def extra(self) -> dict[str, Tensor]:
        """All that training goes on from, but for the format."""
        found = {"coordinates": self.sums.coordinates, "places": self.sums.places, "floats": self.floats}
        found |= {f"moments.{key}": value for key, value in vars(self.moments).items()}
        found |= {f"own.{key}": value for key, value in vars(self.own).items()}
        return {"steps": torch.tensor(self.steps)} | {key: value.clone() for key, value in found.items()}

    def take_extra(self, of: Callable[[str], Tensor]) -> None:
        """Inverse of `extra`, which gave what `of` gives by name."""
        self.steps, self.floats = int(of("steps")), of("floats")
        self.sums = Sums.of(of("coordinates"), of("places"), _held(self.floats, self.sizes))
        self.moments, self.own = (
            Moments(*(of(f"{kind}.{key}") for key in ("mean", "square", "largest"))) for kind in ("moments", "own")
        )


def _held(rows: Tensor, sizes: Tensor) -> Tensor:
    """Where rows hold weights, bool [groups, n]."""
    return torch.arange(rows.shape[1], device=rows.device) < sizes[:, None]
