"""The trainings of a run: what is trained is kept with it, and scored like everything else.

A training is known by its recipe and the assignment it starts from. In `members/`, by the key of these two,
`checkpoint.pt` says how far it is and `end.json` at which assignment it ended; the weights lie by the key of the member
that it became, before the ledger has its line. So a run that was killed trains nothing twice, goes on with the training
that it was in from its last epoch, and comes to the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, Diverged, ObjectiveFailed
from mpsearch.core.evaluation import BASE, Evaluation, Failure
from mpsearch.core.goal import Goal
from mpsearch.engine.folder import Folder
from mpsearch.problem.base import Problem, Watch
from mpsearch.spec.schema import Recipe


class Trainings:
    """Trains for one run.

    Args:
        problem: trains and scores.
        files: of the run.
        seed: of the run.
        goals: the first of them that is no cost tells which epoch is best.
        variant: of the model that is trained.
    """

    def __init__(self, problem: Problem, files: Folder, seed: int, goals: Sequence[Goal], variant: str = BASE) -> None:
        self._problem, self._files, self._seed, self._variant = problem, files, seed, variant
        costs = problem.costs(Assignment())
        self._goal = next((goal for goal in goals if goal.name not in costs), None)
        self._origins: dict[str, tuple[Recipe, Assignment]] = {}  # of members, by key

    def ended(self, recipe: Recipe, start: Assignment) -> Evaluation | None:
        """The member that a finished training became, not scored; None where it has not ended."""
        path = self._files.training_end(self._member(recipe, start).key)
        if not path.is_file():
            return None
        try:
            end = Assignment.parse(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, AttributeError) as error:
            raise BadInput(f"{path}: not an assignment ({error}); delete it, and resume the run.") from error
        member = self._member(recipe, end)
        self._origins.setdefault(member.key, (recipe, start))
        return member

    def make(self, recipe: Recipe, start: Assignment, watch: Watch) -> Evaluation:
        """Train, unless that is done, and score. A training that fails is a failure at its start."""
        try:
            member = self.ended(recipe, start) or self._train(recipe, start, watch)
            return self.score(member, watch)
        except ObjectiveFailed as error:
            self._write_end(recipe, start, start)
            failure = Failure("nan" if isinstance(error, Diverged) else "error", str(error))
            return replace(self._member(recipe, start), failure=failure)

    def score(self, member: Evaluation, watch: Watch) -> Evaluation:
        """`member` on its split, trained again where its weights are not there any more."""
        weights = self._files.member_weights(member.key)
        if not weights.is_file():
            if member.key not in self._origins:
                raise BadInput(f"{weights} is missing, and nothing says how it was trained; bring it back.")
            self._train(*self._origins[member.key], watch)
        return replace(
            self._problem.evaluate_finetuned(weights, member.split), asked_by=member.asked_by, variant=member.variant
        )

    def _member(self, recipe: Recipe, assignment: Assignment) -> Evaluation:
        """Who has the key of a training from `assignment`, or of what ended there."""
        return Evaluation(assignment, variant=self._variant, recipe=recipe.digest)

    def _train(self, recipe: Recipe, start: Assignment, watch: Watch) -> Evaluation:
        checkpoint = self._files.training_checkpoint(self._member(recipe, start).key)
        trained = self._problem.finetune(start, recipe, self._seed, self._goal, watch, checkpoint)
        weights = self._files.member_weights(self._member(recipe, trained.assignment).key)
        if not weights.is_file():  # a training from elsewhere may have ended there before: the first one counts
            weights.parent.mkdir(parents=True, exist_ok=True)
            self._files.write(weights, trained.save)
        self._write_end(recipe, start, trained.assignment)
        checkpoint.unlink(missing_ok=True)
        member = self.ended(recipe, start)
        assert member is not None
        return member

    def _write_end(self, recipe: Recipe, start: Assignment, end: Assignment) -> None:
        path = self._files.training_end(self._member(recipe, start).key)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(end.texts(), indent=1)
        self._files.write(path, lambda beside: beside.write_text(text, encoding="utf-8"))
