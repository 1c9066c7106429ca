"""An enumerated truth: what every assignment of a space measured, in one small file, and a problem that looks it up.

A truth is made by scoring a trained model at each assignment with the evaluator of every run. Nothing in it is a
formula: the costs too are the tables that the model's own memory model gives.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.core.front import Scale
from mpsearch.core.goal import Goal
from mpsearch.core.site import Site
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost, Terms
from mpsearch.problem.base import Problem
from mpsearch.problem.probe import Probe

HERE = Path(__file__).resolve().parent
NAMES = ("cnn", "gcn", "vit")
LOSSES = ("log_loss", "error")
_CHUNK = 1024


@dataclass(frozen=True)
class Truth:
    """All measures of a space.

    Args:
        name: `cnn`, `gcn` or `vit`.
        space: its choices.
        size_name: the measure of size, `memory_bytes` or `total_bytes`.
        size: as tables over the choices.
        work: what the network's `Problem.work` says: share of a forward that is left after the first p choices.
        log_loss: [assignments], float32, nats, in the order of the space.
        wrong: [assignments], samples that were classified wrongly, of `n`.
        n: validation samples.
        baseline: measures of the float model.
        fingerprint: digest of the float weights.
    """

    name: str
    space: Space
    size_name: str
    size: Cost
    work: tuple[float, ...]
    log_loss: NDArray[np.float32]
    wrong: NDArray[np.uint16]
    n: int
    baseline: dict[str, float]
    fingerprint: str

    @classmethod
    def load(cls, name: str) -> Truth:
        """The truth kept under `name`. Raises `FileNotFoundError`; `scripts/bench search --make NAME` makes it."""
        with np.load(HERE / f"{name}.npz") as file:
            facts = json.loads(str(file["facts"]))
            log_loss, wrong = file["log_loss"], file["wrong"]
        choices = tuple(
            Choice(sites[0], tuple(sites), tuple(map(Format.parse, options)))
            for sites, options in zip(facts["sites"], facts["options"], strict=True)
        )
        size = facts["size"]
        cost = Cost((Terms.of(size["unary"], size["constant"]),), per=size["per"], whole=size["whole"])
        return cls(
            name=name,
            space=Space(choices),
            size_name=size["name"],
            size=cost,
            work=tuple(facts["work"]),
            log_loss=log_loss,
            wrong=wrong,
            n=facts["n"],
            baseline=facts["baseline"],
            fingerprint=facts["fingerprint"],
        )

    def save(self) -> Path:
        """Write the file that `load` reads."""
        (row,) = self.size.rows
        facts = {
            "sites": [choice.sites for choice in self.space.choices],
            "options": [list(map(str, choice.options)) for choice in self.space.choices],
            "size": {
                "name": self.size_name,
                "unary": [terms.tolist() for terms in row.unary],
                "constant": row.constant,
                "per": self.size.per,
                "whole": self.size.whole,
            },
            "work": self.work,
            "n": self.n,
            "baseline": self.baseline,
            "fingerprint": self.fingerprint,
        }
        path = HERE / f"{self.name}.npz"
        np.savez_compressed(path, log_loss=self.log_loss, wrong=self.wrong, facts=np.array(json.dumps(facts)))
        return path

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """Bytes of every assignment."""
        shape = [len(choice.options) for choice in self.space.choices]
        return self.size(np.indices(shape).reshape(len(shape), -1).T)

    def number(self, assignment: Assignment) -> int:
        """Place of an assignment in the order of the space."""
        place = 0
        for choice, index in zip(self.space.choices, self.space.encode(assignment), strict=True):
            place = place * len(choice.options) + index
        return place

    def measures(self, number: int) -> dict[str, float]:
        """What the assignment at a place measured."""
        return {
            "log_loss": float(self.log_loss[number]),
            "error": int(self.wrong[number]) / self.n,
            self.size_name: float(self.sizes[number]),
        }

    def goals(self, loss: str) -> tuple[Goal, Goal]:
        """`loss` against size."""
        return Goal(loss), Goal(self.size_name)

    def points(self, loss: str) -> NDArray[np.float64]:
        """Scaled losses [assignments, 2] as the hypervolume takes them: ideal of all, worst of float and uniform."""
        everything = [Evaluation(Assignment(), self.measures(number)) for number in range(self.space.size)]
        controls = [everything[self.number(assignment)] for assignment in self.space.uniform().values()]
        controls.append(Evaluation(Assignment(), self.baseline))
        return Scale.of(everything, controls, self.goals(loss)).losses(everything)


class TableProblem(Problem):
    """Answers from a truth, in microseconds.

    Args:
        truth: what every assignment measured.
        network: the real problem, for drivers that look into the float model; None where none does.
    """

    def __init__(self, truth: Truth, network: Problem | None = None) -> None:
        self.truth, self.space, self.fingerprint = truth, truth.space, truth.fingerprint
        self._network = network
        self._count = 0

    @property
    def forwards(self) -> float:
        return float(self._count)

    @property
    def work(self) -> Sequence[float]:
        return self.truth.work

    def costs(self, assignment: Assignment) -> dict[str, float]:
        name = self.truth.size_name
        return {name: self._measures(assignment)[name]}

    def cost(self, name: str) -> Cost | None:
        return self.truth.size if name == self.truth.size_name else None

    def probe(self) -> Probe:
        return super().probe() if self._network is None else self._network.probe()

    def evaluate(self, assignments: Sequence[Assignment], split: str = "validation") -> Iterator[Evaluation]:
        for assignment in assignments:
            self._count += 1
            yield Evaluation(assignment, self._measures(assignment), split=split, n=self.truth.n)

    def _measures(self, assignment: Assignment) -> dict[str, float]:
        return self.truth.measures(self.truth.number(assignment)) if assignment else dict(self.truth.baseline)


class WithTotal(Problem):
    """A problem that also measures `total_bytes`: of the parameters (`memory_bytes`) and of the node features."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.space, self.fingerprint = problem, problem.space, problem.fingerprint
        self.sites: Sequence[Site] = problem.sites
        self.threads, self.batch_sizes = problem.threads, problem.batch_sizes

    @property
    def forwards(self) -> float:
        return self.problem.forwards

    @property
    def work(self) -> Sequence[float]:
        return self.problem.work

    def forget(self) -> None:
        self.problem.forget()

    def costs(self, assignment: Assignment) -> dict[str, float]:
        return _add(self.problem.costs(assignment))

    def probe(self) -> Probe:
        return self.problem.probe()

    def cost(self, name: str) -> Cost | None:
        if name != "total_bytes":
            return self.problem.cost(name)
        stored, held = self.problem.cost("memory_bytes"), self.problem.cost("feature_bytes")
        assert stored is not None
        assert held is not None
        (bits,), (features,) = stored.rows, held.rows
        unary = [a + stored.per * b for a, b in zip(bits.unary, features.unary, strict=True)]
        return replace(stored, rows=(Terms.of(unary, bits.constant + stored.per * features.constant),))

    def evaluate(self, assignments: Sequence[Assignment], split: str = "validation") -> Iterator[Evaluation]:
        for done in self.problem.evaluate(assignments, split):
            yield done if done.failure else replace(done, measures=_add(done.measures))


