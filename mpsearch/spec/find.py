"""Where space files, objectives and cards are found, and how an objective's class is loaded from its file.

A name without a slash is looked for as given, then in each folder of MPSEARCH_PATH, then among the bundled
files. With a slash only that path counts: a typo in `./gnn.yaml` must not silently become the bundled one.

Loading an objective executes its file. So only local files are taken, never addresses.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType

from mpsearch.core.errors import BadInput, nearest
from mpsearch.spec.registry import missing

_SUFFIX = {"search_spaces": ".yaml", "objectives": ".py"}
_METHODS = ("model", "batches", "metric")


def bundled(kind: str) -> Path:
    """Folder of the shipped `search_spaces` or `objectives`: inside the wheel, else beside the checkout."""
    package = Path(str(files("mpsearch")))
    inside = package / "_bundled" / kind
    return inside if inside.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """Names of the bundled `search_spaces` or `objectives`, without the suffix."""
    found = (path.stem for path in bundled(kind).glob(f"*{_SUFFIX[kind]}"))
    return sorted(name for name in found if not name.startswith("_"))


def _search_path() -> list[Path]:
    return [Path(folder) for folder in os.environ.get("MPSEARCH_PATH", "").split(os.pathsep) if folder]


def find_space(text: str) -> Path:
    """The space file that `text` names. `BadInput` lists what was tried and the nearest names."""
    if not text:
        raise BadInput("the name of the space file is empty; see mpsearch list spaces.")
    given = Path(text).expanduser()
    tried = [given]
    if os.sep not in text:
        file = text if text.endswith((".yaml", ".yml")) else f"{text}.yaml"
        tried += [folder / file for folder in (*_search_path(), bundled("search_spaces"))]
    for path in tried:
        if path.is_file():
            return path.resolve()
    looked = ", ".join(f"{path} (a directory)" if path.is_dir() else str(path) for path in tried)
    if os.sep in text:
        beside = sorted(given.parent.glob("*.y*ml")) if given.parent.is_dir() else []
        known = [str(path) for path in beside]
    else:
        own = [path.stem for folder in _search_path() for path in folder.glob("*.yaml")]
        known, text = [*names("search_spaces"), *own], text.removesuffix(".yaml")
    raise BadInput(f"no space file {text!r}; tried {looked}.{nearest(text, known)}")


def cards() -> Path:
    """Folder of the shipped cards of accelerators."""
    return Path(str(files("mpsearch"))) / "cost" / "cards"


def card_names() -> list[str]:
    """Names of the shipped cards."""
    return sorted(path.stem for path in cards().glob("*.yaml"))


def own_cards() -> list[str]:
    """Names of the cards in folders of MPSEARCH_PATH; other YAML files there are spaces."""
    files = sorted(path for folder in _search_path() for path in folder.glob("*.yaml"))
    return [path.stem for path in files if b"mpsearch.accelerator/" in path.read_bytes()]


def find_card(text: str, beside: Path) -> Path:
    """The card that `text` names: a file relative to `beside`, one in a folder of MPSEARCH_PATH, or a shipped one.

    A bare name is never looked for in `beside`, so that a card of one's own does not hide a shipped one unseen.

    Args:
        text: as written in the space file: `nvidia-t4`, or a YAML file.
        beside: folder that a relative path starts from: that of the space file.

    Raises `BadInput`, which lists what was tried and the nearest names.
    """
    is_file = text.endswith((".yaml", ".yml"))
    tried = [beside / Path(text).expanduser()] if is_file or os.sep in text else []
    if os.sep not in text:
        file = text if is_file else f"{text}.yaml"
        tried += [folder / file for folder in (*_search_path(), cards())]
    for path in tried:
        if path.is_file():
            return path.absolute()  # not resolved: a link is called what its user calls it
    looked = ", ".join(map(str, tried))
    hint = nearest(Path(text).name.removesuffix(".yaml"), [*card_names(), *own_cards()])
    raise BadInput(f"no card {text!r}; tried {looked}.{hint} See mpsearch list accelerators.")


def find_objective(use: str, beside: Path) -> tuple[Path, str | None]:
    """The file and the class (None if not named) of `objective.use`: a bundled name, or `file.py[:Class]`.

    Args:
        use: as written in the space file.
        beside: folder that a relative path starts from: that of the space file.
    """
    name, colon, class_name = use.rpartition(":") if not use.endswith(".py") else (use, "", "")
    if not colon:
        name, class_name = use, ""
    if name.endswith(".py"):
        path = (beside / Path(name).expanduser()).resolve()
        if not path.is_file():
            known = [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
            what = "is a directory" if path.is_dir() else "is not there"
            raise BadInput(f"objective file {path} {what}.{nearest(path.name, known) if known else ''}")
        return path, class_name or None
    path = bundled("objectives") / f"{name}.py"
    if name not in names("objectives"):
        hint = nearest(name, names("objectives"))
        raise BadInput(f"unknown objective {name!r}.{hint} Your own is written as file.py or file.py:Class.")
    return path, class_name or None


def load_objective_class(path: Path, class_name: str | None = None) -> type:
    """The objective defined in the file `path`; `class_name` is needed where it defines several.

    Raises `BadInput` if the file cannot be executed or has no such class with `model`, `batches`, `metric`.
    """
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"objective file {path} cannot be read: {error.strerror}.") from None
    module = _module(path.resolve(), sha256)
    own = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not inspect.isabstract(value)
    }
    found = {name: value for name, value in own.items() if not _lacks(value)}
    if class_name is not None:
        if class_name in found:
            return found[class_name]
        if class_name in own:
            lacks = ", ".join(_lacks(own[class_name]))
            raise BadInput(f"class {class_name!r} in {path} has no method {lacks}; an objective needs them.")
        raise BadInput(f"{path} defines no objective {class_name!r}.{nearest(class_name, found)}")
    if len(found) != 1:
        have = f"defines {len(found)} objectives ({', '.join(found)})" if found else "defines no objective"
        step = "name one as file.py:Class" if found else "write a class with model, batches and metric"
        raise BadInput(f"{path} {have}; {step}.")
    return next(iter(found.values()))


def _lacks(cls: type) -> list[str]:
    return [method for method in _METHODS if not callable(getattr(cls, method, None))]


@cache
def _module(path: Path, sha256: str) -> ModuleType:
    """The executed file, as the module `mpsearch._recipes.<name>`. Modules beside it can be imported."""
    name = f"mpsearch._recipes.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path and path.parent != bundled("objectives"):
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise BadInput(f"objective file {path} {missing(error)}") from None
    except SyntaxError as error:
        raise BadInput(f"{error.filename}:{error.lineno}: {error.msg}.") from None
    except Exception as error:
        raise BadInput(f"objective file {at_line(path, error)}: {type(error).__name__}: {error}.") from error
    return module


def at_line(path: Path, error: BaseException) -> str:
    """`path:line` of the innermost frame of `error` in the file `path`; only `path` if there is none."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
