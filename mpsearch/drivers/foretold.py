"""What the float model foretells: assignments that are best by what its gradients and quantization errors say.

Where choices outnumber the evaluations, nothing that is measured at the start tells them apart: one at a time they are
too many, and on few samples each rise of the loss is less than its noise. What follows from the calibration data has no
such noise. Two scores, each added up over sites: the empirical Fisher information of every element times its squared
quantization error, where the objective defines a loss, and the relative squared error, which needs none. Either can
mislead; the points are taken from the exact fronts of both in turn, within the limits of the costs.

Measured on ResNet-20 (CIFAR-10, 1,000 validation images, 40 choices of 2 to 8 bits, float 0.880), weights and values of
at most so many bits each on average; accuracy of the one best assignment of each score:

    ========================================  =====  =====
    score                                     4      3
    ========================================  =====  =====
    the same bits everywhere                  0.836  0.712
    measured rise of the loss, one at a time  0.846  0.732
    Fisher information                        0.857  0.774
    relative squared errors                   0.863  0.756
    ========================================  =====  =====

The measured rises, around 4 bits, take 240 evaluations.
"""

from __future__ import annotations

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, NothingFeasible, OutOfResources
from mpsearch.drivers.base import Session
from mpsearch.drivers.proxy import Scores, alternate, points


def foretold(session: Session, most: int) -> list[Assignment]:
    """At most `most` assignments, the most telling first; none where the problem has no probe, or no goal is a cost."""
    try:
        fronts = [points(session, scores, most) for scores in predictions(session)]
    except (BadInput, NothingFeasible, OutOfResources):
        return []
    return alternate(fronts)[:most]


def predictions(session: Session) -> list[Scores]:
    """By site and option, the rise of the loss as the probe foretells it, in any unit: one or two kinds.

    Raises `BadInput` where the problem has no probe.
    """
    probe = session.problem.probe()
    errors = probe.relative_errors()
    try:
        probe.require_loss()
    except BadInput:
        return [errors]
    return [probe.fisher_errors(), errors]
