"""Imports point down only, heavy packages stay in their rooms, and no file grows long."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOOR = {
    "core": 0, "spec": 1, "ledger": 1, "quant": 2, "cost": 2, "graph": 3, "zoo": 3,
    "learn": 4, "problem": 5, "drivers": 6, "deploy": 6, "engine": 7, "testing": 8, "cli": 8,
}  # fmt: skip
OUTSIDE = {
    "core": {"numpy"},
    "cost": {"numpy", "scipy", "pydantic"},
    "spec": {"pydantic", "pydantic_core", "yaml"},
    "ledger": {"numpy"},
}
"""What a room may import besides the standard library and mpsearch; rooms not named here are free."""
ONLY_IN = {
    "mlflow": ["mpsearch/engine/tracking*"],
    "onnx": ["mpsearch/deploy/*"],
    "onnxruntime": ["mpsearch/deploy/*"],
    "optuna": ["mpsearch/drivers/optuna.py", "mpsearch/drivers/raytune.py"],
    "ray": ["mpsearch/drivers/raytune.py", "mpsearch/engine/pool*"],
    "torch_geometric": ["mpsearch/zoo/*", "objectives/*"],
    "typer": ["mpsearch/cli*", "mpsearch/cli/*"],
}
SOURCES = sorted(path for top in ("mpsearch", "objectives") for path in (ROOT / top).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every imported module, whether at the top or inside a function; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """`core` for `mpsearch.core.goal`; None for `mpsearch.__version__` and anything from outside."""
    parts = module.split(".")
    return parts[1] if parts[0] == "mpsearch" and len(parts) > 1 and parts[1] in FLOOR else None


def room_of(path: Path) -> str | None:
    return room(".".join(path.relative_to(ROOT).with_suffix("").parts))


def faults(path: Path, own: str, floor: dict[str, int]) -> list[str]:
    others = {found for module in imports(path) if (found := room(module)) not in (None, own)}
    return [f"{path.relative_to(ROOT)} ({own}) imports {other}" for other in others if floor[other] >= floor[own]]


def test_every_room_has_a_floor() -> None:
    inside = {p.name for p in (ROOT / "mpsearch").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert inside - {"templates"} <= set(FLOOR)
    document = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert all(f"`{name}/`" in document or f"`{name}.py`" in document for name in FLOOR)


def test_imports_point_down() -> None:
    wrong = [fault for path in SOURCES if (own := room_of(path)) for fault in faults(path, own, FLOOR)]
    assert not wrong, "\n".join(wrong)


def test_the_check_of_imports_can_fail() -> None:
    upside_down = {name: -floor for name, floor in FLOOR.items()}
    assert any(faults(path, own, upside_down) for path in SOURCES if (own := room_of(path)))


@pytest.mark.parametrize("own", OUTSIDE)
def test_lower_rooms_need_little(own: str) -> None:
    allowed = OUTSIDE[own] | {"mpsearch"} | set(sys.stdlib_module_names)
    for path in (ROOT / "mpsearch" / own).rglob("*.py"):
        used = {module.split(".")[0] for module in imports(path)}
        assert used <= allowed, f"{path.relative_to(ROOT)} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_heavy_packages_stay_in_their_rooms(package: str) -> None:
    users = [p.relative_to(ROOT) for p in SOURCES if any(m.split(".")[0] == package for m in imports(p))]
    outside = [str(user) for user in users if not any(user.match(allowed) for allowed in ONLY_IN[package])]
    assert not outside, f"{package} is imported in {', '.join(outside)}"


def test_no_file_is_long() -> None:
    files = [
        p for top in ("mpsearch", "objectives", "tests", "scripts", "search_spaces") for p in (ROOT / top).rglob("*")
    ]
    text = [p for p in files if p.is_file() and p.suffix in ("", ".py", ".yaml") and "__pycache__" not in p.parts]
    lines = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").count("\n") for p in text}
    assert len(lines) > 50
    assert not {name: n for name, n in lines.items() if n > 400}
