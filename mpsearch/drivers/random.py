"""Random search: every assignment equally likely, none asked twice. The yardstick for the other drivers.

What a limit on a cost forbids is drawn again, without being evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.drivers.base import AskTell, Session

_DRAWS = 1000
"""In a row that a limit on a cost forbids; then one is asked all the same, so that the run ends."""


class Random(AskTell):
    """Uniform sampling without replacement.

    Args:
        batch: assignments asked at once; the larger, the more of the computation they share.
    """

    def __init__(self, batch: int = 16) -> None:
        if batch < 1:
            raise BadInput(f"batch={batch} is not possible; at least 1 assignment is asked at once.")
        self.batch = batch

    def start(self, session: Session) -> None:
        self._space, self._forbids = session.space, session.forbids
        self._rng = np.random.default_rng(session.seed)
        self._asked: set[Assignment] = set()

    def ask(self, n: int) -> list[Assignment]:
        fresh: list[Assignment] = []
        drawn = 0
        while len(fresh) < n and len(self._asked) < self._space.size:
            assignment = self._space.sample(self._rng)
            if assignment in self._asked:
                continue
            self._asked.add(assignment)
            drawn += 1
            if drawn > _DRAWS or not self._forbids(assignment):
                fresh.append(assignment)
                drawn = 0
        return fresh

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        del evaluations  # random search learns nothing
