"""A way to run commands in this process, and a small space of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpsearch.cli import main
from mpsearch.engine import run as engine


@dataclass(frozen=True)
class Outcome:
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs `mpsearch ARGUMENTS` in an empty directory. An exception that is a bug fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPSEARCH_PATH", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def projections() -> None:
    """Asked for by tests that need the plots, the report or tracking; others do without, and are faster."""


@pytest.fixture(autouse=True)
def _bare(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "projections" not in request.fixturenames:
        monkeypatch.setattr(engine, "_projections", lambda *arguments: None)


OBJECTIVE = """
import torch
from torch import nn
print("a word from the file")
from mpsearch.problem.objective import Batch, Objective

class Mine(Objective):
    def __init__(self, behave="well"):
        self.behave, self.calls = behave, 0

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()

    def batches(self, split):
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(len(split)))
        yield Batch((x,), self.model()(x).argmax(1).detach(), 32)

    def metric(self, outputs, targets):
        print("a word from the metric")
        self.calls += 1
        if self.behave == "raise":
            raise RuntimeError("the metric\\nis broken")
        right = (outputs[0].argmax(1) == targets[0]).float()
        return {"accuracy": right + {"nan": float("nan"), "drift": self.calls * 1e-3}.get(self.behave, 0.0)}
"""
SPACE = """\
schema: mpsearch.space/1
name: mine
objective: {use: objective.py}
sites:
  - match: "*.weight"
    formats: [int2, int4, int8]
goals:
  - {name: accuracy, maximise: true}
  - {name: memory_bytes}
driver: {use: random, budget: 6}
tracking: {enabled: false}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """`space.yaml` with an objective beside it: 2 weights with 3 formats each."""
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path
