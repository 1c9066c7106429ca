"""A YAML file as plain data that remembers where each value stands, and overrides on top of it.

PyYAML's node tree has the line and column of every value; they are kept beside the data by the value's path,
so that any later check can say `gnn.yaml:12:9`. An override's place is its flag.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from mpsearch.core.errors import BadInput

Key = str | int
Where = tuple[Key, ...]

_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+")
_WHAT = {
    "space": (
        "a space file is a mapping of keys: name, sites, goals, ...",
        "a bundled space (mpsearch list spaces) or from mpsearch new",
    ),
    "card": (
        "a card is a mapping of keys: schema, name, kind, status, src, ...",
        "a bundled card (mpsearch list accelerators)",
    ),
}
_STEP = re.compile(r"(?P<key>[^.\[\]]+)(?P<indices>(\[\d+\])*)")


class _Loader(yaml.SafeLoader):
    """Values of JSON only: dates stay text, and 1e-3 is a number."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back unchanged."""


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
        for first, rules in copy.deepcopy(yaml.SafeLoader.yaml_implicit_resolvers).items()
    }
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass(frozen=True)
class Override:
    """A value that replaces the one in the file, before validation. `flag` is what the user typed."""

    where: Where
    value: Any
    flag: str

    @classmethod
    def parse(cls, text: str) -> Override:
        """Read `a.b[0].c=VALUE`, VALUE being YAML, or a limit such as `>= 0.9`. Raises `BadInput`."""
        flag = f"--set {text}"
        path, equals, value = text.partition("=")
        steps = [_STEP.fullmatch(step) for step in path.strip().split(".")]
        where: list[Key] = []
        for step in steps:
            if step is None or not equals:
                raise BadInput(f"{flag}: not of the form a.b[0].c=VALUE, for example --set driver.budget=50.")
            where += [step["key"], *map(int, re.findall(r"\d+", step["indices"]))]
        is_limit = value.startswith(">")  # in YAML this begins a folded text, which needs a second line
        return cls(tuple(where), value if is_limit else read_text(value, flag).data, flag)


@dataclass
class Source:
    """Plain data and the place of each value in it."""

    label: str
    data: Any = None
    places: dict[Where, str] = field(default_factory=dict)
    errors: list[tuple[Where, str]] = field(default_factory=list)
    sha256: str = ""

    def place(self, where: Where) -> str:
        """`file:line:column`, or the flag, of the value at `where` or of the nearest that contains it."""
        while where and where not in self.places:
            where = where[:-1]
        return self.places.get(where, self.label)

    def override(self, override: Override) -> None:
        """Set one value. Missing mappings on the way are made; a place that cannot exist is an error."""
        *way, last = override.where
        holder: Any = self.data
        for depth, step in enumerate((*way, last)):
            inside = describe(tuple(override.where[:depth])) or "the file"
            if isinstance(step, int):
                if not isinstance(holder, list) or step >= len(holder):
                    have = f"a list of {len(holder)}" if isinstance(holder, list) else "not a list"
                    raise BadInput(f"{override.flag}: {inside} is {have}, it has no item [{step}].")
            elif not isinstance(holder, dict):
                raise BadInput(f"{override.flag}: {inside} is {_kind(holder)} and has no key {step!r}.")
            if depth < len(way):
                if isinstance(holder, dict) and holder.get(str(step)) is None:
                    holder[step] = {}
                    self.places[override.where[: depth + 1]] = override.flag
                holder = holder[step]
        holder[last] = copy.deepcopy(override.value)
        size = len(override.where)
        self.places = {path: place for path, place in self.places.items() if path[:size] != override.where}
        self.errors = [error for error in self.errors if error[0][:size] != override.where]
        self.places[override.where] = override.flag


