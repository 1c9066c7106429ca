"""Racing: an assignment that the front surely beats, or that surely misses a limit, need not see all the data.

Assignments are scored on one batch of the validation split after another. After each batch an assignment is compared
with members of the front that cost no more, whose scores of all samples are known. It is dropped once

* a member is at least as good in every exact goal, and better in each measured one, or
* a limit is missed,

with the confidence asked for, over all looks, members and limits together (`mpsearch.engine.confidence`; where several
members or limits count, it is the mean of their evidence that counts, and a member is as strong as in the measured goal
where it is weakest). An assignment that belongs on the front is lost with a probability of at most 1 minus the
confidence. With a tolerance, one that is surely no more than so many standard errors better than a member is dropped
too: on another sample it might as well be worse.

Most of what an assignment gets wrong is hard for all. So what is compared are the differences, sample by sample, to the
mean loss of all that were scored on all data, which is known exactly. These differences vary less than those to any one
member (a ResNet-20 on CIFAR-10: variance 0.067 instead of 0.119). An assignment that is dropped is recorded with what
it would measure on all data by them, not with the mean of the batches it saw.

All this takes the samples of a batch as drawn at random, which is checked on the controls. Every assignment has an
order of batches of its own, so what a driver learned from some batches does not make these better for the next one.

The cheapest are first, in the exact goals: only they can beat others, and do so as soon as they are on the front.

Source of the idea: Maron and Moore, "Hoeffding races: accelerating model selection search for classification and
function approximation", NeurIPS 1993. Known means as control variates: Glynn and Szechtman, "Some new perspectives on
the method of control variates", 2002.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import Front
from mpsearch.core.goal import Goal
from mpsearch.engine.confidence import Numbers
from mpsearch.engine.folder import Folder
from mpsearch.engine.judge import BEST, Claim, Judge, Known, losses, strongest
from mpsearch.problem.base import Problem, Scores

_INSTEAD = "Set racing.enabled: false."
_UNLIKE = 1e-4  # a chance of batches that differ as much as they do, below which they are no random parts of the data


class Racing:
    """Has a problem score assignments, most of them on a part of the data.

    Args:
        problem: scores single batches.
        goals: of the search.
        confidence: with which an assignment is dropped.
        tolerance: how much better than a member it may still be, in standard errors of the member.
        seed: of the order of the batches.
        files: where the scores of those that saw all data are kept, one file each.

    Raises `BadInput` where there are no batches to leave out.
    """

    def __init__(
        self, problem: Problem, goals: Sequence[Goal], confidence: float, tolerance: float, seed: int, files: Folder
    ) -> None:
        self.sizes = tuple(problem.batch_sizes)
        if len(self.sizes) < 2:
            raise BadInput(
                "racing: all validation data is one batch (as for a graph that is scored whole), "
                f"so there is nothing to leave out. {_INSTEAD}"
            )
        self._problem, self._goals, self._files = problem, tuple(goals), files
        self._alpha, self._tolerance, self._seed = 1 - confidence, tolerance, seed
        self.fidelities = tuple(n / len(self.sizes) for n in range(1, len(self.sizes) + 1))
        self._limits_of: Mapping[str, float] | None = None
        self._front = Front(self._goals, ())
        self._fresh: Scores = {}
        self._whole: list[Evaluation] = []
        self._known: dict[str, Known] = {}

    def turn(self, assignment: Assignment) -> tuple[float, ...]:
        """By which to sort assignments that are asked for together: whom an assignment may beat comes after it."""
        costs = self._problem.costs(assignment)
        return tuple(g.loss(costs) for g in self._goals if g.name in costs)

    def evaluate(self, assignments: Sequence[Assignment]) -> Iterator[Evaluation]:
        """Score each against the front as it is by then; on all data before `begin`. Yields in the given order."""
        for assignment in assignments:
            order = self._order(assignment)
            judge = None if self._limits_of is None else self._judge(assignment, order, self._limits_of)

            def goes_on(scores: Scores, judge: Judge | None = judge) -> bool:
                self._fresh = scores
                return judge is None or not judge.beats(scores)

            done = self._problem.race(assignment, order, goes_on)
            yield judge.estimated(done, self._fresh) if judge is not None and done.fidelity < 1 else done

    def keep(self, done: Evaluation) -> None:
        """Write the scores of `done`, just evaluated on all data, for others to race against. Before it is recorded."""
        if not done.is_full:
            return
        found = self._in_place(done.assignment, self._fresh)

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **found)

        self._files.scores.mkdir(exist_ok=True)
        self._files.write(self._path(done), save)

    def saw(self, done: Evaluation) -> None:
        """Take `done`, evaluated now or recorded earlier, into account."""
        if done.is_full and self._limits_of is not None:
            self._front = Front.of([*self._front.members, done], self._goals, self._limits_of)
            self._whole.append(done)

    def begin(self, limits_of: Mapping[str, float], floats: Evaluation, *others: Evaluation) -> None:
        """Race from now on.

        Args:
            limits_of: measures that limits refer to.
            floats: the float model.
            others: evaluations made so far: uniform controls, known assignments.

        Raises `BadInput` with the reason where a goal or the batches are not fit for it.
        """
        self._limits_of = limits_of
        for done in (floats, *others):
            self.saw(done)
        for goal in self._goals:
            if goal.name in self._measured:
                self._check(goal, floats, [e for e in others if e.is_full and e.asked_by.startswith("uniform")])

    def _check(self, goal: Goal, floats: Evaluation, uniform: Sequence[Evaluation]) -> None:
        base = self._scores(floats).get(goal.name)
        if base is None or not math.isclose(base.mean(), floats.measures[goal.name], rel_tol=1e-4, abs_tol=1e-6):
            raise BadInput(
                f"racing: the goal {goal.name!r} is no mean over samples: the metric gives no tensor with one score "
                f"for each of the {sum(self.sizes)} samples, batch by batch. {_INSTEAD}"
            )
        compared = {"the float model": base}
        for control in uniform:
            compared[control.asked_by] = self._scores(control)[goal.name]
        for name, scores in compared.items():
            if losses(goal, scores).min() < 0:
                raise BadInput(
                    f"racing: the goal {goal.name!r} has no known best value ({name} scores "
                    f"{-losses(goal, scores).min():.4g} beyond {BEST[goal.maximise]:g} on a sample); racing needs "
                    f"scores of at least 0 to minimise, or of at most 1 to maximise. {_INSTEAD}"
                )
            differences = scores if scores is base else scores - base
            if _chance_of_batches(np.split(differences, self._cuts)) < _UNLIKE:
                raise BadInput(
                    f"racing: the batches are no random parts of the data: {goal.name!r} of {name} differs more "
                    "between them than within. Have the objective shuffle its samples once, with a fixed seed. "
                    f"{_INSTEAD}"
                )

    def _judge(self, assignment: Assignment, order: Sequence[int], limits_of: Mapping[str, float]) -> Judge:
        costs = self._problem.costs(assignment)
        measured = [g for g in self._goals if g.name not in costs]
        exact = [g for g in self._goals if g.name in costs]
        known = {g.name: self._learn(g) for g in measured}
        claims: list[Claim] = [
            {name: k.means[m.key] - self._tolerance * m.stderr.get(name, 0.0) for name, k in known.items()}
            for m in self._front.members
            if all(g.loss(m.measures) <= g.loss(costs) for g in exact)
        ]
        for goal in measured:
            if goal.limit is not None and (goal.limit.sense == ">=") == goal.maximise:
                bound = np.array(goal.limit.bound(limits_of[goal.name]))
                claims.append({goal.name: float(losses(goal, bound))})
        if any(g.excess(costs, limits_of) > 0 for g in exact):
            claims.append({})
        usual = {name: self._in_turn(k.usual, order) for name, k in known.items()}
        deviation = {name: k.deviation for name, k in known.items()}
        return Judge(measured, strongest(claims), usual, deviation, self._alpha)

    def _learn(self, goal: Goal) -> Known:
        """What those evaluated on all data lost, added up in the order of the ledger."""
        known = self._known.setdefault(goal.name, Known())
        for done in self._whole[known.count :]:
            known.add(done.key, losses(goal, self._scores(done)[goal.name]))
        return known

    def _order(self, assignment: Assignment) -> list[int]:
        """Of the batches: as good as random, and the same whenever it is asked for."""
        rng = np.random.default_rng([self._seed, int(assignment.key, 16)])
        return [int(i) for i in rng.permutation(len(self.sizes))]

    def _in_turn(self, values: Numbers, order: Sequence[int]) -> Numbers:
        """Values of all samples, batch by batch in `order`."""
        parts = np.split(values, self._cuts)
        return np.concatenate([parts[i] for i in order])

    def _in_place(self, assignment: Assignment, scores: Scores) -> dict[str, Numbers]:
        """Scores of measured goals as a race gives them, in the order of the split."""
        order = self._order(assignment)
        cuts = np.cumsum([self.sizes[i] for i in order])[:-1]
        back = np.argsort(order)
        found = {}
        for name in self._measured & set(scores):
            parts = np.split(scores[name], cuts)
            found[name] = np.concatenate([parts[i] for i in back])
        return found

    @cached_property
    def _measured(self) -> set[str]:
        return {g.name for g in self._goals} - set(self._problem.costs(Assignment()))

    @property
    def _cuts(self) -> list[int]:
        """Where one batch ends and the next begins."""
        return [int(i) for i in np.cumsum(self.sizes)[:-1]]

    def _path(self, done: Evaluation) -> Path:
        return self._files.scores / f"{done.key}.npz"

    def _scores(self, done: Evaluation) -> Mapping[str, Numbers]:
        """One score per sample of each measured goal; made again where the file is lost."""
        try:
            with np.load(self._path(done)) as file:
                return dict(file)
        except (OSError, ValueError, BadZipFile):
            found: dict[str, Numbers] = {}

            def collect(scores: Scores) -> bool:
                found.update(scores)
                return True

            self._problem.race(done.assignment, self._order(done.assignment), collect)
            return self._in_place(done.assignment, found)


def _chance_of_batches(batches: Sequence[Numbers]) -> float:
    """Probability that random parts differ as much in their means as these do: one-way analysis of variance."""
    from scipy.stats import f_oneway  # it takes a quarter of a second to load

    if all(np.ptp(batch) == 0 for batch in batches):
        return 1.0 if len({batch[0] for batch in batches}) == 1 else 0.0
    return float(f_oneway(*batches).pvalue)
