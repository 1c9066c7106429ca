"""Ranges from statistics of the values: all of them, a percentile, least entropy lost.

Each function takes rows, float [rows, n], and gives the lowest and the highest value to represent, [rows]
each. Formulas: Wu et al., "Integer Quantization for Deep Learning Inference" (2020), section 3.3, for ranges
that are symmetric; what a range with two different ends does is said at each function. The range of least
squared error needs the grid, see `mpsearch.quant.search`.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

BINS = 2048
_MOST = 1 << 20  # values that describe a row well enough
_FIRST = 128  # the shortest range that entropy tries, in bins


def span(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value."""
    low, high = torch.aminmax(rows, dim=1)
    return low, high


def mean_span(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means [1] over rows, the first axis of `x`, of the smallest and of the largest value of each.

    Numbers without another axis are one row: they are as far apart as they are.
    """
    low, high = torch.aminmax(x.reshape(len(x) if x.dim() > 1 else 1, -1), dim=1)
    return low.double().mean().reshape(1), high.double().mean().reshape(1)


def stride(n: int, most: int) -> int:
    """The smallest step that leaves at most `most` of `n` values, and meets every channel, row and column alike.

    It does the latter if it has no factor in common with `n`, the product of all sizes.
    """
    step = -(-n // most)
    while gcd(step, n) > 1:
        step += 1
    return step


def thinned(rows: Tensor) -> Tensor:
    """Of rows that are very long an even part, with the smallest and the largest value; others as they are."""
    n = rows.shape[1]
    if n <= _MOST:
        return rows
    return torch.cat((rows[:, :: stride(n, _MOST)], torch.stack(span(rows), dim=1)), dim=1)


def percentile(rows: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """The range that holds `percent` of a row's values.

    What is left out is shared equally by both ends; a row of one sign loses it at the far end alone, because
    its range starts at zero anyway.
    """
    ordered = rows.sort(dim=1).values
    left_out = rows.shape[1] * (100.0 - percent) / 100.0 + 1e-9  # not to lose 1.0 to rounding
    low, high = ordered[:, 0], ordered[:, -1]
    both = (low < 0) & (high > 0)
    drop = torch.where(both, int(left_out / 2), int(left_out))
    below, above = torch.where(low < 0, drop, 0), torch.where(high > 0, drop, 0)
    pick = torch.stack((below, rows.shape[1] - 1 - above), dim=1)
    ends = ordered.gather(1, pick)
    return ends[:, 0], ends[:, 1]


def entropy(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The range whose quantized histogram of magnitudes diverges least from the true one (Kullback and
    Leibler).

    One row only. The magnitude found limits both signs, each no further than its values reach: what a range
    with a short side saves there is not counted. Magnitudes have 2**bits levels if all values have one sign,
    else half of them.
    """
    low, high = span(rows)
    magnitudes = rows.abs().reshape(-1)
    levels = 2**bits if bool((low >= 0) | (high <= 0)) else 2 ** (bits - 1)
    top = float(magnitudes.max())
    if top == 0.0:
        return low, high
    place = (magnitudes.double() * (BINS / top)).long().clamp_(max=BINS - 1)
    clip = entropy_clip(torch.bincount(place, minlength=BINS), levels) * top / BINS
    return low.clamp(min=-clip), high.clamp(max=clip)


def entropy_clip(counts: Tensor, levels: int) -> int:
    """How many of the bins [BINS] to keep, so that `levels` levels lose least; the last of equals.

    A candidate keeps `i` bins: P has the counts of all that is cut added to its last bin, Q is the kept bins
    merged to `levels` equal groups, each spread evenly over its bins that are not empty. The first bin takes
    the second's count, so that a spike of zeros does not decide. All candidates at once: with c the cumulated
    counts, the divergence is sum p log p - sum over groups of (sum of p) log q.
    """
    counts = counts.double()
    counts[0] = counts[1]
    keep = torch.arange(max(_FIRST, levels), BINS + 1)
    edges = (torch.arange(levels + 1) * keep[:, None] + levels - 1) // levels  # [candidates, levels + 1]
    total, filled, plogp = (
        torch.cat((t.new_zeros(1), t.cumsum(0))) for t in (counts, (counts > 0).double(), torch.xlogy(counts, counts))
    )
    in_group, filled_in_group = (t[edges].diff(dim=1) for t in (total, filled))
    last = counts[keep - 1]
    tail = total[-1] - total[keep]
    p_sum, q_sum = total[-1].expand(len(keep)), total[keep]
    q_log = torch.where(in_group > 0, in_group / filled_in_group, 1.0).log()
    cross = (in_group * q_log).sum(dim=1) + tail * q_log[:, -1]
    own = plogp[keep - 1] + torch.xlogy(last + tail, last + tail)
    divergence = (own - cross) / p_sum - p_sum.log() + q_sum.log()
    divergence[(last == 0) & (tail > 0)] = torch.inf
    best = len(keep) - 1 - int(divergence.flip(0).argmin())
    return int(keep[best])
