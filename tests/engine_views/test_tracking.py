"""The projection to MLflow, against real stores: SQLite, and a server over HTTP (slow)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_on_cards import run_on

from mpsearch.core.errors import BadInput, OutOfResources
from mpsearch.engine import tracking
from mpsearch.engine.result import RunResult
from mpsearch.engine.tracking import Tracker, project
from mpsearch.engine.tracking_content import _metrics
from mpsearch.engine.tracking_store import Place, absolute_uri, shown, ui_address, ui_command

Make = Callable[..., RunResult]
NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for the module: making a database takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def runs_of(uri: str, folder: Path) -> dict[str, Any]:
    """All MLflow runs of the search in `folder`, by trial key; asserts that no key occurs twice."""
    from mlflow import MlflowClient

    place = json.loads((folder / "tracking.json").read_text())
    client = MlflowClient(tracking_uri=uri)
    query = f"tags.`mpsearch.search_id` = '{place['search_id']}'"
    found = client.search_runs([place["experiment_id"]], query, max_results=1000)
    keys = [run.data.tags["mpsearch.trial_key"] for run in found]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, found, strict=True))


def with_tracking(result: RunResult, **fields: Any) -> RunResult:
    from dataclasses import replace

    section = result.spec.tracking.model_copy(update=fields)
    return replace(result, spec=result.spec.model_copy(update={"tracking": section}))


def test_runs_are_flat_and_complete(make_result: Make, tmp_path: Path, store: str) -> None:
    result = make_result(tmp_path / "run", evaluations=60)
    summary = project(result, store)
    assert summary.ok, summary.message
    runs = runs_of(store, result.folder)
    keys = {e.key for e in [*result.front.members, *result.uniform.values(), result.baseline]}
    assert set(runs) == keys | {"search"}
    assert summary.created == len(runs)
    front = {e.key for e in result.front.members}
    for key, run in runs.items():
        assert "mlflow.parentRunId" not in run.data.tags
        assert run.info.status == "FINISHED"
        if key != "search":
            assert run.data.tags["on_front"] == str(key in front).lower()
    assert runs[result.baseline.key].data.tags["mpsearch.kind"] == "float"
    assert {runs[e.key].data.tags["mpsearch.kind"] for e in result.uniform.values()} == {"uniform"}


def test_member_holds_goals_as_metrics_and_bits_as_params(make_result: Make, tmp_path: Path, store: str) -> None:
    result = make_result(tmp_path / "run", evaluations=40)
    project(result, store)
    member = result.front.members[0]
    data = runs_of(store, result.folder)[member.key].data
    assert data.metrics["accuracy"] == member.measures["accuracy"]
    assert data.metrics["accuracy_stderr"] == member.stderr["accuracy"]
    assert data.metrics["test_accuracy"] == result.test[member.key].measures["accuracy"]
    assert "test_memory_bytes" not in data.metrics
    ratio = result.baseline.measures["memory_bytes"] / member.measures["memory_bytes"]
    assert data.metrics["memory_ratio"] == pytest.approx(ratio)
    for site in ("stem.weight", "head:in"):
        expected = f"{member.assignment.at(site).bits:g}"
        assert data.params[f"bits.{site.removesuffix('.weight')}"] == expected
    assert data.params["average_bits.weights"] == f"{member.measures['weight_bits']:.4g}"
    assert sorted(data.params)[:2] == ["average_bits.values", "average_bits.weights"]  # what MLflow charts first
    assert json.loads(data.tags["mpsearch.assignment"]) == member.assignment.texts()


def test_search_run_has_params_tables_pictures_and_note(make_result: Make, tmp_path: Path, store: str) -> None:
    from mlflow import MlflowClient

    result = make_result(tmp_path / "run", evaluations=40)
    project(result, store)
    run = runs_of(store, result.folder)["search"]
    client = MlflowClient(tracking_uri=store)
    names = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert names >= {
        "spec.yaml",
        "report.md",
        "front.html",
        "front.png",
        "evaluations.csv",
        "evaluations.json",
        "front_table.json",
    }
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "evaluations.json")).read_text())
    assert len(table["data"]) == len(result.evaluations)
    note = run.data.tags["mlflow.note.content"]
    assert f"run_uuid={run.info.run_id}" in note
    assert "| --- |" in note
    assert len(note) <= 5000
    assert run.data.params["driver.use"] == "random"
    assert run.data.params["goals.0.name"] == "accuracy"
    assert run.data.metrics["evaluations"] == 40
    assert "accuracy" not in run.data.metrics  # would put the search among its members in the charts
    assert run.data.tags["hardware.cores"] == str(os.cpu_count())
    assert list((Path(store.removeprefix("sqlite:///")).parent / "mlartifacts").iterdir())  # beside the database


def test_measures_of_accelerators_are_named_and_labelled(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    result = run_on(tmp_path / "run", monkeypatch, {"nvidia-t4": 0.001, "esb-zcu102": 0.25})
    summary = project(result, store)
    assert summary.ok, summary.message
    runs = runs_of(store, result.folder)
    knee = result.front.knee()
    for card in ("nvidia-t4", "esb-zcu102"):
        measured = runs[knee.key].data.metrics[f"latency_s:{card}"]
        assert measured == knee.measures[f"latency_s@{card}"]
        ratio = result.baseline.measures[f"latency_s@{card}"] / measured
        assert runs[knee.key].data.metrics[f"latency_ratio:{card}"] == pytest.approx(ratio)
        assert runs["search"].data.metrics[f"knee.latency_s:{card}"] == measured
        for run in runs.values():
            assert run.data.tags[f"mpsearch.label.latency_s:{card}"] == "analytic"
    assert (project(result).created, project(result).updated) == (0, 0)
    client = MlflowClient(tracking_uri=store)
    names = {entry.path for entry in client.list_artifacts(runs["search"].info.run_id)}
    assert names >= {"costs.json", "costs.html", "costs.png"}


def test_two_measures_never_become_one() -> None:
    found = _metrics({"f1@5": 1.0, "f1:5": 2.0, "f1 (5)": 3.0, "f1 _5_": 4.0, "f1/5": 5.0})
    assert found == {"f1:5": 1.0, "f1:5_": 2.0, "f1 _5_": 3.0, "f1 _5__": 4.0, "f1/5": 5.0}


def test_projecting_twice_changes_nothing(make_result: Make, tmp_path: Path, store: str) -> None:
    result = make_result(tmp_path / "run", evaluations=50)
    first = project(result, store)
    before = {key: run.to_dictionary() for key, run in runs_of(store, result.folder).items()}
    second = project(result)  # the recorded store
    after = {key: run.to_dictionary() for key, run in runs_of(store, result.folder).items()}
    assert (second.created, second.updated) == (0, 0)
    assert second.place == first.place
    assert before == after


def test_members_that_leave_the_front_are_marked(make_result: Make, tmp_path: Path, store: str) -> None:
    early = make_result(tmp_path / "run", evaluations=30, tested=False)
    assert project(early, store, live=True).ok
    late = make_result(tmp_path / "run", evaluations=300)
    left = {e.key for e in early.front.members} - {e.key for e in late.front.members}
    assert left, "the made-up search must improve for this test to mean something"
    project(late, store)
    runs = runs_of(store, late.folder)
    marked = {key for key, run in runs.items() if run.data.tags.get("on_front") == "true"}
    assert marked == {e.key for e in late.front.members}
    assert left <= set(runs)


def test_live_run_stays_open_and_orphans_are_closed(make_result: Make, tmp_path: Path, store: str) -> None:
    from mlflow import MlflowClient

    result = make_result(tmp_path / "run", evaluations=30, status="interrupted")
    project(result, store, live=True)
    runs = runs_of(store, result.folder)
    assert runs.pop("search").info.status == "RUNNING"
    orphan = next(iter(runs.values())).info.run_id
    MlflowClient(tracking_uri=store).update_run(orphan, status="RUNNING")  # what a kill between two writes leaves
    project(result, store)
    runs = runs_of(store, result.folder)
    assert runs.pop("search").info.status == "KILLED"
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_half_written_run_is_completed(make_result: Make, tmp_path: Path, store: str) -> None:
    from mlflow import MlflowClient

    result = make_result(tmp_path / "run", evaluations=30)
    place = Place.of(result.folder, result.spec, store)
    client = MlflowClient(tracking_uri=store)
    name = place.experiment
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    key = result.front.members[0].key
    tags = {"mpsearch.search_id": place.search_id, "mpsearch.trial_key": key}
    half = client.create_run(experiment, tags=tags)
    project(result)
    run = runs_of(store, result.folder)[key]
    assert run.info.run_id == half.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.metrics["accuracy"] == result.front.members[0].measures["accuracy"]


def test_infeasible_search_tracks_the_nearest(make_result: Make, tmp_path: Path, store: str) -> None:
    result = make_result(tmp_path / "run", evaluations=30, limit=">= baseline + 0.5")
    assert result.status == "infeasible"
    project(result, store)
    runs = runs_of(store, result.folder)
    assert runs["search"].info.status == "FAILED"
    assert {e.key for e in result.front.nearest} <= set(runs)
    assert not any(run.data.tags.get("on_front") == "true" for run in runs.values())


def test_more_choices_than_a_batch_holds(make_result: Make, tmp_path: Path, store: str) -> None:
    result = make_result(tmp_path / "run", evaluations=10)
    path = result.folder / "sites.json"
    extra = [
        {"name": f"deep.{i}.weight", "role": "weight", "shape": [4], "choice": f"deep.{i}.weight"} for i in range(230)
    ]
    path.write_text(json.dumps(json.loads(path.read_text()) + extra))
    assert project(result, store).ok
    data = runs_of(store, result.folder)[result.baseline.key].data
    assert sum(name.startswith("bits.deep.") for name in data.params) == 230


def test_server_down_is_a_message_and_can_be_synced_later(make_result: Make, tmp_path: Path, store: str) -> None:
    result = make_result(tmp_path / "run", evaluations=20)
    began = time.monotonic()
    summary = project(result, NOBODY)
    assert not summary.ok
    assert time.monotonic() - began < 20
    assert "Connection refused" in summary.message
    assert f"mpsearch sync {result.folder}" in summary.message
    assert project(result, store).ok
    assert "search" in runs_of(store, result.folder)


def test_server_down_where_tracking_is_required(make_result: Make, tmp_path: Path) -> None:
    result = with_tracking(make_result(tmp_path / "run", evaluations=20), required=True, uri=NOBODY)
    with pytest.raises(OutOfResources, match="mpsearch sync"):
        project(result)
    with pytest.raises(OutOfResources, match="required") as failure:
        Tracker(result.folder, result.spec)
    assert failure.value.exit_code == 5


def test_unwritable_database_is_a_message(make_result: Make, tmp_path: Path) -> None:
    result = make_result(tmp_path / "run", evaluations=20)
    (tmp_path / "blocked").write_text("a file, not a folder")
    summary = project(result, f"sqlite:///{tmp_path}/blocked/mlflow.db")
    assert not summary.ok
    assert "failed" in summary.message


def test_tracker_says_once_that_the_server_is_down(make_result: Make, tmp_path: Path) -> None:
    result = with_tracking(make_result(tmp_path / "run", evaluations=20), uri=NOBODY)
    said: list[str] = []
    tracker = Tracker(result.folder, result.spec, say=said.append, interval_s=0.0, share=1.0)
    for _ in range(3):
        tracker.update(lambda: result)
    assert len(said) == 1
    summary = tracker.finish(result)
    assert summary is not None
    assert not summary.ok


def test_tracker_keeps_to_its_share(make_result: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = make_result(tmp_path / "run", evaluations=5)
    clock = {"now": 0.0}
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock["now"])

    def slow(*_: object, **__: object) -> Any:
        clock["now"] += 4.0
        return tracking.ProjectionSummary(True, "", Place("id", "sqlite:///x", "made-up", None))

    monkeypatch.setattr(tracking, "project", slow)
    tracker = Tracker(result.folder, result.spec, say=lambda text: None)
    asked: list[float] = []
    while clock["now"] < 3000:
        clock["now"] += 0.5
        tracker.update(lambda: asked.append(clock["now"]) or result)  # type: ignore[func-returns-value]
    assert asked[0] == 30.0
    assert len(asked) >= 20
    assert 4.0 * len(asked) < 0.05 * clock["now"]


def test_tracking_that_is_off_writes_nothing(make_result: Make, tmp_path: Path) -> None:
    result = with_tracking(make_result(tmp_path / "run", evaluations=5), enabled=False)
    tracker = Tracker(result.folder, result.spec, interval_s=0.0)
    tracker.update(lambda: pytest.fail("asked for a result"))
    assert tracker.finish(result) is None
    assert not (result.folder / "tracking.json").exists()


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///tmp/mlruns", "htp://host", "sqlite://"])
def test_uri_that_cannot_keep_runs(uri: str) -> None:
    with pytest.raises(BadInput, match=r"sqlite:///mlflow\.db"):
        absolute_uri(uri)


def test_place_is_recorded_and_survives_a_move(
    make_result: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = make_result(tmp_path / "run", evaluations=5)
    first = Place.of(result.folder, result.spec)
    assert first.uri == f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    assert Place.of(result.folder, result.spec) == first
    other = Place.of(result.folder, result.spec, "http://given:5000")
    assert (other.search_id, other.uri, other.artifacts) == (first.search_id, "http://given:5000", None)


def test_environment_and_spec_choose_the_store(
    make_result: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000")
    plain = make_result(tmp_path / "one", evaluations=5)
    assert Place.of(plain.folder, plain.spec).uri == "http://environment:5000"
    given = with_tracking(make_result(tmp_path / "two", evaluations=5), uri="http://spec:5000")
    assert Place.of(given.folder, given.spec).uri == "http://spec:5000"


def test_how_to_look() -> None:
    command = ui_command("sqlite:////a/mlflow.db", port=7000, allowed_hosts="me.example.org")
    assert command[:4] == ["mlflow", "ui", "--backend-store-uri", "sqlite:////a/mlflow.db"]
    assert command[-4:] == ["--port", "7000", "--allowed-hosts", "me.example.org"]
    assert ui_command("http://host:5000") == []
    assert ui_address("http://host:5000/", "7") == "http://host:5000/#/experiments/7/runs?workflowType=machine_learning"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        from mpsearch.engine.tracking_store import free_port

        assert free_port(first=port) != port
    assert shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/served.db",
               "--artifacts-destination", str(tmp_path / "served"), "--port", str(port), "--workers", "1"]  # fmt: skip
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=2):
                    break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)


@pytest.mark.slow
def test_against_a_server(make_result: Make, tmp_path: Path, server: str) -> None:
    from mlflow import MlflowClient

    result = make_result(tmp_path / "run", evaluations=40)
    assert project(result, server, live=True).ok
    summary = project(result)
    assert summary.ok, summary.message
    again = project(result)
    assert (again.created, again.updated) == (0, 0)
    runs = runs_of(server, result.folder)
    run_id = runs["search"].info.run_id
    client = MlflowClient(tracking_uri=server)
    assert "front.html" in {entry.path for entry in client.list_artifacts(run_id)}
    picture = f"{server}/get-artifact?path=front.png&run_uuid={run_id}"  # what the note shows
    with urllib.request.urlopen(picture, timeout=10) as reply:
        assert reply.read(8) == b"\x89PNG\r\n\x1a\n"
    assert set(runs) >= {e.key for e in result.front.members}
