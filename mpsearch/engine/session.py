"""The session of a run: answers a driver from the ledger, else has the problem evaluate or train, and records it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, ObjectiveFailed, nearest
from mpsearch.core.evaluation import BASE, FINETUNING, Evaluation, Failure
from mpsearch.core.goal import Goal
from mpsearch.drivers.base import SearchOver, Session
from mpsearch.engine.controls import controls
from mpsearch.engine.racing import Racing
from mpsearch.engine.stop import Stop
from mpsearch.engine.trainings import Trainings
from mpsearch.ledger.ledger import Ledger
from mpsearch.problem.base import Problem, Step
from mpsearch.spec.schema import Recipe

FLOAT = Assignment()
"""The baseline: every site in float."""

Evaluate = Callable[[Sequence[Assignment], str], Iterator[Evaluation]]
"""Assignments and a split to evaluations, like `Problem.evaluate`."""

_HITS_IN_A_ROW = 200
_FAILURES_IN_A_ROW = 10


class LedgerSession(Session):
    """Everything a driver sees follows from what was asked since the session began, so a resumed run repeats itself.

    Whether an answer comes from the ledger of an earlier sitting or from the problem shows nowhere: a first question
    counts against the budget either way, and only a repeated one is a hit.

    Args:
        problem: scores assignments.
        ledger: open for writing; may hold lines of earlier sittings.
        goals: of the search; each must be a measure of the baseline.
        seed: for the driver.
        variant: that `problem` is.
        base: session of the base, where this is another variant: limits refer to its float model.
        budget: distinct evaluations, controls included; None if only time limits the run.
        deadline_s: of the monotonic clock; None if only the budget limits the run.
        noisy: whether the objective may differ between two evaluations of the same assignment.
        racing: ends evaluations early; None for all on all data.
        trainings: of the run; None where nothing is trained.
        stop: checked between evaluations.
        evaluate: scores all but the baseline, in the order given; None for the problem itself.
        observe: called with each validation evaluation, replayed ones too.
        show: called in each step of a training, with what is trained.
    """

    def __init__(
        self,
        problem: Problem,
        ledger: Ledger,
        goals: Sequence[Goal],
        seed: int,
        *,
        variant: str = BASE,
        base: LedgerSession | None = None,
        budget: int | None = None,
        deadline_s: float | None = None,
        noisy: bool = False,
        racing: Racing | None = None,
        trainings: Trainings | None = None,
        stop: Stop | None = None,
        evaluate: Evaluate | None = None,
        observe: Callable[[Evaluation], object] = lambda evaluation: None,
        show: Callable[[str, Step], object] = lambda what, step: None,
    ) -> None:
        self.problem, self.space, self.goals, self.seed = problem, problem.space, tuple(goals), seed
        self.variant, self._base = variant, base
        self.hits = 0
        self._ledger, self._budget, self._deadline_s = ledger, budget, deadline_s
        self._noisy, self._racing, self._stop, self._observe = noisy, racing, stop or Stop(), observe
        self._evaluate_plainly, self._trainings, self._show = evaluate or problem.evaluate, trainings, show
        self._known: dict[Assignment | tuple[Assignment, str], Evaluation] = {}  # a training by start and recipe
        self._asked_by = "baseline" if variant == BASE else "float"
        mine = [e for e in ledger.evaluations if e.variant == variant]
        self._lines = sum(e.split == "validation" and e.is_searched for e in mine)
        self._hits_in_a_row = 0
        self._failures_in_a_row = 0

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        return tuple(e for e in self._known.values() if e.fidelity == 1)

    @property
    def baseline(self) -> Mapping[str, float]:
        return self._base.baseline if self._base else super().baseline

    @property
    def budget_left(self) -> int | None:
        return None if self._budget is None else max(0, self._budget - len(self._known))

    def evaluate(self, assignments: Sequence[Assignment], label: str = "") -> list[Evaluation]:
        self._refuse_to_go_on(len(self._known))
        fresh = [a for a in dict.fromkeys(assignments) if a not in self._known]
        self.hits += len(assignments) - len(fresh)
        self._hits_in_a_row = 0 if fresh else self._hits_in_a_row + len(assignments)
        allowed = fresh[: self.budget_left]
        asked_by = f"{self._asked_by} {label}" if label else self._asked_by
        self._record(sorted(allowed, key=self._turn), asked_by)
        if len(allowed) < len(fresh):
            raise SearchOver("the budget is spent")
        if self._hits_in_a_row >= _HITS_IN_A_ROW or (not fresh and self._covered):
            raise SearchOver("the space is exhausted")
        return [self._known[a] for a in assignments]

    def learn(self, recipe: Recipe, start: Assignment, label: str = "") -> Evaluation:
        self._refuse_to_go_on(len(self._known))
        question = (start, recipe.digest)
        if question in self._known:
            self.hits += 1
            self._hits_in_a_row += 1
            if self._hits_in_a_row >= _HITS_IN_A_ROW:
                raise SearchOver("nothing new is asked")
            return self._known[question]
        self._hits_in_a_row = 0
        asked_by = f"{self._asked_by} {label}" if label else self._asked_by
        done = self._trained(recipe, start)
        if done is None:
            self._refuse_to_go_on(self._lines)
            done = self._train(recipe, start, asked_by, asked_by)
            self._lines += 1
        self._known[question] = done
        self._observe(done)
        self._failures_in_a_row = self._failures_in_a_row + 1 if done.failure else 0
        return done

    def finetune(self, recipe: Recipe, start: Assignment, what: str) -> Evaluation:
        """`start` trained once the search is over, from the ledger if it is there. Not counted against the budget."""
        self.refuse_after_signal()
        done = self._trained(recipe, start) or self._train(recipe, start, FINETUNING, what)
        self._observe(done)
        return done

    def _trained(self, recipe: Recipe, start: Assignment) -> Evaluation | None:
        """What the ledger has of a training."""
        assert self._trainings is not None
        member = self._trainings.ended(recipe, start)
        return None if member is None else self._ledger.get(member.identity)

    def _train(self, recipe: Recipe, start: Assignment, asked_by: str, what: str) -> Evaluation:
        assert self._trainings is not None
        made = replace(self._checked(self._trainings.make(recipe, start, self._watch(what))), asked_by=asked_by)
        done = self._ledger.get(made.identity)  # a training from elsewhere may have ended there
        if done is None:
            self._ledger.append(done := made)
        return done

    def _watch(self, what: str) -> Callable[[Step], None]:
        def watch(step: Step) -> None:
            self.refuse_after_signal()
            self._show(what, step)

        return watch

    def evaluate_controls(self, start: Sequence[Assignment] = ()) -> None:
        """The float baseline, the controls, then `start`: all on all data.

        Raises `ObjectiveFailed` if the baseline fails or does not repeat itself, `BadInput` if it lacks a goal.
        """
        self.refuse_after_signal()
        found = self._recorded(FLOAT)
        if found is None:
            self._append(found := self._first_baseline())
        self._known[FLOAT] = found
        self._observe(found)
        for name, assignment in controls(self.space, self.problem.sites).items():
            if assignment not in self._known:
                self.search_as(name)
                self.evaluate([assignment])
        self.search_as("start")
        unknown = [a for a in dict.fromkeys(start) if a not in self._known]
        if unknown:
            self.evaluate(unknown)
        if self._racing is not None:
            self._racing.begin(self.baseline, *self._known.values())

    def search_as(self, asked_by: str) -> None:
        """Who asks from now on, for the ledger."""
        self._asked_by = asked_by

    def score_test(
        self,
        chosen: Iterable[Evaluation],
        observe: Callable[[int, int], object] = lambda done, of: None,
    ) -> None:
        """Score each of `chosen` on the test split, unless the ledger has it. Not counted against the budget.

        Args:
            observe: called after each with how many are done, and of how many.
        """
        unique = {e.key: replace(e, split="test") for e in chosen}
        missing = [e for e in unique.values() if self._ledger.get(e.identity) is None]
        results = iter(self._evaluate_plainly([e.assignment for e in missing if not e.is_finetuned], "test"))
        for number, asked in enumerate(missing, start=1):
            self.refuse_after_signal()
            if asked.is_finetuned:
                assert self._trainings is not None
                done = self._trainings.score(asked, self._watch(f"{asked.key} again"))
            else:
                done = next(results)
            self._ledger.append(replace(self._checked(done), asked_by=asked.asked_by))
            observe(number, len(missing))

    def _first_baseline(self) -> Evaluation:
        first = self._measure_float()
        for goal in self.goals:
            if goal.name not in first.measures:
                raise BadInput(f"goals: {goal.name!r} is not measured.{nearest(goal.name, first.measures)}")
        first = self._checked(first)
        if first.failure is not None:
            raise ObjectiveFailed(f"{self._float} failed: {first.failure.message}")
        if not self._noisy:
            self.problem.forget()
            second = self._measure_float()
            differ = [name for name, value in first.measures.items() if second.measures.get(name) != value]
            if differ:
                name = differ[0]
                raise ObjectiveFailed(
                    f"the objective is not deterministic: the float model gave {name} = {first.measures[name]!r}, "
                    f"then {second.measures.get(name)!r}. Fix its seeds, or set objective.noisy: true."
                )
        return first

    @property
    def _float(self) -> str:
        return "the float baseline" if self._base is None else f"the float model of {self.variant}"

    def _measure_float(self) -> Evaluation:
        evaluate = self.problem.evaluate if self._racing is None else self._evaluate  # here, where it can forget
        done = next(iter(evaluate([FLOAT])))
        if done.failure is not None:
            raise ObjectiveFailed(f"{self._float} failed: {done.failure.message}")
        return replace(done, asked_by=self._asked_by)

    def _record(self, assignments: Sequence[Assignment], asked_by: str) -> None:
        """Answer each from the ledger, else evaluate and append it before the next is begun."""
        missing = [a for a in assignments if self._recorded(a) is None]
        results = self._evaluate(missing)
        for assignment in assignments:
            done = self._recorded(assignment)
            new = done is None
            if done is None:
                self._refuse_to_go_on(self._lines)
                done = self._checked(replace(next(results), asked_by=asked_by))
                self._append(done)
            self._known[assignment] = done
            if self._racing is not None:
                self._racing.saw(done)
            self._observe(done)
            self._failures_in_a_row = self._failures_in_a_row + 1 if done.failure else 0
            if new and done.failure and self._failures_in_a_row >= _FAILURES_IN_A_ROW:
                raise ObjectiveFailed(
                    f"{self._failures_in_a_row} evaluations in a row failed, the last with: {done.failure.message}"
                )

    def _turn(self, assignment: Assignment) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """By which to sort what is asked for together: neighbours share the longest prefixes."""
        first = () if self._racing is None else self._racing.turn(assignment)
        return first, self.space.encode(assignment)

    def _evaluate(self, assignments: Sequence[Assignment]) -> Iterator[Evaluation]:
        if self._racing is not None:
            return self._racing.evaluate(assignments)
        return iter(self._evaluate_plainly(assignments, "validation"))

    def _append(self, done: Evaluation) -> None:
        if self._racing is not None:
            self._racing.keep(done)
        self._ledger.append(done)
        self._lines += 1

    def _recorded(self, assignment: Assignment, split: str = "validation") -> Evaluation | None:
        shares = self._racing.fidelities if self._racing is not None and split == "validation" else (1.0,)
        asked = Evaluation(assignment, split=split, variant=self.variant)
        found = (self._ledger.get(replace(asked, fidelity=share).identity) for share in shares)
        return next((done for done in found if done is not None), None)

    def _checked(self, done: Evaluation) -> Evaluation:
        """`done` of this variant, in plain numbers; a failure if a measure is not finite or a goal is missing."""
        done = replace(done, variant=self.variant)
        if done.failure is not None:
            return replace(done, measures={}, stderr={})
        bad = {name: value for name, value in done.measures.items() if not math.isfinite(value)}
        bad |= {goal.name: math.nan for goal in self.goals if goal.name not in done.measures}
        if bad:
            text = ", ".join(f"{name} = {value}" for name, value in bad.items())
            return replace(done, measures={}, stderr={}, failure=Failure("nan", f"not a finite number: {text}"))
        return replace(done, measures=_plain(done.measures), stderr=_plain(done.stderr))

    @property
    def _covered(self) -> bool:
        if len(self._known) < self.space.size:
            return False
        return sum(a in self.space for a in self._known) == self.space.size

    def _refuse_to_go_on(self, spent: int) -> None:
        self.refuse_after_signal()
        if self._budget is not None and spent >= self._budget:
            raise SearchOver("the budget is spent")
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            raise SearchOver("the time is up")

    def refuse_after_signal(self) -> None:
        """Raise `SearchOver` where a signal has ended the run."""
        if self._stop.signum is not None:
            raise SearchOver("stopped by a signal")


def _plain(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: int(x) if isinstance(x, Integral) else float(x) for name, x in numbers.items()}
