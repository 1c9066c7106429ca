"""A run on the toy problem: order, ends, files, and everything that can be wrong with it."""

import csv
import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, ObjectiveFailed, OutOfResources
from mpsearch.core.evaluation import Failure
from mpsearch.core.front import Front
from mpsearch.drivers.base import SearchOver
from mpsearch.engine.folder import Folder
from mpsearch.engine.load import load_result
from mpsearch.engine.run import resume, run
from mpsearch.engine.session import LedgerSession
from mpsearch.engine.stop import Stop
from mpsearch.ledger import ledger as ledger_module
from mpsearch.ledger.ledger import Ledger, equal, read
from mpsearch.testing.toy import Toy, toy_spec

QUIET = {"show_progress": False, "bare": True}


def build_with(**options):
    """A `build` whose toy also takes what YAML cannot hold."""
    return lambda spec, weights: Toy(**spec.objective.options, **options)


build = build_with()


class Changed(Toy):
    """A toy whose evaluations pass through `change`."""

    def __init__(self, change, **options):
        super().__init__(**options)
        self._change = change

    def evaluate(self, assignments, split="validation"):
        return map(self._change, super().evaluate(assignments, split))


def run_changed(change, folder, **spec):
    return run(toy_spec(**spec), folder, build=lambda spec, weights: Changed(change), **QUIET)


def failing(done):
    return replace(done, measures={}, failure=Failure("error", "no luck")) if done.assignment else done


@pytest.fixture
def session(tmp_path):
    """A function that makes a session over the toy, its ledger in `tmp_path`."""
    opened = []

    def make(budget=40, watch=lambda assignment, split: None):
        close()
        ledger = Ledger(tmp_path / "ledger.jsonl", "spec", {})
        opened.append(ledger)
        goals = [goal.goal() for goal in toy_spec().goals]
        return LedgerSession(Toy(watch=watch), ledger, goals, seed=0, budget=budget)

    def close():
        while opened:
            opened.pop().close()

    yield make
    close()


def test_controls_come_first_then_start_then_the_driver(tmp_path):
    start = [{"layer0.*": "int8", "*": "int2"}, {"layer1.weight": "int4"}]
    result = run(toy_spec(budget=12, start=start), tmp_path, build=build, **QUIET)
    asked_by = [e.asked_by for e in result.evaluations]
    assert asked_by == ["baseline", "uniform 2", "uniform 4", "uniform 8", "start", "start", *["random"] * 6]
    assert result.baseline.assignment == Assignment()
    assert list(result.uniform) == ["uniform 2", "uniform 4", "uniform 8"]
    started = [list(e.assignment.texts().values()) for e in result.evaluations[4:6]]
    assert started == [["int8", "int2", "int2", "int2"], ["int8", "int4", "int8", "int8"]]


def test_a_batch_is_recorded_in_encode_order_and_returned_as_asked(session):
    work = []
    s = session(budget=6, watch=lambda assignment, split: work.append(assignment))
    a, b, c, d = (s.space.decode(code) for code in [(2, 0, 0, 1), (0, 1, 2, 1), (1, 1, 1, 0), (0, 0, 0, 1)])
    done = s.evaluate([a, b, a, c])
    assert [e.assignment for e in done] == [a, b, a, c]
    assert [e.assignment for e in s.evaluations] == work == [b, c, a]
    assert (s.budget_left, s.hits) == (3, 1)
    assert s.evaluate([c, a])[0] == done[3]
    assert (s.budget_left, s.hits, len(work)) == (3, 3, 3)
    e, f, g = (s.space.decode(code) for code in [(2, 2, 2, 0), (2, 2, 1, 0), (0, 0, 1, 0)])
    with pytest.raises(SearchOver, match="budget"):
        s.evaluate([d, e, a, f, g])  # the first three new ones, in encode order
    assert work[3:] == [d, f, e]
    with pytest.raises(SearchOver, match="budget"):
        s.evaluate([a])


