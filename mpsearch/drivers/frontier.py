"""The frontier driver: learn the losses, know the costs, and ask where the front is expected to grow most.

1. From the best compromise among the uniform controls, each choice alone as wide as it can be: what it does.
2. Rounds: a Gaussian process of every measured goal is fitted to all that was measured. Candidates are the
   neighbours of the front, the exact front that a purely additive model predicts, random points, and the neighbours of
   the best of these. Those with the largest expected hypervolume improvement are asked, each counted as part of the
   front before the next is picked, so that a round spreads; a share goes to where the model knows least. Of those that
   promise alike, the one that shares most computation with earlier questions comes first.

Costs are never predicted: they come from tables, and nothing is asked that a limit on a cost forbids. A limit on a
measured goal weighs the improvement with the probability that it holds.

The parts are published (see `surrogate`, `improvement`, `cost/solve`); how they are put together is our own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from threadpoolctl import threadpool_limits

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import is_feasible, non_dominated
from mpsearch.core.goal import Goal
from mpsearch.cost.terms import Cost
from mpsearch.drivers.base import AskTell, Session
from mpsearch.drivers.candidates import Prefixes, Rows, anywhere, neighbours, one_at_a_time, predicted_front, unseen
from mpsearch.drivers.improvement import Belief, expected_improvement
from mpsearch.drivers.surrogate import FEWEST, Surrogate

Floats = NDArray[np.float64]

_POOL, _RANDOM, _HOPS, _BEST = 400, 50, 2, 10
"""Neighbours looked at in a step, random points beside them, steps from the best, and how many are the best."""
_LAZY = 32
"""Candidates whose gain is computed again at a time, when the front has grown."""
_THRIFT = 0.5
"""Power of the work that an expected gain is divided by: 0 counts evaluations only, 1 computation only."""
_CELLS = 2_000
"""About how many boxes the region beyond a front is cut into."""
_SMALL = 4_096
"""Size of a space that is listed whole to find what was not asked yet."""
log = logging.getLogger("mpsearch.run")


@dataclass
class Axis:
    """A goal as the driver sees it: known from tables, or learned.

    Args:
        worst: loss of the worst control, which scales to 1.
        bound: largest loss that its limit allows, infinite without one.
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
        if self.cost is None or not np.isfinite(self.bound):
            return np.ones(len(rows), dtype=bool)
        return self.sign * self.cost(rows) <= self.bound + 1e-12 * max(1.0, abs(self.bound))

    @property
    def sign(self) -> float:
        return -1.0 if self.goal.maximise else 1.0


