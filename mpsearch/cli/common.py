"""What several commands share: finding a run, printing, and the table of a front."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsearch.core.errors import BadInput, nearest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mpsearch.engine.views import Point, View

RUNS = Path("runs")
_WIDTH_OF_A_FILE = 160


def console(to_stderr: bool = False) -> Console:
    """A console on standard output (or error); plain and wide where that is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _WIDTH_OF_A_FILE)


def say(text: str) -> None:
    """One line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def set_aside() -> AbstractContextManager[object]:
    """While entered, what is printed goes to standard error: an objective may print, and is not the answer."""
    return redirect_stdout(sys.stderr)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=1, allow_nan=False), flush=True)


def find_run(text: str) -> Path:
    """The run folder that `text` names: a path, or a unique prefix of a folder in `runs/`. Raises `BadInput`."""
    path = Path(text)
    if (path / "spec.yaml").is_file():
        return path
    runs = [run.name for run in RUNS.iterdir() if (run / "spec.yaml").is_file()] if RUNS.is_dir() else []
    found = [name for name in runs if name.startswith(text)] if text else []
    if len(found) == 1:
        return RUNS / found[0]
    if found:
        raise BadInput(f"run {text!r} is not unique in {RUNS}/: {', '.join(sorted(found))}.")
    what = "holds no run (it has no spec.yaml)" if path.is_dir() else "is neither a run folder nor the start of one"
    if not runs:
        raise BadInput(f"{text!r} {what}; {RUNS.absolute()} holds none. Make one: mpsearch run --space gnn.yaml")
    raise BadInput(f"{text!r} {what}; runs in {RUNS.absolute()}:{nearest(text, runs)}")


def stacked(name: str) -> str:
    """The name of a measure for the head of a column, on up to three lines: names of cards are long."""
    return name.replace("@", "\n@").replace(" (", "\n(")


def front_table(view: View, points: list[Point]) -> Table:
    """A row per point: bits, goals with test scores and ratios to float, key. Figures of accelerators are labelled."""
    from rich.table import Table

    from mpsearch.engine.measures import is_cost

    table = Table(box=None, pad_edge=False, header_style="bold")
    tested = any(point.test is not None for point in points)
    table.add_column("", justify="right")
    for column in ("bits", ""):
        table.add_column(column)
    for goal in view.goals:
        table.add_column(stacked(view.named(goal)), justify="right", overflow="fold")
        if tested and not is_cost(goal.name):
            table.add_column("test", justify="right")
        if is_cost(goal.name):
            table.add_column("smaller", justify="right")
    table.add_column("key")
    rows = {evaluation.key: str(row) for row, evaluation in enumerate(view.result.front.members)}
    for point in points:
        names = point.evaluation.traits if point.kind == "mixed" else [point.name]
        names += ["knee"] * point.is_knee
        names += ["does not fit"] * bool(view.lacks(point))
        cells = [rows.get(point.key, ""), point.summary, ", ".join(names)]
        for goal in view.goals:
            cells.append(view.told(point.evaluation, goal.name))
            if is_cost(goal.name):
                ratio = view.ratio(point, goal.name)
                cells.append("" if ratio is None else f"{ratio:.1f}x")
            elif tested:
                known = point.test is not None and goal.name in point.test.measures
                cells.append(view.number(goal.name, point.test.measures[goal.name]) if known and point.test else "")
        table.add_row(*cells, point.key[:8])
    return table
