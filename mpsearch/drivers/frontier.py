"""The frontier driver: learn the losses, know the costs, and ask where the front is expected to grow most.

1. From the best compromise among the uniform controls, each choice alone as wide as it can be: what it does. Where
   choices outnumber these questions, what the float model foretells instead (`foretold`). Where formats of several
   kinds are offered, options that others beat in every cost and in noise are left out (`menu`), and what stands for the
   controls without them is asked first. Such menus reach from formats that lose nothing to some that lose nearly all,
   and up to the worst control all that is good looks alike; so most rounds aim at losses not far beyond that of the
   compromise, and only some at all.
2. Rounds: a Gaussian process of every measured goal is fitted to all that was measured. Candidates are the
   neighbours of the front, the exact front that a purely additive model predicts, random points, and the neighbours of
   the best of these. Those with the largest expected hypervolume improvement are asked, each counted as part of the
   front before the next is picked, so that a round spreads; a share goes to where the model knows least, and so does
   all once nothing promises much. Of candidates that promise alike, the one that shares most computation with earlier
   questions comes first.

Costs are never predicted: they come from tables, and nothing is asked that a limit on a cost forbids; of several costs,
the predicted front is solved within the limits of all. A limit on a
measured goal weighs the improvement with the probability that it holds, as failed evaluations weigh it with that of
another failure.

The parts are published (see `surrogate`, `improvement`, `cost/solve`); how they are put together is our own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import is_feasible, non_dominated
from mpsearch.core.goal import Goal
from mpsearch.drivers.base import AskTell, Session
from mpsearch.drivers.candidates import (
    Prefixes,
    Rows,
    aims,
    anywhere,
    neighbours,
    one_at_a_time,
    predicted_front,
    towards,
    unseen,
)
from mpsearch.drivers.foretold import foretold
from mpsearch.drivers.menu import Menu
from mpsearch.drivers.pool import Axis, Pool
from mpsearch.drivers.surrogate import FEWEST, Surrogate

Floats = NDArray[np.float64]

_POOL, _RANDOM, _HOPS, _BEST = 400, 50, 2, 10
"""Neighbours looked at in a step, random points beside them, steps from the best, and how many are the best."""
_NEGLIGIBLE = 1e-4
"""Expected gain of hypervolume below which the model is better questioned than believed."""
_NEAR, _FAR_EVERY = 3, 4
"""How many times as far from the best as the compromise a loss counts in most rounds, and one round in how many is not
so limited."""
_SMALL = 4_096
"""Size of a space that is listed whole to find what was not asked yet."""
log = logging.getLogger("mpsearch.drivers")


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
        self._menu = Menu.of(session.space, session.problem, session.goals)
        self._goals, controls = session.goals, session.evaluations
        self._baseline: Mapping[str, float] = session.baseline
        self._axes = [self._axis(session, goal) for goal in session.goals]
        self._worst = [axis.worst for axis in self._axes]
        self._base: tuple[int, ...] = ()
        limited = [axis.cost for axis in self._axes if axis.cost is not None and axis.goal.limit is not None]
        self._cheapest = aims(limited)
        self._rows: list[tuple[int, ...]] = []
        self._eligible: list[bool] = []
        self._failed: list[tuple[int, ...]] = []
        self._outcome = Surrogate(session.space, self._menu)
        self._seen: set[bytes] = set()
        self._prefixes = Prefixes(session.problem.work)
        self._learned = self._asked = self._rounds = 0
        self._note(controls)
        self._first = self._fresh(self._beginning(session))
        self.batch = self._batch or max(1, len(self._first))

    def ask(self, n: int) -> list[Assignment]:
        if len(self._first):
            now, self._first = self._first[:n], self._first[n:]
        elif len(self._rows) < FEWEST:
            log.warning("frontier: too few losses for a model (%d); random assignments follow.", len(self._rows))
            now = self._random(n)
        else:
            now = self._pick(n)
        self._seen.update(row.tobytes() for row in now)
        return [self._space.decode(row.tolist()) for row in now]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._note(evaluations)
        self.batch = self._batch or max(2, len(self._rows) // 30)

    def _beginning(self, session: Session) -> Rows:
        """What is asked before there is a model."""
        if not self._rows:
            return np.zeros((0, len(self._space.choices)), dtype=np.int16)
        left = session.budget_left
        most = 64 if left is None else max(2, left // 4)
        losses = np.stack([axis.scaled(np.array(axis.losses)) for axis in self._axes], axis=1)
        controls = self._menu.moved(np.array(self._rows, dtype=np.int16))
        base = controls[int(losses.sum(axis=1).argmin())]
        self._base = tuple(base.tolist())
        known = foretold(session, most) if sum(len(kept) > 1 for kept in self._menu.kept) > most else []
        if not known:
            return np.concatenate([controls, one_at_a_time(self._menu, base, most)])
        return np.concatenate([controls, self._menu.moved(np.array(list(map(self._space.encode, known)), np.int16))])

    def _axis(self, session: Session, goal: Goal) -> Axis:
        controls = {session.evaluations[0].assignment, *session.space.uniform().values()}
        found = [e for e in session.evaluations if e.failure is None and e.assignment in controls]
        worst = max(goal.loss(e.measures) for e in found)
        bound = np.nan if goal.limit is None else goal.limit.bound(self._baseline.get(goal.name, np.nan))
        cost = session.problem.cost(goal.name)
        if cost is None and goal.limit is not None and (goal.limit.sense == ">=") == goal.maximise and bound == bound:
            worst = min(worst, -bound if goal.maximise else bound)  # beyond its limit nothing counts
        return Axis(goal, cost, Surrogate(session.space, self._menu), worst, bound)

    def _note(self, evaluations: Sequence[Evaluation]) -> None:
        for done in evaluations:
            row = self._space.encode(done.assignment) if done.assignment in self._space else None
            if row is not None:
                self._seen.add(np.array(row, dtype=np.int16).tobytes())
            if done.failure is not None:
                if row is not None:
                    self._failed.append(row)
                continue
            for axis in self._axes:
                loss = axis.goal.loss(done.measures)
                axis.ideal = min(axis.ideal, loss) if done.fidelity == 1 else axis.ideal
            if row is not None:
                self._prefixes.add(np.array(row, dtype=np.int16))
                self._rows.append(row)
                self._eligible.append(done.fidelity == 1 and is_feasible(done, self._goals, self._baseline))
                for axis in self._axes:
                    axis.losses.append(axis.goal.loss(done.measures))

    def _pick(self, n: int) -> Rows:
        """`n` assignments that were not asked yet, by expected improvement."""
        rows = np.array(self._rows, dtype=np.int16)
        learned = [axis for axis in self._axes if axis.cost is None]
        known = len(rows) + len(self._failed)
        learn = known >= 1.3 * self._learned
        for axis in learned:
            axis.surrogate.fit(rows, np.array(axis.losses), learn=learn)
        self._learned = known if learn else self._learned
        self._aim()
        losses = np.stack([axis.scaled(np.array(axis.losses)) for axis in self._axes], axis=1)
        eligible = np.flatnonzero(self._eligible)
        members = eligible[non_dominated(losses[eligible])]
        pool = Pool(self._axes, losses[members], self._prefixes, len(self._space.choices), self._failing(learn))
        near = self._menu.moved(rows[members] if len(members) else rows)
        pool.add(self._fresh(neighbours(near, self._menu.kept, _POOL, self._rng)))
        pool.add(self._fresh(near))
        if learn:
            costs = [axis.cost for axis in self._axes if axis.cost is not None]
            for axis in learned:
                score = axis.surrogate.additive()
                pool.add(self._fresh(predicted_front(score, costs, self._limits(), self._menu.kept, _POOL)))
        pool.add(self._random(_RANDOM))
        for _ in range(_HOPS):
            pool.add(self._fresh(neighbours(pool.best(_BEST), self._menu.kept, _POOL, self._rng)))
        picked: list[NDArray[np.int16]] = []
        while len(picked) < n and len(pool.rows):
            self._asked += 1
            turn = int(self._asked * self._explore) > int((self._asked - 1) * self._explore)
            picked.append(pool.pop(explore=turn or pool.promise < _NEGLIGIBLE))
        return np.array(picked, dtype=np.int16).reshape(len(picked), len(self._space.choices))

    def _aim(self) -> None:
        """Set up to where losses count in this round, by a menu of several kinds: of learned goals without a limit."""
        self._rounds += 1
        if not self._menu.measured or self._base not in self._rows:
            return
        at = self._rows.index(self._base)
        for axis, worst in zip(self._axes, self._worst, strict=True):
            if axis.cost is None and axis.goal.limit is None and axis.losses[at] > axis.ideal:
                near = axis.ideal + _NEAR * (axis.losses[at] - axis.ideal)
                axis.worst = worst if self._rounds % _FAR_EVERY == 0 else min(worst, near)

    def _limits(self) -> list[float | None]:
        """The most that each known cost may be; None for any."""
        return [
            axis.bound if axis.goal.limit is not None and axis.goal.limit.sense == "<=" else None
            for axis in self._axes
            if axis.cost is not None
        ]

    def _failing(self, learn: bool) -> Surrogate | None:
        """A model of what fails: 1 for an assignment that was measured, 2 for one that failed; None if none did."""
        if not self._failed:
            return None
        outcomes = np.repeat([1.0, 2.0], [len(self._rows), len(self._failed)])
        self._outcome.fit(np.array(self._rows + self._failed, dtype=np.int16), outcomes, learn=learn)
        return self._outcome

    def _fresh(self, rows: Rows) -> Rows:
        """Those that were not asked and that no limit on a cost forbids."""
        rows = unseen(rows, self._seen)
        return rows[np.logical_and.reduce([axis.allowed(rows) for axis in self._axes])]

    def _random(self, n: int) -> Rows:
        """At most `n` allowed rows that were not asked; none only where there are none, or next to none."""
        if self._space.size <= _SMALL:
            rows = self._fresh(np.array(list(map(self._space.encode, self._space.assignments())), dtype=np.int16))
            on_menu = (self._menu.moved(rows) == rows).all(axis=1)
            rows = rows[on_menu] if on_menu.any() else rows
            return rows[np.sort(self._rng.permutation(len(rows))[:n])]
        for menu in (self._menu, Menu.whole(self._space)):
            rows = anywhere(menu.kept, 20 * n, self._rng)
            if len(self._cheapest):
                rows = towards(rows, self._cheapest, self._rng)
            if len(rows := self._fresh(rows)):
                break
        return rows[:n]
