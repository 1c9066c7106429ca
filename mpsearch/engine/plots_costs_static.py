"""`costs.png`: where the costs come from, one panel beside the other, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.engine.costs import shortened
from mpsearch.engine.measures import linear_ticks, number
from mpsearch.engine.plots_costs import CHOSEN_COLOUR, FLOAT_COLOUR, Panel

_PANEL_INCHES = 5.6
_BAR_INCHES = 0.19


def write_png(heading: str, panels: Sequence[Panel], path: Path, dpi: int = 130) -> None:
    """Rows of two or three panels, each as tall as the longest of its row needs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [1.1 + _BAR_INCHES * max(len(panel.names) for panel in row) for row in rows]
    size = (_PANEL_INCHES * columns + 0.4, sum(heights) + 0.8)
    figure = Figure(figsize=size, dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            _bars(figure.add_subplot(grid[i, j]), panel)
    figure.suptitle(heading, fontsize=12, fontweight="bold", x=0.01, ha="left")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=9, frameon=False)
    figure.savefig(path, dpi=dpi, format="png")


def _bars(axes: Any, panel: Panel) -> None:
    """Float above the chosen assignment, at each place; the first place on top."""
    at, n = np.arange(len(panel.names)), len(panel.series)
    thick = 0.8 / n
    for k, ((name, row), colour) in enumerate(zip(panel.series.items(), (FLOAT_COLOUR, CHOSEN_COLOUR), strict=False)):
        axes.barh(at + (k - (n - 1) / 2) * thick, row, height=thick, color=colour, label=name)
    axes.set_yticks(at, [shortened(name) for name in panel.names], fontsize=7.5)
    axes.set_ylim(len(at) - 0.4, -0.6)
    ticks = linear_ticks(panel.measure, panel.highest)
    axes.set_xticks(ticks, [number(panel.measure, tick) for tick in ticks], fontsize=8)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x", color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)
