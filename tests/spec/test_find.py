"""Looking up spaces and objectives by name and by path, and drivers and quantizers in the registry."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mpsearch.core.errors import BadInput
from mpsearch.spec import find, registry

CLASS = """
class {name}:
    def model(self): ...
    def batches(self, split): ...
    def metric(self, outputs, targets): ...
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `here` (current), a folder `path` on MPSEARCH_PATH, and a folder of bundled files."""
    for place in ("here", "path", "bundled/search_spaces", "bundled/objectives"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MPSEARCH_PATH", f"{tmp_path / 'nowhere'}:{tmp_path / 'path'}")
    monkeypatch.setattr(find, "bundled", lambda kind: tmp_path / "bundled" / kind)
    return tmp_path


def test_as_given_then_the_search_path_then_bundled(world: Path) -> None:
    places = [world / "here/gnn.yaml", world / "path/gnn.yaml", world / "bundled/search_spaces/gnn.yaml"]
    for place in places:
        place.write_text("x: 1")
    for place in places:
        assert find.find_space("gnn.yaml") == place
        place.unlink()
    with pytest.raises(BadInput, match=r"no space file 'gnn'"):
        find.find_space("gnn.yaml")


def test_the_suffix_may_be_omitted_and_a_folder_of_that_name_does_not_hide_it(world: Path) -> None:
    (world / "bundled/search_spaces/gnn.yaml").write_text("x: 1")
    (world / "here/gnn").mkdir()
    assert find.find_space("gnn").name == "gnn.yaml"


def test_with_a_slash_only_the_path_counts(world: Path) -> None:
    (world / "bundled/search_spaces/gnn.yaml").write_text("x: 1")
    with pytest.raises(BadInput, match=r"tried \./gnn.yaml|tried gnn.yaml"):
        find.find_space("./gnn.yaml")


def test_what_is_missing_names_what_was_tried_and_the_nearest(world: Path) -> None:
    (world / "bundled/search_spaces/gnn.yaml").write_text("x: 1")
    (world / "path/mine.yaml").write_text("x: 1")
    with pytest.raises(BadInput) as caught:
        find.find_space("gmn.yaml")
    message = str(caught.value)
    assert "Did you mean 'gnn'? Allowed: gnn, mine." in message
    assert all(str(world / place) in message for place in ("path/gmn.yaml", "bundled/search_spaces/gmn.yaml"))


def test_a_directory_is_said_to_be_one(world: Path) -> None:
    (world / "here/spaces").mkdir()
    with pytest.raises(BadInput, match="spaces \\(a directory\\)"):
        find.find_space("spaces")


def test_objectives_by_name_and_by_path(world: Path) -> None:
    (world / "bundled/objectives/images.py").write_text(CLASS.format(name="Images"))
    (world / "here/own.py").write_text(CLASS.format(name="Own"))
    assert find.find_objective("images", world) == (world / "bundled/objectives/images.py", None)
    assert find.find_objective("own.py", world / "here") == (world / "here/own.py", None)
    assert find.find_objective("../here/own.py:Own", world / "path") == (world / "here/own.py", "Own")
    with pytest.raises(BadInput, match="Did you mean 'images'"):
        find.find_objective("image", world)


def test_the_bundled_folders_hold_what_git_tracks() -> None:
    assert find.bundled("objectives").name == "objectives"
    assert find.names("search_spaces") == sorted(p.stem for p in find.bundled("search_spaces").glob("*.yaml"))


def test_the_one_objective_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Helper:\n    x: int\n" + CLASS.format(name="One")
    )
    assert find.load_objective_class(path).__name__ == "One"
    assert find.load_objective_class(path).__module__ == "mpsearch._recipes.one"
    assert find.load_objective_class(path) is find.load_objective_class(path, "One")
    with pytest.raises(BadInput, match=r"class 'Helper' in .* has no method model, batches, metric"):
        find.load_objective_class(path, "Helper")


def test_a_file_that_is_gone_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone.py cannot be read: No such file"):
        find.load_objective_class(tmp_path / "gone.py")


def test_an_edited_file_is_loaded_anew(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text(CLASS.format(name="Before"))
    assert find.load_objective_class(path).__name__ == "Before"
    path.write_text(CLASS.format(name="After"))
    assert find.load_objective_class(path).__name__ == "After"


def test_a_module_beside_the_objective_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_network.py").write_text("WIDTH = 3\n")
    (tmp_path / "uses.py").write_text("from my_network import WIDTH\n" + CLASS.format(name="Uses"))
    assert find.load_objective_class(tmp_path / "uses.py").__name__ == "Uses"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no objective; write a class"),
        (
            CLASS.format(name="A") + CLASS.format(name="B"),
            r"defines 2 objectives \(A, B\); name one as file.py:Class",
        ),
        ("def broken(:\n", r"bad.py:1: invalid syntax"),
        ("\n\n1 / 0", r"bad.py:3: ZeroDivisionError"),
        (
            "import no_such_package",
            "needs the package 'no_such_package'; install it with: pip install no_such_package",
        ),
        ("raise ModuleNotFoundError(name='transformers.x')", r"pip install 'mpsearch\[text\]'"),
    ],
)
def test_files_without_a_usable_objective(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        find.load_objective_class(path)


def test_unknown_names_in_the_registry() -> None:
    with pytest.raises(BadInput, match=r"unknown driver 'randm'. Did you mean 'random'"):
        registry.load("drivers", "randm")
    assert set(registry.BUILT_IN["quantizers"]) <= set(registry.names("quantizers"))


def plugged(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, "mpsearch.drivers") for name, value in entries]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "mpsearch.drivers" else [])


def test_plug_ins_are_found_late_and_collisions_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(
        monkeypatch,
        ("theirs", "collections:OrderedDict"),
        ("absent", "no_such_package.x:Y"),
        ("odd", "math:pi"),
    )
    assert {"theirs", "random", "absent"} <= set(registry.names("drivers"))
    assert registry.load("drivers", "theirs").__name__ == "OrderedDict"
    with pytest.raises(BadInput, match="'absent' needs the package 'no_such_package'"):
        registry.load("drivers", "absent")
    with pytest.raises(BadInput, match="math:pi is not a class"):
        registry.load("drivers", "odd")
    plugged(monkeypatch, ("random", "collections:OrderedDict"))
    with pytest.raises(BadInput, match="two drivers are called 'random'"):
        registry.names("drivers")