class Frontier(AskTell):
    """Bayesian search for the whole front, with exact costs.

    Args:
        batch: assignments asked before any is told; None for 2, and more as the model grows slower to fit.
        explore: share of the questions that goes to where the model is unsure, from 0 to 1.
    """

    def __init__(self, batch: int | None = None, explore: float = 0.05) -> None:
        if batch is not None and batch < 1:
            raise BadInput(f"batch={batch} is not possible; at least 1 assignment is asked at once.")
        if not 0 <= explore <= 1:
            raise BadInput(f"explore={explore} is not a share; it lies between 0 and 1.")
        self._batch, self._explore = batch, explore

    def search(self, session: Session) -> None:
        with threadpool_limits(1, user_api="blas"):  # small matrices; and sums that do not depend on the machine's load
            if session.space.choices:
                super().search(session)

    def start(self, session: Session) -> None:
        self._space, self._rng = session.space, np.random.default_rng(session.seed)
        self._sizes = [len(choice.options) for choice in session.space.choices]
        self._goals, controls = session.goals, session.evaluations
        self._baseline: Mapping[str, float] = controls[0].measures
        self._axes = [self._axis(session, goal) for goal in session.goals]
        self._rows: list[tuple[int, ...]] = []
        self._full: list[bool] = []
        self._seen: set[bytes] = set()
        self._prefixes = Prefixes(session.problem.work)
        self._learned = self._asked = 0
        self._note(controls)
        left = session.budget_left
        self._first = self._fresh(self._one_at_a_time(64 if left is None else max(2, left // 4)))
        self.batch = self._batch or max(1, len(self._first))

    def ask(self, n: int) -> list[Assignment]:
        if len(self._first):
            now, self._first = self._first[:n], self._first[n:]
        elif len(self._rows) < FEWEST:
            log.warning("frontier: %d losses are too few for a model; random assignments follow.", len(self._rows))
            now = self._random(n)
        else:
            now = self._pick(n)
        self._seen.update(row.tobytes() for row in now)
        return [self._space.decode(row.tolist()) for row in now]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._note(evaluations)
        self.batch = self._batch or max(2, len(self._rows) // 30)

    def _one_at_a_time(self, most: int) -> Rows:
        if not self._rows:
            return np.zeros((0, len(self._sizes)), dtype=np.int16)
        losses = np.stack([axis.scaled(np.array(axis.losses)) for axis in self._axes], axis=1)
        return one_at_a_time(self._space, self._rows[int(losses.sum(axis=1).argmin())], most)

    def _axis(self, session: Session, goal: Goal) -> Axis:
        worst = max(goal.loss(e.measures) for e in session.evaluations if e.failure is None)
        bound = np.inf
        if goal.limit is not None and (goal.limit.sense == ">=") == goal.maximise:
            number = goal.limit.bound(self._baseline.get(goal.name, np.nan))
            bound = -number if goal.maximise else number
        return Axis(goal, session.problem.cost(goal.name), Surrogate(session.space), worst, bound)

    def _note(self, evaluations: Sequence[Evaluation]) -> None:
        for done in evaluations:
            if done.failure is not None:
                continue
            for axis in self._axes:
                loss = axis.goal.loss(done.measures)
                axis.ideal = min(axis.ideal, loss) if done.fidelity == 1 else axis.ideal
            if done.assignment in self._space:
                row = self._space.encode(done.assignment)
                self._seen.add(np.array(row, dtype=np.int16).tobytes())
                self._prefixes.add(np.array(row, dtype=np.int16))
                self._rows.append(row)
                self._full.append(done.fidelity == 1 and is_feasible(done, self._goals, self._baseline))
                for axis in self._axes:
                    axis.losses.append(axis.goal.loss(done.measures))

    def _pick(self, n: int) -> Rows:
        """`n` assignments that were not asked yet, by expected improvement."""
        rows = np.array(self._rows, dtype=np.int16)
        learned = [axis for axis in self._axes if axis.cost is None]
        learn = len(rows) >= 1.3 * self._learned
        for axis in learned:
            axis.surrogate.fit(rows, np.array(axis.losses), learn=learn)
        self._learned = len(rows) if learn else self._learned
        losses = np.stack([axis.scaled(np.array(axis.losses)) for axis in self._axes], axis=1)
        full = np.flatnonzero(self._full)
        members = full[non_dominated(losses[full])]
        pool = Pool(self._axes, losses[members], self._prefixes)
        near = rows[members] if len(members) else rows
        pool.add(self._fresh(neighbours(near, self._sizes, _POOL, self._rng)))
        if learn:
            costs = [axis.cost for axis in self._axes if axis.cost is not None]
            for axis in learned:
                pool.add(self._fresh(predicted_front(axis.surrogate.additive(), costs, _POOL)))
        pool.add(self._random(_RANDOM))
        for _ in range(_HOPS):
            pool.add(self._fresh(neighbours(pool.best(_BEST), self._sizes, _POOL, self._rng)))
        picked: list[NDArray[np.int16]] = []
        while len(picked) < n and len(pool.rows):
            self._asked += 1
            explore = int(self._asked * self._explore) > int((self._asked - 1) * self._explore)
            picked.append(pool.pop(explore))
        return np.array(picked, dtype=np.int16).reshape(len(picked), len(self._sizes))

    def _fresh(self, rows: Rows) -> Rows:
        """Those that were not asked and that no limit on a cost forbids."""
        rows = unseen(rows, self._seen)
        return rows[np.logical_and.reduce([axis.allowed(rows) for axis in self._axes])]

    def _random(self, n: int) -> Rows:
        """At most `n` allowed rows that were not asked; none only where there are none, or next to none."""
        if self._space.size <= _SMALL:
            rows = self._fresh(np.array(list(map(self._space.encode, self._space.assignments())), dtype=np.int16))
            return rows[np.sort(self._rng.permutation(len(rows))[:n])]
        return self._fresh(anywhere(self._sizes, 20 * n, self._rng))[:n]


class Pool:
    """Candidates with what is believed of them, and the front that they are to improve.

    Args:
        front: scaled losses [members, goals].
    """

    def __init__(self, axes: Sequence[Axis], front: Floats, prefixes: Prefixes) -> None:
        self._axes, self._front, self._prefixes = axes, _thinned(front), prefixes
        self.rows: Rows = np.zeros((0, 0), dtype=np.int16)
        self._beliefs: list[Belief] = []
        self._likely = np.zeros(0)
        self._gain = np.zeros(0)

    def add(self, rows: Rows) -> None:
        """Take in `rows` that are not in the pool yet."""
        rows = unseen(rows, {row.tobytes() for row in self.rows})
        if not len(rows):
            return
        beliefs = [axis.believe(rows) for axis in self._axes]
        likely = np.prod([_likely(axis, belief) for axis, belief in zip(self._axes, beliefs, strict=True)], axis=0)
        likely = likely / self._prefixes.left(rows) ** _THRIFT
        gain = likely * expected_improvement(self._front, beliefs)
        if len(self.rows):
            rows = np.concatenate([self.rows, rows])
            beliefs = [a.joined(b) for a, b in zip(self._beliefs, beliefs, strict=True)]
            likely, gain = np.concatenate([self._likely, likely]), np.concatenate([self._gain, gain])
        self.rows, self._beliefs, self._likely, self._gain = rows, beliefs, likely, gain

    def best(self, n: int) -> Rows:
        """The `n` rows of the largest expected gain."""
        return self.rows[np.argsort(-self._gain, kind="stable")[:n]]

    def pop(self, explore: bool) -> NDArray[np.int16]:
        """Take out the most promising row and count it as part of the front; or, to explore, the least known."""
        at = self._least_known() if explore else self._most_promising()
        row: NDArray[np.int16] = self.rows[at]
        expected = np.array([[belief.median[at] for belief in self._beliefs]])
        self._front = _thinned(np.concatenate([self._front, expected]))
        rest = np.delete(np.arange(len(self.rows)), at)
        self.rows, self._likely, self._gain = self.rows[rest], self._likely[rest], self._gain[rest]
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
            self._gain[some] = self._likely[some] * expected_improvement(self._front, beliefs)
            if self._gain[some].max() > most:
                best = int(some[self._gain[some].argmax()])
                most = self._gain[best]
        return best if most > 0 else int(self._likely.argmax())

    def _least_known(self) -> int:
        """The largest gain if all deviations were doubled."""
        some = np.argsort(-self._gain, kind="stable")[: len(self.rows) // 2 + 1]
        beliefs = [belief.take(some).doubted() for belief in self._beliefs]
        return int(some[expected_improvement(self._front, beliefs).argmax()])


def _likely(axis: Axis, belief: Belief) -> Floats:
    """Probability [n] that the limit on a measured goal holds."""
    if axis.cost is not None or not np.isfinite(axis.bound) or belief.deviation is None:
        return np.ones(len(belief.mean))
    room = max(axis.bound - belief.base, 1e-300)
    found: Floats = ndtr((np.log(room) - belief.mean) / belief.deviation)
    return found


def _thinned(front: Floats) -> Floats:
    """The members that matter, and of many on several goals so few that the region beyond them has some 1,000 boxes."""
    front = front[non_dominated(front)] if len(front) else front
    most = int(_CELLS ** (1 / max(1, front.shape[1] - 1))) + 2
    if len(front) <= most:
        return front
    order = np.argsort(front[:, -1], kind="stable")
    found: Floats = front[order[np.linspace(0, len(front) - 1, most).astype(int)]]
    return found
