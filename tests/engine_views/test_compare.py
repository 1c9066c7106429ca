"""Comparing runs: one scale for all, curves that end at the fronts, refusals with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mpsearch.core.errors import BadInput
from mpsearch.core.front import Front
from mpsearch.engine.compare import compare
from mpsearch.engine.result import RunResult

Make = Callable[..., RunResult]


def test_scale_is_common_and_curves_end_at_the_fronts(make_result: Make, tmp_path: Path) -> None:
    results = [make_result(tmp_path / f"run{s}", seed=s, evaluations=40 + 40 * s) for s in range(3)]
    found = compare(results)
    for result, curve, row in zip(results, found.curves, found.rows, strict=True):
        values = [value for _, value in curve]
        assert values == sorted(values)
        assert curve[-1] == (len(result.evaluations), pytest.approx(result.front.hypervolume(found.scale)))
        assert len(row) == len(found.head)
        at = curve[len(curve) // 2][0]
        whole = Front.of(result.evaluations[:at], found.goals, result.baseline.measures)
        assert dict(curve)[at] == pytest.approx(whole.hypervolume(found.scale))
    swapped = compare(results[::-1])
    assert swapped.scale == found.scale


def test_limits_count_in_the_curves(make_result: Make, tmp_path: Path) -> None:
    results = [make_result(tmp_path / f"run{s}", seed=s, limit=">= baseline - 0.02") for s in range(2)]
    found = compare(results)
    for result, curve in zip(results, found.curves, strict=True):
        assert curve[-1][1] == pytest.approx(result.front.hypervolume(found.scale))


def test_page_is_self_contained_and_names_each_run(make_result: Make, tmp_path: Path) -> None:
    results = [make_result(tmp_path / f"run{s}", seed=s, goals=3, evaluations=30) for s in range(2)]
    compare(results, tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text()
    assert "run0" in page
    assert "run1" in page
    assert "<script src=" not in page


def test_same_folder_name_is_told_apart(make_result: Make, tmp_path: Path) -> None:
    results = [make_result(tmp_path / part / "run", evaluations=10) for part in ("a", "b")]
    assert compare(results).names == ("run (1)", "run (2)")


def test_infeasible_run_has_no_hypervolume(make_result: Make, tmp_path: Path) -> None:
    good = make_result(tmp_path / "good", evaluations=30)
    bad = make_result(tmp_path / "bad", evaluations=30, limit=">= baseline + 0.5")
    found = compare([good, bad], tmp_path / "compare.html")
    assert found.curves[1][-1][1] == 0.0
    assert "–" in found.rows[1]


def test_refusals(make_result: Make, tmp_path: Path) -> None:
    one = make_result(tmp_path / "one", evaluations=10)
    with pytest.raises(BadInput, match="at least two"):
        compare([one])
    with pytest.raises(BadInput, match="least memory_bytes"):
        compare([one, make_result(tmp_path / "other", goals=3, evaluations=10)])
    failed = replace(
        one, evaluations=(), uniform={}, baseline=replace(one.baseline, failure=one.evaluations[0].failure)
    )
    assert compare([one, failed]).curves[1][-1] == (0, 0.0)