def _add(measures: Any) -> dict[str, float]:
    return {**measures, "total_bytes": measures["memory_bytes"] + measures["feature_bytes"]}


def build(name: str) -> tuple[Problem, str]:
    """The real problem of a truth, calibrated and ready, and the name of its size."""
    from mpsearch.problem.build import build_problem
    from mpsearch.spec.load import load_spec

    spec = load_spec(HERE / f"{name}.yaml")
    problem = build_problem(spec)
    size = spec.goals[-1].name
    return (WithTotal(problem) if size == "total_bytes" else problem), size


def make(name: str) -> Truth:
    """Train the network, score every assignment, and keep both: minutes."""
    from safetensors.torch import save_file
    from truth.networks import NETWORKS

    save_file(NETWORKS[name].train(), HERE / f"{name}.safetensors")
    problem, size_name = build(name)
    size = problem.cost(size_name)
    assert size is not None
    space = problem.space
    baseline = next(iter(problem.evaluate([Assignment()])))
    log_loss, wrong = np.empty(space.size, np.float32), np.empty(space.size, np.uint16)
    began, at, remaining = time.monotonic(), 0, space.assignments()
    while chunk := list(islice(remaining, _CHUNK)):
        for done in problem.evaluate(chunk):
            assert done.failure is None, done.failure
            log_loss[at], wrong[at] = done.measures["log_loss"], round(done.measures["error"] * done.n)
            at += 1
        print(f"{name}: {at:,} of {space.size:,}, {time.monotonic() - began:.0f} s", file=sys.stderr)
    wanted = (*LOSSES, size_name)
    truth = Truth(
        name=name,
        space=space,
        size_name=size_name,
        size=size,
        work=tuple(problem.work),
        log_loss=log_loss,
        wrong=wrong,
        n=baseline.n,
        baseline={key: baseline.measures[key] for key in wanted},
        fingerprint=problem.fingerprint,
    )
    truth.save()
    return truth
