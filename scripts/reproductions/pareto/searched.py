"""Searches of one network: `frontier` and random search within so many bits, each with a ledger to go on from."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from itertools import product
from pathlib import Path

from pareto.cases import Case

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.core.front import Front, Scale
from mpsearch.core.goal import Goal, Limit
from mpsearch.drivers.base import Driver, SearchOver
from mpsearch.engine.session import FLOAT, LedgerSession
from mpsearch.ledger.ledger import Ledger
from mpsearch.problem.build import build_problem
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.rules import canonical
from mpsearch.spec import registry

DRIVERS = ("frontier", "random")


class Searched:
    """A problem, and what its searches found.

    Args:
        case: the network.
        out: folder of the ledgers.
    """

    def __init__(self, case: Case, out: Path) -> None:
        self.case, self.out = case, out
        out.mkdir(parents=True, exist_ok=True)
        self.spec = case.spec(case.weights, case.values)
        self.problem = build_problem(self.spec)
        self.loss, self.bops = (goal.goal() for goal in self.spec.goals)
        self.controls = self._evaluated("controls", (self.loss, self.bops), 0, None)
        self.runs: dict[tuple[str, float, int], tuple[Evaluation, ...]] = {}
        for bits, driver, seed in product(case.bits, DRIVERS, case.seeds):
            self.runs[driver, bits, seed] = self._search(driver, bits, seed)

    def goals(self, bits: float) -> tuple[Goal, ...]:
        """Of a search: the loss, limited by that of the same bits everywhere, and average bits with a limit on each."""
        limit = Limit.parse(f"<= {bits}")
        uniform = self.uniform[f"uniform {bits:g}"].measures[self.loss.name]
        better = Limit.parse(f"{'>=' if self.loss.maximise else '<='} {uniform!r}")
        return replace(self.loss, limit=better), Goal("weight_bits", limit=limit), Goal("activation_bits", limit=limit)

    def _search(self, driver: str, bits: float, seed: int) -> tuple[Evaluation, ...]:
        made = registry.load("drivers", driver)()
        assert isinstance(made, Driver)
        found = self._evaluated(f"{driver}-{bits:g}-{seed}", self.goals(bits), seed, made)
        print(f"{driver}, {bits:g} bits, seed {seed}: {len(found)} in {seconds(found):.0f} s", flush=True)
        return found

    def _evaluated(self, name: str, goals: Sequence[Goal], seed: int, driver: Driver | None) -> tuple[Evaluation, ...]:
        """What a search evaluated, float and the uniform controls first; these alone without a driver."""
        with self._ledger(name) as ledger:
            for shared in self.controls if driver is not None and not len(ledger) else ():
                ledger.append(shared)
            session = LedgerSession(self.problem, ledger, goals, seed, budget=self.case.budget)
            with suppress(SearchOver):
                session.evaluate_controls()
                if driver is not None:
                    session.search_as(name.partition("-")[0])
                    driver.search(session)
            return tuple(session.evaluations)

    def _ledger(self, name: str) -> Ledger:
        return Ledger(self.out / f"{self.case.space}-{name}.jsonl", self.spec.sha256, versions())

    @property
    def baseline(self) -> Evaluation:
        return next(e for e in self.controls if e.assignment == FLOAT)

    @cached_property
    def uniform(self) -> dict[str, Evaluation]:
        """What is as wide everywhere, by name, the widest first."""
        found = {e.asked_by: e for e in self.controls if e.asked_by.startswith("uniform")}
        return dict(reversed(found.items()))

    def found(self, driver: str) -> list[Evaluation]:
        """What the searches of all limits and seeds evaluated, each assignment once."""
        return list({e.assignment: e for (by, _, _), run in self.runs.items() if by == driver for e in run}.values())

    @cached_property
    def front(self) -> Front:
        """Of the loss against bit operations, over all searches of `frontier`."""
        return Front.of(self.found("frontier"), (self.loss, self.bops), self.baseline.measures)

    def volumes(self, driver: str, bits: float) -> list[float]:
        """Hypervolume of the front of each seed, on one scale for both drivers."""
        goals, base = self.goals(bits), self.baseline.measures
        fronts = {key: Front.of(run, goals, base) for key, run in self.runs.items() if key[1] == bits}
        controls = [self.baseline, *self.uniform.values()]
        scale = Scale.of([*controls, *(e for front in fronts.values() for e in front.members)], controls, goals)
        return [front.hypervolume(scale) for (by, _, _), front in fronts.items() if by == driver]

    def best_within(self, bits: float, evaluations: Iterable[Evaluation]) -> Evaluation | None:
        """The best with at most so many bits on average, of weights and of values; None where there is none."""
        small = [e for e in evaluations if e.failure is None and max(average_bits(e)) <= bits]
        return min(small, key=lambda e: self.loss.loss(e.measures), default=None)

    def test(self, chosen: Iterable[Evaluation]) -> dict[Assignment, Evaluation]:
        """Scores of `chosen` on the test split."""
        with self._ledger("test") as ledger:
            LedgerSession(self.problem, ledger, (self.loss, self.bops), 0).score_test(chosen)
            return {e.assignment: e for e in ledger.evaluations if e.split == "test"}


def average_bits(evaluation: Evaluation) -> tuple[float, float]:
    """Average bits per element: of weights, and of values that have a choice."""
    return evaluation.measures["weight_bits"], evaluation.measures["activation_bits"]


def everywhere(problem: ModelProblem, weights: str, values: str) -> Assignment:
    """Every choice that has several options takes the format of its kind."""
    site_of = {site.name: site for site in problem.sites}
    picked = []
    for choice in problem.space.choices:
        site = site_of[choice.sites[0]]
        fmt = canonical(Format.parse(weights if site.role.is_parameter else values), site)
        picked.append(choice.options.index(fmt) if len(choice.options) > 1 else 0)
    return problem.space.decode(picked)


def seconds(evaluations: Iterable[Evaluation]) -> float:
    """Time that scoring took."""
    return sum(e.seconds for e in evaluations)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("mpsearch", "torch", "numpy")}}
