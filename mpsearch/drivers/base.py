"""The interface of a search driver, and of the session it searches in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.goal import Goal
from mpsearch.core.space import Space
from mpsearch.problem.base import Problem
from mpsearch.spec.schema import Recipe


class SearchOver(Exception):
    """Raised by `Session.evaluate` when the budget is spent, time is up or the space is exhausted."""


class Session(ABC):
    """What a driver sees of a run: the space, the goals, and one way to have assignments scored."""

    problem: Problem
    """For what costs nothing to know: `cost` tables, and what a probe of the float model tells. Never to evaluate."""
    space: Space
    goals: tuple[Goal, ...]
    seed: int

    @property
    @abstractmethod
    def evaluations(self) -> Sequence[Evaluation]:
        """Full validation evaluations so far, in ledger order, float and uniform controls first."""

    @property
    def baseline(self) -> Mapping[str, float]:
        """Measures of the float model that limits refer to."""
        return self.evaluations[0].measures

    @property
    @abstractmethod
    def budget_left(self) -> int | None:
        """Distinct evaluations that may still be made; None if only time limits the run."""

    @abstractmethod
    def evaluate(self, assignments: Sequence[Assignment], label: str = "") -> list[Evaluation]:
        """Score `assignments` on the validation split, in the order given; what the ledger holds costs nothing.

        `label` is added to the driver's name in `asked_by`, for drivers that ask for more than one reason.

        Each result is on disk before the next is computed. Raises `SearchOver` when the run has come to its end,
        after recording what the budget still allowed; a driver needs no other stopping rule.
        """

    def learn(self, recipe: Recipe, start: Assignment, label: str = "") -> Evaluation:
        """Train from `start` by `recipe`, and score what it ends as: maybe another assignment, with its weights.

        One evaluation of the budget. What the ledger holds costs nothing; a training that was interrupted goes on from
        its last epoch, and one that has begun is not ended by time. One that diverges is a failure, at `start`.
        Raises `SearchOver` as `evaluate` does. A driver that trains asks `problem.require_training` in its `check`.
        """
        raise NotImplementedError(f"{type(self).__name__} trains nothing ({recipe.method}, {start.key}, {label}).")

    def forbids(self, assignment: Assignment) -> bool:
        """Whether a limit on a cost rules `assignment` out, which arithmetic tells before any forward pass."""
        limited = [goal for goal in self.goals if goal.limit is not None]
        if not limited:
            return False
        costs = self.problem.costs(assignment)
        return any(goal.excess(costs, self.baseline) > 0 for goal in limited if goal.name in costs)


class Driver(ABC):
    """A search method. It owns its loop, never the evaluation.

    A run is resumed by running the driver again with the same seed, the session answering from the ledger. So a
    driver may use nothing but the seed, the space, the goals and what `evaluate` returned.
    """

    def check(self, session: Session) -> None:  # noqa: B027 - most methods can search anything
        """Raise `BadInput`, with the alternative, where this method cannot search. Called before any evaluation."""

    @abstractmethod
    def search(self, session: Session) -> None:
        """Evaluate until `SearchOver` is raised, or return earlier when the method has nothing left to ask."""


class AskTell(Driver):
    """A driver as a pair of questions: which next, and here is what they scored."""

    batch: int = 1

    @abstractmethod
    def start(self, session: Session) -> None:
        """Prepare for a search; called once, before the first `ask`."""

    @abstractmethod
    def ask(self, n: int) -> list[Assignment]:
        """At most `n` assignments of the space; an empty list ends the search."""

    @abstractmethod
    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """The outcome of the last `ask`, in its order, failures included."""

    def search(self, session: Session) -> None:
        self.start(session)
        while asked := self.ask(self.batch):
            self.tell(session.evaluate(asked))
