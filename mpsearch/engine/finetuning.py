"""After a search: the most promising assignments are trained, and scored like everything else."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import Front, Scale, hypervolume
from mpsearch.core.goal import Goal
from mpsearch.engine.measures import is_cost
from mpsearch.engine.result import RunResult
from mpsearch.engine.session import LedgerSession
from mpsearch.spec.schema import FinetuneSpec

log = logging.getLogger("mpsearch.run")


def finetune_promising(sessions: Mapping[str, LedgerSession], spec: FinetuneSpec, found: RunResult) -> None:
    """Finetune the most promising assignments of a search, each in the session of its variant.

    What the ledger knows is not trained again.
    """
    chosen = promising(found, spec.top)
    log.info("finetuning %s assignments by recipe %s", len(chosen), spec.recipe.digest)
    for number, evaluation in enumerate(chosen, start=1):
        sessions[evaluation.variant].finetune(spec.recipe, evaluation.assignment, f"{number}/{len(chosen)}")


def promising(found: RunResult, top: int) -> list[Evaluation]:
    """At most `top` assignments of a search that training may put on the front, in the order of the front.

    Those that no other beats while limits on what is measured are left aside, for training can lift what misses them.
    Where there are more, the ones that together have the largest hypervolume, added one by one.
    """
    goals = [Goal(g.name, g.maximise, g.limit if is_cost(g.name) else None) for g in found.front.goals]
    searched = [e for e in found.evaluations if e.is_searched and e.assignment]
    members = Front.of(searched, goals, found.baseline.measures).members
    front = list({(e.variant, e.assignment): e for e in members}.values())
    if len(front) <= top:
        return front
    losses = Scale.of(front, front, goals).losses(front) / 1.1  # the worst of each goal still counts a little
    chosen: list[int] = []
    while len(chosen) < top:
        rest = [i for i in range(len(front)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: hypervolume(losses[np.array([*chosen, i])])))
    return [front[i] for i in sorted(chosen)]
