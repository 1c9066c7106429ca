"""The pictures of a run: `front.html`, interactive and self-contained, and `front.png`.

The page carries its own copy of plotly.js, so it works without a network and inside the artifact view of a tracking
server. What is drawn is decided in `views`; the static picture is drawn in `plots_static`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from mpsearch.core.goal import Goal
from mpsearch.engine.measures import is_cost, log2_of, log_ticks, number
from mpsearch.engine.plots_static import COLOURS, bit_colours, title, write_png
from mpsearch.engine.result import RunResult
from mpsearch.engine.views import (
    Point,
    View,
    focus,
    pairs,
    staircase,
)

_CSS = """
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1f2430; margin: 0 auto;
       padding: 20px 28px; max-width: 1500px; }
h1 { font-size: 21px; margin: 0 0 2px; } h2 { font-size: 16px; margin: 26px 0 4px; }
p { margin: 4px 0; color: #555d6b; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; margin-top: 8px; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #e8eaed; white-space: nowrap; }
th { color: #555d6b; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tr.knee td { color: #d55e00; font-weight: 600; } tr.uniform td { color: #8a5f00; } tr.float td { font-style: italic; }
"""
_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13, "color": "#1f2430"},
    "margin": {"l": 70, "r": 30, "t": 40, "b": 60},
    "hoverlabel": {"bgcolor": "white", "font": {"size": 12}},
}


def write(result: RunResult) -> list[Path]:
    """Write `front.html` and `front.png` into the run folder, whole files at a time; returns their paths."""
    view, folder = View.of(result), result.folder
    html, png = folder / "front.html", folder / "front.png"
    draft = folder / "front.html.tmp"
    draft.write_text(front_page(view), encoding="utf-8")
    draft.replace(html)
    draft = folder / "front.png.tmp"
    write_png(view, draft)
    draft.replace(png)
    return [html, png]


def front_page(view: View) -> str:
    """The whole HTML page: front, parallel coordinates for more than two goals, bits, table."""
    result = view.result
    parts: list[tuple[str, Any]] = [("Front", front_figure(view))]
    if len(view.goals) > 2 and view.shown():
        parts.append(("All goals at once: drag along an axis to filter", parallel_figure(view)))
    if (view.front or view.nearest) and view.sites.choices:
        parts.append(("Bits of each choice in each front member", bits_figure(view)))
    facts = [
        f"driver {result.spec.driver.use}, seed {result.spec.seed}",
        f"{len(result.evaluations)} evaluations, {result.failed} failed",
        f"hypervolume {result.hypervolume:.4f}",
        f"status {result.status}",
    ]
    return page(title(view), " · ".join(facts), parts, table_html(view))


def page(heading: str, facts: str, parts: Sequence[tuple[str, Any]], tail: str = "") -> str:
    """An HTML page of (heading, plotly figure) parts that needs nothing from the network."""
    from plotly.io import to_html

    config = {"displaylogo": False, "responsive": True, "toImageButtonOptions": {"format": "svg", "filename": "front"}}
    body = [
        f"<h2>{escape(name)}</h2>" + to_html(figure, full_html=False, include_plotlyjs=i == 0, config=config)
        for i, (name, figure) in enumerate(parts)
    ]
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(heading)}</title><style>{_CSS}</style></head>"
        f"<body><h1>{escape(heading)}</h1><p>{escape(facts)}</p>{''.join(body)}{tail}</body></html>"
    )


def axis(view: View, goal: Goal) -> dict[str, Any]:
    """Range, ticks and title of a goal's axis; base-2 ticks for costs."""
    low, high = focus(view, goal)
    hint = "" if goal.name == "evaluation" else " (more is better)" if goal.maximise else " (less is better)"
    label: dict[str, Any] = {"title": {"text": view.spoken(goal) + hint}, "zeroline": False}
    if not goal.on_log_scale:
        return label | {"range": [low, high]}
    ticks = log_ticks(goal.name, low, high)
    decades = [v * 0.30102999566398114 for v in (low, high)]
    return label | {
        "type": "log",
        "range": decades,
        "tickvals": ticks,
        "ticktext": [number(goal.name, t) for t in ticks],
    }


def front_figure(view: View) -> Any:
    """One panel per pair of goals: evaluations, front with error bars, test scores, controls, limits, knee."""
    from plotly.subplots import make_subplots

    panels = pairs(view.goals)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.08, vertical_spacing=0.35 / rows)
    for i, (x, y) in enumerate(panels):
        row, column = i // columns + 1, i % columns + 1
        for trace in _traces(view, x, y):
            figure.add_trace(trace.update(showlegend=i == 0), row=row, col=column)
        figure.update_xaxes(axis(view, x), row=row, col=column)
        figure.update_yaxes(axis(view, y), row=row, col=column)
        for goal, add in ((x, figure.add_vline), (y, figure.add_hline)):
            if goal.limit is not None:
                bound = goal.limit.bound(view.result.baseline.measures.get(goal.name, float("nan")))
                where = {"x" if goal is x else "y": bound}
                add(**where, line={"color": COLOURS["limit"], "dash": "dash", "width": 1.3}, row=row, col=column)
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return figure.update_layout(_LAYOUT, height=560 if len(panels) == 1 else 440 * rows, legend=legend)


def _traces(view: View, x: Goal, y: Goal) -> list[Any]:
    from plotly.graph_objects import Scatter

    def scatter(points: Sequence[Point], name: str, **style: Any) -> Any:
        return Scatter(
            x=[p.measures[x.name] for p in points], y=[p.measures[y.name] for p in points], name=name, legendgroup=name,
            hovertext=[view.hover(p) for p in points], hoverinfo="text", **({"mode": "markers"} | style),
        )  # fmt: skip

    def errors(points: Sequence[Point], goal: Goal) -> dict[str, Any]:
        found = [p.evaluation.stderr.get(goal.name, 0.0) for p in points]
        return {"array": found, "visible": any(found), "color": "rgba(0,114,178,0.4)", "thickness": 1.2, "width": 0}

    def ring(colour: str, size: int, width: float) -> dict[str, Any]:
        return {"color": "rgba(0,0,0,0)", "size": size, "line": {"color": colour, "width": width}}

    def labelled(points: Sequence[Point], name: str, symbol: str, size: int) -> Any:
        named = [p.name.replace("uniform ", "") + ("-bit" if p.kind == "uniform" else "") for p in points]
        short = ["" if p.aside else name for p, name in zip(points, named, strict=True)]  # those of the base: room
        marker = {"color": COLOURS[name], "symbol": symbol, "size": size, "line": {"color": "white", "width": 1}}
        return scatter(
            points,
            name,
            mode="markers+text",
            text=short,
            textposition="top center",
            marker=marker,
            textfont={"size": 11},
        )

    members = view.front or view.nearest
    others = [p for p in view.points if not p.on_front and p.kind == "mixed"]
    tested = [p for p in members if p.test is not None]
    corners = staircase(members, x, y)
    dot = {"color": COLOURS["front"], "size": 8, "line": {"color": "white", "width": 0.8}}
    return [
        scatter(others, "evaluated", marker={"color": COLOURS["evaluated"], "size": 5, "opacity": 0.6}),
        scatter(corners, "front line", mode="lines", line={"color": COLOURS["front"], "width": 2, "shape": "hv"}),
        scatter(tested, "front, test split").update(
            x=[_tested(p, x) for p in tested], y=[_tested(p, y) for p in tested], marker=ring(COLOURS["test"], 9, 1.6)
        ),
        scatter(members, "front, validation" if view.front else "nearest to the limits", marker=dot,
                error_x=errors(members, x), error_y=errors(members, y)),
        labelled(view.uniform, "uniform", "diamond", 10),
        labelled(view.baseline, "float", "star", 14),
        scatter([p for p in view.front if p.is_knee], "knee", marker=ring(COLOURS["knee"], 18, 2.4)),
    ]  # fmt: skip


def _tested(point: Point, goal: Goal) -> float:
    scored = point.test.measures if point.test else {}
    return scored.get(goal.name, point.measures[goal.name])


def parallel_figure(view: View) -> Any:
    """Parallel coordinates of front and controls: the goals, upwards is better, and the average bits."""
    from plotly.graph_objects import Figure, Parcoords

    points = view.shown()
    dimensions = []
    for goal in view.goals:
        values = [log2_of(p.measures[goal.name]) if goal.on_log_scale else p.measures[goal.name] for p in points]
        low, high = min(values), max(values)
        ticks = sorted({low, high} if low == high else {low + (high - low) * k / 5 for k in range(6)})
        span = [low, high] if goal.maximise else [high, low]
        text = [number(goal.name, 2**t if goal.on_log_scale else t) for t in ticks]
        dimensions.append(
            {"label": view.spoken(goal), "values": values, "range": span, "tickvals": ticks, "ticktext": text}
        )
    for which, label in enumerate(("average bits, weights", "average bits, values")):
        bits = [view.sites.bits(p.evaluation)[which] for p in points]
        if all(b is not None for b in bits):
            dimensions.append({"label": label, "values": bits})
    kinds = [3 if p.is_knee else 2 if p.kind == "float" else 1 if p.kind == "uniform" else 0 for p in points]
    steps = [COLOURS[name] for name in ("front", "uniform", "float", "knee")]
    scale = [(edge / 4, steps[k]) for k in range(4) for edge in (k, k + 1)]
    line = {"color": kinds, "colorscale": scale, "cmin": -0.5, "cmax": 3.5}
    figure = Figure(Parcoords(dimensions=dimensions, line=line))
    return figure.update_layout(_LAYOUT, height=380, margin={"l": 90, "r": 90, "t": 60, "b": 30})


def bits_figure(view: View) -> Any:
    """Which precision where: choices (rows, model order) by front members (columns, sorted by the last goal)."""
    from plotly.graph_objects import Figure, Heatmap

    members, choices = view.front or view.nearest, list(view.sites.choices.values())
    formats = [[p.evaluation.assignment.at(s.name) for p in members] for s in choices]
    widths = sorted({f.bits for row in formats for f in row})
    steps = bit_colours(widths)
    n = len(widths)
    last = view.goals[-1]
    columns = [
        f"{i}: {view.number(last.name, p.measures[last.name])}{p.aside}{' ◆ knee' if p.is_knee else ''}"
        for i, p in enumerate(members)
    ]
    hover = [
        [f"<b>{s.choice}</b> {f}<br>{view.hover(p)}" for p, f in zip(members, row, strict=True)]
        for s, row in zip(choices, formats, strict=True)
    ]
    heat = Heatmap(
        z=[[widths.index(f.bits) for f in row] for row in formats], x=columns, y=[s.choice for s in choices],
        text=[[f"{f.bits:g}" for f in row] for row in formats], texttemplate="%{text}" if len(members) <= 40 else None,
        colorscale=[(edge / n, steps[w]) for k, w in enumerate(widths) for edge in (k, k + 1)], zmin=-0.5, zmax=n - 0.5,
        hovertext=hover, hoverinfo="text", xgap=1, ygap=1,
        colorbar={"title": "bits", "len": min(1.0, 0.2 * n), "thickness": 16, "tickvals": list(range(n)),
                  "ticktext": ["float" if w == 32 else f"{w:g}" for w in widths]},
    )  # fmt: skip
    figure = Figure(heat).update_layout(_LAYOUT, height=max(260, 21 * len(choices) + 150))
    split = sum(s.is_parameter for s in choices)
    if 0 < split < len(choices):
        figure.add_hline(y=split - 0.5, line={"color": "#1a1a1a", "width": 1.5})
    figure.update_yaxes(autorange="reversed", automargin=True, tickfont={"size": 11})
    return figure.update_xaxes(tickangle=-60, automargin=True, tickfont={"size": 11}, type="category")


def table_html(view: View) -> str:
    """Front, uniform controls and float as an HTML table."""
    head = [
        "",
        *map(view.named, view.goals),
        *(f"test {g.name}" for g in view.goals if not is_cost(g.name)),
        "bits",
        "key",
    ]
    rows = []
    for p in view.shown():
        cells = [f"{p.name}{' (knee)' if p.is_knee else ''}"]
        for g in view.goals:
            ratio = view.ratio(p, g.name)
            cells.append(view.told(p.evaluation, g.name) + (f" ({ratio:.1f}×)" if ratio else ""))
        cells += [
            view.told(p.test, g.name) if p.test and g.name in p.test.measures else ""
            for g in view.goals
            if not is_cost(g.name)
        ]
        kind = "knee" if p.is_knee else p.kind
        rows.append(
            f'<tr class="{kind}">' + "".join(f"<td>{escape(c)}</td>" for c in [*cells, p.summary, p.key[:8]]) + "</tr>"
        )
    return f"<h2>Table</h2><table><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>{''.join(rows)}</table>"
