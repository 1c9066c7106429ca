"""Wall time of a search with this library, from its start until it has a share of a truth's hypervolume."""

from __future__ import annotations

import json
import math
import tempfile
import time
from datetime import datetime
from pathlib import Path

from truth.curves import Shares, first_at
from truth.eager import Timed
from truth.table import HERE, Truth

from mpsearch.core.assignment import Assignment
from mpsearch.engine.run import run
from mpsearch.problem.base import Problem
from mpsearch.spec import registry
from mpsearch.spec.load import load_spec
from mpsearch.spec.schema import Spec

BUDGET = 200
"""What a run spends by default."""


def timed_run(problem: Problem, truth: Truth, seed: int, share: float, racing: bool) -> Timed:
    """A whole run of `frontier`, as `mpsearch run` does it, on a problem that is built and calibrated, cache empty.

    The clock is the ledger's own: it starts when the run has its problem, and an evaluation counts once it is on disk.
    Raises `BadInput` where racing is refused.
    """
    registry.load("drivers", "frontier")  # imports are no part of a search
    next(iter(problem.evaluate([Assignment()])))  # the machine warms up before the clock starts
    problem.forget()
    spec = load_spec(HERE / f"{truth.name}.yaml")
    fields = {"driver": {"use": "frontier", "budget": BUDGET}, "seed": seed, "racing": {"enabled": racing}}
    spec = Spec.model_validate({**spec.model_dump(by_alias=True), **fields})
    began = math.inf

    def build(spec: Spec, weights: Path | None) -> Problem:
        nonlocal began
        began = time.time()
        return problem

    with tempfile.TemporaryDirectory() as folder:
        run(spec, Path(folder) / "run", build=build, show_progress=False, bare=True)
        lines = (Path(folder) / "run" / "ledger.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    places: list[int | None] = []
    moments: list[float] = []
    difference = 0.0
    for line in map(json.loads, lines):
        if line["split"] != "validation" or line["fidelity"] < 1:
            continue
        assignment = Assignment.parse(line["assignment"])
        places.append(truth.number(assignment) if assignment else None)
        moments.append(datetime.fromisoformat(line["time"]).timestamp() - began)
        if places[-1] is not None:
            difference = max(difference, abs(line["measures"]["log_loss"] - float(truth.log_loss[places[-1]])))
    needed = first_at(Shares(truth, "log_loss").curve(places), share)
    return Timed(None if needed is None else moments[needed - 1], needed, difference)
