"""`import mpsearch` is fast and loads nothing heavy, and so is the help of the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "mlflow", "optuna", "ray", "sklearn", "scipy", "matplotlib", "plotly", "torch_geometric"}
CHILD = """
import json, sys, time
began = time.perf_counter()
import {module}
print(json.dumps([time.perf_counter() - began, sorted(m for m in sys.modules if "." not in m)]))
"""


def child(module: str) -> tuple[float, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(module=module)], capture_output=True, text=True, check=True
    )
    seconds, modules = json.loads(done.stdout)
    return seconds, set(modules)


def test_importing_mpsearch_is_fast_and_light() -> None:
    found = [child("mpsearch") for _ in range(3)]
    assert min(seconds for seconds, _ in found) < 0.3
    assert not found[0][1] & (HEAVY | {"pydantic", "numpy", "typer"})


@pytest.mark.parametrize("module", ["mpsearch.core.front", "mpsearch.spec.load", "mpsearch.cli"])
def test_these_load_nothing_heavy(module: str) -> None:
    assert not child(module)[1] & HEAVY
