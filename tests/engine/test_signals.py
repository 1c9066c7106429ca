"""Ctrl-C and SIGTERM, sent to a real process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mpsearch.engine.folder import Folder
from mpsearch.engine.load import load_result
from mpsearch.engine.run import resume, run
from mpsearch.engine.stop import Stop
from mpsearch.ledger.ledger import equal
from mpsearch.testing.toy import build, toy_spec

CHILD = """
import sys
from pathlib import Path
from mpsearch.engine.run import run
from mpsearch.engine.stop import Stop
from mpsearch.testing.toy import build, toy_spec
stop = Stop()
spec = toy_spec(budget=30, toy={"slow_s": float(sys.argv[2])})
result = run(spec, Path(sys.argv[1]), build=build, stop=stop, bare=True)
print(result.status, len(result.evaluations))
sys.exit(stop.exit_code)
"""


@pytest.fixture
def child(tmp_path):
    """A function that starts a run in `tmp_path` and waits until it has recorded `count` lines."""
    started = []

    def start(slow_s, count=6):
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(slow_s)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        ledger, end = Folder(tmp_path).ledger, time.monotonic() + 30
        while not ledger.exists() or ledger.read_bytes().count(b"\n") < count:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_cleanly(tmp_path, child, signum, code):
    process = child(slow_s=0.05)
    process.send_signal(signum)
    out, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert out.startswith("interrupted ")
    assert "Traceback" not in err
    assert f"{out.split()[1]}/30 evaluations" in err
    stopped = load_result(tmp_path)
    assert stopped.status == "interrupted"
    assert stopped.test == {}
    assert 5 <= len(stopped.evaluations) < 30
    assert stopped.front.members
    resumed = resume(tmp_path, build=build, show_progress=False, bare=True)
    assert resumed.status == "complete"
    spec = toy_spec(budget=30, toy={"slow_s": 0.05})
    run(spec, tmp_path / "whole", build=lambda spec, weights: type(build(toy_spec()))(), show_progress=False, bare=True)
    assert equal(Folder(tmp_path).ledger, Folder(tmp_path / "whole").ledger)


def test_a_second_ctrl_c_does_not_wait_for_the_evaluation(tmp_path, child):
    process = child(slow_s=2.0, count=2)  # the baseline is recorded, the first control takes 2 s
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 1.5
    assert "KeyboardInterrupt" in err
    assert Folder(tmp_path).has_run


def test_handlers_are_put_back():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with Stop() as stop:
        assert stop.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
