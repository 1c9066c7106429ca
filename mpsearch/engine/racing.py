"""Racing: an assignment that the front surely beats, or that surely misses a limit, need not see all the data.

Assignments are scored on whole batches of the validation split, in an order drawn from the seed. After each batch an
assignment is compared, sample by sample, with members of the current front that cost no more; their scores of all
samples are known. It is dropped once

* a member is at least as good in every exact goal, and better in each measured one, or
* a limit is missed, exact ones at once, measured ones by the differences to the float model,

with the confidence asked for: over all looks, all members it is compared with and all limits together
(`mpsearch.engine.confidence`; the risk is split evenly between members and limits, and a member has to win each
measured goal with all of its share). An assignment that belongs on the front is lost with a probability of at most 1
minus the confidence. This takes the samples of a batch as drawn at random, which is checked on the controls, and the
assignment as chosen without a look at them: all assignments share one order, so that their scores can be paired.

Source of the idea: Maron and Moore, "Hoeffding races: accelerating model selection search for classification and
function approximation", NeurIPS 1993.
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
from mpsearch.core.front import Front, non_dominated
from mpsearch.core.goal import Goal
from mpsearch.engine.confidence import Numbers, log_evidence
from mpsearch.engine.folder import Folder
from mpsearch.problem.base import Problem, Scores

_INSTEAD = "Set racing.enabled: false."
_UNLIKE = 1e-4  # a chance of batches that differ as much as they do, below which they are no random parts of the data


class Racing:
    """Has a problem score assignments, most of them on a part of the data.

    Args:
        problem: scores single batches.
        goals: of the search.
        confidence: with which an assignment is dropped.
        seed: of the order of the batches.
        files: where the scores of front members are kept, one file each.

    Raises `BadInput` where there are no batches to leave out.
    """

    def __init__(self, problem: Problem, goals: Sequence[Goal], confidence: float, seed: int, files: Folder) -> None:
        self.sizes = tuple(problem.batch_sizes)
        if len(self.sizes) < 2:
            raise BadInput(
                "racing: all validation data is one batch (as for a graph that is scored whole), "
                f"so there is nothing to leave out. {_INSTEAD}"
            )
        self._problem, self._goals, self._files = problem, tuple(goals), files
        self._alpha = 1 - confidence
        order = [int(i) for i in np.random.default_rng(seed).permutation(len(self.sizes))]
        self._stages = [[batch] for batch in order]  # evidence may be looked at at any time, so after each batch
        self.fidelities = tuple(n / len(order) for n in range(1, len(order) + 1))
        self._base: Evaluation | None = None
        self._front = Front(self._goals, ())
        self._fresh: dict[Assignment, Scores] = {}
        self._kept: dict[Assignment, dict[str, Numbers]] = {}

    def evaluate(self, assignments: Sequence[Assignment]) -> Iterator[Evaluation]:
        """Score each against the front as it is now; on all data before `begin`. Yields in the given order."""
        base, front = self._base, self._front.members
        rivals: dict[Assignment, list[Evaluation]] = {}

        def goes_on(assignment: Assignment, scores: Scores) -> bool:
            self._fresh[assignment] = scores
            if base is None:
                return True
            if assignment not in rivals:
                rivals[assignment] = self._rivals(assignment, front)
            return not self._is_beaten(assignment, scores, rivals[assignment], base)

        return self._problem.race(assignments, self._stages, goes_on)

    def keep(self, done: Evaluation) -> None:
        """Write the scores of `done`, just evaluated, if others will be compared with it. For before it is recorded."""
        scores = self._fresh.pop(done.assignment, None)
        if scores is None or not done.is_full or not self._joins(done):
            return
        self._kept[done.assignment] = found = {name: scores[name] for name in self._measured if name in scores}

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **found)

        self._files.scores.mkdir(exist_ok=True)
        self._files.write(self._path(done), save)

    def saw(self, done: Evaluation) -> None:
        """Take `done`, evaluated now or recorded earlier, into the front if it belongs there."""
        if done.is_full and self._base is not None:
            self._front = self._with(done)

    def begin(self, baseline: Evaluation, *others: Evaluation) -> None:
        """Race from now on. `others` are evaluations made so far: uniform controls, known assignments.

        Raises `BadInput` with the reason where a goal or the batches are not fit for it.
        """
        self._base = baseline
        for done in (baseline, *others):
            self.saw(done)
        for goal in self._goals:
            if goal.name in self._measured:
                self._check(goal, baseline, [e for e in others if e.is_full and e.asked_by.startswith("uniform")])

    def _check(self, goal: Goal, baseline: Evaluation, uniform: Sequence[Evaluation]) -> None:
        base = self._scores(baseline).get(goal.name)
        if base is None or not math.isclose(base.mean(), baseline.measures[goal.name], rel_tol=1e-4, abs_tol=1e-6):
            raise BadInput(
                f"racing: the goal {goal.name!r} is no mean over samples: the metric gives no tensor with one score "
                f"for each of the {sum(self.sizes)} samples, batch by batch. {_INSTEAD}"
            )
        compared = {"the float model": base}
        for control in uniform:
            compared[control.asked_by] = self._scores(control)[goal.name]
        for name, scores in compared.items():
            if _losses(goal, scores).min() < 0:
                raise BadInput(
                    f"racing: the goal {goal.name!r} has no known best value ({name} scores "
                    f"{-_losses(goal, scores).min():.4g} beyond {_BEST[goal.maximise]:g} on a sample); racing needs "
                    f"scores of at least 0 to minimise, or of at most 1 to maximise. {_INSTEAD}"
                )
            differences = scores if scores is base else scores - base
            if _chance_of_batches(np.split(differences, self._cuts)) < _UNLIKE:
                raise BadInput(
                    f"racing: the batches are no random parts of the data: {goal.name!r} of {name} differs more "
                    "between them than within. Have the objective shuffle its samples once, with a fixed seed. "
                    f"{_INSTEAD}"
                )

    def _is_beaten(
        self, assignment: Assignment, scores: Scores, rivals: Sequence[Evaluation], base: Evaluation
    ) -> bool:
        """Whether `assignment`, given its scores so far, surely misses a limit or is beaten by one of `rivals`."""
        costs = self._problem.costs(assignment)
        if any(g.name in costs and g.excess(costs, base.measures) > 0 for g in self._goals):
            return True
        measured = [g for g in self._goals if g.name not in costs]
        ours = {g: _losses(g, scores[g.name]) for g in measured if g.name in scores}
        if len(ours) < len(measured) or not all(x.min() >= 0 for x in ours.values()):  # a score beyond the best, or NaN
            return False
        limited = [g for g in measured if g.limit is not None and (g.limit.sense == ">=") == g.maximise]
        needed = math.log(max(1, len(rivals) + len(limited)) / self._alpha)
        for goal in limited:
            assert goal.limit is not None
            bound = float(_losses(goal, np.array(goal.limit.bound(base.measures[goal.name]))))
            if self._evidence(goal, ours[goal], base, bound) >= needed:
                return True
        return any(all(self._evidence(g, ours[g], rival, None) >= needed for g in measured) for rival in rivals)

    def _evidence(self, goal: Goal, ours: Numbers, other: Evaluation, bound: float | None) -> float:
        """Against a mean loss of at most `bound`, None for that of `other`; paired with the losses of `other`."""
        theirs = _losses(goal, self._scores(other)[goal.name])
        worst, mean = theirs.max(), theirs.mean()
        differences = ours - theirs[: len(ours)] + worst  # never negative, for no loss is
        return log_evidence(differences, worst + (0.0 if bound is None else bound - mean), len(theirs))

    def _rivals(self, assignment: Assignment, front: Sequence[Evaluation]) -> list[Evaluation]:
        """Members at least as good in every exact goal; of those, who is beaten in each measured one says no more."""
        costs = self._problem.costs(assignment)
        exact = [g for g in self._goals if g.name in costs]
        measured = [g for g in self._goals if g.name not in costs]
        cheap = [m for m in front if all(g.loss(m.measures) <= g.loss(costs) for g in exact)]
        if not cheap or not measured:
            return cheap
        losses = np.array([[g.loss(m.measures) for g in measured] for m in cheap])
        return [m for m, best in zip(cheap, non_dominated(losses), strict=True) if best]

    def _with(self, done: Evaluation) -> Front:
        base = done if self._base is None else self._base
        return Front.of([*self._front.members, done], self._goals, base.measures)  # of a front and a point: of all

    def _joins(self, done: Evaluation) -> bool:
        return self._base is None or any(m.assignment == done.assignment for m in self._with(done).members)

    @cached_property
    def _measured(self) -> set[str]:
        return {g.name for g in self._goals} - set(self._problem.costs(Assignment()))

    @property
    def _cuts(self) -> list[int]:
        """Where one batch ends and the next begins, in the order of the race."""
        sizes = [self.sizes[i] for stage in self._stages for i in stage]
        return [int(i) for i in np.cumsum(sizes)[:-1]]

    def _path(self, member: Evaluation) -> Path:
        return self._files.scores / f"{member.key}.npz"

    def _scores(self, member: Evaluation) -> Mapping[str, Numbers]:
        """One score per sample of each measured goal, in the order of the race; made again where the file is lost."""
        if member.assignment not in self._kept:
            try:
                with np.load(self._path(member)) as file:
                    self._kept[member.assignment] = dict(file)
            except (OSError, ValueError, BadZipFile):
                found: dict[str, Numbers] = {}

                def collect(assignment: Assignment, scores: Scores) -> bool:
                    found.update(scores)
                    return True

                list(self._problem.race([member.assignment], self._stages, collect))
                self._kept[member.assignment] = found
        return self._kept[member.assignment]


_BEST = {True: 1.0, False: 0.0}
"""The best possible score of a sample, by whether more is better."""


def _losses(goal: Goal, scores: Numbers) -> Numbers:
    """Distances of scores from the best possible one; what is negative is beyond it."""
    return 1.0 - scores if goal.maximise else scores


def _chance_of_batches(batches: Sequence[Numbers]) -> float:
    """Probability that random parts differ as much in their means as these do: one-way analysis of variance."""
    from scipy.stats import f_oneway  # it takes a quarter of a second to load

    if all(np.ptp(batch) == 0 for batch in batches):
        return 1.0 if len({batch[0] for batch in batches}) == 1 else 0.0
    return float(f_oneway(*batches).pvalue)
