"""The scale that loses least, not the one that covers most.

A wide range wastes levels on outliers, a narrow one clips them. A ladder of clipping ratios is tried, each
candidate at the best scale for the codes it gives, and the best one is polished. At 8 bits this is the
largest magnitude again; at 2 to 4 bits it is the difference between a usable model and noise.

With codes q fixed, |w - s q|^2 is least at s = <w, q> / <q, q>; with s fixed, the nearest codes are best. So
going to and fro never raises the error (Lloyd's algorithm for a uniform grid). The trade-off is that of
Banner et al., "Post training 4-bit quantization of convolutional networks for rapid deployment" (2019); here
without an assumed prior.

The least squared error shrinks: at that scale <w, w^> = <w^, w^> < <w, w>, where w^ = s q. A layer whose weights all
lose some of their gain gives too small an output, and layers multiply. So a range rule may charge for it:

    |w - w^|^2 / |w|^2 + penalty (1 - <w, w^> / <w, w>)^2

With codes fixed this is least at s = (1 + penalty) <w, q> / (<q, q> + penalty <w, q>^2 / |w|^2): the plain scale
without a penalty, the one of the right gain when it is large. The nearest codes are no longer best for it, so
candidates are judged after rounding at their own scale. The rule is our own.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

from mpsearch.quant.calibrate import BINS, percentile, span, stride

_LADDER = tuple((0.9**k, 0.9**k) for k in range(36))  # ratios of the full range, down to 1/40
_CORNERS = tuple((0.8**i, 0.8**j) for i in range(12) for j in range(12))  # the same where both ends move
_NEAR = (0.9, 0.92, 0.94, 0.96, 0.98, 1.02, 1.04, 1.06, 1.08, 1.1)
_BESIDE = (0.97, 0.975, 0.98, 0.985, 0.99, 0.995, 1.005, 1.01, 1.015, 1.02, 1.025, 1.03)
_POLISH = 4  # rounds of codes and scale
_TINY = 2.0**-60  # of a row whose largest magnitude is 1: nothing to represent
_DIRECT = 1 << 14  # longer rows are searched by their histogram
_BLOCK = 1 << 16  # elements searched at a time, to stay in the cache
_ZOOMS = 6


@dataclass(frozen=True)
class Codes:
    """The integer codes of a grid, and what counts as loss.

    Args:
        qmin: lowest.
        qmax: highest.
        affine: whether zero may have any of the codes; otherwise it has code 0.
        penalty: price of a gain error, see above; 0 for the squared error alone.
    """

    qmin: int
    qmax: int
    affine: bool
    penalty: float = 0.0

    @property
    def lopsided(self) -> bool:
        """Whether a negative scale gives other values than a positive one."""
        return not self.affine and self.qmin != -self.qmax

    def cover(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point that hold `low`, zero and `high`; scale 1 where there is nothing but zero."""
        low, high = low.clamp(max=0), high.clamp(min=0)
        if self.affine:
            scale = (high - low) / (self.qmax - self.qmin)
            scale = torch.where(scale > _TINY, scale, 1.0)
            return scale, (self.qmin - low / scale).round().clamp(self.qmin, self.qmax)
        scale = torch.maximum(high / self.qmax, low / self.qmin)
        return torch.where(scale > _TINY, scale, 1.0), torch.zeros_like(scale)


@dataclass(frozen=True)
class _Best:
    """The best so far of each row; all [rows]."""

    loss: Tensor
    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def mirrored(self) -> _Best:
        """The same for the values times -1."""
        return replace(self, scale=-self.scale)

    def or_if_less(self, other: _Best) -> _Best:
        """Row by row the one of less loss."""
        less = other.loss < self.loss
        names = ("loss", "scale", "zero", "low", "high")
        return _Best(*(torch.where(less, getattr(other, name), getattr(self, name)) for name in names))


@dataclass(frozen=True)
class _Rows:
    """Values [rows, n] to represent, how often each occurs (None: once), and their squares added up [rows]."""

    values: Tensor
    counts: Tensor | None
    power: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> _Rows:
        return cls(rows, None, _power(rows))

    def settle(self, scale: Tensor, zero: Tensor, low: Tensor, high: Tensor, codes: Codes, refit: bool = True) -> _Best:
        """Nearest codes at `scale`; the scale that is best for those codes (if `refit`), and its loss times |w|^2."""
        q = torch.round(self.values / scale[:, None])
        q.clamp_((codes.qmin - zero)[:, None], (codes.qmax - zero)[:, None])
        often = q if self.counts is None else q * self.counts
        along = (often * self.values).sum(dim=1)
        gain = along / self.power  # of the codes: <w, q> / <w, w>
        if refit:
            norm = (often * q).sum(dim=1)
            curve = (norm + codes.penalty * along * gain).clamp(min=1)
            scale = torch.where(norm > 0, (1 + codes.penalty) * along / curve, scale)
        miss = q.mul_(scale[:, None]).sub_(self.values).square_()
        loss = (miss if self.counts is None else miss.mul_(self.counts)).sum(dim=1)
        if codes.penalty:
            loss += codes.penalty * self.power * (1 - scale * gain).square()
        return _Best(loss, scale, zero, low, high)


def least_loss(rows: Tensor, codes: Codes) -> tuple[Tensor, Tensor]:
    """Scale and zero point, [rows] each, of the least loss found for `rows` [rows, n].

    The largest magnitude of a row must be 1, or 0.
    """
    best = _least(rows, codes)
    if codes.lopsided:
        best = best.or_if_less(_least(-rows, codes).mirrored())
    return best.scale, best.zero


