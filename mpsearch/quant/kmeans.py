"""Centroids of least squared distance (Lloyd's algorithm), and which is nearest."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

_SEED = 0
_STEPS = 100  # on a part of the points,
_LAST = 2  # on all of them,
_WORTH = 5e-4  # as long as a step lowers the distance by this share
_DRAWS = 4
_FIRST = 16  # points that a centroid starts from,
_PER_CENTROID = 64  # and is first learned from,
_LEAST, _MOST = 1 << 14, 1 << 16  # so many in all
_BLOCK = 1 << 18  # distances held at a time: what fits the processor's cache
_TREE = 512, 6  # centroids from which on, and dimensions up to which, a tree finds the nearest sooner
_SPLIT = 2.0**-10  # of the spread of a cluster: how far its halves start from each other


def centroids(points: Tensor, number: int) -> Tensor:
    """At most `number` centroids, float32 [centroids, d], of `points` float32 [n, d].

    Exact, and as few as it takes, where no more than `number` points differ. Else starts are drawn as in Arthur and
    Vassilvitskii, "k-means++" (2007), from a fixed seed, first steps are done on a part of the points, and where no
    point is nearest to a centroid the cluster with most points is split between it and its own, a little to either
    side (Stock et al., arXiv 1907.05686).
    """
    draw = torch.Generator().manual_seed(_SEED)
    some = points[torch.randperm(len(points), generator=draw)[: min(_MOST, max(_LEAST, _PER_CENTROID * number))]]
    if _is_few(some, number):
        distinct = torch.unique(points, dim=0)
        if len(distinct) <= number:
            return distinct
    first = some[: max(_LEAST // 4, _FIRST * number)]
    found = _start(first, number, draw)
    for part, steps in ((first, _STEPS), (some, _STEPS), (points, _LAST)):
        before = torch.inf
        for _ in range(steps):
            found, distance = _step(part, found, draw)
            if distance > (1 - _WORTH) * before:
                break
            before = distance
    return found


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Place of the nearest centroid, int64 [n]; the first of equals. In float64: a centroid is nearest to itself."""
    place, _ = _compared(points.double(), centres.double())
    return place


def _is_few(points: Tensor, number: int) -> bool:
    """Whether no more than `number` points differ. To sort one coordinate is much cheaper than to sort all."""
    if any(len(torch.unique(column)) > number for column in points.T):
        return False
    return len(torch.unique(points, dim=0)) <= number


def _compared(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Places, and squared distances less the square of the point."""
    half = centres.square().sum(dim=1) / 2
    found = [
        torch.addmm(half, part, centres.T, alpha=-1.0).min(dim=1)
        for part in torch.split(points, max(1, _BLOCK // len(centres)))
    ]
    return torch.cat([f.indices for f in found]), 2 * torch.cat([f.values for f in found])


def _looked_up(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The same, by a tree."""
    distance, place = cKDTree(centres.numpy()).query(points.numpy())
    return torch.from_numpy(place), torch.from_numpy(distance).square_() - points.square().sum(dim=1)


def _start(points: Tensor, number: int, draw: torch.Generator) -> Tensor:
    """Points drawn with a chance in proportion to the squared distance from the nearest one chosen.

    Of `_DRAWS` points the one is chosen that lowers the sum of distances most.
    """
    chosen = [int(torch.randint(len(points), (1,), generator=draw))]
    distance = (points - points[chosen[0]]).square().sum(dim=1)
    across, square = points.T.contiguous(), points.square().sum(dim=1)
    for _ in range(number - 1):
        reach = distance.cumsum(0, dtype=torch.float64)
        marks = torch.rand(_DRAWS, generator=draw, dtype=torch.float64) * reach[-1]
        places = torch.searchsorted(reach, marks, right=True).clamp_(max=len(points) - 1)
        fresh = torch.addmm(square, points[places], across, alpha=-2.0).add_(square[places, None]).clamp_(min=0)
        fresh = torch.minimum(fresh, distance)
        best = int(fresh.sum(dim=1).argmin())
        chosen.append(int(places[best]))
        distance = fresh[best]
        distance[places[best]] = 0.0
    return points[chosen]


def _step(points: Tensor, centres: Tensor, draw: torch.Generator) -> tuple[Tensor, float]:
    """Means of the points nearest to each centroid, and the sum of squared distances to the centroids as given."""
    in_tree = len(centres) >= _TREE[0] and centres.shape[1] <= _TREE[1]
    place, left = (_looked_up if in_tree else _compared)(points, centres)
    distance = (left + points.square().sum(dim=1)).clamp_(min=0)
    counts = torch.bincount(place, minlength=len(centres))
    sums = torch.zeros(centres.shape, dtype=torch.float64).index_add_(0, place, points.double())
    means = (sums / counts.clamp(min=1)[:, None]).float()
    for empty in (counts == 0).nonzero()[:, 0].tolist():
        most = int(counts.argmax())
        aside = points[place == most].std(dim=0) * _SPLIT * torch.randn(means.shape[1], generator=draw)
        means[empty], means[most] = means[most] + aside, means[most] - aside
        counts[empty] = counts[most] // 2
        counts[most] -= counts[empty]
    return means, float(distance.sum(dtype=torch.float64))
