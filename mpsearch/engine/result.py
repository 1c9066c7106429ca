"""What a run has found: the value that the files, plots, the report and MLflow are projections of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import Front, Scale
from mpsearch.spec.schema import Spec

Status = Literal["complete", "interrupted", "infeasible"]


@dataclass(frozen=True)
class RunResult:
    """The state of a run, finished or not.

    Args:
        folder: the run folder.
        spec: the resolved spec.
        status: `complete`, `interrupted` (resumable) or `infeasible` (`front.nearest` is filled instead of members).
        evaluations: every validation evaluation in ledger order, failed ones included.
        baseline: the float model; of the base, where there are several variants.
        uniform: the uniform controls by name (`uniform 4`, `width=2 uniform 4`), of each variant narrowest first;
            failed ones are left out.
        front: chosen on validation.
        scale: for the hypervolume; None where no control succeeded.
        test: scores on the test split by assignment key, of the front, the baseline and the uniform controls.
        hits: evaluations answered from the ledger.
        forward_equivalents: work done, in float forwards of the validation split.
        seconds: wall time over all sittings.
    """

    folder: Path
    spec: Spec
    status: Status
    evaluations: tuple[Evaluation, ...]
    baseline: Evaluation
    uniform: Mapping[str, Evaluation]
    front: Front
    scale: Scale | None
    test: Mapping[str, Evaluation]
    hits: int
    forward_equivalents: float
    seconds: float

    @property
    def floats(self) -> Mapping[str, Evaluation]:
        """The float model of each variant that was evaluated, the base first."""
        return {e.variant: e for e in self.evaluations if e.is_full and not e.assignment and not e.is_finetuned}

    @property
    def hypervolume(self) -> float:
        """Of the front, on the validation split."""
        return self.front.hypervolume(self.scale) if self.scale else 0.0

    @property
    def failed(self) -> int:
        """Evaluations that have a failure instead of measures."""
        return sum(e.failure is not None for e in self.evaluations)

    @property
    def raced(self) -> int:
        """Evaluations that racing ended before they saw all data."""
        return sum(e.fidelity < 1 for e in self.evaluations)

    @property
    def saved(self) -> float:
        """Share of the batches of all evaluations that racing saved."""
        return sum(1 - e.fidelity for e in self.evaluations) / len(self.evaluations)
