"""A whole run, plots and report included, killed while the report is written: nothing of it is lost or half there."""

import json
import os
import signal

import pytest

from mpsearch.core.errors import OutOfResources
from mpsearch.engine import projections
from mpsearch.engine.folder import Folder
from mpsearch.engine.run import resume, run
from mpsearch.testing.toy import build, toy_spec

SHOWN = {"front.html", "front.png", "costs.html", "costs.png", "report.md"}


def test_killed_while_the_report_is_written(tmp_path):
    pid = os.fork()
    if pid == 0:
        projections.report.write = lambda result: os.kill(os.getpid(), signal.SIGKILL)
        run(toy_spec(), tmp_path, build=build, show_progress=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    before = Folder(tmp_path).ledger.read_bytes()
    assert json.loads(Folder(tmp_path).front.read_text())["status"] == "complete"
    assert not (tmp_path / "report.md").exists()
    result = resume(tmp_path, build=build, show_progress=False)
    assert result.status == "complete"
    assert Folder(tmp_path).ledger.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} >= SHOWN
    assert not list(tmp_path.glob("*.tmp"))


def test_a_full_disk_while_plots_are_written_keeps_the_front(tmp_path, monkeypatch):
    def full(result):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(projections.plots, "write", full)
        with pytest.raises(OutOfResources, match="No space left"):
            run(toy_spec(), tmp_path, build=build, show_progress=False)
    assert json.loads(Folder(tmp_path).front.read_text())["status"] == "complete"
