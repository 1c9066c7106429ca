"""Linear centred kernel alignment (CKA) between the features of a network's layers, and what OMPQ makes of it.

CKA is HSIC, a measure of dependence, scaled so that a value compared with itself gives one. Three forms of HSIC are
here, all over the same two quantities of centred features X and Y [n, d]: `||X'Y||^2`, and the squared norms of the
rows. The published estimator is biased: independent features of n = 64 rows and 4,096 columns have a CKA of 0.98.
The debiased one is that of Song et al., "Feature selection via dependence maximization", JMLR 13, 2012, theorem 3; its
averages over batches of rows are still unbiased (Nguyen et al., "Do wide and deep networks learn the same things?",
2021), their ratio is so only in the limit.

CKA: Kornblith et al., "Similarity of neural network representations revisited", ICML 2019.
Redundancy, importance and smoothing: Ma et al., "OMPQ: Orthogonal mixed precision quantization", AAAI 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpsearch.core.errors import BadInput

Floats = NDArray[np.float64]
Form = Literal["gram", "feature"]

GRAM_ROWS = 2048
"""Up to so many rows the n x n form is used; it costs n^2 d a layer where the other costs n d^2 a pair."""
GRAM_BYTES = 512 << 20
"""How much the Gram matrices of all layers may hold together; beyond, rows go in batches."""
FEATURE_COLUMNS = 512
"""Up to so many columns the d x d form is used for more rows than `GRAM_ROWS`."""
_CONSTANT = 1e-12
"""Variance over mean square below which a feature is taken for constant: what rounding in float32 leaves of it."""


def similarity(
    features: Sequence[ArrayLike], debiased: bool = True, form: Form | None = None, batches: int | None = None
) -> Floats:
    """Linear CKA [L, L] between every two of `features`, each [n, d] with its own d and the same n rows.

    Symmetric with a diagonal of ones. Biased: from 0 to 1 and positive semidefinite. Debiased: about 0 where features
    are independent, and a little below at times. Features that do not vary are similar to nothing: 0 off the diagonal.

    Args:
        features: one matrix per layer. Everything is computed in float64, on centred and scaled features: the Gram
            matrix of float32 features with a large mean keeps nothing of what varies.
        debiased: the unbiased estimator of HSIC instead of the published one.
        form: by Gram matrices [n, n] or by products of features [d, d]; None for the cheaper. Same result.
        batches: HSIC is averaged over so many batches of rows before the ratio is formed; None for as few as fit.

    Raises:
        BadInput: fewer than 4 rows a batch (2 if biased), matrices whose rows differ, or features that are not finite.
    """
    matrices = [np.asarray(f, dtype=np.float64) for f in features]
    rows = {len(m) for m in matrices}
    if len(rows) != 1 or any(m.ndim != 2 for m in matrices):
        raise BadInput(f"features have shapes {[m.shape for m in matrices]}; each is [n, d] with one n.")
    n = rows.pop()
    chosen, needed = _plan(n, [m.shape[1] for m in matrices])
    form, batches = form or chosen, batches or needed
    least = 4 if debiased else 2
    if n // batches < least:
        raise BadInput(f"{n} rows in {batches} batches are too few; the estimator needs at least {least} in each.")
    matrices = [_standard(m) for m in matrices]
    hsic = np.zeros((len(matrices), len(matrices)))
    for part in np.array_split(np.arange(n), batches):
        hsic += _hsic([m[part] - m[part].mean(0) for m in matrices], debiased, form)
    scale = np.sqrt(np.diag(hsic))
    alive = scale > 0
    scale[~alive] = 1.0
    found = np.where(np.outer(alive, alive), hsic / np.outer(scale, scale), 0.0)
    found = (found + found.T) / 2  # a matrix product is symmetric up to rounding
    np.fill_diagonal(found, 1.0)
    return found


def constant(features: ArrayLike) -> bool:
    """Whether no column of [n, d] varies over its rows, up to rounding in float32: the layer is dead."""
    return not _standard(np.asarray(features, dtype=np.float64)).any()


def redundancy(similar: ArrayLike, mean: bool = False) -> Floats:
    """gamma [L]: how much of it each layer shares with the others, from the similarity [L, L].

    Estimates below zero count as zero.

    Args:
        mean: divide by L - 1, so that it is comparable between networks of different depth.
    """
    clipped = np.maximum(np.asarray(similar, dtype=np.float64), 0.0)
    gamma = clipped.sum(1) - np.diag(clipped)
    return gamma / max(1, len(gamma) - 1) if mean else gamma


def orthogonality(gamma: ArrayLike, beta: float) -> Floats:
    """theta = exp(-beta * (gamma - min gamma)): 1 for the least redundant layer, less for the others.

    Only ratios count, and without the shift the exponential is zero for deep networks.
    """
    gamma = np.asarray(gamma, dtype=np.float64)
    return np.exp(-beta * (gamma - gamma.min()))


def suffix_mean(theta: ArrayLike) -> Floats:
    """Of each layer, the mean over it and all later ones, as in the code that was released with OMPQ."""
    theta = np.asarray(theta, dtype=np.float64)
    return np.cumsum(theta[::-1])[::-1] / np.arange(len(theta), 0, -1)


def _plan(n: int, widths: Sequence[int]) -> tuple[Form, int]:
    """The cheaper form, and in how many batches of rows it fits."""
    fit = max(4, min(GRAM_ROWS, math.isqrt(GRAM_BYTES // (8 * len(widths)))))
    if n > fit and max(widths) <= FEATURE_COLUMNS:
        return "feature", 1
    return "gram", -(-n // fit)


def _standard(matrix: Floats) -> Floats:
    """Centred, and scaled so that the sum of squares is the number of rows; zeros where nothing varies."""
    if not np.isfinite(matrix).all():
        raise BadInput("features hold NaN or infinity; the float model gives none on the calibration data.")
    peak = np.abs(matrix).max(initial=0.0)
    matrix = matrix / (peak or 1.0)  # so that no square is too large or too small for a number
    centred = matrix - matrix.mean(0)
    varies, whole = np.square(centred).sum(), np.square(matrix).sum()
    if varies <= _CONSTANT * whole:
        return np.zeros_like(matrix)
    return centred * math.sqrt(len(matrix) / varies)


def _hsic(centred: Sequence[Floats], debiased: bool, form: Form) -> Floats:
    """HSIC [L, L] of every pair. Rows of the Gram matrix of centred features add up to zero, which is why the
    debiased estimator, defined on Gram matrices without their diagonals, needs nothing but those diagonals more."""
    n = len(centred[0])
    products = _products(centred, form)
    if not debiased:
        return products / (n - 1) ** 2
    diagonals = np.stack([np.square(x).sum(1) for x in centred])
    traces = diagonals.sum(1)
    off = products - n / (n - 2) * diagonals @ diagonals.T + np.outer(traces, traces) / ((n - 1) * (n - 2))
    return off / (n * (n - 3))


def _products(centred: Sequence[Floats], form: Form) -> Floats:
    """||X'Y||^2 [L, L] of every pair."""
    if form == "gram":
        grams = np.stack([(x @ x.T).ravel() for x in centred])
        return grams @ grams.T
    found = np.empty((len(centred), len(centred)))
    for i, x in enumerate(centred):
        for j, y in enumerate(centred[: i + 1]):
            found[i, j] = found[j, i] = np.square(x.T @ y).sum()
    return found
