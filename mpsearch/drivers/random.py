"""Random search: every assignment equally likely, none asked twice. The yardstick for the other drivers.

What a limit on a cost forbids is drawn again, without being evaluated. Where limits forbid nearly everything, draws are
moved towards what is cheapest, by a random share of their choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.drivers.base import AskTell, Session
from mpsearch.drivers.candidates import aims, towards

_PLAIN = 100
"""Draws in a row that a limit on a cost forbids, after which draws are moved."""
_DRAWS = 1000
"""In a row that are forbidden; then one is asked all the same, so that the run ends."""


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
        limited = [session.problem.cost(goal.name) for goal in session.goals if goal.limit is not None]
        self._aims = aims([cost for cost in limited if cost is not None])
        self._moves = False
        self._rng = np.random.default_rng(session.seed)
        self._asked: set[Assignment] = set()

    def ask(self, n: int) -> list[Assignment]:
        fresh: list[Assignment] = []
        drawn = 0
        while len(fresh) < n and len(self._asked) < self._space.size:
            assignment = self._draw()
            if assignment in self._asked:
                continue
            self._asked.add(assignment)
            drawn += 1
            if drawn > _DRAWS or not self._forbids(assignment):
                fresh.append(assignment)
                drawn = 0
            self._moves |= drawn >= _PLAIN
        return fresh

    def _draw(self) -> Assignment:
        drawn = self._space.sample(self._rng)
        if not self._moves:
            return drawn
        row = np.array([self._space.encode(drawn)], dtype=np.int16)
        return self._space.decode(towards(row, self._aims, self._rng)[0].tolist())

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        del evaluations  # random search learns nothing
