"""A run on the toy problem: order, ends and files."""

import csv
import json
from dataclasses import replace

import pytest
from toy_runs import QUIET, build, build_with, replace_fields, with_goals

from mpsearch.core.assignment import Assignment
from mpsearch.core.front import Front
from mpsearch.engine.folder import Folder
from mpsearch.engine.load import load_result
from mpsearch.engine.run import resume, run
from mpsearch.ledger.ledger import equal, read
from mpsearch.testing.toy import toy_spec


def test_controls_come_first_then_start_then_the_driver(tmp_path):
    start = [{"layer0.*": "int8", "*": "int2"}, {"layer1.weight": "int4"}]
    result = run(toy_spec(budget=12, start=start), tmp_path, build=build, **QUIET)
    asked_by = [e.asked_by for e in result.evaluations]
    assert asked_by == ["baseline", "uniform 2", "uniform 4", "uniform 8", "start", "start", *["random"] * 6]
    assert result.baseline.assignment == Assignment()
    assert list(result.uniform) == ["uniform 2", "uniform 4", "uniform 8"]
    started = [list(e.assignment.texts().values()) for e in result.evaluations[4:6]]
    assert started == [["int8", "int2", "int2", "int2"], ["int8", "int4", "int8", "int8"]]


def test_the_same_seed_gives_equal_ledgers_and_another_does_not(tmp_path):
    for name, seed in {"one": 1, "two": 1, "other": 2}.items():
        run(toy_spec(seed=seed), tmp_path / name, build=build, **QUIET)
    paths = {name: Folder(tmp_path / name).ledger for name in ("one", "two", "other")}
    assert equal(paths["one"], paths["two"])
    assert not equal(paths["one"], paths["other"])


def test_files_tell_what_the_result_says(tmp_path):
    result = run(toy_spec(goals=3, toy={"fail_every": 7}), tmp_path, build=build, **QUIET)
    assert load_result(tmp_path) == replace(result, seconds=round(result.seconds, 3))
    document = json.loads((tmp_path / "front.json").read_text())
    assert list(document) == [
        *("schema", "status", "goals", "measure_status", "baseline", "uniform", "members", "nearest", "picks"),
        *("hypervolume", "reference", "evaluations", "forward_equivalents", "seconds", "driver", "seed"),
    ]
    assert (document["schema"], document["status"]) == ("mpsearch.front/1", "complete")
    assert document["goals"][0] == {"name": "accuracy", "direction": "max", "limit": None}
    assert document["evaluations"] == {"distinct": 40, "hits": result.hits, "failed": result.failed, "raced": 0}
    assert 0 < document["hypervolume"] < 1
    assert document["forward_equivalents"] == 41 + len({*result.test})
    assert document["baseline"]["assignment"] == {}
    costs = [member["measures"]["memory_bytes"] for member in document["members"]]
    assert costs == sorted(costs)
    assert document["picks"]["knee"] in [member["key"] for member in document["members"]]
    for member in [document["baseline"], *document["uniform"], *document["members"]]:
        assert list(member) == [
            *("key", "assignment", "variant", "recipe", "measures", "stderr", "test", "test_stderr", "feasible"),
        ]
        assert member["test"]["accuracy"] == pytest.approx(member["measures"]["accuracy"] - 0.01)
        assert member["feasible"]
    with (tmp_path / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows[: len(costs)]] == [member["key"] for member in document["members"]]
    assert rows[-1]["point"] == "float"
    assert json.loads(rows[0]["assignment"]) == document["members"][0]["assignment"]
    assert float(rows[0]["test_accuracy"]) == document["members"][0]["test"]["accuracy"]
    sites = json.loads((tmp_path / "sites.json").read_text())
    assert sites[0] == {"name": "layer0.weight", "role": "weight", "shape": [64], "choice": "layer0.weight"}
    assert "complete" in (tmp_path / "run.log").read_text()


