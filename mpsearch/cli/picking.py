"""One member of a front, or some, as `--where` and `--pick` name them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mpsearch.core.errors import BadInput, NothingFeasible

if TYPE_CHECKING:
    from mpsearch.core.evaluation import Evaluation
    from mpsearch.core.front import Front
    from mpsearch.engine.result import RunResult

PICK_HELP = "One member: knee, best:GOAL, cheapest:GOAL, key:PREFIX or its row."
WHERE_HELP = "Only members with, for example, 'memory_bytes<=200000' or 'latency_s<=1e-3'. Repeatable."
_WHERE = re.compile(r"\s*(?P<name>[^<>=\s]+)\s*(?P<limit>(<=|>=).*)")
_PICK = re.compile(r"(?P<word>best|cheapest):(?P<goal>.+)")


def front_where(result: RunResult, where: list[str]) -> Front:
    """The members of a front that meet all of `where`. Raises `NothingFeasible` where none of some does."""
    from mpsearch.core.front import Front

    members = tuple(e for e in result.front.members if _meets(e, where, result))
    if result.front.members and not members:
        raise NothingFeasible(f"no member of the front meets {' and '.join(where)}.")
    return Front(result.front.goals, members)


def picked(result: RunResult, where: list[str], pick: str) -> Evaluation:
    """The member that `pick` names among those that meet `where`. Raises `BadInput`, `NothingFeasible`."""
    return front_where(result, where).pick(_in_full(pick, result))


def _in_full(pick: str, result: RunResult) -> str:
    """`best:latency_s` as `best:latency_s@nvidia-t4`, where one accelerator alone is a goal of it."""
    from mpsearch.engine.measures import meant

    match = _PICK.fullmatch(pick)
    if match is None:
        return pick
    try:
        return f"{match['word']}:{meant(match['goal'], [goal.name for goal in result.front.goals])}"
    except BadInput as error:
        raise BadInput(f"--pick {pick!r}: {error}") from None


def _meets(evaluation: Evaluation, conditions: list[str], result: RunResult) -> bool:
    from mpsearch.core.goal import Goal, Limit
    from mpsearch.engine.measures import meant

    for text in conditions:
        match = _WHERE.fullmatch(text)
        if match is None:
            raise BadInput(f"--where {text!r} is not understood; write for example 'memory_bytes<=200000'.")
        try:
            name = meant(match["name"], evaluation.measures)
        except BadInput as error:
            raise BadInput(f"--where {text!r}: {error}") from None
        goal = Goal(name, limit=Limit.parse(match["limit"]))
        if goal.excess(evaluation.measures, result.baseline.measures) > 0:
            return False
    return True
