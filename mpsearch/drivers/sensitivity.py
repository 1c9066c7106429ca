"""Measured sensitivity: every option of every choice evaluated alone, all else at its widest, and the rises added up.

The strongest cheap yardstick for anything that predicts: with the cache an evaluation of one narrowed site costs a part
of a forward. Two ways to go on from the measured rises:

* `exact`: the whole front of their sum against the costs, points spread over it;
* `greedy`: narrow one step at a time in the order of the rises, least sensitive first. With two formats this is the
  partial quantization of Wu et al., "Integer Quantization for Deep Learning Inference", 2020, arXiv 2004.09602, walked
  from its other end: they leave the most sensitive layers in float until the accuracy is met. More than two formats,
  and points spread over the whole path instead of the first that meets a target, are our own. No cost is looked at.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.goal import Goal
from mpsearch.core.space import Space
from mpsearch.cost.solve.solutions import evenly
from mpsearch.drivers.base import Driver, Session
from mpsearch.drivers.proxy import ask, cost_goals, points

PATHS = ("exact", "greedy")
LOG_LOSS = "log_loss"
_MOST = 256
log = logging.getLogger("mpsearch.drivers")


class Sensitivity(Driver):
    """One option at a time, then points on the front (or along the path) that the sum of the rises predicts.

    The rise is that of `log_loss` where the objective measures one, being smoother than what counts hits, else that of
    the first goal that is no cost. Ends when the front or the path is exhausted.

    Args:
        path: `exact` or `greedy`.
    """

    def __init__(self, path: str = "exact") -> None:
        if path not in PATHS:
            raise BadInput(f"unknown path {path!r}.{nearest(path, PATHS)}")
        self._path = path

    def check(self, session: Session) -> None:
        if self._path == "exact":
            cost_goals(session)
        if all(session.problem.cost(goal.name) is not None for goal in session.goals):
            raise BadInput("goals: every goal is a cost, so there is no sensitivity to measure; add a goal of quality.")

    def search(self, session: Session) -> None:
        rises = self.rises(session)
        if self._path == "greedy":
            ask(session, {"": _narrowing(session, rises)})
            return
        by_site = {c.sites[0]: rise for c, rise in zip(session.space.choices, rises, strict=True)}
        ask(session, {"": points(session, by_site, session.budget_left or _MOST)})

    def rises(self, session: Session) -> list[NDArray[np.float64]]:
        """Rise of the loss [options] per choice against all widest; of an option that failed, far above any other."""
        space, goal = session.space, _quality(session)
        widest = _widest(space)
        alone = {
            (i, k): space.decode([*widest[:i], k, *widest[i + 1 :]])
            for i, choice in enumerate(space.choices)
            for k in sorted(range(len(choice.options)), key=lambda k: choice.options[k].bits)
        }
        wanted = list(dict.fromkeys([space.decode(widest), *alone.values()]))
        known = {evaluation.assignment for evaluation in session.evaluations}
        missing, left = sum(a not in known for a in wanted), session.budget_left
        if left is not None and missing > left:
            log.warning(
                "sensitivity needs %d evaluations to measure every option alone, and %d are left: no front follows.",
                *(missing, left),
            )
        done = dict(zip(wanted, session.evaluate(wanted), strict=True))
        reference = done[space.decode(widest)]
        base = 0.0 if reference.failure else goal.loss(reference.measures)
        rises = [np.zeros(len(choice.options)) for choice in space.choices]
        for (i, k), assignment in alone.items():
            found = done[assignment]
            rises[i][k] = np.nan if found.failure else goal.loss(found.measures) - base
        worst = max((np.nanmax(rise) for rise in rises if not np.isnan(rise).all()), default=0.0)
        return [np.where(np.isnan(rise), 10 * abs(worst) + 1.0, rise) for rise in rises]


def _quality(session: Session) -> Goal:
    """What the rise is measured in."""
    if LOG_LOSS in session.evaluations[0].measures:
        return Goal(LOG_LOSS)
    return next(goal for goal in session.goals if session.problem.cost(goal.name) is None)


def _widest(space: Space) -> list[int]:
    return [int(np.argmax([option.bits for option in choice.options])) for choice in space.choices]


def _narrowing(session: Session, rises: list[NDArray[np.float64]]) -> list[Assignment]:
    """From all widest, one choice narrowed a step at a time by rising sensitivity; its points in the order of `spread`.

    A narrower option comes after every wider one of its choice, so it ranks by the largest rise up to it.
    """
    space = session.space
    steps = []
    for i, (choice, rise) in enumerate(zip(space.choices, rises, strict=True)):
        order = sorted(range(len(choice.options)), key=lambda k: -choice.options[k].bits)
        ranks = np.maximum.accumulate(rise[order])
        steps += [(rank, place, i, k) for place, (rank, k) in enumerate(zip(ranks, order, strict=True)) if place]
    indices = _widest(space)
    path = [space.decode(indices)]
    for _, _, i, k in sorted(steps):
        indices[i] = k
        path.append(space.decode(indices))
    return [path[row] for row in evenly(np.arange(float(len(path)))[:, None])]
