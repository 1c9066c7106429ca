"""`front`, `compare`, `list` and `schema`: they read, and change nothing."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.common import console, find_run, front_table, print_json, say, stacked
from mpsearch.core.errors import BadInput, NothingFeasible, nearest

if TYPE_CHECKING:
    from mpsearch.core.evaluation import Evaluation
    from mpsearch.engine.result import RunResult
    from mpsearch.engine.views import View

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
_WHERE = re.compile(r"\s*(?P<name>[^<>=\s]+)\s*(?P<limit>(<=|>=).*)")
_PICK = re.compile(r"(?P<word>best|cheapest):(?P<goal>.+)")


def front(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the start of a name in runs/.")],
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only members with, for example, 'memory_bytes<=200000' or 'latency_s<=1e-3'. Repeatable."),
    ] = None,
    pick: Annotated[
        str | None, typer.Option(help="One member: knee, best:GOAL, cheapest:GOAL, key:PREFIX or its row.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw where the costs of the picked member (or the knee) come from: FILE.html or FILE.png."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the Pareto front of a run, or one member of it with its formats."""
    from mpsearch.core.front import Front
    from mpsearch.engine.folder import front_document
    from mpsearch.engine.formats import shares, uses
    from mpsearch.engine.load import load_result
    from mpsearch.engine.views import View

    result = load_result(find_run(run))
    members = tuple(e for e in result.front.members if _meets(e, where or [], result))
    if result.front.members and not members:
        raise NothingFeasible(f"no member of the front meets {' and '.join(where or [])}.")
    kept = Front(result.front.goals, members)
    picked = kept.pick(_in_full(pick, result)) if pick is not None else None
    view = View.of(result)
    if plot is not None:
        _draw(view, picked or (kept.knee() if kept.members else None), plot)
    chosen = {picked.key} if picked else {e.key for e in members}
    document = front_document(result)
    document["members"] = [member for member in document["members"] if member["key"] in chosen]
    found = uses(view)
    if as_json:
        print_json(document["members"][0] if picked else document | {"formats": [asdict(use) for use in found]})
        return
    screen = console()
    rows = [point for point in view.shown() if point.key in chosen or (picked is None and not point.on_front)]
    screen.print(front_table(view, rows))
    if not picked:
        for line in shares(found):
            screen.print(line, soft_wrap=True)
    if picked:
        for site, text in document["members"][0]["assignment"].items():
            screen.print(f"{text:12} {site}", soft_wrap=True)
    if not result.front.members:
        say("mpsearch: nothing meets the limits; shown are the nearest.")


def _in_full(pick: str, result: RunResult) -> str:
    """`best:latency_s` as `best:latency_s@nvidia-t4`, where one accelerator alone is a goal of it."""
    from mpsearch.engine.measures import meant

    match = _PICK.fullmatch(pick)
    if match is None:
        return pick
    try:
        return f"{match['word']}:{meant(match['goal'], [goal.name for goal in result.front.goals])}"
    except BadInput as error:
        raise BadInput(f"--pick {pick!r}: {error}") from None


def _draw(view: View, picked: Evaluation | None, path: Path) -> None:
    """The picture of where the costs of a member come from; of the nearest to the limits where there is none."""
    from mpsearch.engine import plots_costs
    from mpsearch.engine.costs import FILE

    point = plots_costs.default(view) if picked is None else view.by_key[picked.key]
    if point is None:
        raise BadInput("--plot: the run has no member to draw yet; resume it first.")
    try:
        plots_costs.draw(view, point, path)
    except OSError as error:
        raise BadInput(f"--plot {path}: cannot be written ({error.strerror}); name another file.") from None
    if not view.costs.shares:
        folder = view.result.folder
        say(f"mpsearch: {folder / FILE} tells of no costs, so only bits are drawn; mpsearch resume {folder} writes it.")
    say(f"mpsearch: {path}")


