"""What a worker of a pool is: a process that builds the problem of a run and evaluates what it is given."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import MpsearchError
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.machine import free_bytes
from mpsearch.engine.folder import Folder
from mpsearch.engine.variants import Build, build_variants, fingerprint
from mpsearch.problem.base import Problem
from mpsearch.spec.schema import Spec

Facts = tuple[Mapping[str, Any], Mapping[str, bytes], Build | None, str, int]
"""The spec as a mapping, the float weights of each variant if the run keeps them, what makes the problems, the
fingerprint that they must have, and the number of workers."""


class Worker:
    """One of the workers that `facts` tell of. Nothing is built before `prepare`."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._problems: dict[str, Problem] = {}

    def prepare(self) -> str:
        """Build the problems; an empty text, or why they cannot be evaluated here and what to do."""
        fields, kept, build, recorded, workers = self._facts
        here = f"the worker on {socket.gethostname()}"
        try:
            spec = _sharing(Spec.model_validate(fields), workers)
            with tempfile.TemporaryDirectory() as folder:
                files = Folder(Path(folder))
                for variant, content in kept.items():
                    files.of(variant).path.mkdir(parents=True, exist_ok=True)
                    files.of(variant).weights.write_bytes(content)
                self._problems = build_variants(spec, build or build_model, kept=files)
        except (MpsearchError, ImportError, OSError) as error:
            return f"{here} cannot build the model: {error}"
        if fingerprint(self._problems) != recorded:
            return f"{here} has other float weights than the run; give its objective the same files."
        return ""

    def evaluate(self, assignments: Sequence[Assignment], split: str, variant: str) -> tuple[list[Evaluation], float]:
        """The evaluations in order, and the work done for them in float forwards."""
        problem = self._problems[variant]
        before = problem.forwards
        found = list(problem.evaluate(assignments, split))
        return found, problem.forwards - before


def _sharing(spec: Spec, workers: int) -> Spec:
    """The caches of all workers, for each variant, together take what that of one process would."""
    cache_bytes = free_bytes() // 4 if spec.engine.cache_bytes is None else spec.engine.cache_bytes
    engine = spec.engine.model_copy(update={"cache_bytes": cache_bytes // (workers * len(spec.by_variant))})
    return spec.model_copy(update={"engine": engine})


def build_model(spec: Spec, weights: Path | None) -> Problem:
    """The problem of the model that `spec` names."""
    from mpsearch.problem.build import build_problem

    return build_problem(spec, weights)
