"""After a search: the most promising assignments are trained, and scored like everything else.

The weights of a member lie in `members/KEY/weights.safetensors` before its line is in the ledger, so a run that was
killed goes on with the one that was in training from its last epoch, and comes to the same weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from mpsearch.core.errors import Diverged, ObjectiveFailed
from mpsearch.core.evaluation import BASE, Evaluation, Failure
from mpsearch.core.front import Front, Scale, hypervolume
from mpsearch.core.goal import Goal
from mpsearch.engine.folder import Folder
from mpsearch.engine.measures import is_cost
from mpsearch.engine.result import RunResult
from mpsearch.engine.session import FLOAT, LedgerSession
from mpsearch.problem.base import Step
from mpsearch.spec.schema import FinetuneSpec

log = logging.getLogger("mpsearch.run")
ASKED_BY = "finetune"
"""Who asks for a finetuned member, in the ledger."""

Show = Callable[[int, int, Step], object]
"""Is told which member of how many is trained, and where its training is."""


class Finetuning:
    """The trainings of one run.

    Args:
        sessions: of each variant, after its search.
        files: of the run.
        spec: how many, and the recipe.
        show: of progress.
    """

    def __init__(
        self, sessions: Mapping[str, LedgerSession], files: Folder, spec: FinetuneSpec, show: Show | None = None
    ) -> None:
        self._sessions, self._files, self._show = sessions, files, show
        self._top, self._recipe = spec.top, spec.recipe
        base = sessions[BASE]
        costs = base.problem.costs(FLOAT)
        self._goal = next((goal for goal in base.goals if goal.name not in costs), None)

    def run(self, found: RunResult) -> None:
        """Finetune the most promising assignments of a search; what the ledger knows is not trained again."""
        chosen = promising(found, self._top)
        log.info("finetuning %s assignments by recipe %s", len(chosen), self._recipe.digest)
        for number, evaluation in enumerate(chosen, start=1):
            variant = evaluation.variant
            asked = Evaluation(evaluation.assignment, variant=variant, recipe=self._recipe.digest, asked_by=ASKED_BY)
            self._sessions[variant].record(asked, partial(self._made, number, len(chosen)))

    def score(self, asked: Evaluation) -> Evaluation:
        """`asked` on its split, trained first where its weights are not there any more."""
        weights = self._files.member_weights(asked.key)
        if not weights.is_file():
            self._train(asked, 1, 1)
        return self._sessions[asked.variant].problem.evaluate_finetuned(weights, asked.split)

    def _made(self, number: int, of: int, asked: Evaluation) -> Evaluation:
        try:
            if not self._files.member_weights(asked.key).is_file():
                self._train(asked, number, of)
            return self.score(asked)
        except ObjectiveFailed as error:
            return replace(asked, failure=Failure("nan" if isinstance(error, Diverged) else "error", str(error)))

    def _train(self, asked: Evaluation, number: int, of: int) -> None:
        session = self._sessions[asked.variant]

        def watch(step: Step) -> None:
            session.refuse_after_signal()
            if self._show is not None:
                self._show(number, of, step)

        checkpoint = self._files.member_checkpoint(asked.key)
        trained = session.problem.finetune(asked.assignment, self._recipe, session.seed, self._goal, watch, checkpoint)
        path = self._files.member_weights(asked.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files.write(path, trained.save)
        checkpoint.unlink(missing_ok=True)


def promising(found: RunResult, top: int) -> list[Evaluation]:
    """At most `top` assignments of a search that training may put on the front, in the order of the front.

    Those that no other beats while limits on what is measured are left aside, for training can lift what misses them.
    Where there are more, the ones that together have the largest hypervolume, added one by one.
    """
    goals = [Goal(g.name, g.maximise, g.limit if is_cost(g.name) else None) for g in found.front.goals]
    searched = [e for e in found.evaluations if not e.is_finetuned and e.assignment]
    front = Front.of(searched, goals, found.baseline.measures).members
    if len(front) <= top:
        return list(front)
    losses = Scale.of(front, front, goals).losses(front) / 1.1  # the worst of each goal still counts a little
    chosen: list[int] = []
    while len(chosen) < top:
        rest = [i for i in range(len(front)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: hypervolume(losses[np.array([*chosen, i])])))
    return [front[i] for i in sorted(chosen)]
