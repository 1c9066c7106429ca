"""Several runs side by side: their fronts in one picture, and hypervolumes that can be compared.

A hypervolume means something only on a common scale. Here the ideal point is taken over the evaluations of all runs,
and the worst point over the union of their controls (float and uniform).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from mpsearch.core.errors import BadInput
from mpsearch.core.front import Front, Scale
from mpsearch.core.goal import Goal
from mpsearch.engine.costs import Costs
from mpsearch.engine.measures import digits_apart, number
from mpsearch.engine.plots import axis, page
from mpsearch.engine.result import RunResult
from mpsearch.engine.views import View, pairs, staircase

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1a", "#8a6d00")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "pentagon", "cross")
_SHARES = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Comparison:
    """Runs on one scale.

    Args:
        names: of the runs, as shown.
        goals: common to all.
        scale: common to all.
        curves: of each run, the hypervolume after each evaluation that changed it: (evaluations, hypervolume).
        head: column names of `rows`.
        rows: a line of text per run, for a table on a terminal.
    """

    names: tuple[str, ...]
    goals: tuple[Goal, ...]
    scale: Scale
    curves: tuple[tuple[tuple[int, float], ...], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def compare(results: Sequence[RunResult], page_at: Path | None = None) -> Comparison:
    """Compare runs with the same goals; writes one self-contained page at `page_at` where that is given.

    Raises:
        BadInput: fewer than two runs, goals that differ, figures of an accelerator that are calibrated in one run
            and not in another, or no control that did not fail.
    """
    if len(results) < 2:
        raise BadInput("compare needs at least two runs; give their folders: mpsearch compare RUN RUN.")
    goals = results[0].front.goals
    for result in results[1:]:
        if [(g.name, g.maximise) for g in result.front.goals] != [(g.name, g.maximise) for g in goals]:
            raise BadInput(
                f"{result.folder} and {results[0].folder} cannot be compared: their goals are "
                f"{_goals(result.front.goals)} and {_goals(goals)}; compare runs with the same goals."
            )
    controls = [e for r in results for e in (r.baseline, *r.uniform.values())]
    try:
        scale = Scale.of([e for r in results for e in r.evaluations], controls, goals)
    except ValueError as error:
        raise BadInput(f"these runs cannot be compared: {error}") from None
    costs = [Costs.read(r.folder) for r in results]
    named = [_named(costs, g) for g in goals]
    names, curves = _names(results), tuple(_curve(r, scale) for r in results)
    reached = _reached([r.front for r in results])
    rows = tuple(
        _row(name, r, told, scale, curve) for name, r, told, curve in zip(names, results, reached, curves, strict=True)
    )
    shares = [f"at {share:.0%}" for share in _SHARES[:-1]]
    best = [f"{'best' if g.maximise else 'least'} {name}" for g, name in zip(goals, named, strict=True)]
    head = ("run", "driver", "seed", "evaluations", "front", *best, "knee", "hypervolume", *shares, "seconds", "status")
    found = Comparison(names, goals, scale, curves, head, rows)
    if page_at is not None:
        draft = page_at.with_name(page_at.name + ".tmp")
        draft.write_text(_page(found, results), encoding="utf-8")
        draft.replace(page_at)
    return found


def _goals(goals: Sequence[Goal]) -> str:
    return ", ".join(f"{'most' if g.maximise else 'least'} {g.name}" for g in goals)


def _named(costs: Sequence[Costs], goal: Goal) -> str:
    """The goal's name with the status of its figures, which must be one for all runs."""
    known = {found.labelled(goal.name) for found in costs}
    labelled = sorted(known - {goal.name})  # a run without costs.json tells nothing
    if len(labelled) > 1:
        raise BadInput(
            f"these runs cannot be compared: {' and '.join(labelled)} are figures of different models of the device; "
            "run one of them again with the card of the other."
        )
    return labelled[0] if labelled else goal.name


def _names(results: Sequence[RunResult]) -> tuple[str, ...]:
    """Folder names; with a number where two are equal."""
    plain = [r.folder.name for r in results]
    return tuple(name if plain.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(plain, 1))


def _curve(result: RunResult, scale: Scale) -> tuple[tuple[int, float], ...]:
    """Hypervolume of the front of the first n evaluations, at each n where that front changes, and at the end."""
    goals, base = result.front.goals, result.baseline.measures
    members: tuple[str, ...] = ()
    front, points = Front(tuple(goals), ()), []
    for n, e in enumerate(result.evaluations, 1):
        if not e.is_full:
            continue
        front = Front.of([*front.members, e], goals, base)  # a front of a front and a point is the front of all
        keys = tuple(m.key for m in front.members)
        if keys != members:
            members = keys
            points.append((n, front.hypervolume(scale)))
    return (*points, (len(result.evaluations), points[-1][1] if points else 0.0))


def _at(curve: Sequence[tuple[int, float]], n: float) -> float:
    return max((value for at, value in curve if at <= n), default=0.0)


