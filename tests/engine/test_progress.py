"""What a run shows: plain lines off a terminal, one live line on it, the same numbers in the log."""

import io
import logging

import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation, Failure
from mpsearch.core.goal import Goal, Limit
from mpsearch.engine import progress
from mpsearch.engine.progress import LiveProgress, RunLog
from mpsearch.testing.toy import Toy, toy_spec

GOALS = [goal.goal() for goal in toy_spec().goals]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def evaluations():
    toy = Toy()
    controls = [Assignment(), *toy.space.uniform().values()]
    names = ["baseline", "uniform 2", "uniform 4", "uniform 8"]
    found = [next(toy.evaluate([a])) for a in controls]
    return [Evaluation(e.assignment, e.measures, asked_by=n) for e, n in zip(found, names, strict=True)]


def test_plain_lines_off_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    with LiveProgress(GOALS, 40, file=out) as live:
        for evaluation in evaluations():
            live(evaluation)
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("mpsearch: 1/40 evaluations, ")
    assert "4/40 evaluations" in lines[-1]
    assert "front 4, hypervolume 0.737" in lines[-1]
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(("budget", "time_s"), [(40, None), (None, 60.0)])
def test_a_live_line_on_a_terminal(monkeypatch, budget, time_s):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    out = Terminal()
    with LiveProgress(GOALS, budget, time_s, file=out) as live:
        for evaluation in evaluations():
            live(evaluation)
        live._live.refresh()
        shown = out.getvalue()
    assert "searching" in shown
    assert "4/40 evaluations" in shown if budget else "4 evaluations" in shown
    assert "front " in shown


def test_the_log_keeps_failures_and_leaves_other_logging_alone(tmp_path):
    logger = logging.getLogger("mpsearch")
    before = (logger.level, list(logger.handlers))
    path = tmp_path / "run.log"
    with RunLog(path), LiveProgress(GOALS, 40, file=io.StringIO()) as live:
        live(evaluations()[0])
        live(Evaluation(Toy().space.decode((0, 0, 0, 1)), failure=Failure("error", "bang")))
    text = path.read_text()
    assert "WARNING" in text
    assert "failed: bang" in text
    assert "2/40 evaluations" in text
    assert (logger.level, logger.handlers) == before


def test_nothing_feasible_is_said():
    out = io.StringIO()
    with LiveProgress([GOALS[0], Goal("memory_bytes", limit=Limit.parse("<= 10"))], 40, file=out) as live:
        live(evaluations()[0])
    assert "nothing feasible yet" in out.getvalue()


def test_scoring_the_front_on_the_test_split_is_shown(monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    with LiveProgress(GOALS, 40, file=out) as live:
        for evaluation in evaluations():
            live(evaluation)
        live.test(1, 2)
    lines = out.getvalue().splitlines()
    assert lines[-2].endswith("test split 1/2")
    assert "front 4" in lines[-1], "the last line is about the search"


@pytest.mark.parametrize("show", [True, False])
def test_what_drivers_warn_of_is_shown_once(tmp_path, capsys, show):
    log = logging.getLogger("mpsearch.drivers")
    with RunLog(tmp_path / "run.log", show):
        for _ in range(2):
            log.warning("%d choices carry no information", 2)
        log.info("a detail")
    log.warning("after the run")
    shown = capsys.readouterr().err.splitlines()
    assert shown.count("mpsearch: 2 choices carry no information") == int(show)
    assert not any("detail" in line or "mpsearch: after" in line for line in shown)
    assert (tmp_path / "run.log").read_text().count("2 choices carry no information") == 2
