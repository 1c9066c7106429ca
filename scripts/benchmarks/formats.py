"""What it costs, and what it brings, to offer every number format in place of those that a space names.

A search over a larger menu may lose its way. So the space is searched as it is and with `formats: all` in every rule,
at a budget and at twice that, from several seeds. Fronts are compared by hypervolume on one scale for all runs: from
the ideal of all of them to the worst of float and their uniform controls, as `mpsearch compare` does; once over the
goals of the space, once over its first and last alone. Beside it stands the figure up to the worst of the controls of
the space as it is, which counts nothing of what lies beyond. Met is: at the same budget not lower by more than one
standard error of the difference, at twice the budget strictly higher.

Seconds per evaluation are those of the search alone, over runs that begin with an empty cache; what is fitted before is
told apart. Run folders are kept under `--out`, and an interrupted benchmark goes on from them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.core.front import Front, Scale
from mpsearch.core.goal import Goal
from mpsearch.engine.formats import shares, uses
from mpsearch.engine.load import load_result
from mpsearch.engine.result import RunResult
from mpsearch.engine.run import resume, run
from mpsearch.engine.views import View
from mpsearch.problem.base import Problem
from mpsearch.problem.build import build_problem
from mpsearch.spec.load import load_spec
from mpsearch.spec.schema import Spec

OWN, ALL = "its own", "all"
Runs = dict[tuple[str, int, int], RunResult]
"""By menu, budget and seed."""


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/bench formats", description=__doc__)
    parser.add_argument("--space", default="cnn.yaml", help="a bundled space, or a file")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each menu and budget")
    parser.add_argument(
        "--first", type=int, default=10, help="the first seed; constants of the driver were chosen on 0 to 2"
    )
    parser.add_argument("--budget", type=int, help="evaluations of a run; twice that too. Default: that of the space")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-formats"), help="folder of the runs")
    asked = parser.parse_args(arguments)
    own = load_spec(asked.space, ["tracking.enabled=false"])
    budget = asked.budget or own.driver.budget or 200
    runs: Runs = {}
    seeds = range(asked.first, asked.first + asked.seeds)
    for menu in (OWN, ALL):
        kept = asked.out / f"{own.name}-{menu.replace(' ', '-')}"
        maker = Maker(asked.space, menu, len(own.sites), kept)
        for size, seed in product((budget, 2 * budget), seeds):
            runs[menu, size, seed] = found = maker.run(size, seed)
            _say(f"{menu} formats, {size} evaluations, seed {seed}: {len(found.front.members)} members")
    goals = own_goals(own)
    result: dict[str, Any] = {"budget": budget, "seeds": list(seeds)}
    for axes, menus in product(dict.fromkeys((goals, (goals[0], goals[-1]))), ((OWN, ALL), (OWN,))):
        volumes = _volumes(runs, axes, menus)
        where = f"{', '.join(goal.name for goal in axes)}, up to the controls of {' and '.join(menus)} formats"
        print(f"\nhypervolume over {where}: mean ± standard error\n")
        print("| formats | evaluations | hypervolume | seconds per evaluation |\n| --- | --- | --- | --- |")
        for (menu, size), found in volumes.items():
            mean, error = _mean(found)
            pace = _mean([_pace(r) for (m, b, _), r in runs.items() if (m, b) == (menu, size)])[0]
            print(f"| {menu} | {size} | {mean:.4f} ± {error:.4f} | {pace:.4f} |")
            result[f"{where}: {menu}, {size}"] = [round(mean, 5), round(error, 5), round(pace, 5)]
        print()
        result |= {f"{where}: {what}": met for what, met in _verdict(volumes, budget).items()}
    print("\nformats on the fronts with all offered, shares of elements\n")
    for (menu, size, seed), found in runs.items():
        if menu == ALL:
            print(f"{size} evaluations, seed {seed}: {'; '.join(shares(uses(View.of(found))))}")
    return result


def own_goals(spec: Spec) -> tuple[Goal, ...]:
    """The nouns of its goals."""
    return tuple(goal.goal() for goal in spec.goals)


@dataclass
class Maker:
    """Runs a space with one menu; the model is exported and its grids fitted once, at the first run.

    Args:
        space: name or file.
        menu: `OWN` or `ALL`.
        rules: how many the space has.
        folder: of the runs.
    """

    space: str
    menu: str
    rules: int
    folder: Path
    problem: Problem | None = None

    def run(self, budget: int, seed: int) -> RunResult:
        """The run in its folder, made or finished if it is not complete."""
        folder = self.folder / f"{budget}-s{seed}"
        if (folder / "ledger.jsonl").is_file():
            found = load_result(folder)
            return found if found.status != "interrupted" else resume(folder, build=self._built, bare=True)
        offered = [f"sites[{i}].formats=all" for i in range(self.rules)] if self.menu == ALL else []
        settings = [*offered, f"driver.budget={budget}", f"seed={seed}", "engine.threads=1", "tracking.enabled=false"]
        return run(load_spec(self.space, settings), folder, build=self._built, bare=True)

    def _built(self, spec: Spec, weights: Path | None) -> Problem:
        if self.problem is None:
            began = time.monotonic()
            self.problem = build_problem(spec, weights)
            _say(f"{self.menu} formats: exported and fitted in {time.monotonic() - began:.1f} s")
        self.problem.forget()
        return self.problem


def _volumes(runs: Runs, goals: Sequence[Goal], menus: Sequence[str]) -> dict[tuple[str, int], list[float]]:
    """By menu and budget, one for each seed; scaled up to the worst of the controls of `menus`."""
    controls = [e for (menu, _, _), r in runs.items() if menu in menus for e in (r.baseline, *r.uniform.values())]
    base = controls[0].measures
    fronts = {key: Front.of([e for e in found.evaluations if e.is_full], goals, base) for key, found in runs.items()}
    scale = Scale.of([*controls, *(e for front in fronts.values() for e in front.members)], controls, goals)
    volumes: dict[tuple[str, int], list[float]] = {}
    for (menu, size, _), front in fronts.items():
        volumes.setdefault((menu, size), []).append(front.hypervolume(scale))
    return volumes


def _verdict(volumes: dict[tuple[str, int], list[float]], budget: int) -> dict[str, bool]:
    found = {}
    for size in (budget, 2 * budget):
        (own, own_error), (every, every_error) = (_mean(volumes[menu, size]) for menu in (OWN, ALL))
        error = math.hypot(own_error, every_error)
        met = every >= own - error if size == budget else every > own
        found["not lower at the budget" if size == budget else "higher at twice the budget"] = met
        print(f"at {size} evaluations all formats are {every - own:+.4f} ± {error:.4f}: {'met' if met else 'NOT MET'}")
    return found


def _pace(result: RunResult) -> float:
    return result.seconds / len(result.evaluations)


def _mean(numbers: Sequence[float]) -> tuple[float, float]:
    """And its standard error, 0 of a single number."""
    error = np.std(numbers, ddof=1) / math.sqrt(len(numbers)) if len(numbers) > 1 else 0.0
    return float(np.mean(numbers)), float(error)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
