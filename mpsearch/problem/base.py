"""A problem: a space of assignments and a way to score them. What a session needs, and no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.goal import Goal
from mpsearch.core.site import Site
from mpsearch.core.space import Space
from mpsearch.cost.terms import Cost
from mpsearch.problem.probe import Probe
from mpsearch.spec.schema import Recipe

Scores = Mapping[str, NDArray[np.float64]]
"""One score per sample [n], by measure; of those measures alone that are means over samples."""


@dataclass(frozen=True)
class Step:
    """Where a training is: steps are counted from 1 within the epoch, of which the number is not known before."""

    epoch: int
    epochs: int
    step: int
    loss: float


Watch = Callable[[Step], object]
"""Follows a training step by step."""


class Finetuned(Protocol):
    """What finetuning made of an assignment."""

    @property
    def assignment(self) -> Assignment:
        """At which the training ended: another one, where the method of the recipe chooses formats."""

    def save(self, path: Path) -> object:
        """Write assignment, recipe, weights and history to `path`."""


GoesOn = Callable[[Scores], bool]
"""Whether an assignment that has scored so far is worth another batch."""


class Problem(ABC):
    """Scores assignments. `ModelProblem` is the real one, `mpsearch.testing.toy` has one with a known front."""

    space: Space
    fingerprint: str
    """Digest of what is searched (the float weights). A run is never resumed on another."""
    sites: Sequence[Site] = ()
    """Every site of the model in the order of computation, for `sites.json`; those without a choice too."""
    limits: Sequence[str] = ()
    """What this way of running the model cannot do, one sentence each; said at the start and in the report."""
    status: Mapping[str, str] = MappingProxyType({})
    """How far measures of accelerators can be trusted, by name: `analytic`, `calibrated` or `measured`."""
    notes: Sequence[str] = ()
    """What the user should know of the accelerators, one sentence each: which widths run as wider ones."""
    threads: int = 1
    """How many threads of the CPU score it; a run keeps their number, because it decides how sums are rounded."""
    batch_sizes: Sequence[int] = ()
    """Samples of each batch of the validation split; empty where it cannot be scored in parts."""
    keeps_weights: bool = False
    """Whether the float weights are kept with the run, because training them again might give others."""

    def save_weights(self, path: Path) -> None:
        """Write the float weights to `path`; called only where `keeps_weights`."""
        raise NotImplementedError(f"{type(self).__name__} has no weights to keep ({path.name}).")

    def forget(self) -> None:  # noqa: B027 - nothing to do where nothing is cached
        """Drop cached activations, so that the next evaluation is computed anew. Used to check that it repeats."""

    @property
    @abstractmethod
    def forwards(self) -> float:
        """Work done so far, in float forwards of the validation split (MACs computed over MACs of a forward)."""

    @property
    def work(self) -> Sequence[float]:
        """Share of a forward that is computed for an assignment whose first p choices were evaluated together before.

        One number for each p from 0 to the number of choices; for drivers that weigh what a question costs.
        """
        return [1.0] * (len(self.space.choices) + 1)

    @abstractmethod
    def costs(self, assignment: Assignment) -> dict[str, float]:
        """Measures that follow from the assignment by arithmetic (`memory_bytes`, ...): no forward pass."""

    def cost(self, name: str) -> Cost | None:
        """The measure `name` as tables over the choices of the space, equal to what `costs` gives for each assignment.

        None where it is measured, or is no such sum: a driver then treats it like any other measure.
        """
        del name
        return None

    def shares(self, name: str, assignment: Assignment) -> dict[str, float]:
        """Where the cost `name` comes from: what each site, tensor or operation adds, in the unit of the measure.

        Empty where that is not known.
        """
        del name, assignment
        return {}

    def arena_bytes(self, assignment: Assignment) -> int | None:
        """Memory that holds all values at the offsets of a planner: `activation_peak_bytes`, or a little more.

        None where that is not known.
        """
        del assignment
        return None

    def probe(self) -> Probe:
        """A look at the float model, for drivers that predict before they measure. Raises `BadInput` without one."""
        raise BadInput(
            "the driver looks into the exported model, which this problem has none of; "
            "search with driver frontier or sensitivity."
        )

    @abstractmethod
    def evaluate(self, assignments: Sequence[Assignment], split: str = "validation") -> Iterator[Evaluation]:
        """Score each assignment, costs included, yielding in the given order as results become known.

        The result of an assignment does not depend on what else is evaluated, before or with it. An objective that
        raises or gives NaN yields an evaluation with a `failure`. Assignments that share a prefix of the space's
        choices are cheapest next to each other.
        """

    def require_training(self) -> None:
        """Raise `BadInput` where assignments cannot be finetuned, with what to add."""
        raise BadInput(f"{type(self).__name__} has nothing to train; leave out finetune, and drivers that train.")

    def steps_per_epoch(self) -> int:
        """Batches of one pass over the training data; after `require_training`."""
        raise NotImplementedError(f"{type(self).__name__} has no training data.")

    def finetune(
        self,
        assignment: Assignment,
        recipe: Recipe,
        seed: int,
        goal: Goal | None,
        watch: Watch,
        checkpoint: Path | None = None,
    ) -> Finetuned:
        """Train from `assignment` by `recipe`; the same seed gives the same weights, bit for bit.

        Args:
            goal: by whose measure on the validation split the best epoch is kept; None for the validation loss.
            watch: is told of each step. What it raises ends the training.
            checkpoint: file that is written after each epoch; where it exists, training goes on from it.

        Raises:
            Diverged: the loss is not finite; the message has the epoch and the step.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot finetune ({assignment.key}).")

    def evaluate_finetuned(self, weights: Path, split: str = "validation") -> Evaluation:
        """Score what `finetune` made and saved in the file `weights`, costs of the assignment included."""
        raise NotImplementedError(f"{type(self).__name__} cannot finetune ({weights}).")

    def race(self, assignment: Assignment, order: Sequence[int], goes_on: GoesOn) -> Evaluation:
        """Score on one validation batch after another, as long as `goes_on`.

        An assignment that sees all batches scores bit for bit as in `evaluate`; another has what the batches it saw
        measure, and a fidelity below 1.

        Args:
            order: numbers of batches, each once.
            goes_on: asked after every batch with all scores so far, in the order of the batches; after the last one
                too, where the answer has no effect. It is not asked where the objective failed.
        """
        raise NotImplementedError(f"{type(self).__name__} scores no part of the data ({len(order)} batches).")
