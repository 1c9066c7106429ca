"""What tracking costs a run: seconds that do not grow with it (import, database, plots), and a share of its time.

The search is the toy problem, evaluated as often as a real one would be; the tracker is the real one, writing to
SQLite in an empty folder. `--uri` measures a server instead.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.engine import plots, report
from mpsearch.engine.load import assemble
from mpsearch.engine.result import RunResult
from mpsearch.engine.tracking import Tracker
from mpsearch.testing.toy import Toy, toy_spec


def main(arguments: list[str]) -> dict[str, Any]:
    """`fixed_seconds`: what the first projection takes beyond a later one, plots, report, the last projection."""
    parser = argparse.ArgumentParser(prog="scripts/bench tracking", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="wall time of the simulated search")
    parser.add_argument("--evaluation-seconds", type=float, default=0.25, help="time of one evaluation")
    parser.add_argument("--goals", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--uri", help="tracking store; default: SQLite in an empty folder")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        here = Path.cwd()
        os.chdir(folder)
        try:
            return _measure(Path(folder) / "run", asked.seconds, asked.evaluation_seconds, asked.goals, asked.uri)
        finally:
            os.chdir(here)


def _measure(folder: Path, seconds: float, evaluation_s: float, goals: int, uri: str | None) -> dict[str, Any]:
    folder.mkdir()
    problem = Toy(options=tuple(Format("int", bits) for bits in range(2, 9)))
    sites = [{"name": s.name, "role": s.role, "shape": s.shape, "choice": s.name} for s in problem.sites]
    (folder / "sites.json").write_text(json.dumps(sites))
    spec = toy_spec(tracking={"enabled": True}, goals=goals)
    rng, done = np.random.default_rng(0), _controls(problem)
    began = time.monotonic()

    def result(complete: bool) -> RunResult:
        elapsed, rows = time.monotonic() - began, list(done.values())
        return assemble(folder, spec, rows, complete=complete, hits=0, forward_equivalents=0.0, seconds=elapsed)

    tracker = Tracker(folder, spec, uri)
    updates: list[Cost] = []
    while time.monotonic() - began < seconds:
        time.sleep(evaluation_s)
        (scored,) = problem.evaluate([problem.space.sample(rng)])
        done.setdefault(scored.key, scored)
        cost = Cost.of(lambda: tracker.update(lambda: result(False)))
        if cost.wall_s > 0.005:
            updates.append(cost)
            print(
                f"update {len(updates)} at {time.monotonic() - began:.0f} s, {len(done)} evaluations: {cost}",
                flush=True,
            )
    wall_s = time.monotonic() - began
    final = result(True)
    plotted = Cost.of(lambda: (plots.write(final), report.write(final)))
    finished = Cost.of(lambda: tracker.finish(final))
    print(f"plots and report: {plotted}\nlast projection: {finished}, {len(final.front.members)} on the front")
    first = updates[0] if updates else Cost(0.0, 0.0)
    dearest = max((u.wall_s for u in updates[1:]), default=0.0)
    first_fixed_s = max(0.0, first.wall_s - dearest)
    growing_s = sum(u.wall_s for u in updates) - first_fixed_s
    fixed_s = first_fixed_s + plotted.wall_s + finished.wall_s
    return {
        "wall_seconds": round(wall_s, 1),
        "evaluations": len(done),
        "updates": len(updates),
        "fixed_seconds": round(fixed_s, 2),
        "fixed_cpu_seconds": round(first.cpu_s + plotted.cpu_s + finished.cpu_s, 2),
        "share": round(growing_s / wall_s, 4),
        "load_average": round(os.getloadavg()[0], 1),
        "within_limits": fixed_s <= 10.0 and growing_s <= 0.05 * wall_s,
    }


@dataclass(frozen=True)
class Cost:
    """Seconds on the wall, and of the processor: far apart on a machine that is busy with other things."""

    wall_s: float
    cpu_s: float

    @classmethod
    def of(cls, work: Callable[[], object]) -> Cost:
        """What calling `work` takes."""
        wall, cpu = time.monotonic(), time.process_time()
        work()
        return cls(time.monotonic() - wall, time.process_time() - cpu)

    def __str__(self) -> str:
        return f"{self.wall_s:.2f} s ({self.cpu_s:.2f} s of processor)"


def _controls(problem: Toy) -> dict[str, Evaluation]:
    """The float baseline and the uniform controls, as a run evaluates them first."""
    asked = {"baseline": Assignment(), **problem.space.uniform()}
    scored = problem.evaluate(list(asked.values()))
    return {e.key: replace(e, asked_by=name) for name, e in zip(asked, scored, strict=True)}
