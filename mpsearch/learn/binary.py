"""Weights as sums of signed coordinates while they are trained: the steps of ALQ on a quadratic model of the loss.

Rows are groups of weights, filled up with zeros (`mpsearch.quant.bases.Groups`).

Source: Qu et al., "Adaptive Loss-aware Quantization for Multi-bit Networks" (CVPR 2020, arXiv 1912.08883), from the
code in zqu1992/ALQ. There the bases of coordinates that were turned positive are not turned with them, and importances
are read at wrong places once something was removed; here not. Its ridge on coordinates is absolute; ours is relative
and pulls to where they were, so that the model cannot rise and groups of small gradients keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mpsearch.quant.bases import Bases

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # of AMSGrad
_RIDGE = 1e-9  # of the mean of the Gram matrix's diagonal: bases that coincide


@dataclass(frozen=True)
class Sums:
    """Groups of weights, each a sum of signs times coordinates.

    Args:
        coordinates: float32 [groups, most], not negative; 0 where there is none.
        signs: float32 [groups, most, n]: 1 and -1, and 0 where there is no coordinate or no weight.
    """

    coordinates: Tensor
    signs: Tensor

    @classmethod
    def of(cls, coordinates: Tensor, places: Tensor, held: Tensor) -> Sums:
        """Bit i of a place [groups, n] says whether coordinate i is added or taken off; `held`: where weights are."""
        digits = places.long()[:, None] >> torch.arange(coordinates.shape[1], device=places.device)[:, None] & 1
        there = (coordinates > 0)[..., None] & held[:, None]
        return cls(coordinates, (digits.float() * 2 - 1) * there)

    @property
    def rows(self) -> Tensor:
        """The weights, [groups, n]."""
        return (self.coordinates[:, None] @ self.signs)[:, 0]

    @property
    def places(self) -> Tensor:
        """Inverse of `of`, uint8 [groups, n]."""
        bits = 2 ** torch.arange(self.coordinates.shape[1], device=self.signs.device)
        return ((self.signs > 0) * bits[:, None]).sum(dim=1).to(torch.uint8)

    @property
    def counts(self) -> Tensor:
        """How many bases each group has, int64 [groups]."""
        return (self.coordinates > 0).sum(dim=1)

    def along(self, rows: Tensor) -> Tensor:
        """Of rows [groups, n], the gradient by the weights say, that by the coordinates: [groups, most]."""
        return (self.signs @ rows[..., None])[..., 0]

    def moved(self, coordinates: Tensor) -> Sums:
        """At other coordinates: negative ones are turned positive, and the signs of their bases with them."""
        flip = torch.where(coordinates < 0, -1.0, 1.0)
        there = self.coordinates > 0
        return Sums(coordinates * flip * there, self.signs * flip[..., None])

    def without(self, gone: Tensor) -> Sums:
        """Without the coordinates that `gone` [groups, most] marks."""
        return Sums(self.coordinates.masked_fill(gone, 0.0), self.signs.masked_fill(gone[..., None], 0.0))

    def compact(self) -> Sums:
        """The same sums: the largest coordinates first, no more columns than the largest group has."""
        order = self.coordinates.argsort(dim=1, descending=True, stable=True)[:, : max(1, int(self.counts.max()))]
        return Sums(self.coordinates.gather(1, order), self.signs.gather(1, order[..., None].expand(-1, -1, self.size)))

    @property
    def size(self) -> int:
        """Places for weights in a row."""
        return self.signs.shape[2]


@dataclass(frozen=True)
class Quadratic:
    """A model of the loss around `origin`: gradient (w - origin) + curvature (w - origin)^2 / 2, summed up.

    Args:
        origin, gradient, curvature: [groups, n]; the curvature is positive.
    """

    origin: Tensor
    gradient: Tensor
    curvature: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Of each group, float64 [groups]."""
        step = (rows - self.origin).double()
        return (self.gradient * step + self.curvature * step.square() / 2).sum(dim=1)

    @property
    def target(self) -> Tensor:
        """Where it is least, [groups, n]."""
        return self.origin - self.gradient / self.curvature

    def assign(self, sums: Sums) -> Sums:
        """The signs that are best for the coordinates: each weight takes the sum nearest to its target."""
        places, _ = Bases(sums.coordinates).nearest(self.target)
        return Sums.of(sums.coordinates, places, (sums.signs != 0).any(dim=1))

    def solve(self, sums: Sums) -> Sums:
        """The coordinates that are best for the signs (weighted least squares), called the speed-up step."""
        signs, held = sums.signs.double(), (sums.signs != 0).any(dim=1)
        weights = self.curvature.double() * held
        weighted = signs * weights[:, None]
        gram = weighted @ signs.transpose(1, 2)
        diagonal = gram.diagonal(dim1=1, dim2=2)
        scale = diagonal.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        diagonal.add_(torch.where(diagonal > 0, _RIDGE * scale, scale))
        left = (self.target - sums.rows).double()
        step, _ = torch.linalg.solve_ex(gram, weighted @ left[..., None])
        return sums.moved((sums.coordinates + step[..., 0]).float())


