"""The candidates of a search with what is believed of them, and which of them would improve a front most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mpsearch.core.front import non_dominated
from mpsearch.core.goal import Goal
from mpsearch.cost.terms import Cost
from mpsearch.drivers.candidates import Prefixes, Rows, unseen
from mpsearch.drivers.improvement import Belief, expected_improvement
from mpsearch.drivers.surrogate import Surrogate

Floats = NDArray[np.float64]

_THRIFT = 0.5
"""Power of the work that an expected gain is divided by: 0 counts evaluations only, 1 computation only."""
_LEAST = 1e-3
"""Of the chance that an evaluation succeeds: nothing is ruled out by a model."""
_LAZY = 32
"""Candidates whose gain is computed again at a time, when the front has grown."""
_CELLS = 2_000
"""About how many boxes the region beyond a front is cut into."""


@dataclass
class Axis:
    """A goal as the driver sees it: known from tables, or learned.

    Args:
        worst: loss of the worst control, which scales to 1.
        bound: the number that its limit compares with, in the measure's unit; NaN without one.
    """

    goal: Goal
    cost: Cost | None
    surrogate: Surrogate
    worst: float
    bound: float
    ideal: float = np.inf
    losses: list[float] = field(default_factory=list)

    def scaled(self, losses: Floats) -> Floats:
        """As the hypervolume sees them: 0 at the best so far, 1 at the worst control, known costs by ratio."""
        ends = np.array([self.ideal, self.worst])
        if self.cost is not None and self.goal.on_log_scale:
            losses, ends = (np.log2(np.maximum(x, 1e-300)) for x in (losses, ends))
        span = float(ends[1] - ends[0])
        found: Floats = (losses - ends[0]) / (span if span > 0 else 1.0)
        return found

    def believe(self, rows: Rows) -> Belief:
        """What is known or predicted of `rows` [n, choices]."""
        if self.cost is not None:
            return Belief(self.scaled(self.sign * self.cost(rows)))
        span = self.worst - self.ideal
        mean, deviation = self.surrogate.predict(rows)
        return Belief(mean, deviation, self.surrogate.base, self.ideal, self.ideal + (span if span > 0 else 1.0))

    def allowed(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether known costs meet the limit."""
        if self.cost is None or self.goal.limit is None:
            return np.ones(len(rows), dtype=bool)
        sign = 1.0 if self.goal.limit.sense == "<=" else -1.0
        return sign * self.cost(rows) <= sign * self.bound + 1e-12 * max(1.0, abs(self.bound))

    def likely(self, belief: Belief) -> Floats:
        """Probability [n] that the limit on a measured goal holds."""
        if self.goal.limit is None or belief.deviation is None:
            return np.ones(len(belief.mean))
        room = max(self.sign * self.bound - belief.base, 1e-300)
        below: Floats = ndtr((np.log(room) - belief.mean) / belief.deviation)
        return below if (self.goal.limit.sense == "<=") != self.goal.maximise else 1 - below

    @property
    def sign(self) -> float:
        return -1.0 if self.goal.maximise else 1.0


class Pool:
    """Candidates with what is believed of them, and the front that they are to improve.

    Args:
        front: scaled losses [members, goals].
        choices: of the space, which is how long a row is.
        failing: a model of what fails, of loss 1 for what does not and 2 for what does; None if nothing did.
    """

    def __init__(
        self, axes: Sequence[Axis], front: Floats, prefixes: Prefixes, choices: int, failing: Surrogate | None
    ) -> None:
        self._axes, self._front, self._prefixes, self._failing = axes, _thinned(front), prefixes, failing
        self.rows: Rows = np.zeros((0, choices), dtype=np.int16)
        self._keys: set[bytes] = set()
        self._beliefs: list[Belief] = []
        self._weight = np.zeros(0)
        self._gain = np.zeros(0)

    def add(self, rows: Rows) -> None:
        """Take in `rows` that were not in the pool yet."""
        rows = unseen(rows, self._keys)
        if not len(rows):
            return
        self._keys.update(row.tobytes() for row in rows)
        beliefs = [axis.believe(rows) for axis in self._axes]
        weight = np.prod([axis.likely(belief) for axis, belief in zip(self._axes, beliefs, strict=True)], axis=0)
        weight = weight / self._prefixes.left(rows) ** _THRIFT
        if self._failing is not None:
            outcome = self._failing.base + np.exp(self._failing.predict(rows)[0])
            weight = weight * np.clip(2 - outcome, _LEAST, 1)
        gain = weight * expected_improvement(self._front, beliefs)
        if len(self.rows):
            rows = np.concatenate([self.rows, rows])
            beliefs = [a.joined(b) for a, b in zip(self._beliefs, beliefs, strict=True)]
            weight, gain = np.concatenate([self._weight, weight]), np.concatenate([self._gain, gain])
        self.rows, self._beliefs, self._weight, self._gain = rows, beliefs, weight, gain

    def best(self, n: int) -> Rows:
        """The `n` rows of the largest expected gain."""
        return self.rows[np.argsort(-self._gain, kind="stable")[:n]]

    @property
    def promise(self) -> float:
        """The largest expected gain, when last computed: of hypervolume, over the root of the work it takes."""
        return float(self._gain.max(initial=0.0))

    def pop(self, explore: bool) -> NDArray[np.int16]:
        """Take out the most promising row and count it as part of the front; or, to explore, the least known."""
        at = self._least_known() if explore else self._most_promising()
        row: NDArray[np.int16] = self.rows[at]
        expected = np.array([[belief.median[at] for belief in self._beliefs]])
        self._front = _thinned(np.concatenate([self._front, expected]))
        rest = np.delete(np.arange(len(self.rows)), at)
        self.rows, self._weight, self._gain = self.rows[rest], self._weight[rest], self._gain[rest]
        self._beliefs = [belief.take(rest) for belief in self._beliefs]
        return row

    def _most_promising(self) -> int:
        """The largest gain. Gains only shrink as the front grows, so that most need not be computed again."""
        order = np.argsort(-self._gain, kind="stable")
        best, most = int(order[0]), -np.inf
        for begin in range(0, len(order), _LAZY):
            some = order[begin : begin + _LAZY]
            if self._gain[some[0]] <= most:
                break
            beliefs = [belief.take(some) for belief in self._beliefs]
            self._gain[some] = self._weight[some] * expected_improvement(self._front, beliefs)
            if self._gain[some].max() > most:
                best = int(some[self._gain[some].argmax()])
                most = self._gain[best]
        return best if most > 0 else int(self._weight.argmax())

    def _least_known(self) -> int:
        """The largest gain if all deviations were doubled."""
        some = np.argsort(-self._gain, kind="stable")[: len(self.rows) // 2 + 1]
        beliefs = [belief.take(some).doubted() for belief in self._beliefs]
        return int(some[expected_improvement(self._front, beliefs).argmax()])


def _thinned(front: Floats) -> Floats:
    """The members that matter, and of many on several goals so few that the region beyond them has some 1,000 boxes."""
    front = front[non_dominated(front)] if len(front) else front
    most = int(_CELLS ** (1 / max(1, front.shape[1] - 1))) + 2
    if len(front) <= most:
        return front
    order = np.argsort(front[:, -1], kind="stable")
    found: Floats = front[order[np.linspace(0, len(front) - 1, most).astype(int)]]
    return found
