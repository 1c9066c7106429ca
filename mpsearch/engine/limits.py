"""What limits ask for and what can be had: refused before the search where arithmetic tells, else said after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import NothingFeasible
from mpsearch.core.evaluation import BASE
from mpsearch.core.goal import Goal, Limit
from mpsearch.cost.terms import Cost
from mpsearch.engine.costs import Costs
from mpsearch.engine.result import RunResult
from mpsearch.problem.base import Problem


def within_limits(problems: Mapping[str, Problem], goals: Sequence[Goal]) -> list[str]:
    """The variants in which some assignment keeps to the limits on costs, as `refuse_unreachable` tells.

    Raises `NothingFeasible`, of the base, where there is none.
    """
    floats = problems[BASE].costs(Assignment())
    refused: dict[str, NothingFeasible] = {}
    for variant, problem in problems.items():
        try:
            refuse_unreachable(problem, goals, floats)
        except NothingFeasible as error:
            refused[variant] = error
    if len(refused) == len(problems):
        raise refused[BASE]
    return [variant for variant in problems if variant not in refused]


def refuse_unreachable(problem: Problem, goals: Sequence[Goal], baseline: Mapping[str, float] | None = None) -> None:
    """Raise `NothingFeasible`, naming the tightest reachable value, where no assignment keeps to the limits on costs.

    Looks at upper limits on costs that the problem has as tables. Nothing is refused where the float model, which may
    lie outside the space, keeps to them.

    Args:
        baseline: costs of the float model that limits refer to; None for the problem's own.
    """
    own = problem.costs(Assignment())
    floats = own if baseline is None else baseline
    limited: list[tuple[Goal, Limit, Cost]] = []
    for goal in goals:
        cost = problem.cost(goal.name)
        if cost is not None and goal.limit is not None and goal.limit.sense == "<=":
            limited.append((goal, goal.limit, cost))
    if not any(goal.excess(own, floats) for goal, _, _ in limited):
        return
    from mpsearch.cost.solve.program import best, tightest  # late: scipy takes long to load, and few runs need it

    errors = []
    for goal, limit, cost in limited:
        least = tightest(cost)
        if goal.excess({goal.name: least}, floats):
            errors.append(
                f"goals: {goal.name} {limit} cannot be met: {_plain(least)} is the least that any assignment has. "
                "Write that or more, or offer narrower formats."
            )
    if errors:
        raise NothingFeasible("\n".join(errors))
    budgets = [limit.bound(floats[goal.name]) for goal, limit, _ in limited]
    anything = [np.zeros(len(choice.options)) for choice in problem.space.choices]
    best(anything, [cost for _, _, cost in limited], budgets, names=[goal.name for goal, _, _ in limited])


def reach(problem: Problem) -> dict[str, tuple[float, float]]:
    """The least and the most that each cost can measure over the space, exactly; without those that have no tables."""
    from mpsearch.cost.solve.program import loosest, tightest  # late: scipy takes long to load

    found = {name: problem.cost(name) for name in problem.costs(Assignment())}
    return {name: (tightest(cost), loosest(cost)) for name, cost in found.items() if cost is not None}


def unmet(result: RunResult) -> str:
    """Each limit of an infeasible `result` that nothing met, with the best value reached; all where each was met."""
    baseline = result.baseline.measures
    done = [e.measures for e in result.evaluations if e.is_full]
    reached: dict[str, float] = {}
    missed, limited = [], [goal for goal in result.front.goals if goal.limit is not None]
    for goal in limited:
        assert goal.limit is not None
        values = [measures[goal.name] for measures in done]
        reached[goal.name] = min(values) if goal.limit.sense == "<=" else max(values)
        if goal.excess(reached, baseline):
            missed.append(goal)
    labelled = Costs.read(result.folder).labelled
    named = [f"{labelled(g.name)} {g.limit} (the best reached is {_plain(reached[g.name])})" for g in missed or limited]
    return " and ".join(named) if missed else f"{' and '.join(named)} together"


def _plain(value: float) -> str:
    """To all its digits, so that it can be written into a limit."""
    return repr(float(value)).removesuffix(".0")