def covering(rows: Tensor, low: Tensor, high: Tensor, codes: Codes) -> tuple[Tensor, Tensor]:
    """Scale and zero point, [rows] each, of a given range; where the sign of the scale matters, that of less error."""
    best = _Rows.of(rows).settle(*codes.cover(low, high), low, high, codes, refit=False)
    if codes.lopsided:
        other = _Rows.of(-rows).settle(*codes.cover(-high, -low), low, high, codes, refit=False)
        best = best.or_if_less(other.mirrored())
    return best.scale, best.zero


def two_means(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The two values of the least squared error, [rows] each. Exact, by cumulated sums over the sorted row."""
    found = _Rows.of(rows.double()) if rows.shape[1] <= _DIRECT else _histogram(rows, *span(rows))
    values, order = found.values.sort(dim=1)
    counts = torch.ones_like(values) if found.counts is None else found.counts.gather(1, order)
    number, total = counts.cumsum(1), (counts * values).cumsum(1)
    number_above, total_above = number[:, -1:] - number, total[:, -1:] - total
    gain = total**2 / number.clamp(min=1) + total_above**2 / number_above.clamp(min=1)
    split = gain.argmax(dim=1, keepdim=True)
    low = total.gather(1, split) / number.gather(1, split).clamp(min=1)
    rest = number_above.gather(1, split)
    high = torch.where(rest > 0, total_above.gather(1, split) / rest.clamp(min=1), low)
    return low[:, 0], high[:, 0]


def _least(rows: Tensor, codes: Codes) -> _Best:
    if rows.shape[1] > _DIRECT:
        found = [_zoom(row, codes) for row in torch.split(rows, 1)]
    else:
        found = [
            _climb(_Rows.of(part), *span(part), codes) for part in torch.split(rows, max(1, _BLOCK // rows.shape[1]))
        ]
    return _Best(*(torch.cat(parts) for parts in zip(*map(astuple, found), strict=True)))


def _climb(rows: _Rows, low: Tensor, high: Tensor, codes: Codes) -> _Best:
    """Clip ratios of the range, then ranges near the best, then codes and scale in turn."""
    both_ends = codes.affine and bool(((low < 0) & (high > 0)).any())
    refit = not codes.penalty

    def attempt(low: Tensor, high: Tensor) -> _Best:
        return rows.settle(*codes.cover(low, high), low, high, codes, refit)

    best = attempt(low, high)
    for left, right in _CORNERS if both_ends else _LADDER:
        best = best.or_if_less(attempt(low * left, high * right))
    for moves in ((True, not both_ends), (not both_ends, True)):
        near = best
        for ratio in _NEAR:
            left, right = (ratio if move else 1.0 for move in moves)
            best = best.or_if_less(attempt(near.low * left, near.high * right))
    for _ in range(_POLISH):
        found = rows.settle(best.scale, best.zero, best.low, best.high, codes)
        if codes.penalty:
            found = rows.settle(found.scale, best.zero, best.low, best.high, codes, refit)
        best = best.or_if_less(found)
    if codes.penalty:  # the loss jumps where codes change: the best scale is beside the one that the formula gives
        near = best
        for ratio in _BESIDE:
            found = rows.settle(near.scale * ratio, near.zero, near.low, near.high, codes, refit)
            best = best.or_if_less(found)
    return best


def _zoom(row: Tensor, codes: Codes) -> _Best:
    """Search a long row [1, n] by its histogram, from its full range and from that of its bulk.

    With a far outlier there are two good ranges, and the way from one to the other leads uphill.
    """
    low, high = span(row)
    best = _narrow(row, low, high, codes)
    ends = percentile(row[:, :: stride(row.shape[1], _DIRECT)], 99.9)
    if not 0 < float(ends[1] - ends[0]) < float(high - low) / 2:
        return best
    bulk = _narrow(row, *ends, codes)
    best, bulk = (
        _Rows.of(row).settle(b.scale.float(), b.zero.float(), b.low, b.high, codes, refit=False) for b in (best, bulk)
    )
    return best.or_if_less(bulk)


def _narrow(row: Tensor, low: Tensor, high: Tensor, codes: Codes) -> _Best:
    """Search in a window, taking smaller ones until the range found fills half of it.

    The outer bins hold all that lies beyond the window. Their mean says all about values that are clipped,
    because the squares of those add up to a constant plus count times (mean - end)^2.
    """
    best = _climb(_histogram(row, low, high), low.double(), high.double(), codes)
    for _ in range(_ZOOMS):
        if float(best.high - best.low) > float(high - low) / 2:
            break
        low, high = torch.maximum(2 * best.low, low), torch.minimum(2 * best.high, high)
        best = _climb(_histogram(row, low, high), 0.75 * low.double(), 0.75 * high.double(), codes)
    return best


def _histogram(rows: Tensor, low: Tensor, high: Tensor) -> _Rows:
    """Mean and count of each of `BINS` bins over a window; float64. Empty bins have mean and count 0."""
    means, counts = [], []
    for row, start, end in zip(rows, low.double(), high.double(), strict=True):
        place = ((row - start) * (BINS / (end - start).clamp(min=_TINY))).long().clamp_(0, BINS - 1)
        count = torch.bincount(place, minlength=BINS)
        counts.append(count.double())
        means.append(torch.bincount(place, row.double(), minlength=BINS) / count.clamp(min=1))
    return _Rows(torch.stack(means), torch.stack(counts), _power(rows))


def _power(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=1).clamp(min=_TINY)