def _reached(fronts: Sequence[Front]) -> list[list[str]]:
    """The best of each goal on each of `fronts`, with as many digits as tell them apart."""
    told: list[list[str]] = [[] for _ in fronts]
    for goal in fronts[0].goals:
        best = [f.pick(f"best:{goal.name}").measures[goal.name] if f.members else None for f in fronts]
        digits = digits_apart(goal.name, [value for value in best if value is not None])
        for row, value in zip(told, best, strict=True):
            row.append("–" if value is None else number(goal.name, value, digits))
    return told


def _row(
    name: str, result: RunResult, best: Sequence[str], scale: Scale, curve: Sequence[tuple[int, float]]
) -> tuple[str, ...]:
    """One run; `best` is what it reached of each goal."""
    front, last = result.front, curve[-1][0]
    knee = View.of(result).sites.summary(front.knee()) if front.members else "–"
    shares = [f"{_at(curve, share * last):.4f}" for share in _SHARES[:-1]]
    spec = result.spec
    counts = (spec.driver.use, str(spec.seed), str(len(result.evaluations)), str(len(front.members)))
    return (
        name,
        *counts,
        *best,
        knee,
        f"{front.hypervolume(scale):.4f}",
        *shares,
        f"{result.seconds:.0f}",
        result.status,
    )


def _page(found: Comparison, results: Sequence[RunResult]) -> str:
    views = [View.of(r) for r in results]
    parts = [("Fronts", _fronts(found, views)), ("Hypervolume over evaluations, common scale", _hypervolumes(found))]
    head = "".join(f"<th>{escape(text)}</th>" for text in found.head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in found.rows)
    named = {g.name: _named([view.costs for view in views], g) for g in found.goals}
    facts = "Worst of all float and uniform controls: " + ", ".join(
        f"{named[name]} {number(name, value)}" for name, value in found.scale.reference.items()
    )
    tail = f"<h2>Table</h2><table><tr>{head}</tr>{body}</table>"
    return page(f"{len(results)} runs compared", facts, parts, tail)


def _fronts(found: Comparison, views: Sequence[View]) -> Any:
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    panels = pairs(found.goals)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.08, vertical_spacing=0.3 / rows)
    for i, (x, y) in enumerate(panels):
        where = {"row": i // columns + 1, "col": i % columns + 1}
        for k, (name, view) in enumerate(zip(found.names, views, strict=True)):
            colour, symbol = _COLOURS[k % len(_COLOURS)], _SYMBOLS[k % len(_SYMBOLS)]
            shared = {"name": name, "legendgroup": name, "line": {"color": colour, "width": 2, "shape": "hv"}}
            corners = staircase(view.front, x, y)
            line = Scatter(
                x=_values(corners, x), y=_values(corners, y), mode="lines", hoverinfo="skip", showlegend=False, **shared
            )
            marker = {"color": colour, "symbol": symbol, "size": 9, "line": {"color": "white", "width": 0.8}}
            dots = Scatter(
                x=_values(view.front, x), y=_values(view.front, y), mode="markers", marker=marker, showlegend=i == 0,
                hovertext=[f"<b>{escape(name)}</b><br>{view.hover(p)}" for p in view.front], hoverinfo="text", **shared,
            )  # fmt: skip
            controls = [*view.uniform, *view.baseline]
            crosses = Scatter(
                x=_values(controls, x), y=_values(controls, y), mode="markers", showlegend=i == 0,
                legendgroup=f"{name} controls", name=f"{name}: float, uniform",
                visible=True if k == 0 else "legendonly",
                marker={"color": colour, "symbol": f"{symbol}-open", "size": 11, "line": {"width": 2}},
                hovertext=[f"<b>{escape(name)}</b><br>{view.hover(p)}" for p in controls], hoverinfo="text",
            )  # fmt: skip
            figure.add_traces([line, dots, crosses], rows=where["row"], cols=where["col"])
        figure.update_xaxes(_common_axis(views, x), **where)
        figure.update_yaxes(_common_axis(views, y), **where)
    height = 560 if len(panels) == 1 else 440 * rows
    return figure.update_layout(
        template="plotly_white", height=height, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}
    )


def _values(points: Sequence[Any], goal: Goal) -> list[float]:
    return [p.measures[goal.name] for p in points]


def _common_axis(views: Sequence[View], goal: Goal) -> dict[str, Any]:
    """The widest of the views' axes: its range is the union of theirs."""
    axes = [axis(view, goal) for view in views]
    lows, highs = zip(*(a["range"] for a in axes), strict=True)
    widest = max(axes, key=lambda a: a["range"][1] - a["range"][0])
    return widest | {"range": [min(lows), max(highs)]}


def _hypervolumes(found: Comparison) -> Any:
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for k, (name, curve) in enumerate(zip(found.names, found.curves, strict=True)):
        line = {"color": _COLOURS[k % len(_COLOURS)], "width": 2, "shape": "hv"}
        figure.add_trace(Scatter(x=[n for n, _ in curve], y=[v for _, v in curve], name=name, mode="lines", line=line))
    figure.update_xaxes(title="evaluations").update_yaxes(title="hypervolume", rangemode="tozero")
    return figure.update_layout(
        template="plotly_white",
        height=380,
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
