"""Each kind of bad input ends with one clear message and the right exit code, and nothing is lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mpsearch.engine import run as engine


def change(space: Path, old: str, new: str) -> None:
    text = space.read_text()
    assert old in text
    space.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("goals:", "goal:", "unknown key 'goal'. Did you mean 'goals'?"),
        ("budget: 6", "budget: six", "space.yaml:10:23: driver.budget: should be a valid integer, got 'six'."),
        ("budget: 6", "budget: 0", "driver.budget: must be above 0, got 0."),
        ("budget: 6", "budget: -5", "driver.budget: must be above 0, got -5."),
        ("random", "randm", "unknown driver 'randm'. Did you mean 'random'?"),
        ("{use: random", "{use: optuna, options: {sampler: tpee}", "Did you mean 'tpe'?"),
        ("{use: random", "{use: random, options: {bach: 3}", "has no option 'bach'. Did you mean 'batch'?"),
        ("int2", "imt2", "unknown scheme 'imt'. Did you mean 'int'?"),
        ("int2", "int99", "int99"),
        ("int2", "int4:affin", "affin"),
        ("objective.py", "node_clasification", "Did you mean 'node_classification'?"),
        ("objective.py}", "objective.py, options: {behav: 1}}", "Did you mean 'behave'?"),
        ("*.weight", "*.wieght", "*.wieght"),
        ("name: memory_bytes", "name: memory_byte", "memory_bytes"),
        ("name: memory_bytes", "name: memory_bytes, limit: small", "limit 'small' is not understood"),
        ("tracking:", "start: [{'9.*': int4}]\ntracking:", "matches no site"),
        ("tracking:", "start: [{'0.*': int3}]\ntracking:", "allowed: int2, int4, int8"),
    ],
)
def test_a_wrong_space(cli, space: Path, old: str, new: str, message: str) -> None:
    change(space, old, new)
    done = cli("run", "--space", space, "--out", "found")
    assert done.code == 2, done.err
    assert message in done.err
    assert not Path("found/front.json").exists()


def test_tied_sites_whose_rules_share_no_format(cli, space: Path) -> None:
    change(space, 'match: "*.weight"\n    formats: [int2, int4, int8]', "match: 0.weight\n    formats: [int2]")
    change(space, "goals:", "  - {match: 2.weight, formats: [int8]}\ntie: [{match: '*.weight'}]\ngoals:")
    done = cli("run", "--space", space, "--out", "found")
    assert done.code == 2
    assert "0.weight" in done.err
    assert "2.weight" in done.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.yaml", "", "is empty"),
        ("broken.yaml", "a: [1", "not YAML"),
        ("list.yaml", "- 1", "holds a list"),
        ("folder.yaml", None, "folder.yaml (a directory)"),
        ("absent.yaml", ..., "no space file"),
    ],
)
def test_files_that_are_not_a_space(cli, name: str, content: object, message: str) -> None:
    if content is None:
        Path(name).mkdir()
    elif isinstance(content, str):
        Path(name).write_text(content)
    done = cli("run", "--space", f"./{name}")
    assert done.code == 2
    assert message in done.err
    assert not Path("runs").exists()


def test_every_error_is_shown(cli, space: Path) -> None:
    change(space, "budget: 6", "budget: 0")
    done = cli("run", "--space", space, "--set", "sed=1", "--device", "gpu")
    assert done.code == 2
    assert "mpsearch: 3 errors\n  --" in done.err
    assert "--set sed=1: sed: unknown key 'sed'. Did you mean 'seed'?" in done.err
    assert "--device gpu: engine.device" in done.err


@pytest.mark.parametrize(
    "options",
    [
        ["--budget", "5", "--time", "1m"],
        ["--out", "a", "--resume-or-start", "b"],
        ["--no-tracking", "--require-tracking"],
        ["--budget", "many"],
        ["--budgte", "5"],
    ],
)
def test_options_that_do_not_go(cli, space: Path, options: list[str]) -> None:
    assert cli("run", "--space", space, *options).code == 2
    assert not Path("runs").exists()


def test_a_limit_on_a_cost_that_nothing_can_meet(cli, space: Path) -> None:
    done = cli("run", "--space", space, "--out", "found", "--set", "goals[1].limit=<= 1")
    assert done.code == 4
    (least,) = re.findall(r"goals: memory_bytes <= 1 cannot be met: (\d+) is the least", done.err)
    assert not Path("found/spec.yaml").exists()
    assert cli("run", "--space", space, "--out", "found", "--set", f"goals[1].limit=<= {least}").code == 0


def test_a_limit_that_nothing_reaches_keeps_the_nearest(cli, space: Path) -> None:
    done = cli("run", "--space", space, "--out", "found", "--set", "goals[0].limit=>= 1.5")
    assert done.code == 4
    assert "none of 6 assignments meets accuracy >= 1.5 (the best reached is 1); the nearest are kept in" in done.err
    front = json.loads(Path("found/front.json").read_text())
    assert front["status"] == "infeasible"
    assert not front["members"]
    assert front["nearest"]
    assert cli("front", "found").code == 0


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        ("raise", "mpsearch: the float baseline failed: RuntimeError: the metric\n  is broken"),
        ("nan", "not a finite number"),
        ("drift", "is not deterministic"),
    ],
)
def test_an_objective_that_cannot_be_trusted(cli, space: Path, behave: str, message: str) -> None:
    done = cli("run", "--space", space, "--out", "found", "--set", f"objective.options.behave={behave}")
    assert done.code == 3
    assert message in done.err


def test_a_noisy_objective_may_drift(cli, space: Path) -> None:
    options = ["--set", "objective.options.behave=drift", "--set", "objective.noisy=true"]
    assert cli("run", "--space", space, "--out", "found", *options).code == 0


def test_an_output_folder_that_cannot_be_used(cli, space: Path) -> None:
    Path("file").write_text("")
    done = cli("run", "--space", space, "--out", "file/run")
    assert done.code == 2
    assert "cannot be used as a run folder" in done.err
    cli("run", "--space", space, "--out", "found")
    before = Path("found/ledger.jsonl").read_bytes()
    done = cli("run", "--space", space, "--out", "found")
    assert done.code == 2
    assert "holds a run; resume it" in done.err
    assert Path("found/ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize("command", ["resume", "front"])
def test_a_ledger_with_a_tampered_line(cli, space: Path, command: str) -> None:
    cli("run", "--space", space, "--out", "found")
    ledger = Path("found/ledger.jsonl")
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"accuracy"', b'"acuracy"', 1)
    ledger.write_bytes(tampered := b"".join(lines))
    done = cli(command, "found")
    assert done.code == 2
    assert "line 4" in done.err or ":4" in done.err
    assert ledger.read_bytes() == tampered


@pytest.mark.parametrize("command", ["resume", "front", "sync", "compare", "ui"])
def test_a_run_that_is_not_there(cli, command: str) -> None:
    Path("holiday").mkdir()
    assert "holds no run" in cli(command, "holiday").err
    done = cli(command, "nothing")
    assert done.code == 2
    assert "'nothing' is neither a run folder" in done.err


def test_a_run_whose_objective_is_gone_can_be_looked_at_but_not_resumed(cli, space: Path) -> None:
    cli("run", "--space", space, "--out", "found")
    Path("objective.py").unlink()
    assert cli("front", "found").code == 0
    done = cli("resume", "found")
    assert done.code == 2
    assert "objective.py is not there." in done.err


def test_a_prefix_that_two_runs_share(cli, space: Path) -> None:
    for name in ("mine-1", "mine-2"):
        cli("run", "--space", space, "--out", f"runs/{name}")
    done = cli("front", "mine")
    assert done.code == 2
    assert "mine-1, mine-2" in done.err


def test_missing_data_says_what_to_fetch(cli, space: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mpsearch.zoo import files

    monkeypatch.setenv("MPSEARCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MPSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_download", lambda url, sha256, to: "no network here")
    change(space, "{use: objective.py}", "{use: node_classification, options: {dataset: cora}}")
    done = cli("run", "--space", space, "--out", "found")
    assert done.code == 2
    assert f"put it at {tmp_path / 'data'}" in done.err


def test_a_tracking_server_that_is_down(cli, space: Path, projections: None) -> None:
    down = "http://127.0.0.1:9"
    change(space, "tracking: {enabled: false}\n", "")
    done = cli("run", "--space", space, "--out", "found", "--tracking-uri", down)
    assert done.code == 0
    assert "mpsearch sync found" in done.err
    assert json.loads(Path("found/front.json").read_text())["status"] == "complete"
    assert cli("sync", "found").code == 5
    assert cli("sync", "found", "--tracking-uri", "sqlite:///later.db").code == 0
    assert Path("later.db").is_file()
    required = cli("run", "--space", space, "--out", "other", "--tracking-uri", down, "--require-tracking")
    assert required.code == 5


def test_signals_end_cleanly_with_their_code(cli, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    real = engine._search
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):

        def stopped(*given, signum=signum) -> None:
            os.kill(os.getpid(), signum)
            real(*given)

        monkeypatch.setattr(engine, "_search", stopped)
        done = cli("run", "--space", space, "--out", f"found{code}")
        assert done.code == code
        monkeypatch.setattr(engine, "_search", real)
        assert cli("resume", f"found{code}").code == 0
