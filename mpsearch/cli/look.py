"""`front`, `compare`, `list` and `schema`: they read, and change nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from mpsearch.cli.common import console, find_run, front_table, print_json, say
from mpsearch.core.errors import BadInput, NothingFeasible, nearest

if TYPE_CHECKING:
    from mpsearch.core.evaluation import Evaluation
    from mpsearch.engine.result import RunResult

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
_WHERE = re.compile(r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_.]*)\s*(?P<limit>(<=|>=).*)")


def front(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the start of a name in runs/.")],
    where: Annotated[
        list[str] | None, typer.Option(help="Only members with, for example, 'memory_bytes<=200000'. Repeatable.")
    ] = None,
    pick: Annotated[
        str | None, typer.Option(help="One member: knee, best:GOAL, cheapest:GOAL, key:PREFIX or its row.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the Pareto front of a run, or one member of it with its formats."""
    from mpsearch.core.front import Front
    from mpsearch.engine.folder import front_document
    from mpsearch.engine.load import load_result
    from mpsearch.engine.views import View

    result = load_result(find_run(run))
    members = tuple(e for e in result.front.members if _meets(e, where or [], result))
    if result.front.members and not members:
        raise NothingFeasible(f"no member of the front meets {' and '.join(where or [])}.")
    picked = Front(result.front.goals, members).pick(pick) if pick is not None else None
    chosen = {picked.key} if picked else {e.key for e in members}
    document = front_document(result)
    document["members"] = [member for member in document["members"] if member["key"] in chosen]
    if as_json:
        print_json(document["members"][0] if picked else document)
        return
    view = View.of(result)
    screen = console()
    kept = [point for point in view.shown() if point.key in chosen or (picked is None and not point.on_front)]
    screen.print(front_table(view, kept))
    if picked:
        for site, text in document["members"][0]["assignment"].items():
            screen.print(f"{text:12} {site}", soft_wrap=True)
    if not result.front.members:
        say("mpsearch: nothing meets the limits; shown are the nearest.")


def _meets(evaluation: Evaluation, conditions: list[str], result: RunResult) -> bool:
    from mpsearch.core.goal import Goal, Limit

    for text in conditions:
        match = _WHERE.fullmatch(text)
        if match is None:
            raise BadInput(f"--where {text!r} is not understood; write for example 'memory_bytes<=200000'.")
        if match["name"] not in evaluation.measures:
            raise BadInput(
                f"--where {text!r}: no measure {match['name']!r}.{nearest(match['name'], evaluation.measures)}"
            )
        goal = Goal(match["name"], limit=Limit.parse(match["limit"]))
        if goal.excess(evaluation.measures, result.baseline.measures) > 0:
            return False
    return True


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN ...", help="Runs with the same goals.")],
    as_json: JsonOption = False,
) -> None:
    """Compare runs with the same goals: hypervolume on one scale, size of the front, work done."""
    from rich.table import Table

    from mpsearch.core.front import Scale
    from mpsearch.engine.load import load_result
    from mpsearch.engine.views import number

    results = [load_result(find_run(run)) for run in runs]
    names = [goal.name for goal in results[0].front.goals]
    for result in results:
        if [(g.name, g.maximise) for g in result.front.goals] != [(g.name, g.maximise) for g in results[0].front.goals]:
            other = ", ".join(goal.name for goal in result.front.goals)
            raise BadInput(f"{result.folder} has the goals {other}, {results[0].folder} has {', '.join(names)}.")
    if len({r.spec.resolved.fingerprint for r in results if r.spec.resolved}) > 1:
        say("mpsearch: these runs searched different float weights; their numbers are side by side all the same.")
    evaluations = [e for r in results for e in r.evaluations]
    controls = [e for r in results for e in (r.baseline, *r.uniform.values())]
    scale = Scale.of(evaluations, controls, results[0].front.goals)
    rows = [
        {
            "run": str(r.folder),
            "status": r.status,
            "driver": r.spec.driver.use,
            "seed": r.spec.seed,
            "evaluations": len(r.evaluations),
            "failed": r.failed,
            "members": len(r.front.members),
            "hypervolume": r.front.hypervolume(scale),
            "best": {
                g.name: min(r.front.members, key=lambda e: g.loss(e.measures)).measures[g.name]
                for g in r.front.goals
                if r.front.members
            },
            "forward_equivalents": r.forward_equivalents,
            "seconds": r.seconds,
        }
        for r in results
    ]
    if as_json:
        print_json({"goals": names, "reference": scale.reference, "runs": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ["run", "status", "driver", "seed", "evaluations", "members", "hypervolume", "forwards", "seconds"]
    for head in (*heads, *(f"best {name}" for name in names)):
        table.add_column(head, justify="left" if head in ("run", "status", "driver") else "right", overflow="fold")
    for row, r in zip(rows, results, strict=True):
        best = [number(n, row["best"][n]) if n in row["best"] else "" for n in names]  # type: ignore[index, operator]
        numbers = [f"{r.front.hypervolume(scale):.4f}", f"{r.forward_equivalents:.1f}", f"{r.seconds:.1f}"]
        facts = [r.folder.name, r.status, r.spec.driver.use, r.spec.seed, len(r.evaluations), len(r.front.members)]
        table.add_row(*map(str, facts), *numbers, *best)
    console().print(table)


def list_(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="spaces, drivers, quantizers or objectives.")],
    as_json: JsonOption = False,
) -> None:
    """List what can be named: spaces, drivers, quantizers or objectives."""
    from mpsearch.spec import find, registry

    kinds = {
        "spaces": lambda: find.names("search_spaces"),
        "objectives": lambda: find.names("objectives"),
        "drivers": lambda: ["auto", *registry.names("drivers")],
        "quantizers": lambda: registry.names("quantizers"),
    }
    if kind not in kinds:
        raise BadInput(f"unknown kind {kind!r}.{nearest(kind, kinds)}")
    found = kinds[kind]()
    if as_json:
        print_json({kind: found})
    else:
        print("\n".join(found))


def schema() -> None:
    """Print the JSON Schema of space files, for completion and checks in an editor."""
    from mpsearch.spec.schema import json_schema

    print_json(json_schema())
