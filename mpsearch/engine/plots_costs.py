"""Where the bits, the bytes and the time go, site by site: `costs.html` and `costs.png`, float beside one assignment.

What is drawn follows from `costs.json`; the static picture is drawn in `plots_costs_static`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsearch.core.errors import BadInput
from mpsearch.engine.costs import FILE, gathered, shortened
from mpsearch.engine.measures import linear_ticks, number
from mpsearch.engine.plots import page
from mpsearch.engine.plots_static import COLOURS
from mpsearch.engine.result import RunResult
from mpsearch.engine.views import Point, View

MOST_BARS = 40
FLOAT_COLOUR, CHOSEN_COLOUR = "#9aa0a6", COLOURS["knee"]
BITS = "weight_bits"
"""How bits are written: as those of this measure."""


@dataclass(frozen=True)
class Panel:
    """One cost, bar by bar.

    Args:
        title: the cost, what its figures are, and what it amounts to.
        measure: by whose unit numbers are written.
        names: of the bars, in the order of computation.
        series: values of the bars by name: `float`, and the assignment beside it.
        is_sum: whether the bars add up to the cost.
    """

    title: str
    measure: str
    names: tuple[str, ...]
    series: dict[str, tuple[float, ...]]
    is_sum: bool = True

    @property
    def highest(self) -> float:
        """Of all bars; 1 where all are zero."""
        return max((value for row in self.series.values() for value in row), default=0.0) or 1.0

    def told(self, name: str, i: int) -> str:
        """What bar `i` of the series `name` says: `1.5 KiB, 12.3% of float`."""
        row = self.series[name]
        share = f", {row[i] / (sum(row) or 1.0):.1%} of {name}" if self.is_sum else ""
        return f"{number(self.measure, row[i])}{share}"


def write(result: RunResult) -> list[Path]:
    """Write `costs.html` and `costs.png` into the run folder, for the knee; returns their paths."""
    view = View.of(result)
    point = default(view)
    paths = [result.folder / f"costs{end}" for end in _WRITERS]
    if point is not None and panels(view, point):
        for path in paths:
            draw(view, point, path)
        return paths
    return []


def default(view: View) -> Point | None:
    """The knee; where nothing meets the limits, what comes nearest to them."""
    return next((p for p in view.front if p.is_knee), next(iter(view.nearest), None))


def draw(view: View, point: Point, path: Path) -> None:
    """Write the picture of `point` to a file that ends in .html or .png, in one step.

    Raises `BadInput` where the name ends otherwise, and where nothing is known of the point's costs.
    """
    writer = _WRITERS.get(path.suffix)
    if writer is None:
        raise BadInput(f"{path}: a picture ends in {' or '.join(_WRITERS)}.")
    draft = path.with_name(path.name + ".tmp")
    writer(view, point, draft)
    draft.replace(path)


def heading(view: View, point: Point) -> str:
    """One line: the name, and whose costs these are."""
    who = f"{point.name} ({'knee, ' if point.is_knee else ''}{point.key[:8]})"
    return f"{view.result.spec.name}: what {who} costs, and where"


def panels(view: View, point: Point) -> list[Panel]:
    """One for each cost that is known site by site, goals first, and one for the bits of each site.

    Raises `BadInput` where `costs.json` was written before `point` was on the front.
    """
    base, found = view.result.baseline.key, []
    for measure, shares in view.costs.shares.items():
        if point.key not in shares:
            raise BadInput(
                f"{view.result.folder / FILE} does not know the costs of {point.key[:8]}: it is written when a run "
                f"ends; go on with it: mpsearch resume {view.result.folder}"
            )
        rows = gathered([shares[base], shares[point.key]], MOST_BARS)
        totals = [number(measure, p.measures[measure]) for p in (*view.baseline[:1], point)]
        title = f"{view.costs.labelled(measure)}: {' → '.join(totals)}"
        found.append(_panel(title, measure, point, rows))
    bits = _bits(view, point)
    return found + ([_panel("bits of each site", BITS, point, bits, is_sum=False)] if bits else [])


def _panel(title: str, measure: str, point: Point, rows: list[tuple[str, list[float]]], is_sum: bool = True) -> Panel:
    names, values = zip(*rows, strict=True) if rows else ((), ())
    both = list(zip(*values, strict=True)) if values else [(), ()]
    series = {"float": both[0]} | ({} if point.kind == "float" else {point.name: both[1]})
    return Panel(title, measure, names, series, is_sum)


def _bits(view: View, point: Point) -> list[tuple[str, list[float]]]:
    """Bits of each site that has a choice, float and chosen; the smallest sites as one row, their average."""
    sites = view.sites.facts
    kept = sorted(sites, key=lambda site: -site.elements)
    kept = kept if len(kept) <= MOST_BARS else kept[: MOST_BARS - 1]
    rest = [site for site in sites if site not in set(kept)]
    at = point.evaluation.assignment.at
    rows = [(site.name, [32.0, float(at(site.name).bits)]) for site in sites if site in set(kept)]
    if rest:
        weight = sum(site.elements for site in rest) or 1
        mean = sum(site.elements * at(site.name).bits for site in rest) / weight
        rows.append((f"others ({len(rest)}), average", [32.0, mean]))
    return rows


def _write_page(view: View, point: Point, path: Path) -> None:
    status = sorted(set(view.costs.status.values()))
    facts = [f"bits {point.summary or 'float'}", *([f"figures of accelerators are {', '.join(status)}"] * bool(status))]
    parts = [(panel.title, _figure(panel)) for panel in panels(view, point)]
    path.write_text(page(heading(view, point), " · ".join([*facts, *view.costs.notes]), parts), encoding="utf-8")


def _write_png(view: View, point: Point, path: Path) -> None:
    from mpsearch.engine.plots_costs_static import write_png

    write_png(heading(view, point), panels(view, point), path)


def _figure(panel: Panel) -> Any:
    from plotly.graph_objects import Bar, Figure

    at = list(range(len(panel.names)))
    figure = Figure()
    for (name, row), colour in zip(panel.series.items(), (FLOAT_COLOUR, CHOSEN_COLOUR), strict=False):
        hover = [f"<b>{bar}</b><br>{name}: {panel.told(name, i)}" for i, bar in enumerate(panel.names)]
        marker = {"color": colour}
        figure.add_trace(Bar(x=row, y=at, orientation="h", name=name, marker=marker, hovertext=hover, hoverinfo="text"))
    ticks = linear_ticks(panel.measure, panel.highest)
    figure.update_xaxes(tickvals=ticks, ticktext=[number(panel.measure, tick) for tick in ticks], rangemode="tozero")
    names = [shortened(name) for name in panel.names]
    figure.update_yaxes(tickvals=at, ticktext=names, autorange="reversed", automargin=True, tickfont={"size": 11})
    return figure.update_layout(
        template="plotly_white",
        barmode="group",
        bargap=0.25,
        height=130 + 22 * len(at),
        margin={"l": 70, "r": 30, "t": 30, "b": 40},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )


_WRITERS: dict[str, Callable[[View, Point, Path], None]] = {".html": _write_page, ".png": _write_png}
