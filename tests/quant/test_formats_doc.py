"""The page on formats: every scheme is on it, and its figures are what grids store and multipliers see."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest
import torch

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.precision import holds
from mpsearch.spec import registry

PAGE = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")
WEIGHTS, VALUES = PAGE.split("## Values")
FIGURES = r"(?P<bits>[\d.]+|data) \| (?P<seen>[\d.]+), `(?P<runs>\w+)` \|[^|]*\|$"
ROW = re.compile(r"^\| `(?P<text>[^`]+)` \|.*\| " + FIGURES, re.M)
ROWS = [(Role.WEIGHT, m) for m in ROW.finditer(WEIGHTS)] + [(Role.FEATURE, m) for m in ROW.finditer(VALUES)]
INTEGERS = [Width(bits) for bits in range(1, 17)]
FLOATS = [Width(16, "fp"), Width(16, "bf"), FLOAT32]


def test_every_scheme_has_a_row_and_every_row_is_read() -> None:
    assert {Format.parse(m["text"]).scheme for _, m in ROWS} == set(registry.names("quantizers"))
    assert len(ROWS) == len(re.findall(r"^\| `", PAGE, re.M))


@pytest.mark.parametrize(("role", "row"), ROWS, ids=lambda x: x["text"] if isinstance(x, re.Match) else x)
def test_figures_are_true(role: Role, row: re.Match[str]) -> None:
    shape, axis = ((64, 64, 3, 3), 0) if role.is_parameter else ((100, 64), 1)
    quantizer = registry.load("quantizers", Format.parse(row["text"]).scheme)()
    fmt = quantizer.canonical(Format.parse(row["text"]), role)
    if row["bits"] != "data":
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        grid = quantizer.fit(x, fmt, role, axis)
        taken = grid.nbits(shape) if role.is_parameter else grid.code_bits(shape)
        assert taken / prod(shape) == pytest.approx(float(row["bits"]), abs=0.0051)
    seen = quantizer.width(fmt)
    assert seen.significant == float(row["seen"])
    own = () if seen.code or seen.kind in ("mx", "nvfp") else (seen,)
    assert row["runs"] == str(next(w for w in (*own, *(FLOATS if seen.is_float else INTEGERS)) if holds(w, seen)))
