"""An evaluation: what one assignment measured, or why it could not be measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from mpsearch.core.assignment import Assignment

Identity = tuple[str, str, str | None, str, float]
FINETUNING = "finetune"
"""Who asks for what is trained once the search is over."""

BASE = "base"
"""The variant that limits refer to; the only one unless a space has several."""


@dataclass(frozen=True)
class Failure:
    """Why an evaluation has no measures. `kind` is `error`, `nan`, `timeout` or `memory`."""

    kind: str
    message: str


@dataclass(frozen=True)
class Evaluation:
    """The outcome of scoring one assignment on one split.

    Args:
        assignment: what was scored.
        measures: finite numbers by name; empty if it failed. Units stand in the names.
        stderr: standard error of those measures that are means over samples.
        split: `validation` or `test`.
        fidelity: share of the split's batches that was scored, in (0, 1].
        n: samples scored.
        variant: shape of the model: `width=2`, say, or `base`.
        recipe: digest of the finetuning, None for post-training quantization.
        asked_by: `baseline` (the float model of another variant is `float`), the uniform control's name (`uniform 4`),
            `start`, the driver's name, or `finetune`.
        seconds: wall time the evaluation took, costs included.
    """

    assignment: Assignment
    measures: Mapping[str, float] = field(default_factory=dict)
    stderr: Mapping[str, float] = field(default_factory=dict)
    split: str = "validation"
    fidelity: float = 1.0
    n: int = 0
    variant: str = BASE
    recipe: str | None = None
    asked_by: str = ""
    seconds: float = 0.0
    failure: Failure | None = None

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name the member: assignment, variant, and recipe where it was finetuned."""
        own = [part for part in (self.variant, self.recipe) if part not in (BASE, None)]
        if not own:
            return self.assignment.key
        return hashlib.sha256(" ".join([self.assignment.key, *map(str, own)]).encode()).hexdigest()[:16]

    @property
    def is_full(self) -> bool:
        """Whether it measured all of the split: it did not fail, and no batch was left out."""
        return self.failure is None and self.fidelity == 1.0

    @property
    def is_finetuned(self) -> bool:
        """Whether its weights were trained at the assignment."""
        return self.recipe is not None

    @property
    def traits(self) -> list[str]:
        """What tells members of one assignment apart, for people: `width=2`, `finetuned`; none of most."""
        return [self.variant] * (self.variant != BASE) + ["finetuned"] * self.is_finetuned

    @property
    def is_searched(self) -> bool:
        """Whether the search asked for it, and not the finetuning after it."""
        return self.asked_by != FINETUNING

    @property
    def identity(self) -> Identity:
        """Two evaluations of the same identity are the same measurement."""
        return (self.variant, self.key, self.recipe, self.split, self.fidelity)
