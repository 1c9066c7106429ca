"""A Gaussian process over assignments: what a measured loss will be, and how sure that is.

Two options of a choice are as far apart as their quantization noise (`mpsearch.drivers.menu`), so int6 and int8 start
out alike and int2 and int3 do not; options of another family (scheme, grain, range) are a step further. The kernel is
exp(-sum over choices of w_i d_i): it holds additive effects, pairs, and all higher interactions, the more important
choices (large w_i) interacting more. The weights are those of the largest marginal likelihood under a log-normal prior.

Losses are learned on a log scale, counted from a bit below the best one seen: half the excess is the same step
anywhere, and a hopeless assignment does not decide the fit.

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, chapters 2 and 5. The metric
between formats is our own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from mpsearch.core.space import Choice, Space
from mpsearch.drivers.menu import Menu, family

Floats = NDArray[np.float64]
Indices = NDArray[np.integer]

FEWEST = 4
"""Evaluations below which there is nothing to fit."""
OFFSET = 0.5
"""Where the log scale begins: this share of the median excess below the best loss."""
_MOST_FITTED, _ITERATIONS = 300, 20
_RIDGE = 0.1
_PRIOR = np.log(0.3), 1.5
"""Mean and deviation of log w."""


class Coordinates:
    """Assignments as points whose squared distance is the distance of their formats, per choice.

    Noise is written like a thermometer, a family as one of several flags, so that distances are matrix products.

    Args:
        menu: the noise of options; None for that of their widths.
    """

    def __init__(self, space: Space, menu: Menu | None = None) -> None:
        menu = menu or Menu.whole(space)
        self._tables = [_coordinates(c, own, menu.apart) for c, own in zip(space.choices, menu.noise, strict=True)]
        self.of_choice = np.repeat(np.arange(len(self._tables)), [t.shape[1] for t in self._tables])
        """The choice that each coordinate [d] belongs to."""

    def __call__(self, indices: Indices) -> Floats:
        """Coordinates [n, d] of option `indices` [n, choices]."""
        if not self._tables:
            return np.zeros((len(indices), 0))
        return np.concatenate([table[column] for table, column in zip(self._tables, indices.T, strict=True)], axis=1)

    def per_option(self, per_coordinate: Floats) -> list[Floats]:
        """From a number for each coordinate [d] to one for each option, by choice."""
        parts = np.split(per_coordinate, np.cumsum([t.shape[1] for t in self._tables])[:-1])
        return [table @ part for table, part in zip(self._tables, parts, strict=True)]


def _coordinates(choice: Choice, noise: Floats, apart: float) -> Floats:
    steps = np.unique(noise)
    rungs = (noise[:, None] >= steps[None, 1:]) * np.sqrt(np.diff(steps))
    families = [family(fmt) for fmt in choice.options]
    names = list(dict.fromkeys(families))
    flags = np.zeros((len(families), len(names) if len(names) > 1 else 0))
    for k, kind in enumerate(families if len(names) > 1 else ()):
        flags[k, names.index(kind)] = np.sqrt(apart / 2)
    return np.concatenate([rungs, flags], axis=1)


class Surrogate:
    """The model of one measured loss; `fit`, then ask it about any assignment of the space.

    Args:
        menu: the noise of options; None for that of their widths.
    """

    def __init__(self, space: Space, menu: Menu | None = None) -> None:
        self._coordinates = Coordinates(space, menu)
        self._log_w = np.full(len(space.choices), _PRIOR[0])
        self._log_scale, self._log_noise = 0.0, np.log(1e-3)
        self.base = 0.0
        """Losses are learned as log(loss - base)."""

    def fit(self, indices: Indices, losses: Floats, *, learn: bool) -> None:
        """Condition on `losses` [n] at option `indices` [n, choices]; `learn` also chooses the weights anew.

        Raises `ValueError` on fewer than `FEWEST` losses.
        """
        if len(losses) < FEWEST:
            raise ValueError(f"a surrogate needs at least {FEWEST} losses, got {len(losses)}.")
        best = float(losses.min())
        excess = float(np.median(losses) - best)
        excess = excess if excess > 0 else max(float(losses.max()) - best, 1e-9)
        self.base = best - max(OFFSET * excess, 1e-14 * abs(best), 1e-300)  # more than rounding takes away
        y = np.log(losses - self.base)
        self._mean, self._spread = float(y.mean()), max(float(y.std()), 1e-9)
        self._y = (y - self._mean) / self._spread
        self._x = self._coordinates(indices)
        if learn:
            self._learn()
        kernel = self._kernel(self._x, self._x)
        kernel[np.diag_indices_from(kernel)] += np.exp(self._log_noise) + 1e-8
        factor = np.linalg.cholesky(kernel)
        self._unfactor = solve_triangular(factor, np.eye(len(factor)), lower=True, check_finite=False)
        self._alpha = self._unfactor.T @ (self._unfactor @ self._y)

    def predict(self, indices: Indices) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of log(loss - base) at option `indices` [n, choices]."""
        cross = self._kernel(self._coordinates(indices), self._x)
        mean = cross @ self._alpha
        left = cross @ self._unfactor.T
        variance = np.exp(self._log_scale) - np.einsum("ij,ij->i", left, left)
        return mean * self._spread + self._mean, np.sqrt(np.maximum(variance, 1e-10)) * self._spread

    def additive(self) -> list[Floats]:
        """What each option adds to log(loss - base) in a ridge regression without interactions, by choice."""
        gram = self._x @ self._x.T
        gram[np.diag_indices_from(gram)] += _RIDGE
        return self._coordinates.per_option(self._x.T @ np.linalg.solve(gram, self._y) * self._spread)

    def _kernel(self, a: Floats, b: Floats) -> Floats:
        found: Floats = np.exp(self._log_scale - _squared(a, b, np.exp(self._log_w)[self._coordinates.of_choice]))
        return found

    def _learn(self) -> None:
        """Maximise marginal likelihood times prior over the weights, the scale and the noise, from where they are."""
        x, y = self._x, self._y
        if len(y) > _MOST_FITTED:  # the best losses, which decide the front, and an even choice of the rest
            order = np.argsort(y, kind="stable")
            keep = np.unique(np.r_[order[: _MOST_FITTED // 2], order[:: -(-2 * len(y) // _MOST_FITTED)]])
            x, y = x[keep], y[keep]
        of_choice, choices = self._coordinates.of_choice, len(self._log_w)
        start = np.r_[self._log_w, self._log_scale, self._log_noise]

        def objective(theta: Floats) -> tuple[float, Floats]:
            w = np.exp(theta[:choices])
            signal = np.exp(theta[-2] - _squared(x, x, w[of_choice]))
            total = signal.copy()
            total[np.diag_indices_from(total)] += np.exp(theta[-1]) + 1e-8
            factor = np.linalg.cholesky(total)
            unfactor = solve_triangular(factor, np.eye(len(y)), lower=True, check_finite=False)
            inverse = unfactor.T @ unfactor
            alpha = inverse @ y
            outer = inverse - np.outer(alpha, alpha)  # dNLL = tr(outer dK) / 2
            weighted = outer * signal
            # the sum over pairs of weighted * (x_j - x_k)^2, by coordinate, then by choice
            slopes = 2 * (weighted.sum(axis=1) @ (x * x) - np.einsum("jd,jd->d", x, weighted @ x))
            slope = np.bincount(of_choice, slopes, minlength=choices)
            off = theta[:choices] - _PRIOR[0]
            value = 0.5 * y @ alpha + np.log(np.diag(factor)).sum() + 0.5 * (off @ off) / _PRIOR[1] ** 2
            value += 0.5 * (theta[-2] / 2) ** 2
            gradient = np.r_[-0.5 * slope * w + off / _PRIOR[1] ** 2, 0.0, 0.0]
            gradient[-2] = 0.5 * weighted.sum() + theta[-2] / 4
            gradient[-1] = 0.5 * np.trace(outer) * np.exp(theta[-1])
            return float(value), gradient

        bounds = [(-7.0, 3.0)] * choices + [(-3.0, 4.0), (np.log(1e-5), np.log(0.5))]
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ITERATIONS})
        self._log_w, self._log_scale, self._log_noise = found.x[:choices], float(found.x[-2]), float(found.x[-1])


def _squared(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Weighted squared distances [n, m] of coordinates [n, d] and [m, d]."""
    scaled = a * weights
    found: Floats = (scaled * a).sum(axis=1)[:, None] + (b * b) @ weights - 2 * scaled @ b.T
    return np.maximum(found, 0.0)
