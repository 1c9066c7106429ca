"""SGQuant's reproduction on a graph that needs no files: what it prints, keeps and writes."""

import importlib
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/reproductions/sgquant.py"


@pytest.fixture(scope="module")
def sgquant():
    sys.path.insert(0, str(SCRIPT.parent))  # as `scripts/reproduce` does
    yield importlib.import_module("sgquant")
    sys.path.remove(str(SCRIPT.parent))


def test_a_quick_run_is_kept_and_written(sgquant, tmp_path, capsys, monkeypatch):
    from feature_bits.parts import AGREEMENT, LOSS

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
    assert chosen["agreement"] >= AGREEMENT
    assert chosen["validation"] >= outcome["float"]["validation"] - LOSS - 1e-9
    page = (tmp_path / "page.md").read_text()
    assert "torch" in page
    assert all(line in page for line in printed.splitlines() if line.startswith("|"))
    monkeypatch.setattr("feature_bits.bench.run", None)
    assert sgquant.main([*call, "--kept"]) == figures
