"""SGQuant's reproduction on a graph that needs no files: what it prints, keeps and writes."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/reproductions/sgquant.py"


@pytest.fixture(scope="module")
def sgquant():
    spec = importlib.util.spec_from_file_location("sgquant", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sgquant"] = module  # where its dataclasses look their types up
    spec.loader.exec_module(module)
    return module


def test_a_quick_run_is_kept_and_written(sgquant, tmp_path, capsys, monkeypatch):
    call = ["--quick", "--datasets", "digits-knn", "--models", "gcn", "--parts", "uniform", "rowscale"]
    call += ["--work", str(tmp_path / "work"), "--write", str(tmp_path / "page.md")]
    assert sgquant.main([*call, "--kept"]) == {}
    figures = sgquant.main(call)
    printed = capsys.readouterr().out
    assert {f"digits-knn gcn uniform uniform {bits}" for bits in (1, 2, 3, 4, 8)} < set(figures)
    two = figures["digits-knn gcn uniform uniform 2"]
    assert two["seeds"] == 1
    assert two["reduction"] == pytest.approx(16, abs=0.01)
    outcome = json.loads((tmp_path / "work/digits-knn-gcn-0-rowscale/outcome.json").read_text())
    chosen = outcome["points"]["chosen"]
    assert chosen["agreement"] >= sgquant.AGREEMENT
    assert chosen["validation"] >= outcome["float"]["validation"] - sgquant.LOSS - 1e-9
    page = (tmp_path / "page.md").read_text()
    assert "torch" in page
    assert all(line in page for line in printed.splitlines() if line.startswith("|"))
    monkeypatch.setattr(sgquant, "run", None)
    assert sgquant.main([*call, "--kept"]) == figures
