"""The report says what the result holds, and is honest about what it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mpsearch.engine import report
from mpsearch.engine.costs import Costs
from mpsearch.engine.formats import shares, uses
from mpsearch.engine.result import RunResult
from mpsearch.engine.views import View

Make = Callable[..., RunResult]


def test_every_section_of_a_finished_run(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run")
    text = report.write(result).read_text()
    for heading in ("Front", "Uniform precision", "What each step", "How sure", "Failures", "Again"):
        assert f"## {heading}" in text
    for member in result.front.members:
        assert f"`{member.key[:8]}`" in text
    assert "1 × nan: log_loss is NaN" in text
    assert result.spec.sha256 in text
    assert "--seed 0" in text
    assert "`best:accuracy`" in text
    assert text.count("→") >= len(result.front.members) - 1


def test_formats_of_the_front_by_role_with_shares_of_elements_and_bytes(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run")
    whole = uses(View.of(result))
    for role, suffix in (("weight", ".weight"), ("activation", ":in")):
        mine = [use for use in whole if use.role == role]
        assert sum(use.elements for use in mine) == pytest.approx(1)
        assert all(use.bytes is None for use in mine), "no costs.json"
        for use in mine:
            at = [{s: str(f) for s, f in e.assignment.items() if s.endswith(suffix)} for e in result.front.members]
            assert use.members == sum(use.format in texts.values() for texts in at)
    weights = [site.name for site in View.of(result).sites.facts if site.is_parameter]
    sizes = {e.key: {name: e.assignment.at(name).bits for name in weights} for e in result.front.members}
    (result.folder / "costs.json").write_text(Costs(shares={"memory_bytes": sizes}).text())
    stored = {use.format: use.bytes for use in uses(View.of(result)) if use.role == "weight"}
    first = result.front.members[0].assignment
    assert sum(share or 0 for share in stored.values()) == pytest.approx(1)
    assert set(stored) >= {str(first.at(name)) for name in weights}
    text = report.markdown(View.of(result))
    assert "## Formats on the front" in text
    line = next(line for line in text.splitlines() if line.startswith(f"| weight | `{whole[0].format}` |"))
    assert line.endswith(f"{whole[0].elements:.1%} | {stored[whole[0].format]:.1%} |")
    assert shares(whole)[0].startswith(f"weight: {whole[0].format} {whole[0].elements:.0%}")


def test_infeasible_run_shows_the_nearest(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run", limit=">= baseline + 0.5")
    text = report.write(result).read_text()
    assert "nothing meets the limits" in text
    assert "`accuracy >= baseline + 0.5`" in text
    assert all(f"`{e.key[:8]}`" in text for e in result.front.nearest)
    assert "## What each step" not in text


def test_interrupted_run_says_so_and_how_to_go_on(make_result: Make, tmp_path: Path) -> None:
    text = report.write(make_result(tmp_path / "a run", status="interrupted", tested=False)).read_text()
    assert "so far" in text
    assert f"mpsearch resume '{tmp_path}/a run'" in text
    assert "Not scored on the test split yet" in text


@pytest.mark.parametrize("better", [True, False])
def test_mixed_beats_uniform_only_where_it_does(make_result: Make, tmp_path: Path, better: bool) -> None:
    from mpsearch.core.front import Front

    result = make_result(tmp_path / "run", evaluations=60)
    control = list(result.uniform.values())[-1]
    mixed = next(e for e in result.evaluations if e.asked_by == "optuna" and e.failure is None)
    measures = dict(control.measures)
    measures["memory_bytes"] *= 0.5
    measures["accuracy"] += 0.01 if better else -0.01
    mixed = replace(mixed, measures=measures)
    rows = (result.baseline, control, mixed)
    front = Front.of(rows, result.front.goals, result.baseline.measures)
    changed = replace(result, evaluations=rows, uniform={"uniform 8": control}, front=front)
    sentence = "\n".join(report.mixed_or_uniform(View.of(changed)))
    if better:
        assert "beats every uniform control" in sentence
        assert mixed.key[:8] in sentence
        assert "memory 2.00× smaller" in sentence
        assert "alike" in sentence  # 0.01 is within two standard errors here
    else:
        assert "does not beat any" in sentence
        assert "not beaten" in sentence


def test_members_that_miss_a_limit_on_test_are_named(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run", limit=">= baseline - 0.05")
    member = next(e for e in result.front.members if e.key not in {u.key for u in result.uniform.values()})
    scored = result.test[member.key]
    worse = replace(scored, measures={**scored.measures, "accuracy": 0.5})
    text = report.markdown(View.of(replace(result, test={**result.test, member.key: worse})))
    assert "miss that limit on the test split" in text


def test_one_goal_and_a_bare_run(make_result: Make, tmp_path: Path) -> None:
    assert "## Front" in report.write(make_result(tmp_path / "one", goals=1, evaluations=10)).read_text()
    assert "## Front" in report.write(make_result(tmp_path / "few", evaluations=3, sites=False)).read_text()


@pytest.mark.parametrize("characters", [900, 2000, 8000])
def test_note_fits_and_keeps_the_picture(make_result: Make, tmp_path: Path, characters: int) -> None:
    view = View.of(make_result(tmp_path / "run", evaluations=300))
    note = report.note(view, "get-artifact?path=front.png", characters)
    assert len(note) <= characters
    assert "![front](get-artifact?path=front.png)" in note
    assert ("more in report.md" in note) == (characters < 4000)