def test_the_search_never_sees_the_test_split(tmp_path):
    result = run(toy_spec(), tmp_path, build=build, **QUIET)
    assert {e.split for e in result.evaluations} == {"validation"}
    assert set(result.test) == {e.key for e in (result.baseline, *result.uniform.values(), *result.front.members)}
    lines = read(Folder(tmp_path).ledger)
    assert [e.split for e in lines] == ["validation"] * 40 + ["test"] * len(result.test)


def test_resuming_a_complete_run_changes_nothing(tmp_path):
    first = run(toy_spec("optuna"), tmp_path, build=build, **QUIET)
    before = Folder(tmp_path).ledger.read_bytes()
    work = []
    again = resume(tmp_path, build=build_with(watch=lambda *what: work.append(what)), **QUIET)
    assert not work
    assert Folder(tmp_path).ledger.read_bytes() == before
    assert (again.front, again.test, again.hits, again.status) == (first.front, first.test, first.hits, "complete")
    assert again.forward_equivalents == first.forward_equivalents
    assert again.seconds >= first.seconds


def test_auto_is_exhaustive_where_the_budget_covers_the_space(tmp_path):
    small = run(toy_spec("auto", budget=82), tmp_path / "small", build=build, **QUIET)
    assert (small.spec.driver.use, len(small.evaluations)) == ("exhaustive", 82)
    large = run(toy_spec("auto", budget=81), tmp_path / "large", build=build, **QUIET)
    assert large.spec.driver.use == "frontier"
    said = (tmp_path / "large" / "run.log").read_text()
    assert "driver auto: frontier, because 82 evaluations would cover the space, more than the budget of 81" in said
    assert load_result(tmp_path / "large").spec == large.spec


def test_time_ends_a_run_and_is_not_given_again(tmp_path):
    spec = replace_fields(toy_spec(toy={"slow_s": 0.02}), driver={"use": "random", "time": "0.4s"})
    result = run(spec, tmp_path, build=build, **QUIET)
    assert result.status == "complete"
    assert 5 < len(result.evaluations) <= 21
    again = resume(tmp_path, build=build, **QUIET)
    assert again.evaluations == result.evaluations


def test_nothing_feasible_keeps_the_nearest(tmp_path):
    goals = [{"name": "accuracy", "maximise": True, "limit": ">= 2"}, {"name": "memory_bytes"}]
    result = run(with_goals(goals), tmp_path, build=build, **QUIET)
    assert result.status == "infeasible"
    assert result.front.members == ()
    assert result.front.nearest[0].measures["accuracy"] == 0.98
    document = json.loads((tmp_path / "front.json").read_text())
    assert (document["status"], document["members"], document["picks"]) == ("infeasible", [], {})
    assert [member["feasible"] for member in document["nearest"]] == [False] * 5
    assert load_result(tmp_path).status == "infeasible"


def test_a_limit_on_the_baseline_is_met_by_every_member(tmp_path):
    goals = [{"name": "accuracy", "maximise": True, "limit": ">= baseline - 0.03"}, {"name": "memory_bytes"}]
    result = run(with_goals(goals), tmp_path, build=build, **QUIET)
    assert all(e.measures["accuracy"] >= 0.95 for e in result.front.members)
    unlimited = Front.of(result.evaluations, [replace(goal, limit=None) for goal in result.front.goals])
    assert list(result.front.members) == [e for e in unlimited.members if e.measures["accuracy"] >= 0.95]


def test_what_the_problem_cannot_do_is_said_and_reported(tmp_path, capsys):
    def limited(spec, weights):
        toy = build(spec, weights)
        toy.limits = ("no peak of activations",)
        return toy

    run(toy_spec(budget=6), tmp_path, build=limited)
    assert "mpsearch: limit: no peak of activations" in capsys.readouterr().err
    assert "* Limit: no peak of activations" in (tmp_path / "report.md").read_text()
    assert "limit: no peak of activations" in (tmp_path / "run.log").read_text()
