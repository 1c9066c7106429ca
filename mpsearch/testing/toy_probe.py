"""The probe of the toy: numbers that belong to its losses, in place of derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.space import Space
from mpsearch.problem.probe import Estimate, Probe

if TYPE_CHECKING:  # it loads torch
    from mpsearch.graph.features import Features, Rows, Where


class ToyProbe(Probe):
    """Curvature is the sensitivity of a layer and the squared error 4^-bits, so that their product is the true rise.

    Args:
        space: of the toy.
        sensitivity: by site.
    """

    def __init__(self, space: Space, sensitivity: Mapping[str, float]) -> None:
        self._space, self._sensitivity = space, sensitivity

    def require_loss(self) -> None:
        pass

    def mean_traces(self, seed: int, tolerance: float, least: int, most: int) -> Mapping[str, Estimate]:
        del seed, tolerance, most
        return {site: Estimate(value, 0.0, least) for site, value in self._sensitivity.items()}

    def mean_fisher(self) -> Mapping[str, float]:
        return self._sensitivity

    def squared_errors(self) -> Mapping[str, NDArray[np.float64]]:
        return {c.name: np.array([0.25**option.bits for option in c.options]) for c in self._space.choices}

    def relative_errors(self) -> Mapping[str, NDArray[np.float64]]:
        return self.squared_errors()

    def fisher_errors(self) -> Mapping[str, NDArray[np.float64]]:
        return {site: self._sensitivity[site] * errors for site, errors in self.squared_errors().items()}

    def features(self, sites: Sequence[str], limits: Mapping[Rows, int], seed: int, where: Where | None) -> Features:
        """Random rows, the same whenever they are asked for."""
        from mpsearch.graph.features import Block, Features

        rng, n = np.random.default_rng(seed), min(64, limits["sample"])
        matrices = {site: rng.normal(size=(n, 8)).astype(np.float32) for site in sites}
        return Features(tuple(sites), {site: site for site in sites}, (Block("sample", matrices),), where or "branch")