def test_a_later_session_answers_from_the_ledger_and_looks_the_same(tmp_path, session):
    first = session()
    codes = [[(2, 0, 0, 1), (0, 1, 2, 1)], [(0, 1, 2, 1), (1, 1, 1, 1)]]
    batches = [[first.space.decode(code) for code in batch] for batch in codes]
    answers = [first.evaluate(batch) for batch in batches]
    work = []
    again = session(watch=lambda assignment, split: work.append(assignment))
    seen = []
    for batch, answer in zip(batches, answers, strict=True):
        assert again.evaluate(batch) == answer
        seen.append((again.budget_left, again.hits, len(again.evaluations)))
    assert not work
    assert seen == [(38, 0, 2), (37, 1, 3)]


def test_200_hits_in_a_row_end_the_search(session):
    s = session(budget=500)
    one = s.space.decode((0, 0, 0, 0))
    s.evaluate([one])
    for _ in range(199):
        s.evaluate([one])
    with pytest.raises(SearchOver, match="exhausted"):
        s.evaluate([one])
    assert s.hits == 200


def test_a_covered_space_ends_the_search(session):
    s = session(budget=500)
    s.evaluate(list(s.space.assignments()))
    with pytest.raises(SearchOver, match="exhausted"):
        s.evaluate([s.space.decode((0, 0, 0, 0))])


def test_a_driver_that_leaves_the_space_is_told(session):
    with pytest.raises(BadInput, match="'elsewhere' is not in the search space"):
        session().evaluate([Assignment.parse({"elsewhere": "int4"})])


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
        *("schema", "status", "goals", "baseline", "uniform", "members", "nearest", "picks", "hypervolume"),
        *("reference", "evaluations", "forward_equivalents", "seconds", "driver", "seed"),
    ]
    assert (document["schema"], document["status"]) == ("mpsearch.front/1", "complete")
    assert document["goals"][0] == {"name": "accuracy", "direction": "max", "limit": None}
    assert document["evaluations"] == {"distinct": 40, "hits": result.hits, "failed": result.failed}
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
    assert large.spec.driver.use == "optuna"
    assert load_result(tmp_path / "large").spec == large.spec


def test_time_ends_a_run_and_is_not_given_again(tmp_path):
    spec = replace_fields(toy_spec(toy={"slow_s": 0.02}), driver={"use": "random", "time": "0.4s"})
    result = run(spec, tmp_path, build=build, **QUIET)
    assert result.status == "complete"
    assert 5 < len(result.evaluations) <= 21
    again = resume(tmp_path, build=build, **QUIET)
    assert again.evaluations == result.evaluations


def test_nothing_feasible_keeps_the_nearest(tmp_path):
    goals = [{"name": "accuracy", "maximise": True}, {"name": "memory_bytes", "limit": "<= 100"}]
    result = run(with_goals(goals), tmp_path, build=build, **QUIET)
    assert result.status == "infeasible"
    assert result.front.members == ()
    assert result.front.nearest[0].measures["memory_bytes"] == 296
    document = json.loads((tmp_path / "front.json").read_text())
    assert (document["status"], document["members"], document["picks"]) == ("infeasible", [], {})
    assert [member["feasible"] for member in document["nearest"]] == [False] * 5
    assert load_result(tmp_path).status == "infeasible"


def replace_fields(spec, **fields):
    return type(spec).model_validate(spec.model_dump(by_alias=True) | fields)


def with_goals(goals):
    return replace_fields(toy_spec("exhaustive", budget=82), goals=goals)


def test_a_limit_on_the_baseline_is_met_by_every_member(tmp_path):
    goals = [{"name": "accuracy", "maximise": True, "limit": ">= baseline - 0.03"}, {"name": "memory_bytes"}]
    result = run(with_goals(goals), tmp_path, build=build, **QUIET)
    assert all(e.measures["accuracy"] >= 0.95 for e in result.front.members)
    unlimited = Front.of(result.evaluations, [replace(goal, limit=None) for goal in result.front.goals])
    assert list(result.front.members) == [e for e in unlimited.members if e.measures["accuracy"] >= 0.95]


# --- the objective cannot be trusted ---------------------------------------------------------------------------------


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
