"""The pictures of where costs come from: what the bars are, how many, and of whom."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_on_cards import run_on, with_shares

from mpsearch.core.errors import BadInput
from mpsearch.engine import plots_costs
from mpsearch.engine.costs import Costs
from mpsearch.engine.plots_costs import MOST_BARS, default, draw, panels
from mpsearch.engine.result import RunResult
from mpsearch.engine.views import View

Make = Callable[..., RunResult]


def made_up(result: RunResult, parts: int) -> Costs:
    """Shares of bytes over `parts` parts, equal ones for float, rising ones for all else."""
    shown = [result.baseline, *result.uniform.values(), *result.front.members]
    rows = {
        e.key: {f"part{i}.weight": 8.0 if e is result.baseline else (i + 1) / parts for i in range(parts)}
        for e in shown
    }
    return Costs(shares={"memory_bytes": rows})


@pytest.mark.parametrize(
    "kind", [{}, {"goals": 3}, {"limit": ">= baseline + 0.5"}, {"sites": False}], ids=lambda kind: "-".join(kind)
)
def test_every_kind_of_result_is_drawn(make_result: Make, tmp_path: Path, kind: dict[str, object]) -> None:
    html, png = plots_costs.write(make_result(tmp_path / "run", evaluations=20, **kind))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert html.stat().st_size > 1_000_000  # plotly.js is inside
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", html.read_text())
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_panel_for_each_cost_and_one_for_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_on(tmp_path / "run", monkeypatch, {"nvidia-t4": 0.001, "esb-zcu102": 0.25})
    view = View.of(result)
    knee = default(view)
    assert knee is not None
    assert knee.is_knee
    memory, first, second, bits = panels(view, knee)
    assert memory.title.startswith("memory_bytes: 4.62 KiB → ")
    assert first.title.startswith("latency_s@nvidia-t4 (analytic): 36 µs → ")
    assert second.measure == "latency_s@esb-zcu102"
    for panel in (memory, first, second):
        assert panel.names == tuple(f"layer{i}.weight" for i in range(4))  # in the order of computation
        assert list(panel.series) == ["float", knee.name]
        assert sum(panel.series["float"]) == pytest.approx(result.baseline.measures[panel.measure])
        assert sum(panel.series[knee.name]) == pytest.approx(knee.measures[panel.measure])
    assert bits.title == "bits of each site"
    assert bits.series == {
        "float": (32.0,) * 4,
        knee.name: tuple(knee.evaluation.assignment.at(n).bits for n in bits.names),
    }
    assert memory.told("float", 0) == "256 B, 5.4% of float"
    assert bits.told("float", 0) == "32 bits"


def test_the_page_has_the_bars_and_the_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = View.of(run_on(tmp_path / "run", monkeypatch))
    knee = default(view)
    assert knee is not None
    (memory, *_) = panels(view, knee)
    floats, chosen = plots_costs._figure(memory).data
    assert list(floats.x) == list(memory.series["float"])
    assert list(chosen.x) == list(memory.series[knee.name])
    draw(view, knee, tmp_path / "of the knee.html")
    page = (tmp_path / "of the knee.html").read_text()
    assert "latency_s@nvidia-t4 (analytic)" in page
    assert "figures of accelerators are analytic" in page
    assert "they run as int4" in page
    assert knee.key[:8] in page


def test_float_beside_itself_is_one_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = View.of(run_on(tmp_path / "run", monkeypatch))
    for panel in panels(view, view.baseline[0]):
        assert list(panel.series) == ["float"]
    draw(view, view.baseline[0], tmp_path / "float.png")
    assert (tmp_path / "float.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("parts", [1, MOST_BARS, MOST_BARS + 1, 200])
def test_many_bars_become_others(make_result: Make, tmp_path: Path, parts: int) -> None:
    result = make_result(tmp_path / "run", evaluations=20)
    (result.folder / "costs.json").write_text(made_up(result, parts).text())
    view = View.of(result)
    point = default(view)
    assert point is not None
    memory = panels(view, point)[0]
    assert len(memory.names) == min(parts, MOST_BARS)
    assert (memory.names[-1] == f"others ({parts - MOST_BARS + 1})") == (parts > MOST_BARS)
    assert sum(memory.series["float"]) == 8.0 * parts
    draw(view, point, tmp_path / "costs.png")


def test_bits_of_many_sites_are_averaged_over_the_smallest(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run", evaluations=20)
    path = result.folder / "sites.json"
    few = json.loads(path.read_text())
    few += [{"name": f"deep{i}.weight", "role": "weight", "shape": [9], "choice": f"deep{i}.weight"} for i in range(60)]
    path.write_text(json.dumps(few))
    view = View.of(result)
    (bits,) = panels(view, view.uniform[-1])
    assert len(bits.names) == MOST_BARS
    assert bits.names[-1] == f"others ({len(few) - MOST_BARS + 1}), average"
    assert bits.series["uniform 8"][-1] == 32.0  # those are in no assignment, and so stay float
    assert {"stem.weight", "head:in"} <= set(bits.names)


def test_a_member_that_costs_json_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_on(tmp_path / "run", monkeypatch)
    base = {result.baseline.key: {"x": 1.0}}
    with_shares(result, {"memory_bytes": base})
    view = View.of(result)
    member = next(p for p in view.front if p.kind == "mixed")
    with pytest.raises(BadInput, match=rf"does not know the costs of {member.key[:8]}: it is written when a run ends"):
        panels(view, member)


@pytest.mark.parametrize("name", ["costs.svg", "costs", "costs.PNG"])
def test_a_picture_of_another_kind_is_refused(make_result: Make, tmp_path: Path, name: str) -> None:
    view = View.of(make_result(tmp_path / "run", evaluations=5))
    with pytest.raises(BadInput, match=rf"{name}: a picture ends in \.html or \.png"):
        draw(view, view.baseline[0], tmp_path / name)
    assert not (tmp_path / name).exists()
