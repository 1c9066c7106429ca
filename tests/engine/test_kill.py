"""Runs killed with `kill -9` anywhere from the first byte of the ledger to the report, and resumed.

A child is forked, which costs milliseconds, and runs the search for real: real files, real fsync, real SIGKILL. It
kills itself at a moment that is stated beforehand (the n-th write to the ledger, before it, in the middle of the line
or after it; the n-th evaluation; the writing of the front), so that every kind of moment is met; some are killed by
the parent after a time instead.
"""

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpsearch.engine import folder as folder_module
from mpsearch.engine.folder import Folder
from mpsearch.engine.load import load_result
from mpsearch.engine.run import resume, run
from mpsearch.ledger import ledger as ledger_module
from mpsearch.ledger.ledger import equal
from mpsearch.testing.toy import Toy, toy_spec

BUDGET = 30
HOOKS = {"evaluating": lambda: None}
DRIVERS = {
    "random": ("random", {}),
    "exhaustive": ("exhaustive", {"chunk": 8}),
    "tpe": ("optuna", {"sampler": "tpe"}),
    "nsga2": ("optuna", {"sampler": "nsga2"}),
    "raced": ("optuna", {"sampler": "nsga2"}),
}


@dataclass(frozen=True)
class Moment:
    """When a child dies. `count` is of writes to the ledger, of evaluations, or of files put in place.

    `replacing` is of the front, `keeping` and `kept` of the scores of a member that others race against.
    """

    where: str
    count: int

    def __str__(self):
        return f"{self.where} {self.count}"


# A run of 30 evaluations makes 31 writes of whole lines, then one for each point that is scored on the test split.
TORN = [Moment("torn", n) for n in (1, 2, 6, 17, 30, 33)]
FAST = [
    *TORN,
    *(Moment("before write", n) for n in (1, 9, 31)),
    *(Moment("after write", n) for n in (1, 2, 13, 31, 35)),
    *(Moment("evaluating", n) for n in (1, 2, 8, 25, 34)),
    *(Moment("replacing", n) for n in (1, 2)),
    Moment("report", 1),
]
KEEPING = [Moment(where, n) for where in ("keeping", "kept") for n in (1, 4, 7)]
SLOW = [Moment(where, n) for where in ("torn", "before write", "after write", "evaluating") for n in range(1, 36)]


def spec_of(name):
    driver, options = DRIVERS[name]
    raced = name == "raced"
    toy = {"fail_every": 6, "batches": 10 if raced else 1}
    return toy_spec(driver, budget=BUDGET, seed=11, options=options, toy=toy, racing={"enabled": raced})


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def in_child(work):
    """Fork, do `work` in the child, and return how it ended: its exit code, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def go_on(folder, name, log, slow_s=0.0):
    """Start or resume; every evaluation leaves a line in `log`, before it is made."""

    def build(spec, weights):
        def watch(assignment, split):
            with log.open("a") as file:
                file.write(f"{split} {assignment.key}\n")
            HOOKS["evaluating"]()
            time.sleep(slow_s)

        return Toy(**spec.objective.options, watch=watch)

    if Folder(folder).has_run:
        resume(folder, build=build, show_progress=False, bare=True)
    else:
        run(spec_of(name), folder, build=build, show_progress=False, bare=True)


def arm(moment):
    """Make this process kill itself at `moment`."""
    count = Counter()

    def at(where):
        count[where] += 1
        return moment.where == where and count[where] == moment.count

    write, replace = os.write, Path.replace

    def killing_write(fd, text):
        if at("before write"):
            die()
        if at("torn"):
            write(fd, bytes(text)[: len(text) // 2])
            os.fsync(fd)
            die()
        written = write(fd, text)
        if at("after write"):
            die()
        return written

    def killing_replace(self, target):
        if Path(target).name.startswith("front") and at("replacing"):
            die()
        scores = Path(target).suffix == ".npz"
        if scores and at("keeping"):
            die()
        replaced = replace(self, target)
        if scores and at("kept"):
            die()
        return replaced

    def killing_hook():
        if at("evaluating"):
            die()

    def killing_csv(result):
        if at("report"):
            die()
        return ""

    ledger_module.os.write = killing_write
    Path.replace = killing_replace
    HOOKS["evaluating"] = killing_hook
    if moment.where == "report":
        folder_module._csv = killing_csv


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Per driver, the folder of a run that nobody interrupted."""
    folders = {}
    for name in DRIVERS:
        folders[name] = tmp_path_factory.mktemp(name) / "whole"
        go_on(folders[name], name, folders[name].parent / "log")
    return folders


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def evaluated(log):
    return Counter(log.read_text().splitlines()) if log.exists() else Counter()


