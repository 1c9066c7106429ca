"""Everything that can be wrong with a run: the objective, the folder, the ledger, the disk."""

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from toy_runs import QUIET, build, build_with, failing, run_changed, with_goals

from mpsearch.core.errors import BadInput, ObjectiveFailed, OutOfResources
from mpsearch.core.evaluation import Failure
from mpsearch.engine.folder import Folder
from mpsearch.engine.load import load_result
from mpsearch.engine.run import resume, run
from mpsearch.engine.stop import Stop
from mpsearch.ledger import ledger as ledger_module
from mpsearch.ledger.ledger import equal, read
from mpsearch.testing.toy import Toy, toy_spec


def test_a_goal_that_is_not_measured(tmp_path):
    with pytest.raises(BadInput, match=r"'accurracy' is not measured\. Did you mean 'accuracy'"):
        run(with_goals([{"name": "accurracy", "maximise": True}]), tmp_path, build=build, **QUIET)
    assert read(Folder(tmp_path).ledger) == ()


def test_an_objective_that_does_not_repeat_itself(tmp_path):
    with pytest.raises(ObjectiveFailed, match=r"not deterministic.*accuracy = .*noisy: true") as error:
        run(toy_spec(toy={"drift": 1e-9}), tmp_path / "drifting", build=build, **QUIET)
    assert error.value.exit_code == 3
    noisy = {"use": "toy", "options": {"drift": 1e-9}, "noisy": True}
    assert run(toy_spec(objective=noisy), tmp_path / "noisy", build=build, **QUIET).status == "complete"


@pytest.mark.parametrize(
    "change",
    [
        lambda done: replace(done, measures={}, failure=Failure("error", "bang")),
        lambda done: replace(done, measures={**done.measures, "accuracy": float("nan")}),
    ],
    ids=["raises", "nan"],
)
def test_a_baseline_that_fails(tmp_path, change):
    with pytest.raises(ObjectiveFailed, match=r"baseline failed.*(bang|accuracy = nan)"):
        run_changed(change, tmp_path)
    assert read(Folder(tmp_path).ledger) == ()


def test_values_that_are_not_numbers_are_failures(tmp_path):
    def infinite(done):
        narrow = done.assignment and done.assignment.at("layer0.weight").bits == 2
        return replace(done, measures={**done.measures, "memory_bytes": float("inf")}) if narrow else done

    result = run_changed(infinite, tmp_path)
    assert 0 < result.failed < 30
    kinds = {e.failure.kind for e in result.evaluations if e.failure}
    assert kinds == {"nan"}
    assert list(result.uniform) == ["uniform 4", "uniform 8"]


def test_ten_failures_in_a_row_end_the_run_and_keep_what_there_is(tmp_path):
    with pytest.raises(ObjectiveFailed, match="10 evaluations in a row failed, the last with: no luck") as error:
        run_changed(failing, tmp_path)
    assert error.value.exit_code == 3
    kept = load_result(tmp_path)
    assert (kept.status, len(kept.evaluations), kept.failed) == ("interrupted", 11, 10)
    assert [e.key for e in kept.front.members] == [kept.baseline.key]
    mended = resume(tmp_path, build=build, **QUIET)  # what failed was the machine: the run goes on
    assert (mended.status, len(mended.evaluations), mended.failed) == ("complete", 40, 10)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match=r"not empty \(thesis\.tex\)"):
        run(toy_spec(), tmp_path, build=build, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_holds_another_run(tmp_path):
    run(toy_spec(), tmp_path, build=build, **QUIET)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BadInput, match=r"holds a run; resume it \(mpsearch resume"):
        run(toy_spec(seed=5), tmp_path, build=build, **QUIET)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_run_leaves_that_was_killed_while_preparing_is_no_obstacle(tmp_path):
    for name in ("run.log", "weights.safetensors", "sites.json.tmp"):
        (tmp_path / name).write_text("")
    assert run(toy_spec(), tmp_path, build=build, **QUIET).status == "complete"


@pytest.mark.parametrize("place", ["file", "below a file", "no disk", "read-only"])
def test_folders_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("")
    places = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "no disk": Path("/proc/run")}
    where = places.get(place)
    if where is None:
        where = tmp_path / "locked"
        where.mkdir(mode=0o500)
        if os.access(where, os.W_OK):
            pytest.skip("the superuser may write everywhere")
    with pytest.raises(BadInput, match="cannot be used as a run folder"):
        run(toy_spec(), where, build=build, **QUIET)


def test_resuming_where_there_is_no_run(tmp_path):
    with pytest.raises(BadInput, match="not a run folder"):
        resume(tmp_path, build=build, **QUIET)
    with pytest.raises(BadInput, match="not a run folder"):
        load_result(tmp_path)


