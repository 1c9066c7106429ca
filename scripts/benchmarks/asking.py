"""What a driver takes to ask and be told, apart from any evaluation: 200 choices with five formats, an imagined loss.

Milliseconds per assignment, over the last tenth of a search: of `frontier` after 1,000 evaluations, of Optuna's TPE
after 250 (its asks grow with every evaluation).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost, Terms
from mpsearch.drivers.base import AskTell, SearchOver, Session
from mpsearch.drivers.frontier import Frontier
from mpsearch.drivers.optuna import Optuna
from mpsearch.problem.base import Problem

BITS = (2, 3, 4, 6, 8)


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/bench asking", description=__doc__)
    parser.add_argument("--choices", type=int, default=200)
    parser.add_argument("--evaluations", type=int, default=1000)
    asked = parser.parse_args(arguments)
    problem = Imagined(asked.choices)
    return {
        "frontier_ms": _late_ms(Frontier(), problem, asked.evaluations),
        "tpe_ms_after_250": _late_ms(Optuna("tpe"), problem, 250),
    }


class Imagined(Problem):
    """A loss that adds up over choices, and more so over neighbours; memory is exact."""

    def __init__(self, choices: int) -> None:
        rng = np.random.default_rng(0)
        options = tuple(Format("int", bits) for bits in BITS)
        self.space = Space(tuple(Choice(f"w{i}", (f"w{i}",), options) for i in range(choices)))
        self._sizes, self._matters = rng.integers(100, 100_000, choices), np.exp(rng.normal(0, 1.5, choices)) / choices

    @property
    def forwards(self) -> float:
        return 0.0

    def costs(self, assignment: Assignment) -> dict[str, float]:
        return {"memory_bytes": int(np.ceil(self._sizes @ self._bits(assignment) / 8))}

    def cost(self, name: str) -> Cost | None:
        if name != "memory_bytes":
            return None
        return Cost((Terms.of([[int(size * bits) for bits in BITS] for size in self._sizes]),), per=8, whole=True)

    def evaluate(self, assignments: Sequence[Assignment], split: str = "validation") -> Iterator[Evaluation]:
        for assignment in assignments:
            harm = self._matters * 4.0 ** (1 - self._bits(assignment))
            loss = 0.1 + float(harm.sum() + len(harm) * (harm[1:] * harm[:-1]).sum())
            yield Evaluation(assignment, {"log_loss": loss, **self.costs(assignment)}, split=split)

    def _bits(self, assignment: Assignment) -> Any:
        return np.array([assignment.at(choice.name).bits for choice in self.space.choices])


class Timed(Session):
    """Times what lies between two evaluations."""

    def __init__(self, problem: Problem, budget: int) -> None:
        self.problem, self.space, self.seed, self._budget = problem, problem.space, 0, budget
        self.goals = (Goal("log_loss"), Goal("memory_bytes"))
        controls = [Assignment(), *problem.space.uniform().values()]
        self._known = {done.assignment: done for done in problem.evaluate(controls)}
        self.spent: list[tuple[int, float]] = []
        """Assignments asked together, and the seconds since the last ones were answered."""
        self._left = time.perf_counter()

    @property
    def evaluations(self) -> Sequence[Evaluation]:
        return tuple(self._known.values())

    @property
    def budget_left(self) -> int:
        return self._budget - len(self._known)

    def evaluate(self, assignments: Sequence[Assignment], label: str = "") -> list[Evaluation]:
        self.spent.append((len(assignments), time.perf_counter() - self._left))
        self._known |= {done.assignment: done for done in self.problem.evaluate(assignments)}
        if len(self._known) >= self._budget:
            raise SearchOver
        self._left = time.perf_counter()
        return [self._known[a] for a in assignments]


def _late_ms(driver: AskTell, problem: Problem, budget: int) -> float:
    session = Timed(problem, budget)
    with suppress(SearchOver), threadpool_limits(1):
        driver.search(session)
    late, count = [], 0
    for n, seconds in reversed(session.spent):
        late.append((n, seconds))
        count += n
        if count >= budget / 10:
            break
    print(f"{type(driver).__name__}: {count} assignments in {len(late)} asks, {sum(s for _, s in late):.2f} s")
    return round(1e3 * sum(s for _, s in late) / count, 1)
