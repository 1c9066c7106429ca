"""The README is true: its objective is the one that `mpsearch new` writes, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.spec import find, registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["objective.py", "space.yaml"])
def test_it_shows_what_new_writes(name: str) -> None:
    template = (ROOT / "mpsearch/templates" / name).read_text(encoding="utf-8")
    assert template.strip() in README
    assert len(template.splitlines()) <= 40


def test_every_bundled_space_is_named_and_nothing_else() -> None:
    listed = README[README.index("Bundled spaces need") : README.index("own folders of spaces")]
    named = set(re.findall(r"`([a-z0-9_]+)`", listed)) - {"text"}
    assert named == set(find.names("search_spaces"))


def test_the_formats_it_names_exist() -> None:
    line = README[README.index("Formats are texts") : README.index("`mpsearch list quantizers`")]
    texts = re.findall(r"`([^`]+)`", line)
    assert len(texts) == 13
    for text in texts:
        fmt = Format.parse(text)
        registry.load("quantizers", fmt.scheme)().canonical(fmt, Role.WEIGHT)


def test_the_files_and_scripts_it_names_exist() -> None:
    for path in {*re.findall(r"\((docs/[^)]+)\)", README), *re.findall(r"^(scripts/\w+)", README, re.MULTILINE)}:
        assert (ROOT / path).exists(), path
    assert re.search(r"<!-- install -->\n```\npip install", README)
