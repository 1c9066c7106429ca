"""`mpsearch profile` measures, writes a card that the same space can then name, and answers bad input beforehand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mpsearch.deploy import profile as measuring

OBJECTIVE = """
import torch
from torch import nn
print("a word from the file")
from mpsearch.problem.objective import Batch, Objective

class Deep(Objective):
    def model(self):
        torch.manual_seed(0)
        layers = [layer for _ in range(8) for layer in (nn.Linear(16, 16), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(16, 4)).eval()

    def batches(self, split):
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(len(split)))
        yield Batch((x,), torch.zeros(32), 32)

    def metric(self, outputs, targets):
        return {"score": outputs[0].mean(1)}
"""
SPACE = """\
schema: mpsearch.space/1
name: deep
objective: {use: deep.py}
sites:
  - match: "*"
    formats: [int4, int8, fp32]
goals:
  - {name: score, maximise: true}
  - {name: latency_s, accelerator: deep-cpu.yaml}
driver: {use: random, budget: 8}
tracking: {enabled: false}
"""


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A space of nine linear layers whose goal names a card that is not there yet."""
    for name, seconds in {"WHOLE_S": 0.5, "ALONE_S": 0.1, "ANCHORS_S": 0.1}.items():
        monkeypatch.setattr(measuring, name, seconds)
    (tmp_path / "deep.py").write_text(OBJECTIVE)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def test_a_card_is_written_and_the_space_can_name_it(cli, deep: Path) -> None:
    refused = cli("run", "--space", deep)
    assert refused.code == 2
    assert "no card 'deep-cpu.yaml'" in refused.err
    done = cli("profile", "--space", deep, "--to", "deep-cpu.yaml")
    assert done.code == 0, done.err
    for text in ("held-out mixed models", "this table", "sum of single operations", "line through two anchors"):
        assert text in done.out
    assert "9 of 9 operations run on integers" in done.out
    assert "card    deep-cpu.yaml" in done.out
    assert "a word from the file" not in done.out
    assert sorted(p.name for p in Path().glob("*.yaml")) == ["deep-cpu.yaml", "space.yaml"]
    found = cli("run", "--space", deep, "--out", "found", "--json")
    assert found.code == 0, found.err
    assert "latency_s@deep-cpu" in found.out
    again = cli("profile", "--space", deep, "--to", "deep-cpu.yaml")
    assert again.code == 2
    assert "deep-cpu.yaml exists and is kept; name another file with --to" in again.err


def test_json_is_one_object(cli, deep: Path) -> None:
    done = cli("profile", "--space", deep, "--json", "--threads", 1)
    document = json.loads(done.out)
    assert document["card"] == "deep-cpu.yaml"
    assert document["status"] in ("calibrated", "analytic")
    assert document["ran_otherwise"] == 0
    assert document["differ_in_layers"] == 3
    held_out = document["held_out"]["this table"]
    assert set(held_out) == {"mape", "worst", "bias", "spearman", "spread", "n"}
    assert held_out["n"] >= 12
    assert document["machine"]["packages"]["onnxruntime"]
    assert document["float_s"] > 0
    assert "measuring whole models" in done.err


def never(*arguments: object, **more: object) -> None:
    raise AssertionError("measured before the input was checked")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--accelerator", "gpu"), "--accelerator gpu cannot be measured. Did you mean 'cpu'? Allowed: cpu."),
        (("--accelerator", "nvidia-t4"), "--accelerator nvidia-t4 cannot be measured. Allowed: cpu."),
        (("--to", "card.json"), "a card is a file NAME.yaml"),
        (("--to", "-x.yaml"), "a card is a file NAME.yaml"),
        (("--to", "none/card.yaml"), "is no folder; make it first"),
        (("--to", "space.yaml"), "space.yaml exists and is kept"),
        (("--set", "objective.use=missing.py"), "missing.py"),
        (("--threads", "0"), "should be greater than or equal to 1"),
    ],
)
def test_bad_input_is_answered_before_anything_is_measured(
    cli, deep: Path, arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpsearch.problem.build.build_problem", never)
    done = cli("profile", "--space", deep, *arguments)
    assert done.code == 2
    assert told in " ".join(done.err.split())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_answered_with_the_command(
    cli, deep: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpsearch.problem.build.build_problem", never)
    monkeypatch.setitem(sys.modules, package, None)
    done = cli("profile", "--space", deep)
    assert done.code == 2
    assert f"needs the package {package!r}; install it with: pip install 'mpsearch[onnx]'" in done.err


def test_a_model_that_needs_hooks_is_refused(cli, deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = OBJECTIVE.replace("nn.Sequential(*layers,", "Branches(*layers,")
    branch = "class Branches(nn.Sequential):\n    def forward(self, x):\n"
    branch += "        return super().forward(x if x.sum() > 0 else -x)\n\n"
    (tmp_path / "deep.py").write_text(source.replace("class Deep", branch + "class Deep"))
    monkeypatch.setattr("mpsearch.deploy.timing.Bench.measure", never)
    done = cli("profile", "--space", deep)
    assert done.code == 2
    assert "the model has no graph to measure" in done.err
    assert not Path("deep-cpu.yaml").exists()


def test_an_interrupt_leaves_no_card(cli, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mpsearch.deploy.timing.Bench.measure", interrupt)
    done = cli("profile", "--space", deep)
    assert done.code == 130
    assert not list(Path().glob("*cpu*"))
    assert not list(Path().glob(".*"))


def test_an_interrupt_while_the_card_is_written_leaves_none(cli, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path) -> None:
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("mpsearch.deploy.card.load_accelerator", interrupt)
    assert cli("profile", "--space", deep).code == 130
    assert [p.name for p in Path().iterdir() if "cpu" in p.name] == []


def test_a_busy_machine_is_said(cli, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 1.0, 1.0))
    monkeypatch.setattr("mpsearch.problem.build.build_problem", never_mind)
    done = cli("profile", "--space", deep)
    assert "the machine is busy (load average 99.0 on" in done.err


def never_mind(*arguments: object) -> None:
    raise KeyboardInterrupt
