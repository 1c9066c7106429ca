"""What is drawn: axes, panels, points and self-containedness of the pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import non_dominated
from mpsearch.core.goal import Goal
from mpsearch.engine import plots
from mpsearch.engine.result import RunResult
from mpsearch.engine.tables import evaluations_table, front_table
from mpsearch.engine.views import Point, View, focus, pairs, staircase

Make = Callable[..., RunResult]


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"goals": 3, "evaluations": 60},
        {"goals": 1, "evaluations": 10},
        {"limit": ">= baseline - 0.01"},
        {"limit": ">= baseline + 0.5"},
        {"tested": False, "status": "interrupted"},
        {"sites": False, "evaluations": 20},
        {"evaluations": 3},
    ],
    ids=lambda kind: "-".join(map(str, kind)) or "two goals",
)
def test_every_kind_of_result_is_drawn(make_result: Make, tmp_path: Path, kind: dict[str, object]) -> None:
    html, png = plots.write(make_result(tmp_path / "run", **kind))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert len(png.read_bytes()) > 20_000
    assert html.stat().st_size > 1_000_000  # plotly.js is inside
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_page_asks_the_network_for_nothing(make_result: Make, tmp_path: Path) -> None:
    page = plots.front_page(View.of(make_result(tmp_path / "run", evaluations=20)))
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", page)
    assert "@import" not in page


def test_page_shows_every_member_and_escapes_names(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run", evaluations=60)
    page = plots.front_page(View.of(result))
    for member in result.front.members:
        assert member.key[:8] in page
    assert "<script>alert" not in plots.page("<script>alert(1)</script>", "", [])


def test_a_panel_for_every_pair_of_goals(make_result: Make, tmp_path: Path) -> None:
    view = View.of(make_result(tmp_path / "run", goals=3, evaluations=40))
    figure = plots.front_figure(view)
    assert [(x.name, y.name) for x, y in pairs(view.goals)] == [
        ("memory_bytes", "accuracy"),
        ("activation_sum_bytes", "accuracy"),
        ("activation_sum_bytes", "memory_bytes"),
    ]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.yaxis.type != "log"
    assert figure.layout.yaxis3.type == "log"
    assert len(plots.parallel_figure(view).data[0].dimensions) == 3 + 2


def test_points_have_their_error_bars_and_places(make_result: Make, tmp_path: Path) -> None:
    view = View.of(make_result(tmp_path / "run", evaluations=60))
    traces = {trace.name: trace for trace in plots.front_figure(view).data}
    drawn = traces["front, validation"]
    assert list(drawn.y) == [p.measures["accuracy"] for p in view.front]
    assert list(drawn.error_y.array) == [p.evaluation.stderr["accuracy"] for p in view.front]
    assert list(traces["front, test split"].y) == [p.test.measures["accuracy"] for p in view.front if p.test]
    assert list(traces["uniform"].text) == [f"{name.removeprefix('uniform ')}-bit" for name in view.result.uniform]
    assert len(traces["knee"].x) == 1


def test_heatmap_holds_the_formats(make_result: Make, tmp_path: Path) -> None:
    view = View.of(make_result(tmp_path / "run", evaluations=60))
    heat = plots.bits_figure(view).data[0]
    for i, site in enumerate(view.sites.choices.values()):
        assert list(heat.text[i]) == [f"{p.evaluation.assignment.at(site.name).bits:g}" for p in view.front]


def test_front_and_float_are_always_in_focus(make_result: Make, tmp_path: Path) -> None:
    view = View.of(make_result(tmp_path / "run", evaluations=60))
    for goal in view.goals:
        low, high = focus(view, goal)
        for p in [*view.front, *view.baseline]:
            value = p.measures[goal.name]
            assert low < (np.log2(value) if goal.on_log_scale else value) < high


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_staircase_is_the_front_of_two_goals(pairs_: list[tuple[int, int]]) -> None:
    a, b = Goal("a", maximise=True), Goal("b")
    points = [
        Point("p", "mixed", "", Evaluation(Assignment(), {"a": float(v), "b": float(w)}), None, 1, False)
        for v, w in pairs_
    ]
    steps = [(p.measures["a"], p.measures["b"]) for p in staircase(points, b, a)]
    losses = np.array([[-v, w] for v, w in pairs_], dtype=float)
    expected = {(-x, y) for x, y in losses[non_dominated(losses)]}
    assert set(steps) == expected
    assert steps == sorted(steps)


def test_average_bits_are_weighed_by_elements(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run", evaluations=40)
    view = View.of(result)
    for e in result.evaluations:
        if e.failure is None:
            assert view.sites.average_bits(e.assignment, True) == pytest.approx(e.measures["weight_bits"])
    assert view.baseline[0].summary == "32w 32a"
    assert view.uniform[-1].summary == "8w 8a"


def test_without_sites_json_names_tell_weights_from_values(make_result: Make, tmp_path: Path) -> None:
    view = View.of(make_result(tmp_path / "run", evaluations=20, sites=False))
    kinds = {name: site.is_parameter for name, site in view.sites.choices.items()}
    assert kinds["stem.weight"]
    assert not kinds["stem:in"]
    assert len(kinds) == 12


def test_tables_hold_everything(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run", evaluations=60)
    view = View.of(result)
    table = evaluations_table(view)
    assert len(table.rows) == 60
    column = table.columns.index("failure")
    assert [row[column] for row in table.rows if row[column]] == ["nan: log_loss is NaN"]
    assert len(table.csv().splitlines()) == 61
    front = front_table(view)
    assert [row[front.columns.index("key")] for row in front.rows] == [p.key for p in view.shown()]
    assert "test_accuracy" in front.columns