def _meets(evaluation: Evaluation, conditions: list[str], result: RunResult) -> bool:
    from mpsearch.core.goal import Goal, Limit
    from mpsearch.engine.measures import meant

    for text in conditions:
        match = _WHERE.fullmatch(text)
        if match is None:
            raise BadInput(f"--where {text!r} is not understood; write for example 'memory_bytes<=200000'.")
        try:
            name = meant(match["name"], evaluation.measures)
        except BadInput as error:
            raise BadInput(f"--where {text!r}: {error}") from None
        goal = Goal(name, limit=Limit.parse(match["limit"]))
        if goal.excess(evaluation.measures, result.baseline.measures) > 0:
            return False
    return True


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN ...", help="Runs with the same goals.")],
    to: Annotated[Path | None, typer.Option(help="Write an interactive page with the fronts and their growth.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs with the same goals: hypervolume on one scale, size of the front, work done."""
    from rich.table import Table

    from mpsearch.engine import compare as engine
    from mpsearch.engine.load import load_result

    results = [load_result(find_run(run)) for run in runs]
    found = engine.compare(results, to)
    if len({r.spec.resolved.fingerprint for r in results if r.spec.resolved}) > 1:
        say("mpsearch: these runs searched different float weights.")
    if as_json:
        rows = [
            {
                "run": str(r.folder),
                "status": r.status,
                "driver": r.spec.driver.use,
                "seed": r.spec.seed,
                "evaluations": len(r.evaluations),
                "members": len(r.front.members),
                "hypervolume": r.front.hypervolume(found.scale),
                "curve": curve,
                "forward_equivalents": r.forward_equivalents,
                "seconds": r.seconds,
            }
            for r, curve in zip(results, found.curves, strict=True)
        ]
        print_json({"goals": [g.name for g in found.goals], "reference": found.scale.reference, "runs": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, head in enumerate(found.head):
        table.add_column(stacked(head), justify="right" if i > 1 else "left", overflow="fold")
    for row in found.rows:
        table.add_row(*row)
    console().print(table)


def list_(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="spaces, drivers, quantizers, learners, objectives, accelerators.")
    ],
    as_json: JsonOption = False,
) -> None:
    """List what can be named: spaces, drivers, quantizers, learners, objectives or accelerators."""
    from mpsearch.spec import find, registry

    if kind == "accelerators":
        _accelerators(as_json)
        return
    kinds = {
        "spaces": lambda: find.names("search_spaces"),
        "objectives": lambda: find.names("objectives"),
        "drivers": lambda: ["auto", *registry.names("drivers")],
        "quantizers": lambda: registry.names("quantizers"),
        "learners": lambda: registry.names("learners"),
    }
    if kind not in kinds:
        raise BadInput(f"unknown kind {kind!r}.{nearest(kind, [*kinds, 'accelerators'])}")
    found = kinds[kind]()
    if as_json:
        print_json({kind: found})
        return
    width = max(map(len, found), default=0)
    for name in found:
        print(f"{name:{width}}  {_about(kind, name)}".rstrip())


def _accelerators(as_json: bool) -> None:
    """Shipped cards, and those in folders of MPSEARCH_PATH: kind, status, the measures they give, what to know."""
    from rich.table import Table

    from mpsearch.spec import find
    from mpsearch.spec.card import MAY_HAVE_A_CARD, load_card

    rows = []
    for name in sorted({*find.card_names(), *find.own_cards()}):
        row: dict[str, Any] = {"name": name, "kind": None, "status": "faulty", "measures": []}
        try:
            device = load_card(find.find_card(name, Path()))
            given = [measure for measure in MAY_HAVE_A_CARD if device.refuses(measure) is None]
            row |= {"kind": device.card.kind, "status": device.card.status, "measures": given, "note": device.card.note}
        except BadInput as error:
            row["note"] = error.errors[0]
        rows.append(row)
    if as_json:
        print_json({"accelerators": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("name", "kind", "status", "measures", "note"):
        table.add_column(head, no_wrap=head != "note", overflow="fold")
    for row in rows:
        first = (row["note"] or "").partition(". ")[0].rstrip(".")
        table.add_row(row["name"], row["kind"] or "", row["status"], " ".join(row["measures"]), first)
    console().print(table)


def _about(kind: str, name: str) -> str:
    """The first line of what `name` says of itself; a driver's options too, and what a quantizer's name offers."""
    from mpsearch.spec import find, registry

    if name == "auto":
        return "exhaustive where the budget covers the space, else frontier"
    try:
        if kind in ("spaces", "objectives"):
            path = find.find_space(name) if kind == "spaces" else find.find_objective(name, Path())[0]
            return path.read_text(encoding="utf-8").partition("\n")[0].strip('# "')
        found = registry.load(kind, name)
    except BadInput as error:
        return f"({error})"
    options = ", ".join(f"{p.name}: {p.default}" for p in inspect.signature(found).parameters.values())
    more = f"  {{{options}}}" if options else ""
    if menu := getattr(found, "menu", ()):  # of a quantizer
        more = f"  [{', '.join(menu)}]"
    return (inspect.getdoc(found) or "").partition("\n")[0] + more


def schema() -> None:
    """Print the JSON Schema of space files, for completion and checks in an editor."""
    from mpsearch.spec.schema import json_schema

    print_json(json_schema())