def check_after_kill(folder, name, whole, before_log, log):
    """Resume, and hold the outcome against the uninterrupted run."""
    ledger = Folder(folder).ledger
    kept = lines(ledger)
    recorded = {f"{e.split} {e.key}" for e in ledger_module.read(ledger)} if kept else set()
    go_on(folder, name, log)
    assert equal(ledger, Folder(whole).ledger)
    assert not recorded & set(evaluated(log)), "evaluated although it was recorded"
    twice = {what for what, n in (evaluated(before_log) + evaluated(log)).items() if n > 1}
    baseline = f"validation {load_result(folder).baseline.key}"  # measured twice to see whether it repeats itself
    assert len(twice - {baseline}) <= 1, "more was lost than what was in flight"
    assert lines(ledger) == lines(Folder(whole).ledger) >= kept
    mine, theirs = load_result(folder), load_result(whole)
    assert mine.status == theirs.status == "complete"
    assert [e.key for e in mine.front.members] == [e.key for e in theirs.front.members]
    assert mine.hits == theirs.hits
    return kept


def kill_at(moment, folder, name, log):
    def work():
        arm(moment)
        go_on(folder, name, log)

    assert wait(in_child(work)) == -signal.SIGKILL, "the run ended before the moment came"


def killed_once(tmp_path, name, moment, whole):
    folder, first, second = tmp_path / "run", tmp_path / "first", tmp_path / "second"
    kill_at(moment, folder, name, first)
    content = Folder(folder).ledger.read_bytes() if Folder(folder).ledger.exists() else b""
    if moment.where == "torn":
        assert content
        assert not content.endswith(b"\n"), "the kill was to leave a torn line"
    if moment.where in ("torn", "before write"):
        assert content.count(b"\n") == moment.count - 1  # everything before it is on the disk
    if moment.where == "after write":
        assert content.count(b"\n") == moment.count
    check_after_kill(folder, name, whole, first, second)


@pytest.mark.parametrize("moment", FAST, ids=str)
@pytest.mark.parametrize("name", DRIVERS)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, name, moment, whole):
    killed_once(tmp_path, name, moment, whole[name])


@pytest.mark.parametrize("moment", KEEPING, ids=str)
def test_killed_while_scores_of_a_member_are_kept(tmp_path, moment, whole):
    killed_once(tmp_path, "raced", moment, whole["raced"])


def test_the_race_is_one(whole):
    assert 5 < load_result(whole["raced"]).raced < BUDGET - 10


@pytest.mark.slow
@pytest.mark.parametrize("name", DRIVERS)
def test_killed_at_every_line(tmp_path, name, whole):
    for moment in (m for m in SLOW if m.count <= lines(Folder(whole[name]).ledger)):
        place = tmp_path / str(moment)
        place.mkdir()
        killed_once(place, name, moment, whole[name])


@pytest.mark.parametrize("name", DRIVERS)
def test_killed_again_and_again_still_moves_on(tmp_path, name, whole):
    """Each sitting is killed in its third write (the second may be the first line it adds): every one adds a line."""
    folder, log = tmp_path / "run", tmp_path / "log"
    total, progress = lines(Folder(whole[name]).ledger), []
    moment = Moment("torn", 3)
    while lines(Folder(folder).ledger) < total - 3:
        kill_at(moment, folder, name, log)
        progress.append(lines(Folder(folder).ledger))
    assert progress == sorted(set(progress)), "a sitting brought nothing"
    assert len(progress) >= 10
    check_after_kill(folder, name, whole[name], Path(os.devnull), tmp_path / "last")


@pytest.mark.parametrize("name", DRIVERS)
def test_killed_from_outside_at_any_time(tmp_path, name, whole):
    for number, seconds in enumerate((0.01, 0.04, 0.08, 0.13, 0.2)):
        place = tmp_path / str(number)
        place.mkdir()
        pid = in_child(lambda place=place: go_on(place / "run", name, place / "first", slow_s=0.005))
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) in (-signal.SIGKILL, 0)
        check_after_kill(place / "run", name, whole[name], place / "first", place / "second")