class Moments:
    """AMSGrad's estimates of the gradient and the curvature of one tensor, as large as it."""

    def __init__(self, mean: Tensor, square: Tensor, largest: Tensor) -> None:
        self.mean, self.square, self.largest = mean, square, largest

    @classmethod
    def zero(cls, like: Tensor) -> Moments:
        """Before the first step."""
        return cls(*(torch.zeros_like(like) for _ in range(3)))

    def add(self, gradient: Tensor) -> None:
        """That of one more step."""
        self.mean = FIRST * self.mean + (1 - FIRST) * gradient
        self.square = SECOND * self.square + (1 - SECOND) * gradient.square()
        self.largest = torch.maximum(self.largest, self.square)

    def at(self, steps: int, rate: float) -> tuple[Tensor, Tensor]:
        """Gradient, which has the learning rate in it, and curvature after so many steps."""
        curvature = (self.largest.sqrt() + TINY) / (1 - SECOND**steps) ** 0.5
        return self.mean * (rate / (1 - FIRST**steps)), curvature

    def by_coordinates(self, sums: Sums) -> Moments:
        """Those of the coordinates, as if the gradients of a group's weights were independent."""
        there = (sums.signs != 0).float()
        square, largest = ((there @ rows[..., None])[..., 0] for rows in (self.square, self.largest))
        return Moments(sums.along(self.mean), square, largest)


def importance(coordinates: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
    """What the model of the loss rises by when a coordinate becomes zero; all of one shape."""
    return -gradient * coordinates + curvature * coordinates.square() / 2


def prune(pool: Sequence[tuple[Sums, Tensor, Tensor]], goal: Sequence[float], merged: float) -> list[Sums]:
    """Remove the least important coordinates of all in `pool` until what is left is no more than `goal`.

    Args:
        pool: of each layer its sums, the weights of each group [groups], and the importance of each coordinate.
        goal: digits of all bases (a basis of n weights has n), and coordinates.
        merged: no layer gives more than the share to remove, divided by this.
    """
    parts = []
    for k, (sums, sizes, values) in enumerate(pool):
        group, column = (sums.coordinates > 0).nonzero(as_tuple=True)
        parts.append((values[group, column], sizes[group], torch.full_like(group, k), group, column))
    now = torch.stack([torch.tensor([float(p[1].sum()), float(len(p[1]))], dtype=torch.float64) for p in parts]).sum(0)
    share = float((1 - torch.tensor(list(goal), dtype=torch.float64) / now).max())
    gone = [torch.zeros_like(sums.coordinates, dtype=torch.bool) for sums, _, _ in pool]
    if share > 0:
        offered = [p[0].argsort(stable=True)[: int(-(-len(p[0]) * share // merged))] for p in parts]
        values, sizes, layer, group, column = (
            torch.cat([tensor[order] for tensor, order in zip(tensors, offered, strict=True)])
            for tensors in zip(*parts, strict=True)
        )
        order = values.argsort(stable=True)
        cost = torch.stack((sizes[order], torch.ones_like(sizes)), dim=1).double().cumsum(dim=0)
        left = now.to(cost.device) - pad(cost[:-1], (0, 0, 1, 0))  # before each one goes
        taken = order[(left > torch.tensor(list(goal), dtype=torch.float64, device=cost.device)).any(dim=1)]
        for k, marks in enumerate(gone):
            mine = taken[layer[taken] == k]
            marks[group[mine], column[mine]] = True
    return [sums.without(marks) for (sums, _, _), marks in zip(pool, gone, strict=True)]
