"""Squared gradients in place of the Hessian: near a minimum of a log-loss its expectation is the Fisher information.

The diagonal is the mean over samples of the squared gradient of each sample's loss, with the labels of the data (the
empirical Fisher); the square of the mean gradient is another quantity, and tells nothing at a minimum. It needs first
derivatives only. A model that fits its calibration data well has small gradients there whatever its curvature, which
is the known weakness of the empirical Fisher (Kunstner et al., "Limitations of the Empirical Fisher Approximation for
Natural Gradient Descent", NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Mapping

from mpsearch.core.errors import BadInput, nearest
from mpsearch.drivers.base import Session
from mpsearch.drivers.proxy import Proxy, Scores

WEIGHTINGS = ("trace", "diag")


class Fisher(Proxy):
    """Importance is the mean of the diagonal at a site, harm the squared quantization error.

    Args:
        weighting: `trace` multiplies the two; `diag` weighs the error of each element by its own diagonal entry, and so
            sees outliers. The controls are those of `trace`.
    """

    def __init__(self, weighting: str = "trace") -> None:
        if weighting not in WEIGHTINGS:
            raise BadInput(f"unknown weighting {weighting!r}.{nearest(weighting, WEIGHTINGS)}")
        self._weighting = weighting

    def check(self, session: Session) -> None:
        super().check(session)
        session.problem.probe().require_loss()

    def importance(self, session: Session) -> Mapping[str, float]:
        return session.problem.probe().mean_fisher()

    def harm(self, session: Session) -> Scores:
        return session.problem.probe().squared_errors()

    def scores(self, session: Session, importance: Mapping[str, float], harm: Scores) -> Scores:
        if self._weighting == "diag":
            return session.problem.probe().fisher_errors()
        return super().scores(session, importance, harm)