def describe(where: Where) -> str:
    """`driver.options.sampler`, `goals[1].limit`: a path as `--set` takes it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where).removeprefix(".")


def dump(data: Any) -> str:
    """YAML that `read_text` reads back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def read_file(path: Path, what: Literal["space", "card"] = "space") -> Source:
    """A file that must hold a mapping. Raises `BadInput` where it cannot be read or is not YAML.

    Args:
        what: it should be, for messages.
    """
    is_what, start = _WHAT[what]
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except IsADirectoryError:
        raise BadInput(f"{path}: is a directory; name the .yaml file in it.") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not a text file (byte {error.start} is not UTF-8).") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}.") from None
    source = read_text(text, str(path))
    source.sha256 = hashlib.sha256(raw).hexdigest()
    if source.data is None:
        raise BadInput(f"{path}: is empty; start from {start}.")
    if not isinstance(source.data, dict):
        raise BadInput(f"{path}: holds {_kind(source.data)}; {is_what}.")
    return source


def read_text(text: str, label: str) -> Source:
    """Any YAML value. Raises `BadInput` if it is not YAML; smaller faults are kept in `Source.errors`."""
    source = Source(label)
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            source.data = _Reader(source, loader, is_file=not label.startswith("--")).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = label if mark is None or label.startswith("--") else f"{label}:{mark.line + 1}:{mark.column + 1}"
        raise BadInput(f"{place}: not YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"{label}: not YAML: {str(error).splitlines()[0]}.") from None
    finally:
        if loader is not None:
            loader.dispose()
    if label.startswith("--") and source.errors:
        raise BadInput(*(f"{label}: {message}" for _, message in source.errors))
    return source


class _Reader:
    """Turns nodes into plain values and notes the place of each."""

    def __init__(self, source: Source, loader: _Loader, is_file: bool) -> None:
        self.source, self.loader, self.is_file = source, loader, is_file
        self.open: set[int] = set()

    def value(self, node: yaml.Node, where: Where) -> Any:
        self.mark(where, node)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, where)
        if id(node) in self.open:
            return self.fault(where, "an alias that contains itself is not allowed.")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*where, i)) for i, item in enumerate(node.value)]
            return self.mapping(node, where)
        finally:
            self.open.remove(id(node))

    def mapping(self, node: yaml.Node, where: Where) -> dict[str, Any]:
        assert isinstance(node, yaml.MappingNode)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                self.mark((*where, f"{key.value} (again)"), key)
                first = f"; it is also on line {lines[key.value]}" if self.is_file else ""
                self.fault((*where, f"{key.value} (again)"), f"key {key.value!r} is written twice{first}; keep one.")
            lines[str(key.value)] = line
        self.loader.flatten_mapping(node)
        data: dict[str, Any] = {}
        for key, item in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                self.mark((*where, str(key.value)), key)
                self.fault((*where, str(key.value)), f"key {key.value!r} is not text; put it in quotes.")
                continue
            data[key.value] = self.value(item, (*where, key.value))
            self.mark((*where, key.value), key)
        return data

    def scalar(self, node: yaml.ScalarNode, where: Where) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind not in ("null", "bool", "int", "float", "str"):
            return self.fault(
                where, f"YAML tag {node.tag} is not allowed; write plain text, numbers, lists or mappings."
            )
        try:
            value = self.loader.construct_object(node)
        except ValueError:
            return self.fault(where, f"{node.value!r} is not {kind}.")
        if isinstance(value, float) and not math.isfinite(value):
            return self.fault(where, f"{node.value} is not a finite number.")
        return value

    def mark(self, where: Where, node: yaml.Node) -> None:
        if self.is_file:
            mark = node.start_mark
            self.source.places[where] = f"{self.source.label}:{mark.line + 1}:{mark.column + 1}"

    def fault(self, where: Where, message: str) -> None:
        self.source.errors.append((where, message))


def _kind(value: object) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "nothing")


def apply(source: Source, overrides: Sequence[Override]) -> list[str]:
    """Apply `overrides` in order, later ones winning. Returns what could not be applied."""
    errors: list[str] = []
    for override in overrides:
        try:
            source.override(override)
        except BadInput as error:
            errors += error.errors
    return errors
