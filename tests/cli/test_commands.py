"""Every command does what it says."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest

from mpsearch import __version__
from mpsearch.cli import app

COMMANDS = [c.name for c in app.registered_commands]


def test_version_and_help(cli) -> None:
    assert cli("--version").out == f"mpsearch {__version__}\n"
    shown = cli("--help")
    assert shown.code == 0
    assert all(name in shown.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(cli, command: str) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"mpsearch {command}" in readme
    shown = cli(command, "--help")
    assert shown.code == 0
    assert len(shown.out.splitlines()) > 4


def test_run_leaves_a_front_and_says_where(cli, space: Path, projections: None) -> None:
    done = cli("run", "--space", space, "--out", "found")
    assert done.code == 0
    assert "found/front.html" in done.out
    assert "uniform 4" in done.out
    assert {p.name for p in Path("found").iterdir()} >= {
        "spec.yaml", "ledger.jsonl", "front.json", "front.csv", "front.html", "front.png", "report.md", "run.log",
        "costs.json", "costs.html", "costs.png",
    }  # fmt: skip
    front = json.loads(Path("found/front.json").read_text())
    assert front["status"] == "complete"
    assert front["evaluations"]["distinct"] == 6
    assert all(member["test"] for member in front["members"])
    rows = list(csv.DictReader(Path("found/front.csv").read_text().splitlines()))
    assert len(rows) == len(front["members"]) + len(front["uniform"]) + 1


def test_run_prints_one_json_object_and_all_else_on_standard_error(cli, space: Path) -> None:
    done = cli("run", "--space", space, "--json", "--seed", 3, "--budget", 5)
    document = json.loads(done.out)
    assert document["schema"] == "mpsearch.front/1"
    assert document["seed"] == 3
    assert document["evaluations"]["distinct"] == 5
    assert Path(document["run"]).parent == Path("runs")
    assert Path(document["run"]).name.startswith("mine-random-s3-")
    assert done.err


def test_the_options_of_run_reach_the_spec(cli, space: Path) -> None:
    options = ["--driver", "optuna", "--time", "1s", "--seed", 2, "--threads", 1, "--device", "cpu"]
    assert cli("run", "--space", space, *options, "--set", "driver.options.sampler=tpe", "--out", "a").code == 0
    from mpsearch.spec.load import load_saved

    spec = load_saved(Path("a"))
    assert (spec.driver.use, spec.driver.time_s, spec.driver.budget) == ("optuna", 1.0, None)
    assert (spec.seed, spec.engine.threads, spec.driver.options) == (2, 1, {"sampler": "tpe"})


def test_resume_finds_a_run_by_the_start_of_its_name_and_evaluates_nothing_twice(cli, space: Path) -> None:
    assert cli("run", "--space", space, "--out", "runs/first").code == 0
    before = Path("runs/first/ledger.jsonl").read_bytes()
    assert cli("resume", "runs/first").code == 0
    assert cli("resume", "fi").code == 0
    assert Path("runs/first/ledger.jsonl").read_bytes() == before
    assert "first" in cli("resume", "frist").err


def test_resume_or_start_does_either_and_refuses_another_spec(cli, space: Path) -> None:
    command = ["run", "--space", space, "--driver", "auto", "--resume-or-start", "found"]
    assert cli(*command).code == 0
    before = Path("found/ledger.jsonl").read_bytes()
    assert cli(*command).code == 0
    assert Path("found/ledger.jsonl").read_bytes() == before
    refused = cli(*command, "--seed", 5)
    assert refused.code == 2
    assert "holds a run of another spec" in refused.err


def test_describe_and_dry_run_search_nothing(cli, space: Path) -> None:
    shown = cli("describe", "--space", space)
    assert shown.code == 0
    assert "0.weight" in shown.out
    assert "2 choices, 9 assignments" in shown.out
    facts = json.loads(cli("run", "--space", space, "--dry-run", "--json").out)
    assert facts["size"] == 9
    assert facts["evaluations"] == 6
    assert facts["costs"]["float"]["memory_bytes"] == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    assert facts["at_most_s"] > 0
    assert facts["memory_bytes"] > 1e6
    assert "at most" in cli("run", "--space", space, "--dry-run").out
    assert not Path("runs").exists()


def test_front_by_condition_and_by_pick(cli, space: Path) -> None:
    cli("run", "--space", space, "--out", "found", "--set", "driver={use: exhaustive, budget: 10}")
    whole = json.loads(cli("front", "found", "--json").out)
    sizes = [m["measures"]["memory_bytes"] for m in whole["members"]]
    assert len(sizes) > 1
    assert sizes == sorted(sizes)
    some = json.loads(cli("front", "found", "--json", "--where", f"memory_bytes<={sizes[0]}").out)
    assert [m["measures"]["memory_bytes"] for m in some["members"]] == sizes[:1]
    best = json.loads(cli("front", "found", "--json", "--pick", "best:accuracy").out)
    assert best["measures"]["accuracy"] == max(m["measures"]["accuracy"] for m in whole["members"])
    shown = cli("front", "found", "--pick", "cheapest:memory_bytes")
    assert shown.out.count(whole["members"][0]["key"][:8]) == 1
    assert "0.weight" in shown.out
    assert cli("front", "found", "--where", "memory_bytes<=1").code == 4
    assert "Did you mean 'memory_bytes'" in cli("front", "found", "--where", "memory_byte<=1").err
    assert cli("front", "found", "--where", "small").code == 2
    assert cli("front", "found", "--pick", "worst").code == 2


def test_compare_puts_runs_on_one_scale(cli, space: Path) -> None:
    cli("run", "--space", space, "--out", "a")
    cli("run", "--space", space, "--out", "b", "--set", "driver={use: exhaustive, budget: 10}")
    rows = json.loads(cli("compare", "a", "b", "--json").out)["runs"]
    assert [row["driver"] for row in rows] == ["random", "exhaustive"]
    assert rows[1]["hypervolume"] >= rows[0]["hypervolume"] > 0
    assert "exhaustive" in cli("compare", "a", "b", "--to", "both.html").out
    assert "Hypervolume" in Path("both.html").read_text()
    cli("run", "--space", space, "--out", "c", "--set", "goals=[{name: memory_bytes}]")
    assert "cannot be compared" in cli("compare", "a", "c").err


@pytest.mark.parametrize("kind", ["spaces", "drivers", "quantizers", "objectives"])
def test_list(cli, kind: str) -> None:
    lines = cli("list", kind).out.splitlines()
    names = [line.partition(" ")[0] for line in lines]
    assert names
    assert all(len(line.split()) > 2 for line in lines)  # each says what it is
    assert json.loads(cli("list", kind, "--json").out) == {kind: names}


def test_schema_is_json(cli) -> None:
    assert json.loads(cli("schema").out)["properties"]["goals"]


def test_new_writes_what_runs_and_overwrites_nothing(cli) -> None:
    assert cli("new", "start").code == 0
    done = cli("run", "--space", "start/space.yaml", "--json", "--no-tracking")
    assert done.code == 0
    front = json.loads(done.out)
    assert front["baseline"]["measures"]["accuracy"] > 0.9
    assert len(front["members"]) > 2
    Path("start/space.yaml").unlink()
    again = cli("new", "start")
    assert again.code == 2
    assert "objective.py exists and is kept" in again.err
    assert not Path("start/space.yaml").exists()


def test_runs_are_tracked_and_sync_repeats_nothing(cli, space: Path, projections: None) -> None:
    done = cli("run", "--space", space, "--out", "found", "--set", "tracking.enabled=true")
    assert done.code == 0
    assert Path("mlflow.db").is_file()
    assert "mpsearch ui found" in done.out
    assert "0 new and 0 changed runs" in cli("sync", "found").out


def test_ui_starts_mlflow_on_the_store_of_the_run(cli, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("run", "--space", space, "--out", "found")
    Path("mlflow.db").touch()
    started: list[list[str]] = []

    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    assert "http://127.0.0.1:5099" in cli("ui", "found", "--port", 5099).err
    assert cli("ui", "--port", 5099).code == 0
    assert started[0][:4] == [sys.executable, "-m", "mlflow", "ui"]
    assert f"sqlite:///{Path('mlflow.db').absolute()}" in started[0]
    assert started[0] == started[1]
