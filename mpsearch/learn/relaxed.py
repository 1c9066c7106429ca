"""Relaxed quantization: noise makes a value one of the points of its grid, each with a probability that has a gradient.

With logistic noise of scale s on a value x, the point k (in steps a, levels k = ..., -1, 0, 1, ...) has the probability

    p_k = (S((a k + a/2 - x) / s) - S((a k - a/2 - x) / s)) / (their sum over k),    S(z) = 1 / (1 + exp(-z))

`rq` draws from it, relaxed to a weighted mean of points (Louizos et al., "Relaxed quantization for discretized neural
networks", arXiv 1810.01875): noise, probabilities, and the Gumbel softmax are theirs. `srq` takes the most probable
point, which is the nearest, and goes back through the probabilities: "semi-relaxed" quantization (arXiv 1911.12990 and
2109.02100), of which its abstract says so much. What is differentiated there could not be read: both rules below are
our own reading. Ours are also the schedule of temperatures, the initial noise of a third of a step, its bounds, and
the window of levels around a value outside of which nothing is probable.

Steps and noise are learned on a log scale. Two levels (one symmetric bit) are a uniform grid too. Every grid that is
not uniform is fitted, with gradients straight through.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.learn.base import Observe
from mpsearch.learn.lsq import Lsq, step_of, with_step
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.binary import BinaryGrid
from mpsearch.quant.grid import Grid

LEAST_NOISE, MOST_NOISE = math.exp(-3.0), 1.0  # of a step


class Relaxed(Lsq):
    """Steps and noise of uniform grids.

    Args:
        noise: its first scale, in steps.
        window: levels on each side of the nearest that have a probability.
    """

    def __init__(self, noise: float = 1 / 3, window: int = 3) -> None:
        super().__init__()
        if not LEAST_NOISE <= noise <= MOST_NOISE:
            raise BadInput(f"noise: {noise!r} is not a number of steps from {LEAST_NOISE:.2f} to {MOST_NOISE:g}.")
        if not isinstance(window, int) or window < 1:
            raise BadInput(f"window: {window!r} is not a whole number of at least 1.")
        self._noise, self._window = noise, window
        self._noises: dict[int, nn.Parameter] = {}  # logarithms

    @abstractmethod
    def relaxed(self, value: Tensor, grid: Grid, step: Tensor, log_noise: Tensor) -> Tensor:
        """`value` while a step is trained; `step` and `log_noise` are spread over it, the grid is at this step."""

    def __call__(self, site: int, value: Tensor) -> Tensor:
        if site not in self._steps:
            return super().__call__(site, value)
        grid = self._grids[site]
        step = step_of(grid) * self._steps[site].exp()
        now = with_step(grid, step.detach())
        if not self.training:
            return now.round_trip(value)
        assert isinstance(grid, AffineGrid | BinaryGrid)
        return self.relaxed(value, now, *(grid.grain.spread(t, value.shape) for t in (step, self._noises[site])))

    def learns(self, site: int, grid: Grid) -> bool:
        return super().learns(site, grid) or (isinstance(grid, BinaryGrid) and grid.low is None)

    def fit(self, observe: Observe) -> None:
        super().fit(observe)
        for site, step in self._steps.items():
            if site not in self._noises:
                self._noises[site] = nn.Parameter(torch.full_like(step, math.log(self._noise)))

    def parameters(self) -> list[nn.Parameter]:
        return [*super().parameters(), *self._noises.values()]

    def stepped(self) -> None:
        """Keeps the noise within its bounds."""
        with torch.no_grad():
            for noise in self._noises.values():
                noise.clamp_(math.log(LEAST_NOISE), math.log(MOST_NOISE))


class Rq(Relaxed):
    """Relaxed quantization: Gumbel softmax samples of the points of a grid, at a temperature that falls.

    Args:
        temperature: of the first epoch.
        last_temperature: of the last; in between it falls by the same factor each time.
        noise, window: as in `Relaxed`.
    """

    def __init__(
        self, temperature: float = 1.0, last_temperature: float = 0.2, noise: float = 1 / 3, window: int = 3
    ) -> None:
        super().__init__(noise, window)
        if not 0 < last_temperature <= temperature:
            raise BadInput(f"last_temperature: {last_temperature!r} is not above 0 and at most {temperature!r}.")
        self._ends = temperature, last_temperature
        self._temperature = temperature

    def advance(self, epoch: int, epochs: int) -> None:
        first, last = self._ends
        self._temperature = first * (last / first) ** (epoch / max(1, epochs - 1))

    def relaxed(self, value: Tensor, grid: Grid, step: Tensor, log_noise: Tensor) -> Tensor:
        x = value / step
        levels = nearest_levels(x.detach(), grid, self._window)
        logits = _log_mass(x, log_noise, levels)[0].log_softmax(0)
        gumbel = -torch.empty_like(logits).exponential_().log()
        weights = ((logits + gumbel) / self._temperature).softmax(0)
        return (weights * levels).sum(0) * step


class Srq(Relaxed):
    """Semi-relaxed quantization: the nearest point forward, gradients of the probabilities backward.

    Args:
        estimator: `soft`, gradients by all probabilities, so that of the mean point; or `winner`, by that of the
            nearest point alone, which is 0 where that point is 0.
        noise, window: as in `Relaxed`.
    """

    def __init__(self, estimator: str = "soft", noise: float = 1 / 3, window: int = 3) -> None:
        super().__init__(noise, window)
        if estimator not in ("soft", "winner"):
            raise BadInput(f"estimator: {estimator!r} is not known. Allowed: soft, winner.")
        self._soft = estimator == "soft"

    def relaxed(self, value: Tensor, grid: Grid, step: Tensor, log_noise: Tensor) -> Tensor:
        return _Mode.apply(value, step, log_noise, grid, self._window, self._soft)


def nearest_levels(x: Tensor, grid: Grid, window: int) -> Tensor:
    """The levels next to `x`, which counts steps: [n, *x.shape], n = 2 `window` + 1 or all there are, ascending."""
    if isinstance(grid, BinaryGrid):
        low, most = torch.full_like(x, -0.5), 1
    else:
        assert isinstance(grid, AffineGrid)
        low, most = grid.grain.spread(grid.lowest, x.shape), grid.qmax - grid.qmin
    n = min(2 * window + 1, most + 1)
    first = (x - low).round_().sub_(window).clamp_(0, most + 1 - n).add_(low)
    return torch.stack([first + i for i in range(n)])


def probabilities(x: Tensor, log_noise: Tensor, levels: Tensor) -> Tensor:
    """Of `levels` [n, *x.shape] under noise of `exp(log_noise)` steps on `x`, in steps: they sum up to 1 along axis 0.

    By the logarithm log S(u) + log S(-v) of S(u) - S(v), where v = u - 1 / noise, up to a constant; the difference
    itself is 0 far from the middle.
    """
    return _log_mass(x, log_noise, levels)[0].softmax(0)


def _log_mass(x: Tensor, log_noise: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms up to a constant, and the upper and the lower edge of each level's bin, in units of the noise."""
    inverse = (-log_noise).exp()
    upper, lower = (levels + 0.5 - x) * inverse, (levels - 0.5 - x) * inverse
    return F.logsigmoid(upper) + F.logsigmoid(-lower), upper, lower


