"""What a run keeps of its costs, and that figures of accelerators are labelled wherever they are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_on_cards import NOTE, OnCards, device, run_on, with_shares

from mpsearch.cli.common import front_table
from mpsearch.core.errors import BadInput
from mpsearch.cost.accelerators.base import Capacity
from mpsearch.engine import plots, report
from mpsearch.engine.capacity import fitting, narrowest
from mpsearch.engine.compare import compare
from mpsearch.engine.costs import MEANING, Costs, gathered, shortened
from mpsearch.engine.limits import unmet
from mpsearch.engine.load import load_result
from mpsearch.engine.result import RunResult
from mpsearch.engine.views import View

Make = Callable[..., RunResult]
Shares = dict[str, float]


def test_a_run_keeps_where_the_costs_of_what_it_shows_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_on(tmp_path / "run", monkeypatch)
    costs = Costs.read(result.folder)
    shown = [result.baseline, *result.uniform.values(), *result.front.members]
    assert list(costs.shares) == ["memory_bytes", "latency_s@nvidia-t4"]
    for measure, found in costs.shares.items():
        assert set(found) == {e.key for e in shown}
        for e in shown:
            assert list(found[e.key]) == [f"layer{i}.weight" for i in range(4)]
            assert sum(found[e.key].values()) == pytest.approx(e.measures[measure])
    assert costs.status == {"latency_s@nvidia-t4": "analytic"}
    assert costs.notes == (NOTE,)
    assert costs.samples == 100
    front = json.loads((result.folder / "front.json").read_text())
    assert front["measure_status"] == costs.status
    assert load_result(result.folder).front == result.front  # a later look needs no model, and labels all the same
    assert "latency_s@nvidia-t4" in (result.folder / "front.csv").read_text().splitlines()[0]


def test_a_run_that_is_going_on_has_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Costs] = []
    written = Costs.text

    def watch(costs: Costs) -> str:
        seen.append(costs)
        return written(costs)

    monkeypatch.setattr(Costs, "text", watch)
    result = run_on(tmp_path / "run", monkeypatch)
    first, last = seen
    assert first.status == last.status
    controls = {result.baseline.key, *(e.key for e in result.uniform.values())}
    assert set(first.shares["memory_bytes"]) == controls < set(last.shares["memory_bytes"])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    costs = Costs(
        {"energy_j@a": "calibrated"},
        ("int3 runs as int4.",),
        (
            device("a", "calibrated"),
            replace(device("b", note=None), capacities=(Capacity("flash", "memory_bytes", 9),)),
        ),
        None,
        {"energy_j@a": {"k0": {"x": 1.5, "y": 0.0}, "k1": {"x": 0.5, "y": 2.0}}},
    )
    (tmp_path / "costs.json").write_text(costs.text())
    assert Costs.read(tmp_path) == costs
    assert costs.of_device(costs.devices[0]) == ["energy_j@a"]
    assert Costs.read(tmp_path / "elsewhere") == Costs()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"shares": 1}', Costs(shares={"m": {"k": {"x": 1}}}).text().replace("[1]", "[1, 2]")]
)
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "costs.json").write_text(content)
    with pytest.raises(BadInput, match=r"costs\.json: not readable .*; delete it and resume the run"):
        Costs.read(tmp_path)


def test_every_place_that_shows_a_latency_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_on(tmp_path / "run", monkeypatch, {"nvidia-t4": 0.001, "esb-zcu102": 0.25})
    view = View.of(result)
    page = plots.front_page(view)
    assert "<th>latency_s@nvidia-t4 (analytic)</th>" in page
    assert plots.axis(view, view.goals[2])["title"]["text"] == "latency @ nvidia-t4, analytic (less is better)"
    assert plots.axis(view, view.goals[1])["title"]["text"] == "memory (less is better)"
    labels = [d.label for d in plots.parallel_figure(view).data[0].dimensions]
    assert "latency @ esb-zcu102, analytic" in labels
    hover = view.hover(view.front[0])
    assert "latency_s@nvidia-t4 (analytic)" in hover
    heads = [str(column.header) for column in front_table(view, view.shown()).columns]
    assert "latency_s\n@nvidia-t4\n(analytic)" in heads
    text = report.markdown(view)
    for name in ("latency_s@nvidia-t4", "latency_s@esb-zcu102"):
        bare = text.replace(f"{name} (analytic)", "").replace(f"`{name}` (analytic)", "")
        left = [line for line in bare.splitlines() if name in line]
        assert all(line.startswith(("* `cheapest:", "* `nvidia-t4`", "* `esb-zcu102`")) for line in left)
        assert f"`{name}`." in next(line for line in left if "(roofline), **analytic**" in line)
    note = report.note(view, None, 5000)
    assert "latency_s@nvidia-t4 (analytic)" in note


def test_the_report_has_what_a_reader_of_the_figures_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_on(tmp_path / "run", monkeypatch, status="calibrated", limit="<= baseline * 0.5")
    section = report.markdown(View.of(result)).partition("## Accelerators")[2].partition("##")[0]
    assert "`nvidia-t4` (roofline), **calibrated**" in section
    assert "Fitted to 8 measured runs, on average 3.5% off on others. Dense peaks; no sparsity." in section
    assert NOTE in section
    assert MEANING["calibrated"] in section
    assert "one batch (100 samples scored)" in section
    whole = report.markdown(View.of(result))
    assert "`latency_s@nvidia-t4 <= baseline * 0.5` (calibrated) (= 18 µs) on validation" in whole
    assert "analytic" not in whole


@pytest.mark.parametrize(
    ("holds", "told"),
    [
        (295, "no assignment fits into the flash of chip: it holds 295 B, and the least that memory_bytes@chip can be"),
        (
            296,
            "not every assignment fits into the flash of chip: it holds 296 B, and memory_bytes@chip can be 1.1",
        ),
        (1183, "add the goal {name: memory_bytes, accelerator: chip, limit: '<= 1183'}."),
        (1184, None),
    ],
)
def test_what_does_not_fit_into_a_memory_is_said(holds: int, told: str | None) -> None:
    toy, capacity = OnCards({"chip": 1.0}), Capacity("flash", "memory_bytes", holds)  # 2 bits are 296 bytes, 8 are 1184
    found = list(narrowest(toy, "chip", [capacity], 100))
    assert (told is None) == (found == [])
    assert told is None or told in found[0]
    uniform = toy.space.uniform()
    members = {name: {"memory_bytes@chip": toy.costs(at)["memory_bytes"]} for name, at in uniform.items()}
    (line,) = fitting([capacity], "chip", members)
    fit = [name for name, at in members.items() if at["memory_bytes@chip"] <= holds]
    assert line.startswith(f"{len(fit)} of 3 members fit into its flash")
    assert all((f"uniform {bits}" in line) == (f"uniform {bits}" not in fit) for bits in (2, 4, 8))
    assert list(fitting([capacity], "other", members)) == []


def test_a_limit_that_nothing_meets_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_on(tmp_path / "run", monkeypatch, limit="<= 3e-6")
    assert unmet(result) == "latency_s@nvidia-t4 (analytic) <= 3e-06 (the best reached is 2.25e-06) together"


def test_a_run_without_accelerators_has_no_labels(make_result: Make, tmp_path: Path) -> None:
    view = View.of(make_result(tmp_path / "run", evaluations=20))
    assert "## Accelerators" not in report.markdown(view)
    assert view.named(view.goals[1]) == "memory_bytes"
    assert view.spoken(view.goals[1]) == "memory"


def test_runs_compare_where_their_figures_are_of_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run_on(tmp_path / f"run{seed}", monkeypatch, seed=seed) for seed in range(2)]
    assert "least latency_s@nvidia-t4 (analytic)" in compare(runs, tmp_path / "both.html").head
    assert "latency_s@nvidia-t4 (analytic) 36 µs" in (tmp_path / "both.html").read_text()
    (runs[0].folder / "costs.json").unlink()
    assert "least latency_s@nvidia-t4 (analytic)" in compare(runs).head
    with_shares(runs[0], {}, status={"latency_s@nvidia-t4": "calibrated"})
    with pytest.raises(BadInput, match=r"\(analytic\) and latency_s@nvidia-t4 \(calibrated\) are figures of different"):
        compare(runs)


COLUMN = st.dictionaries(st.sampled_from([f"part{i}" for i in range(12)]), st.integers(0, 99).map(float))


@given(st.lists(COLUMN, min_size=1, max_size=2), st.integers(1, 9))
def test_gathered_rows_keep_the_sum_the_order_and_the_largest(columns: list[Shares], most: int) -> None:
    rows = gathered(columns, most)
    assert len(rows) <= most
    for i, column in enumerate(columns):
        assert sum(row[i] for _, row in rows) == sum(column.values())
    names = [name for name, _ in rows if not name.startswith("others")]
    order = list(dict.fromkeys(name for column in columns for name in column))
    assert names == sorted(names, key=order.index)
    if len(columns) == 1 and names:
        smallest = min(columns[0][name] for name in names)
        assert all(value <= smallest for name, value in columns[0].items() if name not in names)


def test_others_are_counted() -> None:
    column = {f"part{i}": float(i) for i in range(6)}  # the first adds nothing
    assert gathered([column], 5) == [(f"part{i}", [float(i)]) for i in range(1, 6)]
    assert gathered([column], 3) == [("part4", [4.0]), ("part5", [5.0]), ("others (3)", [6.0])]


@given(st.text("ab1.", max_size=80), st.integers(10, 60))
def test_shortened_names_fit_and_keep_their_end(name: str, most: int) -> None:
    found = shortened(name, most)
    assert len(found) <= most
    assert (found == name) == (len(name) <= most)
    assert found[:1] == name[:1]
    assert found.endswith(name.rpartition(".")[2][-6:])


def test_shortened_names_of_many_layers_stay_apart() -> None:
    names = [f"encoder.layers.{i}.self_attention.query.weight" for i in range(60)]
    assert len({shortened(name) for name in names}) == 60
    assert shortened(names[7]) == "e.l.7.self_attention.query.weight"
