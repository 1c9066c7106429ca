"""The exam that every driver sits, on the toy problem. Subclass it, set `driver`, and pytest finds the rest:

class TestMine(DriverExam):
    driver = "mine"          # as registered in the entry-point group `mpsearch.drivers`
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mpsearch.core.assignment import Assignment
from mpsearch.core.front import Front
from mpsearch.engine.folder import Folder
from mpsearch.engine.result import RunResult
from mpsearch.engine.run import resume, run
from mpsearch.engine.session import FLOAT
from mpsearch.engine.stop import Stop
from mpsearch.ledger.ledger import equal
from mpsearch.spec.schema import Spec
from mpsearch.testing.toy import GOALS, Toy, toy_spec, true_front


class DriverExam:
    """Set `driver`; the rest are capabilities.

    Args:
        driver: registered name.
        options: of the driver.
        budget: evaluations of a run; lower it for a driver that thinks long.
        complete: whether the driver reaches every point of a small space when the budget allows.
        exhausts: whether the method may have nothing left to ask before the budget is spent.
        goals: of `toy.GOALS`, those that it can search; with 1 there is no cost among them.
        toy: options of `Toy` that it can search.
        trains: whether it trains: assignments it has measured may then come out of a training, and are scored again.
    """

    driver: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    budget: ClassVar[int] = 40
    complete: ClassVar[bool] = False
    exhausts: ClassVar[bool] = False
    goals: ClassVar[tuple[int, ...]] = tuple(GOALS)
    trains: ClassVar[bool] = False
    toy: ClassVar[Mapping[str, Any]] = {}

    def spec(
        self, *, budget: int | None = None, goals: int = 2, seed: int = 0, racing: bool = False, **toy: Any
    ) -> Spec:
        """A spec of this driver on the toy; `toy` are its options."""
        budget, more = budget or self.budget, {"options": self.options, "racing": {"enabled": racing}}
        return toy_spec(self.driver, budget=budget, seed=seed, goals=goals, toy={**self.toy, **toy}, **more)

    def test_proposals_are_legal_and_the_budget_is_kept(self, tmp_path: Path) -> None:
        for budget in (1, 3, 7, self.budget):
            result = _run(self.spec(budget=budget), tmp_path / str(budget))
            assert result.status == "complete"
            assert len(result.evaluations) == len({e.key for e in result.evaluations}) <= budget
            assert len(result.evaluations) == budget or self.exhausts
            space = Toy(**self.toy).space
            assert all(e.assignment in space for e in result.evaluations[1:])
            assert all(e.asked_by.partition(" ")[0] == self.driver for e in result.evaluations[4:])

    def test_the_same_seed_gives_the_same_ledger(self, tmp_path: Path) -> None:
        _run(self.spec(seed=3), tmp_path / "one")
        _run(self.spec(seed=3), tmp_path / "two")
        assert equal(Folder(tmp_path / "one").ledger, Folder(tmp_path / "two").ledger)

    def test_interrupted_and_resumed_is_as_if_never_interrupted(self, tmp_path: Path) -> None:
        spec = self.spec(fail_every=5)
        made = len(_run(spec, tmp_path / "whole").evaluations)
        self._interrupt(spec, {2, 6, made // 2, made - 1}, tmp_path)

    def test_a_race_is_survived_and_can_be_interrupted(self, tmp_path: Path) -> None:
        spec = self.spec(racing=True, batches=10)
        raced = _run(spec, tmp_path / "whole")
        assert len(raced.evaluations) == self.budget or self.exhausts
        assert all(e.fidelity == 1 for e in [raced.baseline, *raced.uniform.values(), *raced.front.members])
        self._interrupt(spec, {2 * len(raced.evaluations) // 3}, tmp_path)

    def _interrupt(self, spec: Spec, moments: set[int], tmp_path: Path) -> None:
        """Stop after so many evaluations, resume, and compare with the run in `whole`."""
        for after in sorted(moments):
            folder = tmp_path / f"stopped after {after}"
            seen: Counter[tuple[Assignment, str]] = Counter()
            stop = Stop()

            def watch(assignment: Assignment, split: str, seen=seen, stop=stop, after=after) -> None:
                if split.startswith("epoch"):
                    return
                seen[assignment, split] += 1
                if sum(seen.values()) == after + 1:  # the baseline is measured twice
                    stop.signum = signal.SIGTERM

            def build(spec: Spec, weights: Path | None, watch=watch) -> Toy:
                del weights
                return Toy(**spec.objective.options, watch=watch)

            stopped = run(spec, folder, build=build, stop=stop, show_progress=False, bare=True)
            assert stopped.status == "interrupted"
            assert len(stopped.evaluations) == after
            resumed = resume(folder, build=build, show_progress=False, bare=True)
            assert resumed.status == "complete"
            assert equal(Folder(folder).ledger, Folder(tmp_path / "whole").ledger)
            assert seen.pop((FLOAT, "validation")) == 2
            assert set(seen.values()) == {1} or self.trains

    def test_failures_are_survived(self, tmp_path: Path) -> None:
        result = _run(self.spec(fail_every=3), tmp_path / "run")
        assert result.status == "complete"
        assert len(result.evaluations) == self.budget or self.exhausts
        assert 0 < result.failed < len(result.evaluations)
        assert all(e.failure is None for e in result.front.members)

    def test_spaces_of_one_point_and_of_no_choice_end(self, tmp_path: Path) -> None:
        for layers, points in ((0, 1), (1, 2)):
            spec = self.spec(layers=layers)

            def build(spec: Spec, weights: Path | None) -> Toy:
                del weights
                return Toy(**spec.objective.options, options=Toy().space.choices[0].options[:1])

            result = run(spec, tmp_path / str(layers), build=build, show_progress=False, bare=True)
            assert result.status == "complete"
            assert len(result.evaluations) == points

    def test_any_number_of_goals(self, tmp_path: Path) -> None:
        for goals in self.goals:
            result = _run(self.spec(goals=goals), tmp_path / str(goals))
            assert len(result.evaluations) == self.budget or self.exhausts
            assert len(result.front.members) == 1 if goals == 1 else len(result.front.members) >= 3

    def test_against_the_known_front(self, tmp_path: Path) -> None:
        toy = Toy(**self.toy)
        points = toy.space.size + 1  # the baseline lies outside the space
        result = _run(self.spec(budget=max(self.budget, points if self.complete else 0)), tmp_path / "run")
        goals = result.front.goals
        known = true_front(toy, {goal.name: goal.maximise for goal in goals})
        truth = Front.of(toy.evaluate(sorted(known, key=toy.space.encode)), goals)
        untrained = [e for e in result.evaluations if e.assignment in toy.space and not e.is_finetuned]
        inside = Front.of(untrained, goals)
        best = [[goal.loss(e.measures) for goal in goals] for e in truth.members]
        found = [[goal.loss(e.measures) for goal in goals] for e in inside.members]
        if self.complete:
            assert len(result.evaluations) == points
            assert found == best
        assert all(any(all(b <= f for b, f in zip(row, mine, strict=True)) for row in best) for mine in found)


def _run(spec: Spec, folder: Path) -> RunResult:
    def build(spec: Spec, weights: Path | None) -> Toy:
        del weights
        return Toy(**spec.objective.options)

    return run(spec, folder, build=build, show_progress=False, bare=True)