def test_a_run_is_not_resumed_on_other_weights(tmp_path):
    run(toy_spec(), tmp_path, build=build, **QUIET)
    before = Folder(tmp_path).ledger.read_bytes()
    with pytest.raises(BadInput, match="float weights are not those of the run"):
        resume(tmp_path, build=lambda spec, weights: Toy(layers=3), **QUIET)
    assert Folder(tmp_path).ledger.read_bytes() == before


def test_a_spec_that_was_changed_is_noticed(tmp_path):
    run(toy_spec(), tmp_path, build=build, **QUIET)
    path = tmp_path / "spec.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(BadInput, match=r"spec\.yaml was changed"):
        resume(tmp_path, build=build, **QUIET)


def test_a_tampered_ledger_is_not_resumed(tmp_path):
    run(toy_spec(), tmp_path, build=build, **QUIET)
    path = Folder(tmp_path).ledger
    path.write_bytes(path.read_bytes().replace(b'"accuracy": 0.98', b'"accuracy": 0.99', 1))
    before = path.read_bytes()
    with pytest.raises(BadInput, match="line 2"):
        resume(tmp_path, build=build, **QUIET)
    assert path.read_bytes() == before


def test_one_process_at_a_time(tmp_path):
    def intrude(assignment, split):
        if split == "test":
            with pytest.raises(BadInput, match="another process"):
                resume(tmp_path, build=build, **QUIET)

    assert run(toy_spec(), tmp_path, build=build_with(watch=intrude), **QUIET).status == "complete"


def test_weights_that_were_trained_are_kept_and_given_back(tmp_path):
    class Trained(Toy):
        keeps_weights = True

        def save_weights(self, path):
            path.write_text("weights")

    given = []

    def build_trained(spec, weights):
        given.append(weights and weights.read_text())
        return Trained()

    run(toy_spec(), tmp_path, build=build_trained, **QUIET)
    resume(tmp_path, build=build_trained, **QUIET)
    assert given == [None, "weights"]


# --- start, stop, full disks -----------------------------------------------------------------------------------------


def test_start_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    start = [{"layer9*": "int4"}, {"layer0*": "int3"}]
    with pytest.raises(BadInput) as error:
        run(toy_spec(start=start), tmp_path, build=build, **QUIET)
    first, second = error.value.errors
    assert "start[0]: 'layer9*' matches no site" in first
    assert "start[1]: 'layer0.weight' cannot be int3; allowed: int2, int4, int8" in second
    assert not Folder(tmp_path).has_run


def test_a_signal_before_the_first_evaluation(tmp_path):
    stop = Stop()
    stop.signum = signal.SIGTERM
    with pytest.raises(BadInput, match="stopped before the float baseline was evaluated; resume"):
        run(toy_spec(), tmp_path, build=build, stop=stop, **QUIET)
    with pytest.raises(BadInput, match="nothing was evaluated yet"):
        load_result(tmp_path)
    assert resume(tmp_path, build=build, **QUIET).status == "complete"


def test_a_signal_between_the_search_and_the_test_scores(tmp_path):
    stop = Stop()

    def watch(assignment, split):
        if split == "test":
            stop.signum = signal.SIGINT

    stopped = run(toy_spec(), tmp_path, build=build_with(watch=watch), stop=stop, **QUIET)
    assert (stopped.status, len(stopped.evaluations), len(stopped.test)) == ("interrupted", 40, 1)
    resumed = resume(tmp_path, build=build, **QUIET)
    assert resumed.status == "complete"
    assert len(resumed.test) == len(set(resumed.test)) > 1


@pytest.mark.parametrize("after", [0, 1, 700, 5_000, 20_000])
def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch, after):
    room = after

    def write(fd, text):
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(fd, bytes(text)[:room])
        room -= written
        return written

    real = os.write
    folder = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module.os, "write", write)
        with pytest.raises(OutOfResources, match="make room, then resume") as error:
            run(toy_spec("optuna"), folder, build=build, **QUIET)
    assert error.value.exit_code == 5
    lines = read(Folder(folder).ledger)
    assert len(lines) == max(0, Folder(folder).ledger.read_bytes().count(b"\n") - 1)
    assert len(lines) > 0 or after < 1000
    resume(folder, build=build, **QUIET)
    run(toy_spec("optuna"), tmp_path / "whole", build=build, **QUIET)
    assert equal(Folder(folder).ledger, Folder(tmp_path / "whole").ledger)


def test_a_disk_that_is_full_when_the_front_is_written(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = Folder.write_front

    def write_front(self, result):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            real(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write_front", write_front)
        with pytest.raises(OutOfResources, match=r"front\.json: cannot write \(No space left"):
            run(toy_spec(), tmp_path, build=build, **QUIET)
    assert not (tmp_path / "front.json").exists()
    assert not (tmp_path / "front.json.tmp").exists()
    assert resume(tmp_path, build=build, **QUIET).status == "complete"
    assert (tmp_path / "front.json").exists()
