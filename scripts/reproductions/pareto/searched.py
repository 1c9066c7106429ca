"""Searches of one network: `frontier` and random search from several seeds, each with a ledger that it goes on from."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from pareto.cases import Case

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.core.front import Front, Scale
from mpsearch.core.space import Choice
from mpsearch.drivers.base import Driver, SearchOver
from mpsearch.engine.session import FLOAT, LedgerSession
from mpsearch.ledger.ledger import Ledger
from mpsearch.problem.build import build_problem
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.rules import canonical
from mpsearch.spec import registry

DRIVERS = ("frontier", "random")
_CONTROLS = ("baseline", "uniform", "start")
ROUND = 0.25
"""How far above a number of bits an average still counts as that number."""


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
        self.goals = tuple(goal.goal() for goal in self.spec.goals)
        self.grid = self._grid()
        self.runs: dict[tuple[str, int], tuple[Evaluation, ...]] = {}
        for driver in DRIVERS:
            for seed in case.seeds:
                self.runs[driver, seed] = self._search(driver, seed)

    def _grid(self) -> dict[str, Assignment]:
        """One format for all weights and one for all values, every pair of them, by a name such as `int4, int8`."""
        pairs = product(self.case.weights.split(", "), self.case.values.split(", "))
        return {f"{weights}, {values}": everywhere(self.problem, weights, values) for weights, values in pairs}

    def _search(self, driver: str, seed: int) -> tuple[Evaluation, ...]:
        made = registry.load("drivers", driver)()
        assert isinstance(made, Driver)
        with self._ledger(f"{driver}-{seed}") as ledger:
            for shared in next(iter(self.runs.values()), ()) if not len(ledger) else ():
                if shared.asked_by.startswith(_CONTROLS):  # the same in every search
                    ledger.append(shared)
            session = LedgerSession(self.problem, ledger, self.goals, seed, budget=self.case.budget)
            try:
                session.evaluate_controls()
                session.search_as("start")
                session.evaluate([a for a in self.grid.values() if not session.forbids(a)])
                session.search_as(driver)
                made.search(session)
            except SearchOver:
                pass
            found = tuple(session.evaluations)
            print(f"{driver}, seed {seed}: {len(found)} evaluations in {seconds(found):.0f} s", flush=True)
            return found

    def _ledger(self, name: str) -> Ledger:
        return Ledger(self.out / f"{self.case.space}-{name}.jsonl", self.spec.sha256, versions())

    @property
    def baseline(self) -> Evaluation:
        return next(e for run in self.runs.values() for e in run if e.assignment == FLOAT)

    @cached_property
    def controls(self) -> dict[str, Evaluation]:
        """What has one format for all weights and one for all values, by name, the most operations first."""
        known = {e.assignment: e for e in next(iter(self.runs.values()))}
        found = {name: known[assignment] for name, assignment in self.grid.items() if assignment in known}
        return dict(sorted(found.items(), key=lambda item: -item[1].measures["bops"]))

    @cached_property
    def uniform(self) -> list[Evaluation]:
        """Those that are as wide everywhere."""
        return [e for e in next(iter(self.runs.values())) if e.asked_by.startswith("uniform")]

    def found(self, driver: str) -> list[Evaluation]:
        """What the searches of all seeds evaluated, each assignment once."""
        return list({e.assignment: e for (by, _), run in self.runs.items() if by == driver for e in run}.values())

    @cached_property
    def front(self) -> Front:
        """Of all seeds of `frontier`."""
        return Front.of(self.found("frontier"), self.goals, self.baseline.measures)

    def volumes(self, driver: str) -> list[float]:
        """Hypervolume of the front of each seed, on one scale for all."""
        everything = [e for run in self.runs.values() for e in run]
        scale = Scale.of(everything, [self.baseline, *self.uniform], self.goals)
        mine = [run for (by, _), run in self.runs.items() if by == driver]
        return [Front.of(run, self.goals, self.baseline.measures).hypervolume(scale) for run in mine]

    def best_within(self, bits: float, evaluations: Iterable[Evaluation]) -> Evaluation | None:
        """The best with at most so many bits on average, of weights and of values; None where there is none."""
        small = [e for e in evaluations if e.failure is None and max(self.bits(e.assignment)) <= bits + ROUND]
        return min(small, key=lambda e: self.goals[0].loss(e.measures), default=None)

    def bits(self, assignment: Assignment) -> tuple[float, float]:
        """Average bits of weights and of values, see `average_bits`."""
        return average_bits(self.problem, assignment, self.problem.space.choices)

    def test(self, chosen: Iterable[Evaluation]) -> dict[Assignment, Evaluation]:
        """Scores of `chosen` on the test split."""
        with self._ledger("test") as ledger:
            LedgerSession(self.problem, ledger, self.goals, 0).score_test(chosen)
            return {e.assignment: e for e in ledger.evaluations if e.split == "test"}


def everywhere(problem: ModelProblem, weights: str, values: str) -> Assignment:
    """Every choice that has several options takes the format of its kind."""
    site_of = {site.name: site for site in problem.sites}
    picked = []
    for choice in problem.space.choices:
        site = site_of[choice.sites[0]]
        fmt = canonical(Format.parse(weights if site.role.is_parameter else values), site)
        picked.append(choice.options.index(fmt) if len(choice.options) > 1 else 0)
    return problem.space.decode(picked)


def average_bits(problem: ModelProblem, assignment: Assignment, choices: Sequence[Choice]) -> tuple[float, float]:
    """Average bits per element, scales apart: of conv, linear and recurrent weights, and of values with a choice."""
    searched = {site for choice in choices if len(choice.options) > 1 for site in choice.sites}
    values = [site for site in problem.sites if site.name in searched and not site.role.is_parameter]
    elements = [torch.Size(site.shape).numel() for site in values]
    bits = sum(n * assignment.at(site.name).bits for n, site in zip(elements, values, strict=True))
    return problem.costs(assignment)["weight_bits"], bits / sum(elements)


def seconds(evaluations: Iterable[Evaluation]) -> float:
    """Time that scoring took."""
    return sum(e.seconds for e in evaluations)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("mpsearch", "torch", "numpy")}}
