"""A problem of 4 choices with 3 formats each whose Pareto front is known: 81 points, no model, microseconds a point.

Every layer loses `sensitivity / 4 ** bits` of accuracy and costs `size * bits / 8` bytes; the loss of two neighbouring
narrow layers is larger than the sum, so that no choice can be made alone. Latency has its own prices, so that the
three goals disagree.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation, Failure
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.core.site import Role, Site
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost, Terms
from mpsearch.problem.base import GoesOn, Problem, Step, Watch
from mpsearch.spec.schema import Recipe, Spec
from mpsearch.testing.toy_probe import ToyProbe

SENSITIVITY = (2.4, 0.5, 0.3, 1.6)
SIZE = (64, 512, 512, 96)
LATENCY_MS = (4, 1, 3, 1)
PRICES = {"memory_bytes": (SIZE, 8), "latency_s": (LATENCY_MS, 8000)}
"""Of each cost: units per bit of each layer, and how many units make one of the measure."""
OPTIONS = tuple(Format("int", bits) for bits in (2, 4, 8))


class Toy(Problem):
    """Measures `accuracy`, `memory_bytes` and `latency_s` of 4 imagined layers.

    Args:
        layers: how many of the 4 have a choice; 0 to 4. A space of one point has one option each.
        options: formats of each choice.
        scheme: of these formats, in place of their own.
        fail_every: assignments whose digest is a multiple of this fail (about one in so many); 0 for none.
        slow_s: seconds each evaluation takes.
        batches: of 100 samples each, scored 0 or 1, so that evaluations can be raced; with 1 the accuracy is smooth.
        drift: added to the accuracy at each evaluation, an objective that does not repeat itself.
        watch: called with each assignment and its split as its evaluation begins.
    """

    def __init__(
        self,
        layers: int = 4,
        options: Sequence[Format] = OPTIONS,
        scheme: str | None = None,
        fail_every: int = 0,
        slow_s: float = 0.0,
        batches: int = 1,
        drift: float = 0.0,
        watch: Callable[[Assignment, str], None] = lambda assignment, split: None,
    ) -> None:
        names = [f"layer{i}.weight" for i in range(layers)]
        options = [replace(option, scheme=scheme or option.scheme) for option in options]
        self.space = Space(tuple(Choice(name, (name,), tuple(options)) for name in names))
        self.sites = tuple(Site(n, Role.WEIGHT, (size,)) for n, size in zip(names, SIZE, strict=False))
        self.fingerprint = hashlib.sha256(repr((SENSITIVITY, SIZE, LATENCY_MS, layers)).encode()).hexdigest()
        self.batch_sizes = (100,) * batches
        self._hardness = (np.random.default_rng(0).permutation(100 * batches) + 0.5) / (100 * batches)
        self._work = 0.0
        self._fail_every, self._slow_s, self._drift, self._watch = fail_every, slow_s, drift, watch
        self._count = 0

    @property
    def forwards(self) -> float:
        return self._work

    def costs(self, assignment: Assignment) -> dict[str, float]:
        bits = self._bits(assignment)
        return {
            "memory_bytes": sum(int(size * b) // 8 for size, b in zip(SIZE, bits, strict=True)),
            "latency_s": sum(int(t * b) for t, b in zip(LATENCY_MS, bits, strict=True)) / 8000,
        }

    def cost(self, name: str) -> Cost | None:
        if name not in PRICES:
            return None
        prices, per = PRICES[name]
        rows = [[int(p * fmt.bits) for fmt in c.options] for p, c in zip(prices, self.space.choices, strict=False)]
        missing = sum(32 * p for p in prices[len(rows) :])
        return Cost((Terms.of(rows, missing),), per)

    def shares(self, name: str, assignment: Assignment) -> dict[str, float]:
        prices, per = PRICES.get(name, ((), 1))
        bits = self._bits(assignment)
        return {f"layer{i}.weight": int(price * bits[i]) / per for i, price in enumerate(prices)}

    def probe(self) -> ToyProbe:
        return ToyProbe(self.space, dict(zip([site.name for site in self.sites], SENSITIVITY, strict=False)))

    def evaluate(self, assignments: Sequence[Assignment], split: str = "validation") -> Iterator[Evaluation]:
        return (self._score(a, split, range(len(self.batch_sizes)), lambda _: True) for a in assignments)

    def race(self, assignment: Assignment, order: Sequence[int], goes_on: GoesOn) -> Evaluation:
        return self._score(assignment, "validation", order, goes_on)

    def require_training(self) -> None:
        """It can."""

    def steps_per_epoch(self) -> int:
        return 1

    def finetune(
        self,
        assignment: Assignment,
        recipe: Recipe,
        seed: int,
        goal: Goal | None,
        watch: Watch,
        checkpoint: Path | None = None,
    ) -> ToyTraining:
        """Formats are learned where the recipe has an option `penalty`: on the bytes, as a share of all."""
        del goal, checkpoint
        for epoch in range(1, recipe.epochs + 1):
            self._watch(assignment, f"epoch {epoch}")
            watch(Step(epoch, recipe.epochs, 1, 0.5**epoch))
        penalty = recipe.options.get("penalty")
        return ToyTraining(assignment if penalty is None else self._cheaper(penalty), recipe, seed)

    def _cheaper(self, penalty: float) -> Assignment:
        """Of each choice on its own, the option of the least loss and penalty."""
        rows = zip(self.space.choices, SENSITIVITY, SIZE, strict=False)
        whole = 8 * sum(SIZE)
        return Assignment(
            {c.name: min(c.options, key=lambda f: s / 4**f.bits + penalty * n * f.bits / whole) for c, s, n in rows}
        )

    def evaluate_finetuned(self, weights: Path, split: str = "validation") -> Evaluation:
        """Every epoch has halved what the assignment loses of the accuracy."""
        known = json.loads(weights.read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(known["recipe"])
        before = next(self.evaluate([Assignment.parse(known["assignment"])], split))
        if before.failure is not None:
            return replace(before, recipe=recipe.digest)
        best = self._accuracy(Assignment()) - (0.01 if split == "test" else 0.0)
        accuracy = best - (best - before.measures["accuracy"]) / 2**recipe.epochs
        return replace(before, measures={**before.measures, "accuracy": accuracy}, recipe=recipe.digest)

    def _score(self, assignment: Assignment, split: str, order: Sequence[int], goes_on: GoesOn) -> Evaluation:
        began = time.perf_counter()
        self._count += 1
        self._watch(assignment, split)
        time.sleep(self._slow_s)
        size, total = 100, len(self.batch_sizes)
        if self._fail_every and assignment and int(assignment.key, 16) % self._fail_every == 0:
            self._work += 1
            return Evaluation(assignment, split=split, n=size * total, failure=Failure("error", "the toy fails here"))
        accuracy = self._accuracy(assignment) - (0.01 if split == "test" else 0.0) + self._drift * self._count
        solved = (self._hardness < accuracy).astype(float).reshape(total, size)
        seen: list[int] = []
        for batch in order:
            seen.append(batch)
            if not goes_on({"accuracy": np.concatenate([solved[i] for i in seen])}):
                break
        self._work += len(seen) / total
        if total > 1:
            accuracy = float(solved[sorted(seen)].mean())
        return Evaluation(
            assignment,
            measures={"accuracy": accuracy, **self.costs(assignment)},
            stderr={"accuracy": 0.01},
            split=split,
            fidelity=len(seen) / total,
            n=size * len(seen),
            seconds=time.perf_counter() - began,
        )

    def _accuracy(self, assignment: Assignment) -> float:
        loss = [s / 4**b for s, b in zip(SENSITIVITY, self._bits(assignment), strict=True)]
        return 0.98 - sum(loss) - sum(8 * a * b for a, b in pairwise(loss))

    def _bits(self, assignment: Assignment) -> list[float]:
        return [assignment.at(f"layer{i}.weight").bits for i in range(len(SIZE))]


@dataclass(frozen=True)
class ToyTraining:
    """What the toy makes of an assignment: nothing but the wish."""

    assignment: Assignment
    recipe: Recipe
    seed: int

    def save(self, path: Path) -> None:
        """As JSON."""
        known = {"assignment": self.assignment.texts(), "recipe": self.recipe.model_dump(), "seed": self.seed}
        path.write_text(json.dumps(known), encoding="utf-8")


def build(spec: Spec, weights: Path | None = None) -> Toy:
    """The toy that `spec.objective.options` describes; in place of `mpsearch.problem.build.build_problem`."""
    del weights
    return Toy(**spec.objective.options)


def true_front(problem: Toy, goals: Mapping[str, bool]) -> set[Assignment]:
    """Assignments no other dominates, by comparing all pairs. `goals` says of each measure whether more is better.

    Of assignments that measure the same, all are in.
    """
    scored = {
        e.assignment: [-e.measures[g] if more else e.measures[g] for g, more in goals.items()]
        for e in problem.evaluate(list(problem.space.assignments()))
    }

    def beaten(losses: list[float]) -> bool:
        return any(
            other != losses and all(a <= b for a, b in zip(other, losses, strict=True)) for other in scored.values()
        )

    return {assignment for assignment, losses in scored.items() if not beaten(losses)}


GOALS: dict[int, list[dict[str, Any]]] = {
    1: [{"name": "accuracy", "maximise": True}],
    2: [{"name": "accuracy", "maximise": True}, {"name": "memory_bytes"}],
    3: [{"name": "accuracy", "maximise": True}, {"name": "latency_s"}, {"name": "memory_bytes"}],
}
"""Goals of a space file, by how many."""


def toy_spec(
    driver: str = "random",
    *,
    budget: int | None = 40,
    seed: int = 0,
    goals: int = 2,
    options: Mapping[str, Any] | None = None,
    toy: Mapping[str, Any] | None = None,
    **more: Any,
) -> Spec:
    """A spec of the toy.

    Args:
        driver: its name; `options` are its options.
        goals: how many, of `GOALS`.
        toy: options of `Toy` that YAML can hold.
        more: top-level fields of the space file that replace those made here.
    """
    fields: dict[str, Any] = {
        "schema": "mpsearch.space/1",
        "name": "toy",
        "objective": {"use": "toy", "options": dict(toy or {})},
        "sites": [{"match": "*", "formats": [str(option) for option in OPTIONS]}],
        "goals": GOALS[goals],
        "driver": {"use": driver, "budget": budget, "options": dict(options or {})},
        "seed": seed,
        "tracking": {"enabled": False},
    }
    return Spec.model_validate(fields | more)
