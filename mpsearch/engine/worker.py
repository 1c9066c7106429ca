"""What a worker of a pool is: a process that builds the problem of a run and evaluates what it is given."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import MpsearchError
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.machine import free_bytes
from mpsearch.problem.base import Problem
from mpsearch.spec.schema import Spec

Build = Callable[[Spec, Path | None], Problem]
Facts = tuple[Mapping[str, Any], bytes | None, Build | None, str, int]
"""The spec as a mapping, the float weights of the run if it keeps them, what makes the problem, the fingerprint that it
must have, and the number of workers."""


class Worker:
    """One of the workers that `facts` tell of. Nothing is built before `prepare`."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._problem: Problem | None = None

    def prepare(self) -> str:
        """Build the problem; an empty text, or why it cannot be evaluated here and what to do."""
        fields, kept, build, fingerprint, workers = self._facts
        here = f"the worker on {socket.gethostname()}"
        try:
            spec = _sharing(Spec.model_validate(fields), workers)
            with tempfile.TemporaryDirectory() as folder:
                weights = None if kept is None else Path(folder) / "weights.safetensors"
                if weights is not None and kept is not None:
                    weights.write_bytes(kept)
                self._problem = (build or build_model)(spec, weights)
        except (MpsearchError, ImportError, OSError) as error:
            return f"{here} cannot build the model: {error}"
        if self._problem.fingerprint != fingerprint:
            return f"{here} has other float weights than the run; give its objective the same files."
        return ""

    def evaluate(self, assignments: Sequence[Assignment], split: str) -> tuple[list[Evaluation], float]:
        """The evaluations in order, and the work done for them in float forwards."""
        assert self._problem is not None
        before = self._problem.forwards
        found = list(self._problem.evaluate(assignments, split))
        return found, self._problem.forwards - before


def _sharing(spec: Spec, workers: int) -> Spec:
    """The caches of all workers together take what that of one process would."""
    cache_bytes = free_bytes() // 4 if spec.engine.cache_bytes is None else spec.engine.cache_bytes
    engine = spec.engine.model_copy(update={"cache_bytes": cache_bytes // workers})
    return spec.model_copy(update={"engine": engine})


def build_model(spec: Spec, weights: Path | None) -> Problem:
    """The problem of the model that `spec` names."""
    from mpsearch.problem.build import build_problem

    return build_problem(spec, weights)
