"""Trace-weighted perturbation, as HAWQ has it: which site hurts follows from the curvature of the float model's loss.

At a trained minimum the gradient is near zero, so that narrowing site i raises the loss by about half of
dW_i^T H_i dW_i, and with the mean eigenvalue for H_i by Tr(H_i) / n_i * ||dW_i||^2 / 2. Sites are added up, as if
independent. The traces of all weights come from one Hessian-vector product per random vector. Activation values take
the mean of their empirical Fisher diagonal in place of the trace, and the error over the calibration samples; that
diagonal is brought to the scale of the traces by the median ratio of the two over the weights.

Source: Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks", NeurIPS 2020; Yao et al.,
"HAWQ-V3: Dyadic Neural Network Quantization", ICML 2021. Of our own: the stopping rule (standard errors instead of the
last change of the mean), the Fisher form for activation values, and the whole front at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from mpsearch.core.errors import BadInput
from mpsearch.drivers.base import Session
from mpsearch.drivers.proxy import TINY, Proxy, Scores

LEAST = 16
_FLOOR = 1e-6
log = logging.getLogger("mpsearch.drivers")


class Hessian(Proxy):
    """Importance is the mean diagonal element of the Hessian, harm the squared quantization error.

    Args:
        probes: random vectors at most, for the traces.
        tolerance: fewer do when every trace's standard error is below this share of it; at least 16 are drawn.
    """

    def __init__(self, probes: int = 64, tolerance: float = 0.05) -> None:
        if probes < LEAST:
            raise BadInput(f"probes={probes} is not possible; a standard error needs at least {LEAST}.")
        if not tolerance > 0:
            raise BadInput(f"tolerance={tolerance} is not possible; it is a share above 0, for example 0.05.")
        self._probes, self._tolerance = probes, tolerance

    def check(self, session: Session) -> None:
        super().check(session)
        session.problem.probe().require_loss()

    def importance(self, session: Session) -> Mapping[str, float]:
        probe = session.problem.probe()
        traces = probe.mean_traces(session.seed, self._tolerance, LEAST, self._probes)
        for site, trace in traces.items():
            log.info("mean trace of %s: %.3g ± %.1g (%d draws)", site, trace.mean, trace.stderr, trace.draws)
        floor = _FLOOR * max((abs(trace.mean) for trace in traces.values()), default=1.0)
        negative = [site for site, trace in traces.items() if trace.mean < floor]
        if negative:
            log.warning(
                "the mean trace of %s is not clearly above zero (the model is no minimum there): taken as %.1g.",
                *(", ".join(negative), floor),
            )
        found = {site: max(trace.mean, floor) for site, trace in traces.items()}
        if len(found) < len(self.harm(session)):
            fisher = probe.mean_fisher()
            ratios = [value / max(fisher[site], TINY) for site, value in found.items()]
            scale = float(np.median(ratios)) if ratios else 1.0  # a model that fits its data has far smaller gradients
            found |= {site: scale * value for site, value in fisher.items() if site not in found}
        return found

    def harm(self, session: Session) -> Scores:
        return session.problem.probe().squared_errors()
