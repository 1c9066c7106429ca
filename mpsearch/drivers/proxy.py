"""Proxies: search without measuring first, and the controls that tell whether the proxy knew anything.

A proxy predicts the harm of an option at a site as importance (of the site) times harm (of the option, such as its
quantization error) and adds up over sites. The exact front of that score against the costs is known at once. Much of
what such a front reaches comes from the solver and the costs alone, so the same solver also gets constant and random
importance, with the same number of points: a proxy that does not beat them carries no information.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.goal import Goal
from mpsearch.cost.solve.front import front
from mpsearch.cost.solve.solutions import spread
from mpsearch.drivers.base import Driver, Session

Floats = NDArray[np.float64]
Scores = Mapping[str, Floats]
"""By site: a score [options] for each option of the choice that decides the site."""

CONSTANT, RANDOM, MORE = "constant", "random", "more"
SHARED = "+"
"""Joins the names of the arms that ask for the same assignment."""
OWN = "proxy"
"""Name of the proxy itself among the arms that share an assignment."""

FEWEST = 3
"""Choices that a proxy needs to have anything to rank."""
DRAWS = 4
"""Random importances that share the points of the random control."""
TINY = 1e-30
_ROUND = 8
_MOST, _WHOLE = 256, 4096
log = logging.getLogger("mpsearch.drivers")


class Proxy(Driver):
    """Evaluates points spread over the exact fronts of the proxy's score and of its controls, an equal number each.

    An assignment that several arms ask for is asked once, under all their names (`hessian proxy+constant`): it counts
    for each. Ends when the fronts are exhausted.
    """

    @abstractmethod
    def importance(self, session: Session) -> Mapping[str, float]:
        """By site: how much an error there matters, above 0."""

    @abstractmethod
    def harm(self, session: Session) -> Scores:
        """By site that has several options: the error that each makes there, at least 0, in any unit."""

    def scores(self, session: Session, importance: Mapping[str, float], harm: Scores) -> Scores:
        """By site: the predicted rise of the loss, to be added up over sites."""
        del session
        return weighed(importance, harm)

    def points(self, session: Session, scores: Scores, most: int) -> list[Assignment]:
        """At most so many assignments that are best by `scores`, the most telling first."""
        return points(session, scores, most)

    def check(self, session: Session) -> None:
        cost_goals(session)

    def search(self, session: Session) -> None:
        open_choices = sum(len(choice.options) > 1 for choice in session.space.choices)
        if open_choices < FEWEST:
            log.warning(
                "a proxy over %d choices carries no information: it ranks them, and there are fewer than %d.",
                *(open_choices, FEWEST),
            )
        if not open_choices:
            return
        importance, harm = self.importance(session), self.harm(session)
        arms = {"": [self.scores(session, importance, harm)]} | controls(importance, harm, session.seed)
        most = _MOST if session.budget_left is None else session.budget_left
        queues = {
            label: alternate([self.points(session, scores, -(-most // min(2, len(draws)))) for scores in draws])
            for label, draws in arms.items()
        }
        ask(session, queues)


def weighed(importance: Mapping[str, float], harm: Scores) -> Scores:
    """Importance times harm, by site."""
    return {site: importance[site] * found for site, found in harm.items()}


def controls(importance: Mapping[str, float], harm: Scores, seed: int) -> dict[str, list[Scores]]:
    """By label: scores that know the harm of the options and not which sites matter; those of a label share its points.

    Random importance is log-normal, as spread as the proxy's own, so that nothing but the order of the sites is lost.
    """
    spread_of_own = np.log([max(importance[site], TINY) for site in harm]).std() if harm else 0.0
    draws = np.exp(np.random.default_rng(seed).normal(0.0, spread_of_own, size=(DRAWS, len(harm))))
    return {CONSTANT: [harm], RANDOM: [weighed(dict(zip(harm, row.tolist(), strict=True)), harm) for row in draws]}


def cost_goals(session: Session) -> list[Goal]:
    """The goals to minimise whose cost is a table over the choices. Raises `BadInput` if there is none."""
    found = [goal for goal in session.goals if not goal.maximise and session.problem.cost(goal.name) is not None]
    if not found:
        names = ", ".join(goal.name for goal in session.goals)
        raise BadInput(
            f"goals: {names}: what is predicted is weighed against a cost that follows from the formats, and none is "
            "among them; add the goal memory_bytes, or search with driver frontier."
        )
    return found


def points(session: Session, scores: Scores, most: int) -> list[Assignment]:
    """The exact front of `scores` against the cost goals, in the order of `spread`.

    At most so many points; a front against a single sum comes whole. A site without scores adds nothing; a choice adds
    up over its sites. Raises `NothingFeasible` where no assignment is within the limits of the costs.
    """
    goals = cost_goals(session)
    costs = [cost for goal in goals if (cost := session.problem.cost(goal.name)) is not None]
    limits = [
        goal.limit.bound(session.baseline[goal.name]) if goal.limit is not None and goal.limit.sense == "<=" else None
        for goal in goals
    ]
    rows = [
        np.sum([scores.get(site, np.zeros(len(choice.options))) for site in choice.sites], axis=0)
        for choice in session.space.choices
    ]
    one_sum = len(costs) == 1 and len(costs[0].rows) == 1
    solved = front(rows, costs, limits, most=_WHOLE if one_sum else max(1, most))
    return [session.space.decode(solved.indices[i].tolist()) for i in spread(solved.costs)]


def ask(session: Session, queues: Mapping[str, Sequence[Assignment]]) -> None:
    """Evaluate the first n assignments of each queue under its label, n as large as the budget and all queues allow.

    What is left of the budget goes to the rest of the first queue, under the label `MORE`: no comparison counts it.
    """
    known = {evaluation.assignment for evaluation in session.evaluations}
    n = _ranks(queues.values(), known, session.budget_left)
    askers: dict[Assignment, list[str]] = {}
    for label, queue in queues.items():
        for assignment in queue[:n]:
            askers.setdefault(assignment, []).append(label)
    for begin in range(0, n, _ROUND):  # all arms are as far as each other whenever time runs out
        by_label: dict[str, list[Assignment]] = {}
        for assignment in dict.fromkeys(a for queue in queues.values() for a in queue[begin : min(n, begin + _ROUND)]):
            if assignment not in known:
                who = askers[assignment]
                label = who[0] if len(who) == 1 else SHARED.join(name or OWN for name in who)
                by_label.setdefault(label, []).append(assignment)
        for label, assignments in by_label.items():
            session.evaluate(assignments, label)
            known.update(assignments)
    more = [a for a in next(iter(queues.values()))[n:] if a not in known]
    for begin in range(0, len(more), _ROUND):
        session.evaluate(more[begin : begin + _ROUND], MORE)


def _ranks(queues: Collection[Sequence[Assignment]], known: Set[Assignment], left: int | None) -> int:
    """How many assignments every queue can ask for: as many as it has, and together no more than `left` new ones."""
    fewest = min(map(len, queues))
    fresh: set[Assignment] = set()
    for n in range(fewest):
        fresh |= {queue[n] for queue in queues} - known
        if left is not None and len(fresh) > left:
            return n
    return fewest


def alternate(queues: Sequence[Sequence[Assignment]]) -> list[Assignment]:
    """The first of each queue, then the second of each, and so on, without repeats."""
    longest = max(map(len, queues))
    return list(dict.fromkeys(queue[i] for i in range(longest) for queue in queues if i < len(queue)))
