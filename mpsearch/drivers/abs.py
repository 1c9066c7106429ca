"""SGQuant's automatic bit selecting: measure what a regression tree, fitted on what was measured, predicts to be best.

Source: Feng et al., "SGQuant: Squeezing the Last Bit on Graph Neural Networks with Specialized Quantization", ICTAI
2020, arXiv 2007.05100. The scheme is theirs: a round of random assignments; then, again and again, a tree from bits to
accuracy, a large random pool without what is over the memory limit (memory is computed, never predicted), and the best
predicted of it are measured. Their code for it was never published, so these are our own:

* every number: assignments of a round and of the pool, 2 samples a leaf, the share of random picks;
* several goals: one tree for each measured goal, and the best are taken by non-dominated sorting of predictions and
  exact costs, the last layer thinned by crowding distance as in NSGA-II. With one goal that is the order of its
  predictions, as published. A limited memory is a goal here, so a round spreads over the front within the limit, where
  the published one stays at its most accurate end; of equal predictions the cheaper one comes first in both;
* limits on costs hold in every round, the first and the random picks too;
* limits on measured goals: what is predicted to miss one comes after all that is not;
* the controls of the run are the first samples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeRegressor

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import Losses, non_dominated
from mpsearch.core.space import Space
from mpsearch.drivers.base import AskTell, Session

Codes = NDArray[np.intp]

_N_MEAS = 20
_LEAF = 2
log = logging.getLogger("mpsearch.drivers")


class Abs(AskTell):
    """Regression trees rank a random pool, the best predicted are measured; no assignment is asked twice.

    Args:
        n_meas: assignments measured in a round; None for 20, but no more than a quarter of the budget.
        n_pool: assignments drawn in a round to choose from; a space that is no larger is taken whole.
        explore: share of a round picked at random from the pool, so that the trees cannot lock themselves in.
    """

    def __init__(self, n_meas: int | None = None, n_pool: int = 2000, explore: float = 0.15) -> None:
        if n_meas is not None and n_meas < 1:
            raise BadInput(f"n_meas={n_meas} is not possible; at least 1 assignment is measured in a round.")
        if n_pool < (n_meas or 1):
            raise BadInput(
                f"n_pool={n_pool} is not possible; the pool holds at least n_meas={n_meas or 1} assignments."
            )
        if not 0 <= explore <= 1:
            raise BadInput(f"explore={explore} is not possible; it is a share of a round, from 0 to 1.")
        self._n_meas, self._n_pool, self._explore = n_meas, n_pool, explore

    def start(self, session: Session) -> None:
        self._space, self._goals, self._seed = session.space, session.goals, session.seed
        self._rng = np.random.default_rng(session.seed)
        self._costs = [session.problem.cost(goal.name) for goal in session.goals]
        self._columns = _columns(session.space)
        left = session.budget_left
        self.batch = self._n_meas or (_N_MEAS if left is None else min(_N_MEAS, max(1, left // 4)))
        known = session.evaluations
        self._baseline = session.baseline if known else {}
        self._asked: set[tuple[int, ...]] = set()
        self._codes: list[tuple[int, ...]] = []
        self._losses: list[list[float]] = []
        self._first = True
        self._asked.update(self._learn([e for e in known if e.assignment in session.space]))

    def ask(self, n: int) -> list[Assignment]:
        pool = self._allowed(self._pool())
        n = min(n, len(pool))
        guided = 0 if self._first else n - int(self._rng.binomial(n, self._explore))
        self._first = False
        if guided and len(self._codes) < 2 * _LEAF:
            log.warning(
                "abs: a tree needs %s evaluations that succeeded, there are %s; this round is random.",
                2 * _LEAF,
                len(self._codes),
            )
            guided = 0
        best = self._best(pool, guided) if guided else []
        others = np.setdiff1d(np.arange(len(pool)), best)
        picked = [*best, *self._rng.permutation(others)[: n - len(best)]]
        asked = [tuple(map(int, pool[i])) for i in picked]
        self._asked.update(asked)
        return [self._space.decode(code) for code in asked]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._learn(evaluations)

    def _learn(self, evaluations: Sequence[Evaluation]) -> list[tuple[int, ...]]:
        """Add what succeeded to the samples. Returns the option indices of all `evaluations`."""
        codes = [self._space.encode(e.assignment) for e in evaluations]
        for code, done in zip(codes, evaluations, strict=True):
            if done.failure is None:
                self._codes.append(code)
                self._losses.append([goal.loss(done.measures) for goal in self._goals])
        return codes

    def _pool(self) -> Codes:
        """Option indices [n, choices] of assignments not asked yet; none where all were."""
        sizes = [len(choice.options) for choice in self._space.choices]
        if self._space.size <= self._n_pool:
            fresh = [code for code in product(*map(range, sizes)) if code not in self._asked]
            return np.array(fresh, dtype=np.intp).reshape(len(fresh), len(sizes))
        while len(self._asked) < self._space.size:
            drawn = map(tuple, self._rng.integers(sizes, size=(self._n_pool, len(sizes))).tolist())
            if fresh := [code for code in dict.fromkeys(drawn) if code not in self._asked]:
                return np.array(fresh, dtype=np.intp)
        return np.empty((0, len(sizes)), dtype=np.intp)

    def _allowed(self, pool: Codes) -> Codes:
        """Those of `pool` that no limit on a cost forbids; all where it forbids all."""
        within = np.ones(len(pool), dtype=bool)
        for goal, cost in zip(self._goals, self._costs, strict=True):
            if goal.limit is not None and cost is not None and len(pool):
                bound = goal.limit.bound(self._baseline.get(goal.name, math.nan))
                values = cost(pool)
                within &= values <= bound if goal.limit.sense == "<=" else values >= bound
        return pool[within] if within.any() else pool

    def _best(self, pool: Codes, n: int) -> list[int]:
        """Rows of the `n` best of `pool`: first what keeps all limits, in layers; then what misses them least."""
        losses = self._predicted(pool)
        missed = self._missed(losses)
        within = np.flatnonzero(missed == 0.0)
        best = [int(within[i]) for i in best_by_layers(losses[within], n)]
        over = [int(i) for i in np.argsort(missed, kind="stable") if missed[i] > 0.0]
        return [*best, *over[: n - len(best)]]

    def _predicted(self, pool: Codes) -> Losses:
        """Losses [n, goals] of `pool`: exact where the problem has tables for the cost, else by a tree."""
        features, samples = self._features(pool), self._features(np.array(self._codes, dtype=np.intp))
        measured = np.array(self._losses)
        columns = []
        for j, (goal, cost) in enumerate(zip(self._goals, self._costs, strict=True)):
            if cost is not None:
                columns.append(-cost(pool) if goal.maximise else cost(pool))
                continue
            tree = DecisionTreeRegressor(min_samples_leaf=_LEAF, random_state=self._seed)
            columns.append(tree.fit(samples, measured[:, j]).predict(features))
        return np.stack(columns, axis=1)

    def _features(self, codes: Codes) -> NDArray[np.float64]:
        return np.stack([table[codes[:, i]] for i, table in self._columns], axis=1)

    def _missed(self, losses: Losses) -> NDArray[np.float64]:
        """Sum over goals of the relative excess over the limit [n]; 0 where all limits hold."""
        total = np.zeros(len(losses))
        for j, goal in enumerate(self._goals):
            if goal.limit is not None:
                baseline = self._baseline.get(goal.name, math.nan)
                values = -losses[:, j] if goal.maximise else losses[:, j]
                excess = np.array([goal.limit.excess(value, baseline) for value in values])
                total += excess / max(abs(goal.limit.bound(baseline)), 1e-12)
        return total


def best_by_layers(losses: Losses, n: int) -> list[int]:
    """`n` rows of `losses` [rows, goals]: front after front; the one that does not fit gives its most lonely rows.

    With one goal, the `n` smallest.
    """
    picked: list[int] = []
    left = np.arange(len(losses))
    while len(left) and len(picked) < n:
        on_front = non_dominated(losses[left])
        layer, left = left[on_front], left[~on_front]
        if len(layer) > n - len(picked):
            layer = layer[np.argsort(-_crowding(losses[layer]), kind="stable")[: n - len(picked)]]
        picked += map(int, layer)
    return picked


def _crowding(losses: Losses) -> NDArray[np.float64]:
    """Crowding distance [n] of a front (Deb et al., 2002): sides of the box between neighbours; ends infinite."""
    distance = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance


def _columns(space: Space) -> list[tuple[int, NDArray[np.float64]]]:
    """The features: for each choice the bits of its options, and their index too where two options share bits."""
    columns = []
    for i, choice in enumerate(space.choices):
        bits = [fmt.bits for fmt in choice.options]
        columns.append((i, np.array(bits, dtype=float)))
        if len(set(bits)) < len(bits):
            columns.append((i, np.arange(len(bits), dtype=float)))
    return columns
