"""Proxies: search without measuring first, and the controls that tell whether the proxy knew anything.

A proxy predicts the harm of an option at a site as importance (of the site) times harm (of the option, such as its
quantization error) and adds up over sites. The exact front of that score against the costs is known at once. Much of
what such a front reaches comes from the solver and the costs alone, so the same solver also gets constant and random
importance, with the same number of points: a proxy that does not beat them carries no information.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.cost.solve.front import front
from mpsearch.cost.terms import Cost
from mpsearch.drivers.base import Driver, Session

Floats = NDArray[np.float64]
Scores = Mapping[str, Floats]
"""By site: a score [options] for each option of the choice that decides the site."""

CONSTANT, RANDOM = "constant", "random"
SHARED = "+"
"""Joins the names of the arms that ask for the same assignment."""
OWN = "proxy"
"""Name of the proxy itself among the arms that share an assignment."""

FEWEST = 3
DRAWS = 4
_ROUND = 8
log = logging.getLogger("mpsearch.run")


class Proxy(Driver):
    """Evaluates points spread over the exact fronts of the proxy's score and of its controls, an equal number each.

    An assignment that several arms ask for is asked once, under all their names (`hessian proxy+constant`): it counts
    for each. Ends when the fronts are exhausted.
    """

    @abstractmethod
    def importance(self, session: Session) -> Mapping[str, float]:
        """By site that has a choice: how much an error there matters, above 0. Raises `BadInput` where it has none."""

    @abstractmethod
    def harm(self, session: Session) -> Scores:
        """By site that has a choice: the error [options] that each option makes there, at least 0, in any unit."""

    def scores(self, importance: Mapping[str, float], harm: Scores) -> Scores:
        """By site: the predicted rise of the loss [options], to be added up over sites."""
        return {site: importance[site] * found for site, found in harm.items()}

    def search(self, session: Session) -> None:
        goals_of(session)  # refuses before anything expensive
        if len(session.space.choices) < FEWEST:
            log.warning(
                "a proxy over %d choices carries no information: it ranks sites, and there are fewer than %d.",
                *(len(session.space.choices), FEWEST),
            )
        importance, harm = self.importance(session), self.harm(session)
        arms = {"": [self.scores(importance, harm)]} | self.controls(importance, harm, session.seed)
        queues = {label: _alternate([points(session, by_site) for by_site in many]) for label, many in arms.items()}
        ask(session, queues)

    def controls(self, importance: Mapping[str, float], harm: Scores, seed: int) -> dict[str, list[Scores]]:
        """By label: scores that know the harm and not where it matters; several of one label share its points.

        Random importance is log-normal, as spread as the proxy's own: only the order of the sites is lost.
        """
        spread_of_own = np.log([max(importance[site], 1e-30) for site in harm]).std()
        draws = np.exp(np.random.default_rng(seed).normal(0.0, spread_of_own, size=(DRAWS, len(harm))))
        random: list[Scores] = [
            {site: w * found for w, (site, found) in zip(row, harm.items(), strict=True)} for row in draws
        ]
        return {CONSTANT: [harm], RANDOM: random}


def goals_of(session: Session) -> tuple[list[Cost], list[float | None]]:
    """The goals whose cost is a table over the choices, and the limit of each; raises `BadInput` if there is none."""
    costs, limits = [], []
    baseline = session.evaluations[0].measures if session.evaluations else {}
    for goal in session.goals:
        cost = session.problem.cost(goal.name)
        if cost is not None and not goal.maximise:
            costs.append(cost)
            capped = goal.limit is not None and goal.limit.sense == "<="
            limits.append(goal.limit.bound(baseline[goal.name]) if goal.limit is not None and capped else None)
    if not costs:
        names = ", ".join(goal.name for goal in session.goals)
        raise BadInput(
            f"goals: {names}: a proxy is weighed against a cost that follows from the formats, and there is none; "
            "add the goal memory_bytes, or search with driver frontier."
        )
    return costs, limits


def points(session: Session, scores: Scores) -> list[Assignment]:
    """The exact front of additive `scores` against the cost goals, the most telling points first (see `spread`)."""
    costs, limits = goals_of(session)
    score = [np.sum([scores[site] for site in choice.sites], axis=0) for choice in session.space.choices]
    solved = front(score, costs, limits)
    return [session.space.decode(solved.indices[i].tolist()) for i in spread(solved.costs)]


def spread(costs: ArrayLike) -> list[int]:
    """Rows of `costs` [n, costs] in such an order that every beginning is spread evenly over them, in log cost.

    The two ends of the first cost, then always the row farthest from those taken: halves, quarters, eighths.
    """
    logs = np.log2(np.maximum(np.asarray(costs, dtype=float), 1.0))
    if not len(logs):
        return []
    span = np.ptp(logs, axis=0)
    logs = (logs - logs.min(axis=0)) / np.where(span > 0, span, 1.0)
    taken = [int(logs[:, 0].argmin())]
    apart = np.abs(logs - logs[taken[0]]).max(axis=1)
    while len(taken) < len(logs):
        # ends first: the far end of the first cost is the farthest row of a front with one cost anyway
        following = int(logs[:, 0].argmax()) if len(taken) == 1 else int(np.where(apart < 0, -1.0, apart).argmax())
        if following in taken:
            following = int(apart.argmax())
        taken.append(following)
        apart = np.minimum(apart, np.abs(logs - logs[following]).max(axis=1))
        apart[taken] = -1.0
    return taken


def ask(session: Session, queues: Mapping[str, Sequence[Assignment]]) -> None:
    """Evaluate the first n assignments of each queue under its label, n as large as the budget allows."""
    known = {evaluation.assignment for evaluation in session.evaluations}
    longest = max(map(len, queues.values()))
    left, n = session.budget_left, longest
    if left is not None:
        fresh: set[Assignment] = set()
        for n in range(longest + 1):
            fresh |= {queue[n] for queue in queues.values() if n < len(queue)} - known
            if len(fresh) > left:
                break
    askers: dict[Assignment, list[str]] = {}
    for label, queue in queues.items():
        for assignment in queue[:n]:
            askers.setdefault(assignment, []).append(label)
    for begin in range(0, n, _ROUND):
        now = [a for queue in queues.values() for a in queue[begin : begin + _ROUND]]
        by_label: dict[str, list[Assignment]] = {}
        for assignment in dict.fromkeys(a for a in now if a in askers and a not in known):
            who = askers[assignment]
            label = who[0] if len(who) == 1 else SHARED.join(name or OWN for name in who)
            by_label.setdefault(label, []).append(assignment)
            known.add(assignment)
        for label, assignments in by_label.items():
            session.evaluate(assignments, label)


def _alternate(queues: Sequence[Sequence[Assignment]]) -> list[Assignment]:
    """The first of each queue, then the second of each, and so on, without repeats."""
    longest = max(map(len, queues))
    return list(dict.fromkeys(queue[i] for i in range(longest) for queue in queues if i < len(queue)))
