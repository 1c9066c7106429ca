"""The wheel, built through the sdist as releases are, holds the bundled files and works anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def tracked(pattern: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the list of files is git's")
def test_the_wheel_holds_exactly_the_tracked_spaces_and_objectives(wheel: Path) -> None:
    prefix = "mpsearch/_bundled/"
    inside = {name.removeprefix(prefix) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(prefix)}
    assert inside == tracked("search_spaces/*.yaml") | tracked("objectives/*.py")
    assert len(inside) > 5


def test_the_wheel_holds_the_package_with_its_types_and_license(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"mpsearch/py.typed", "mpsearch/spec/schema.py"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "runs/"))]


@pytest.mark.slow
def test_the_installed_wheel_searches_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run(
        [venv / "bin/python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True
    )
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # the dependencies, not mpsearch
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MPSEARCH_PATH")}
    where = subprocess.run(
        [venv / "bin/python", "-c", "import mpsearch; print(mpsearch.__file__)"],
        cwd=elsewhere, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(venv))
    subprocess.run(
        [venv / "bin/mpsearch", "run", "--space", "gnn.yaml", "--budget", "40", "--out", "found"],
        cwd=elsewhere, env=environment, check=True,
    )  # fmt: skip
    front = json.loads((elsewhere / "found/front.json").read_text())
    assert front["status"] == "complete"
    assert front["evaluations"]["distinct"] == 40
    assert (elsewhere / "mlflow.db").is_file()
