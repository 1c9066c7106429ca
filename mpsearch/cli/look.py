"""`front`, `compare`, `list` and `schema`: they read, and change nothing."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.common import console, find_run, front_table, print_json, say, stacked
from mpsearch.cli.picking import PICK_HELP, WHERE_HELP, front_where, picked
from mpsearch.core.errors import BadInput, nearest

if TYPE_CHECKING:
    from mpsearch.core.evaluation import Evaluation
    from mpsearch.engine.views import View

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def front(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the start of a name in runs/.")],
    where: Annotated[
        list[str] | None,
        typer.Option(help=WHERE_HELP),
    ] = None,
    pick: Annotated[str | None, typer.Option(help=PICK_HELP)] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw where the costs of the picked member (or the knee) come from: FILE.html or FILE.png."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the Pareto front of a run, or one member of it with its formats."""
    from mpsearch.engine.folder import front_document
    from mpsearch.engine.formats import shares, uses
    from mpsearch.engine.load import load_result
    from mpsearch.engine.views import View

    result = load_result(find_run(run))
    kept = front_where(result, where or [])
    one = None if pick is None else picked(result, where or [], pick)
    view = View.of(result)
    if plot is not None:
        _draw(view, one or (kept.knee() if kept.members else None), plot)
    chosen = {one.key} if one else {e.key for e in kept.members}
    document = front_document(result)
    document["members"] = [member for member in document["members"] if member["key"] in chosen]
    found = uses(view)
    if as_json:
        print_json(document["members"][0] if one else document | {"formats": [asdict(use) for use in found]})
        return
    screen = console()
    rows = [point for point in view.shown() if point.key in chosen or (one is None and not point.on_front)]
    screen.print(front_table(view, rows))
    if not one:
        for line in shares(found):
            screen.print(line, soft_wrap=True)
    if one:
        for site, text in document["members"][0]["assignment"].items():
            screen.print(f"{text:12} {site}", soft_wrap=True)
    if not result.front.members:
        say("mpsearch: nothing meets the limits; shown are the nearest.")


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
