"""The front and its bits as one PNG, drawn with matplotlib: for reports, papers and the note of a tracking run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.core.goal import Goal
from mpsearch.engine.costs import shortened
from mpsearch.engine.measures import log2_of, log_ticks, number
from mpsearch.engine.views import Point, View, focus, pairs, staircase

COLOURS = {  # Okabe and Ito: told apart with every common colour blindness, and in grey
    "evaluated": "#b5bcc6",
    "front": "#0072b2",
    "test": "#56b4e9",
    "uniform": "#e69f00",
    "float": "#1a1a1a",
    "knee": "#d55e00",
    "limit": "#cc79a7",
}
PANEL_INCHES = (6.4, 5.2)


def write_png(view: View, path: Path, dpi: int = 130) -> None:
    """Front panels, one per pair of goals, and which precision each member puts where."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    members = view.front or view.nearest
    choices = len(view.sites.choices) if members else 0
    rows_in = 0.22 * min(choices, 40) + 0.13 * max(0, choices - 40)
    heatmap_in = float(np.clip(rows_in + 1.7, 3.0, 22.0)) if choices else 0.0
    draw = _beside if len(view.goals) <= 2 else _stacked
    figure = Figure(dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    heatmap = draw(figure, view, heatmap_in)
    figure.suptitle(title(view), fontsize=12, fontweight="bold", x=0.01, ha="left")
    if heatmap is not None:
        _heatmap(heatmap.subplots(1, 1), view, members)
    figure.savefig(path, dpi=dpi, format="png")


def _beside(figure: Any, view: View, heatmap_in: float) -> Any:
    """One panel on the left, room for the heatmap on the right; returns that room, None if there is no heatmap."""
    width, height = PANEL_INCHES
    figure.set_size_inches(width * (2.15 if heatmap_in else 1.1), max(height, heatmap_in))
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1.0)) if heatmap_in else (figure, None)
    if heatmap_in - height > 1:  # beside a tall heatmap the panel keeps its own height, at the top
        left = left.subfigures(2, 1, height_ratios=(height, heatmap_in - height))[0]
    axes = left.subplots(1, 1)
    _panel(axes, view, *pairs(view.goals)[0])
    left.legend(*_legend([axes]), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return right


def _stacked(figure: Any, view: View, heatmap_in: float) -> Any:
    """Rows of three panels, parallel coordinates, room for the heatmap; returns that room, None without a heatmap."""
    panels = pairs(view.goals)
    rows = -(-len(panels) // 3) + 1
    above_in = 0.8 * PANEL_INCHES[1] * rows
    figure.set_size_inches(0.85 * PANEL_INCHES[0] * 3, above_in + heatmap_in)
    top, bottom = figure.subfigures(2, 1, height_ratios=(above_in, heatmap_in)) if heatmap_in else (figure, None)
    grid = top.add_gridspec(rows, 3)
    axes = [top.add_subplot(grid[divmod(i, 3)]) for i in range(len(panels))]
    for each, (x, y) in zip(axes, panels, strict=True):
        _panel(each, view, x, y)
    _parallel(top.add_subplot(grid[-1, :]), view)
    top.legend(*_legend(axes), loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    return bottom


def title(view: View) -> str:
    """One line: the name, what was asked, what came out."""
    result = view.result
    found = f"front of {len(view.front)}" if view.front else "nothing meets the limits; nearest shown"
    return f"{result.spec.name}: {found} from {len(result.evaluations)} evaluations"


def _legend(axes: list[Any]) -> tuple[list[Any], list[str]]:
    labels: dict[str, Any] = {}
    for each in axes:
        labels |= {label: handle for handle, label in zip(*each.get_legend_handles_labels(), strict=True)}
    return list(labels.values()), list(labels)


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)


def _scale(axes: Any, which: str, view: View, goal: Goal) -> None:
    """Range, ticks and label of one axis."""
    low, high = focus(view, goal)
    arrow = (
        ""
        if goal.name == "evaluation"
        else " → better"
        if goal.maximise
        else " ← better"
        if which == "x"
        else " ↓ better"
    )
    axis = getattr(axes, f"{which}axis")
    if goal.on_log_scale:
        getattr(axes, f"set_{which}scale")("log", base=2)
        getattr(axes, f"set_{which}lim")(2**low, 2**high)
        ticks = log_ticks(goal.name, low, high)
        axis.set_ticks(ticks, [number(goal.name, t) for t in ticks])
        axis.set_ticks([], minor=True)
    else:
        getattr(axes, f"set_{which}lim")(low, high)
    getattr(axes, f"set_{which}label")(view.spoken(goal) + arrow, fontsize=10)


def _panel(axes: Any, view: View, x: Goal, y: Goal) -> None:
    _style(axes)
    _scale(axes, "x", view, x)
    _scale(axes, "y", view, y)
    members = view.front or view.nearest
    others = [p for p in view.points if not p.on_front and p.kind == "mixed"]
    _dots(axes, others, x, y, s=14, color=COLOURS["evaluated"], alpha=0.55, linewidths=0, label="evaluated", zorder=1)
    for goal, line in ((x, axes.axvline), (y, axes.axhline)):
        if goal.limit is not None:
            bound = goal.limit.bound(view.result.baseline.measures.get(goal.name, float("nan")))
            line(bound, color=COLOURS["limit"], linestyle=(0, (4, 3)), linewidth=1.2, label="limit", zorder=2)
    corners = staircase(members, x, y)
    axes.plot(
        [p.measures[x.name] for p in corners], [p.measures[y.name] for p in corners],
        drawstyle="steps-post", color=COLOURS["front"], linewidth=1.6, alpha=0.8, zorder=3,
    )  # fmt: skip
    for p in members:
        errors = {"xerr": p.evaluation.stderr.get(x.name), "yerr": p.evaluation.stderr.get(y.name)}
        axes.errorbar(
            p.measures[x.name], p.measures[y.name], **errors, color=COLOURS["front"], alpha=0.45, lw=1, zorder=3
        )
    tested = [p for p in members if p.test is not None]
    axes.scatter(
        [_tested(p, x) for p in tested], [_tested(p, y) for p in tested], s=30, marker="o", facecolors="none",
        edgecolors=COLOURS["test"], linewidths=1.4, label="front, test split" if tested else None, zorder=4,
    )  # fmt: skip
    label = "front, validation" if view.front else "nearest to the limits"
    _dots(axes, members, x, y, s=34, color=COLOURS["front"], edgecolors="white", linewidths=0.6, label=label, zorder=5)
    _dots(
        axes,
        view.uniform,
        x,
        y,
        s=52,
        marker="D",
        color=COLOURS["uniform"],
        edgecolors="white",
        linewidths=0.8,
        label="uniform",
        zorder=6,
    )
    _dots(
        axes,
        view.baseline,
        x,
        y,
        s=120,
        marker="*",
        color=COLOURS["float"],
        edgecolors="white",
        linewidths=0.8,
        label="float",
        zorder=6,
    )
    knee = [p for p in view.front if p.is_knee]
    _dots(
        axes, knee, x, y, s=150, facecolors="none", edgecolors=COLOURS["knee"], linewidths=1.8, label="knee", zorder=7
    )
    _name_controls(axes, view, x, y)


def _tested(point: Point, goal: Goal) -> float:
    scored = point.test.measures if point.test else {}
    return scored.get(goal.name, point.measures[goal.name])


def _dots(axes: Any, points: list[Point], x: Goal, y: Goal, **style: Any) -> None:
    if points:
        axes.scatter([p.measures[x.name] for p in points], [p.measures[y.name] for p in points], **style)


def _name_controls(axes: Any, view: View, x: Goal, y: Goal) -> None:
    """Name the controls of the base; those outside the picture are named at the edge they lie beyond."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for p in [p for p in (*view.uniform, *view.baseline) if not p.aside]:
        px, py = p.measures[x.name], p.measures[y.name]
        inside_x, inside_y = min(max(px, left), right), min(max(py, bottom), top)
        outside = (px, py) != (inside_x, inside_y)
        name = p.name.replace("uniform ", "") + ("-bit" if p.kind == "uniform" else "")
        text = f"{name}: {number(y.name, py)} ↓" if outside and py < bottom else f"{name} ↗" if outside else name
        axes.annotate(
            text, (inside_x, inside_y), xytext=(0, 9), textcoords="offset points", fontsize=8,
            ha=_towards_middle(axes, inside_x), va="bottom",
            color="#8a5f00" if p.kind == "uniform" else COLOURS["float"], zorder=8,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def _towards_middle(axes: Any, x: float) -> str:
    """Horizontal alignment that keeps a label at `x` inside the axes."""
    share = axes.transAxes.inverted().transform(axes.transData.transform((x, axes.get_ylim()[0])))[0]
    return "left" if share < 0.08 else "right" if share > 0.92 else "center"


def _parallel(axes: Any, view: View) -> None:
    """Front members as lines over the goals, each axis from worst (bottom) to best (top) among what is shown."""
    points = view.shown()
    losses = np.array([[g.loss(p.measures) for g in view.goals] for p in points])
    logs = [g.on_log_scale for g in view.goals]
    losses[:, logs] = np.vectorize(log2_of, otypes=[float])(losses[:, logs])
    low, high = losses.min(axis=0), losses.max(axis=0)
    heights = (high - losses) / np.where(high > low, high - low, 1.0)
    for p, row in zip(points, heights, strict=True):
        colour = COLOURS[
            "knee" if p.is_knee else p.kind if p.kind != "mixed" else "front" if p.on_front else "evaluated"
        ]
        axes.plot(
            row, color=colour, alpha=1.0 if p.is_knee or p.kind != "mixed" else 0.4, linewidth=2.2 if p.is_knee else 1.2
        )
    for j, goal in enumerate(view.goals):
        ends = [number(goal.name, 2**v if logs[j] else abs(v)) for v in (low[j], high[j])]
        axes.annotate(ends[0], (j, 1.03), ha="center", va="bottom", fontsize=8.5)
        axes.annotate(ends[1], (j, -0.03), ha="center", va="top", fontsize=8.5)
        axes.plot((j, j), (0, 1), color="#c9ced6", linewidth=1, zorder=0)
    axes.set_xticks(range(len(view.goals)), [view.spoken(g) for g in view.goals], fontsize=9.5)
    axes.tick_params(axis="x", length=0, pad=4)
    axes.set(ylim=(-0.12, 1.14), xlim=(-0.3, len(view.goals) - 0.7), yticks=[])
    axes.set_ylabel("better →", fontsize=9)
    axes.spines[:].set_visible(False)


def bit_colours(widths: list[float]) -> dict[float, str]:
    """A colour per bit width on a colour-blind safe scale: few bits dark, 16 yellow, float near white."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return {
        w: to_hex(colormaps["viridis"](min(1.0, np.log2(max(w, 1)) / 4)) if w < 32 else (0.945, 0.95, 0.957))
        for w in widths
    }


def _heatmap(axes: Any, view: View, members: list[Point]) -> None:
    """Rows are choices in model order, parameters above values; columns are front members, smallest first."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    choices = list(view.sites.choices.values())
    bits = np.array([[p.evaluation.assignment.at(s.name).bits for p in members] for s in choices])
    widths = sorted(set(bits.ravel().tolist()))
    colours = bit_colours(widths)
    codes = np.searchsorted(widths, bits)
    axes.pcolormesh(
        codes,
        cmap=ListedColormap([colours[w] for w in widths]),
        vmin=-0.5,
        vmax=len(widths) - 0.5,
        edgecolors="white",
        linewidth=0.8,
    )
    axes.invert_yaxis()
    axes.set_xlim(0, max(len(members), 8))  # few members keep narrow columns
    if len(members) <= 24 and len(choices) <= 60:
        for (i, j), value in np.ndenumerate(bits):
            light = value >= 8
            axes.text(
                j + 0.5,
                i + 0.5,
                f"{value:g}",
                ha="center",
                va="center",
                fontsize=6.5,
                color="#1a1a1a" if light else "white",
            )
    labels = [shortened(s.choice) for s in choices]
    step = -(-len(choices) // 120)
    axes.set_yticks(np.arange(0, len(choices), step) + 0.5, labels[::step], fontsize=7.5 if len(choices) <= 60 else 6)
    split = sum(s.is_parameter for s in choices)
    if 0 < split < len(choices):
        axes.plot((0, len(members)), (split, split), color="#1a1a1a", linewidth=1.4)
    last, step = view.goals[-1], -(-len(members) // 24)
    names = [view.number(last.name, p.measures[last.name]) + p.aside for p in members]
    axes.set_xticks(np.arange(0, len(members), step) + 0.5, names[::step], rotation=90, fontsize=7.5)
    for j, p in enumerate(members):
        if p.is_knee:
            axes.annotate(
                "knee",
                (j + 0.5, 0),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
                color=COLOURS["knee"],
                fontweight="bold",
                annotation_clip=False,
            )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("bits of each choice (rows) in each front member (columns)", fontsize=10, loc="left", pad=16)
    axes.set_xlabel(view.spoken(last), fontsize=10)
    text = {w: "float" if w == 32 else f"{w:g}" for w in widths}
    patches = [Patch(facecolor=colours[w], edgecolor="#9aa0a6", linewidth=0.5, label=text[w]) for w in widths]
    axes.figure.legend(handles=patches, loc="outside lower center", ncols=10, fontsize=8, frameon=False)
