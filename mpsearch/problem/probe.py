"""What a look at the float model tells before anything is evaluated: curvature, gradients, quantization errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # it loads torch, which a problem without a model does without
    from mpsearch.graph.features import Features, Rows, Where


@dataclass(frozen=True)
class Estimate:
    """A mean over random draws, its standard error, and how many draws it rests on."""

    mean: float
    stderr: float
    draws: int


class Probe(ABC):
    """Numbers per site that has a choice between several options, from the calibration data and the float weights.

    Every second-order number belongs to the mean loss of a sample, so that half of it times a squared error is a
    predicted rise of the loss, at weights and at activation values alike. Computed on first use and kept.
    """

    @abstractmethod
    def require_loss(self) -> None:
        """Raise `BadInput`, with the alternative, where the objective defines no loss. Costs nothing."""

    @abstractmethod
    def mean_traces(self, seed: int, tolerance: float, least: int, most: int) -> Mapping[str, Estimate]:
        """Mean diagonal element of the Hessian at every parameter site, by Hutchinson's estimator.

        Args:
            seed: of the random vectors.
            tolerance: stop when every standard error is below this share of its mean.
            least: random vectors at least.
            most: random vectors at most.
        """

    @abstractmethod
    def mean_fisher(self) -> Mapping[str, float]:
        """Mean diagonal element of the empirical Fisher matrix at every site: squared gradients of single samples."""

    @abstractmethod
    def squared_errors(self) -> Mapping[str, NDArray[np.float64]]:
        """||Q(x) - x||^2 [options] at every site, on the grids that are deployed: a sum over elements, 0 at float.

        Of an activation value, the sum over all calibration samples.
        """

    @abstractmethod
    def relative_errors(self) -> Mapping[str, NDArray[np.float64]]:
        """||Q(x) - x||^2 / ||x||^2 [options] at every site; 0 where everything is zero."""

    @abstractmethod
    def features(self, sites: Sequence[str], limits: Mapping[Rows, int], seed: int, where: Where | None) -> Features:
        """What the float layers of `sites` make of rows of the calibration split, see `graph/features.py`."""

    @abstractmethod
    def fisher_errors(self) -> Mapping[str, NDArray[np.float64]]:
        """sum_k F_kk (Q(x) - x)_k^2 [options] at every site: each element weighed by its own Fisher information."""
