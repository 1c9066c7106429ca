"""What racing saves, and whether the front it ends with is the one that full evaluations give.

For each space and driver, one run on all data and one with racing, from the same seed. Members of both fronts are
scored on all validation data, so the fronts can be compared as they are: on one scale by hypervolume, its error being
how far it moves if every accuracy moves by one standard error; and member by member: is there one in the other front
that costs no more and is at least as good, up to one standard error? With `--rescore`, what racing dropped is evaluated
on all data afterwards, to count what should have been kept.

Run folders are kept under `--out`, and an interrupted benchmark goes on from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import Front, Scale
from mpsearch.core.goal import Goal
from mpsearch.engine.load import load_result
from mpsearch.engine.result import RunResult
from mpsearch.engine.run import resume, run
from mpsearch.problem.build import build_problem
from mpsearch.spec.load import load_spec

CASES = (("cifar_resnet20.yaml", 300), ("cnn.yaml", 200))
QUICK = (("cifar_resnet20.yaml", 60), ("cnn.yaml", 60))


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/bench racing", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-racing"), help="folder of the runs")
    parser.add_argument("--drivers", nargs="+", default=["optuna", "frontier"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small budgets, 1,000 images of CIFAR-10 in 20 batches")
    parser.add_argument("--rescore", action="store_true", help="evaluate what was dropped on all data")
    asked = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    for space, budget in QUICK if asked.quick else CASES:
        for driver in asked.drivers:
            settings = [f"driver.use={driver}", f"driver.budget={budget}", f"seed={asked.seed}", "engine.threads=1"]
            if asked.quick and space.startswith("cifar"):
                settings += ["objective.options.validation=1000", "objective.options.batch_size=50"]
            name = f"{Path(space).stem}-{driver}-{budget}-s{asked.seed}{'-quick' if asked.quick else ''}"
            whole, raced = (_done(asked.out / f"{name}-{how}", space, settings, how) for how in ("whole", "raced"))
            found = _compare(whole, raced)
            if asked.rescore:
                found |= _rescore(raced)
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
            figures |= {f"{Path(space).stem}_{driver}_{key}": value for key, value in found.items()}
    return figures


def _done(folder: Path, space: str, settings: Sequence[str], how: str) -> RunResult:
    """The run in `folder`, made or finished if it is not complete."""
    if (folder / "spec.yaml").is_file():
        result = load_result(folder) if (folder / "ledger.jsonl").is_file() else None
        return result if result and result.status != "interrupted" else resume(folder, bare=True)
    racing = f"racing.enabled={str(how == 'raced').lower()}"
    return run(load_spec(space, [*settings, racing, "tracking.enabled=false"]), folder, bare=True)


def _compare(whole: RunResult, raced: RunResult) -> dict[str, Any]:
    goals = whole.front.goals
    controls = [e for r in (whole, raced) for e in (r.baseline, *r.uniform.values())]
    scale = Scale.of([*whole.front.members, *raced.front.members, *controls], controls, goals)
    volumes = [r.front.hypervolume(scale) for r in (whole, raced)]
    lower = Front(goals, tuple(_worse_by_one_error(e, goals) for e in whole.front.members))
    return {
        "forwards_whole": round(whole.forward_equivalents, 1),
        "forwards_raced": round(raced.forward_equivalents, 1),
        "forwards_saved": round(1 - raced.forward_equivalents / whole.forward_equivalents, 3),
        "batches_saved": round(raced.saved, 3),
        "seconds_whole": round(whole.seconds, 1),
        "seconds_raced": round(raced.seconds, 1),
        "hypervolume_whole": round(volumes[0], 5),
        "hypervolume_raced": round(volumes[1], 5),
        "hypervolume_error": round(volumes[0] - lower.hypervolume(scale), 5),
        "members_whole": len(whole.front.members),
        "members_raced": len(raced.front.members),
        "members_matched_by_raced": _matched(whole.front, raced.front),
        "members_matched_by_whole": _matched(raced.front, whole.front),
        "members_the_same": len({e.key for e in whole.front.members} & {e.key for e in raced.front.members}),
    }


def _worse_by_one_error(member: Evaluation, goals: Sequence[Goal]) -> Evaluation:
    moved = {
        g.name: member.measures[g.name] + (-1 if g.maximise else 1) * member.stderr.get(g.name, 0.0) for g in goals
    }
    return replace(member, measures={**member.measures, **moved})


def _matched(front: Front, other: Front) -> int:
    """How many members of `front` have one in `other` that is at least as good up to one standard error."""
    return sum(
        any(
            all(g.loss(e.measures) <= g.loss(_worse_by_one_error(m, front.goals).measures) for g in front.goals)
            for e in other.members
        )
        for m in front.members
    )


def _rescore(raced: RunResult) -> dict[str, Any]:
    """How many of those dropped belong, scored on all data, on the front."""
    dropped = [e.assignment for e in raced.evaluations if e.fidelity < 1]
    whole = list(build_problem(raced.spec).evaluate(dropped))
    members = Front.of([*raced.front.members, *whole], raced.front.goals, raced.baseline.measures).members
    wrongly = {e.key for e in members} & {e.key for e in whole}
    return {"dropped": len(dropped), "dropped_wrongly": len(wrongly)}
