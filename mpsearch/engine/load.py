"""From the ledger to a `RunResult`: while a run ends, and whenever a finished or stopped one is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import BASE, Evaluation
from mpsearch.core.front import Front, Scale
from mpsearch.engine.folder import Folder
from mpsearch.engine.result import RunResult
from mpsearch.ledger.ledger import read
from mpsearch.spec.load import load_saved
from mpsearch.spec.schema import Spec


def load_result(folder: Path) -> RunResult:
    """The state of the run in `folder`, which may be running. Raises `BadInput` if there is none."""
    files = Folder(Path(folder))
    if not files.has_run:
        raise BadInput(f"{files.path} is not a run folder: it has no spec.yaml.")
    facts = files.front_facts()
    recorded = read(files.ledger)
    counts = facts.get("evaluations", {})
    return assemble(
        files.path,
        load_saved(files.path),
        recorded,
        complete=facts.get("status", "interrupted") != "interrupted",
        hits=counts.get("hits", 0),
        forward_equivalents=facts.get("forward_equivalents", 0.0),
        seconds=facts.get("seconds", sum(e.seconds for e in recorded)),
    )


def refuse_other_weights(folder: Path, spec: Spec, fingerprint: str) -> None:
    """Raise `BadInput` where `fingerprint` is not that of the float weights that the run in `folder` began with."""
    recorded = spec.resolved.fingerprint if spec.resolved else ""
    if fingerprint != recorded:
        raise BadInput(
            f"{folder}: the float weights are not those of the run (fingerprint {fingerprint[:12]}, recorded "
            f"{recorded[:12]}); bring the weights back, or start a new run."
        )


def assemble(
    folder: Path,
    spec: Spec,
    recorded: Sequence[Evaluation],
    *,
    complete: bool,
    hits: int,
    forward_equivalents: float,
    seconds: float,
) -> RunResult:
    """The result that `recorded` (all lines of a ledger, in order) amounts to. Raises `BadInput` without a baseline."""
    evaluations = tuple(e for e in recorded if e.split == "validation")
    baseline = next((e for e in evaluations if e.asked_by == "baseline"), None)
    if baseline is None:
        raise BadInput(f"{folder}: nothing was evaluated yet; resume the run first.")
    goals = tuple(goal.goal() for goal in spec.goals)
    uniform = [e for e in evaluations if e.asked_by.startswith("uniform") and e.failure is None]
    controls = {e.asked_by if e.variant == BASE else f"{e.variant} {e.asked_by}": e for e in uniform}
    front = Front.of(evaluations, goals, baseline.measures)
    return RunResult(
        folder=folder,
        spec=spec,
        status="interrupted" if not complete else "complete" if front.members else "infeasible",
        evaluations=evaluations,
        baseline=baseline,
        uniform=controls,
        front=front,
        scale=Scale.of(evaluations, (baseline, *controls.values()), goals),
        test={e.key: e for e in recorded if e.split == "test"},
        hits=hits,
        forward_equivalents=forward_equivalents,
        seconds=seconds,
    )
