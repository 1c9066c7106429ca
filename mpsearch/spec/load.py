"""From a space file to a validated `Spec`, or to every error in it at once, each with its place."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mpsearch.core.errors import BadInput, nearest
from mpsearch.spec import check, find
from mpsearch.spec.schema import DriverSpec, ObjectiveSpec, Resolved, SiteRule, Spec, StartTexts
from mpsearch.spec.source import Override, Source, Where, apply, describe, dump, read_file

SPEC_FILE = "spec.yaml"


def load_spec(space: str | Path, overrides: Sequence[str | Override] = ()) -> Spec:
    """Read, override and validate a space file. Executes the objective's file.

    Args:
        space: a path, or the name of a bundled space (see `find_space`).
        overrides: `a.b[0].c=VALUE` as of `--set`, or `Override`s; later ones win.

    Raises:
        BadInput: with every error found: its place, what is allowed and the nearest name.
    """
    path = find.find_space(str(space))
    source = read_file(path)
    flags, errors = _parse(overrides)
    errors += apply(source, flags)
    source.data.pop("resolved", None)
    spec, faults = _validate(source)
    faults += source.errors + _check_names(source.data, path.parent)
    errors += _lines(source, faults)
    if errors or spec is None:
        raise BadInput(*dict.fromkeys(errors))
    return spec.model_copy(update={"resolved": _resolve(spec, path, source.sha256)})


def save_spec(spec: Spec, folder: Path, resolved: Resolved | None = None) -> Spec:
    """Write `spec.yaml` into a folder, `resolved` in place of the spec's facts; returns the spec saved."""
    if resolved is not None:
        spec = spec.model_copy(update={"resolved": resolved})
    beside = folder / f"{SPEC_FILE}.tmp"
    beside.write_text(dump(spec.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    beside.replace(folder / SPEC_FILE)  # in one step: a run that is killed here has a whole spec or none
    return spec


def load_saved(folder: Path) -> Spec:
    """The spec of a run folder, equal to the one saved. Raises `BadInput` if it is missing or damaged."""
    path = folder / SPEC_FILE
    if not path.is_file():
        raise BadInput(f"{folder} is not a run folder: it has no {SPEC_FILE}.")
    source = read_file(path)
    spec, faults = _validate(source)
    if faults or spec is None:
        raise BadInput(*_lines(source, faults))
    return spec


def _parse(overrides: Sequence[str | Override]) -> tuple[list[Override], list[str]]:
    parsed: list[Override] = []
    errors: list[str] = []
    for override in overrides:
        try:
            parsed.append(Override.parse(override) if isinstance(override, str) else override)
        except BadInput as error:
            errors += error.errors
    return parsed, errors


def _validate(source: Source) -> tuple[Spec | None, check.Faults]:
    try:
        return Spec.model_validate(source.data), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        own = [e for e in errors if e["type"] != "too_short" or not _explained(e, errors)]
        return None, [(tuple(e["loc"]), _sentence(e)) for e in own]


def _explained(short: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Whether a list counts as too short only because its items were refused."""
    size = len(short["loc"])
    return any(len(e["loc"]) > size and e["loc"][:size] == short["loc"] for e in errors)


def _check_names(data: dict[str, Any], beside: Path) -> check.Faults:
    """Check every part that is well formed by itself: one broken part must not hide the faults of another."""
    faults: check.Faults = []

    def part(kind: Any, value: object, where: Where, checker: Callable[[Any], check.Faults]) -> None:
        try:
            valid = TypeAdapter(kind).validate_python(value)
        except ValidationError:
            return
        faults.extend(((*where, *inner), message) for inner, message in checker(valid))

    part(DriverSpec, _call(data.get("driver", {})), ("driver",), check.check_driver)
    part(
        ObjectiveSpec,
        _call(data.get("objective")),
        ("objective",),
        partial(check.check_objective, beside=beside),
    )
    for i, rule in enumerate(_items(data.get("sites"))):
        part(SiteRule, rule, ("sites", i), check.check_rule)
    for i, start in enumerate(_items(data.get("start"))):
        part(StartTexts, start, ("start", i), check.check_start)
    return faults


def _call(value: object) -> object:
    """Only what makes the object, so that a bad budget does not hide a misspelt driver."""
    return {k: v for k, v in value.items() if k in ("use", "options")} if isinstance(value, dict) else value


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _resolve(spec: Spec, path: Path, sha256: str) -> Resolved:
    objective, class_name = find.find_objective(spec.objective.use, path.parent)
    return Resolved(
        space_file=str(path),
        space_sha256=sha256,
        objective_file=str(objective),
        objective_class=find.load_objective_class(objective, class_name).__name__,
        objective_sha256=hashlib.sha256(objective.read_bytes()).hexdigest(),
    )


def _lines(source: Source, faults: check.Faults) -> list[str]:
    """`place: path: message` in the order of the file, errors of flags first."""

    def position(fault: tuple[Where, str]) -> tuple[int, ...]:
        numbers = re.search(r":(\d+):(\d+)$", source.place(fault[0]))
        return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)

    ordered = sorted(faults, key=position)
    return [": ".join(filter(None, (source.place(where), describe(where), message))) for where, message in ordered]


def _sentence(error: ErrorDetails) -> str:
    """One plain sentence for an error of pydantic: what is wrong, what is allowed, the nearest name."""
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"unknown key {error['loc'][-1]!r}.{nearest(str(error['loc'][-1]), _keys(error['loc'][:-1]))}"
    if kind == "missing":
        return "is required and missing."
    if kind == "value_error":
        return f"{error['ctx']['error']}".removesuffix(".") + "."
    if kind in ("literal_error", "enum"):
        allowed = re.findall("'([^']+)'", error["ctx"]["expected"])
        return f"{value!r} is not allowed.{nearest(str(value), allowed)}"
    if kind == "greater_than":
        return f"must be above {error['ctx']['gt']:g}, got {value!r}."
    message = error["msg"].removeprefix("Input ")
    return f"{message[0].lower()}{message[1:]}, got {_shown(value)}."


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys(where: tuple[int | str, ...]) -> list[str]:
    """Keys that the schema allows at `where`."""
    model: Any = Spec
    for step in where:
        if isinstance(step, str):
            fields = {f.alias or name: f for name, f in model.model_fields.items()}
            model = _model_in(fields[step].annotation)
    return sorted(f.alias or name for name, f in model.model_fields.items() if name != "resolved")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation such as `tuple[GoalSpec, ...] | None` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
