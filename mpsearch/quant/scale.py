"""The scale of levels that are spaced in any way, symmetric around zero: floats, powers of two, odd numbers.

A ladder of scales, the best one polished, as for integers (`mpsearch.quant.search`, where the loss is explained).
Rows that are very long are judged by an even part of their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.quant.calibrate import span, stride
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import finite

DEAD = 2.0**-100
"""A row of magnitudes below this is zero: the reciprocal of its scale would not be safe."""
PENALTY = {"mse": 0.0, "gain": 10.0}
"""Price of a gain error, by the rule of the range."""

_LADDER = tuple(0.94**k for k in range(53))  # ratios of the full range, down to 1/25
_NEAR = (0.95, 0.96, 0.97, 0.98, 0.99, 1.01, 1.02, 1.03, 1.04, 1.05)
_CLOSE = (0.985, 0.99, 0.9925, 0.995, 0.9975, 1.0025, 1.005, 1.0075, 1.01, 1.015)
_POLISH = 4  # rounds of levels and scale
_MOST = 1 << 16  # values that a row is judged by
_BLOCK = 1 << 16  # elements searched at a time, to stay in the cache
_TINY = 2.0**-60

Nearest = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Levels:
    """Levels at scale 1.

    Args:
        nearest: values to levels; may write to its argument.
        most: the largest level.
    """

    nearest: Nearest
    most: float


def fit_scale(sample: Tensor, grain: Grain, levels: Levels, rule: str, dead: float = 1.0) -> Tensor:
    """Scales for `sample`, float32 as `Grain.gather` gives them.

    Args:
        rule: `max` (the largest level meets the largest magnitude), `mse` or `gain`.
        dead: the scale where there is nothing but zero.

    Raises:
        ValueError: on NaN, infinity or no elements.
    """
    scales = []
    for block in grain.rows(finite(sample).cpu()):  # on the CPU: equal grids everywhere
        largest = block.abs().amax(dim=1).double()
        nothing = largest < DEAD
        rows, often = _sampled((block / largest.masked_fill(nothing, torch.inf)[:, None]).float())
        if rule == "max":
            scale = torch.full_like(largest, 1 / levels.most)
        else:
            found = [
                _search(part, often, levels, PENALTY[rule])
                for part in torch.split(rows, max(1, _BLOCK // rows.shape[1]))
            ]
            scale = torch.cat(found).double()
        scales.append((scale * largest).masked_fill(nothing, dead).float())
    return grain.gather(scales, sample.shape).to(sample.device)


def _sampled(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Of rows that are very long an even part and both ends, with how often each occurs; others as they are."""
    n = rows.shape[1]
    if n <= _MOST:
        return rows, None
    step = stride(n, _MOST)
    part = rows[:, ::step]
    often = torch.cat((torch.full((part.shape[1],), float(step)), torch.ones(2)))
    return torch.cat((part, torch.stack(span(rows), dim=1)), dim=1), often


def _search(rows: Tensor, often: Tensor | None, levels: Levels, penalty: float) -> Tensor:
    """The scale [rows] of the least loss found for `rows` [rows, n], whose largest magnitude is 1 or 0."""

    def added(values: Tensor) -> Tensor:
        return values.sum(dim=1) if often is None else values @ often

    power = added(rows.square()).clamp(min=_TINY)

    def settle(scale: Tensor, refit: bool) -> tuple[Tensor, Tensor]:
        """Nearest levels at `scale`; the scale that is best for those levels (if `refit`), and its loss."""
        q = levels.nearest(rows / scale[:, None])
        along, norm = added(q * rows), added(q.square())
        if refit:
            curve = norm + penalty * along.square() / power
            scale = torch.where(norm > 0, (1 + penalty) * along / curve.clamp(min=_TINY), scale)
        loss = added(q.mul_(scale[:, None]).sub_(rows).square_())
        if penalty:
            loss = loss + penalty * power * (1 - scale * along / power).square()
        return loss, scale

    full = torch.full((len(rows),), 1 / levels.most)
    best = settle(full, refit=False)
    for ratio in _LADDER[1:]:
        best = _less(best, settle(full * ratio, not penalty))
    for ratios in (_NEAR, _CLOSE):
        near = best[1]
        for ratio in ratios:
            best = _less(best, settle(near * ratio, not penalty))
    for _ in range(_POLISH):
        moved = settle(best[1], refit=True)[1]
        best = _less(best, settle(moved, refit=False))
    return best[1]


def _less(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    less = (other[0] < one[0]) & (other[1] > 0)
    return torch.where(less, other[0], one[0]), torch.where(less, other[1], one[1])