class _Mode(torch.autograd.Function):
    """x on its grid, x^ = a k. With m the mean level of all (soft) or of the nearest point alone (winner), it grows
    by x by dm/dt, by the step a by k - t dm/dt, by the logarithm of the noise by a dm/dlog s, where t = x / a.

    Only x and x^ are kept; probabilities are worked out again.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, step: Tensor, log_noise: Tensor, grid: Grid, window: int, soft: bool
    ) -> Tensor:
        out = grid.round_trip(value)
        ctx.save_for_backward(value, out, step, log_noise)
        ctx.options = grid, window, soft
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        value, out, step, log_noise = ctx.saved_tensors
        grid, window, soft = ctx.options
        (g,) = gradients
        t, nearest = value / step, out / step
        levels = nearest_levels(t, grid, window)
        mass, upper, lower = _log_mass(t, log_noise, levels)
        p, below, above = mass.softmax(0), torch.sigmoid(-upper), torch.sigmoid(lower)
        counted = levels if soft else levels * ((levels - nearest).abs() < 0.5)
        centred = p * (counted - (p * counted).sum(0))  # times the growth of log mass: the growth of the mean level
        by_t = (centred * (above - below)).sum(0) * (-log_noise).exp()
        by_noise = (centred * (lower * above - upper * below)).sum(0)
        by_step, by_log_noise = g * (nearest - t * by_t), g * step * by_noise
        return g * by_t, by_step.sum_to_size(step.shape), by_log_noise.sum_to_size(log_noise.shape), None, None, None
