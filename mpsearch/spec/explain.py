"""Faults of a YAML file as plain sentences, each with its place: what is wrong, what is allowed, the nearest name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mpsearch.core.errors import nearest
from mpsearch.spec.source import Source, Where, describe

Faults = list[tuple[Where, str]]
"""What is wrong, with the path of the value that is."""
Hint = Callable[[str, list[str]], str | None]
"""A sentence on an unknown key, given the allowed ones; None where there is nothing special to say."""
Model = TypeVar("Model", bound=BaseModel)


def validate(kind: type[Model], data: object, hint: Hint = lambda key, allowed: None) -> tuple[Model | None, Faults]:
    """`data` as a `kind`, or every fault in it."""
    try:
        return kind.model_validate(data), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        own = [e for e in errors if e["type"] != "too_short" or not _explained(e, errors)]
        return None, [(tuple(e["loc"]), _sentence(e, kind, hint)) for e in own]


def lines(source: Source, faults: Faults) -> list[str]:
    """`place: path: message` in the order of the file, errors of flags first."""

    def position(fault: tuple[Where, str]) -> tuple[int, ...]:
        numbers = re.search(r":(\d+):(\d+)$", source.place(fault[0]))
        return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)

    ordered = sorted(faults, key=position)
    return [": ".join(filter(None, (source.place(where), describe(where), message))) for where, message in ordered]


def _explained(short: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Whether a list counts as too short only because its items were refused."""
    size = len(short["loc"])
    return any(len(e["loc"]) > size and e["loc"][:size] == short["loc"] for e in errors)


def _sentence(error: ErrorDetails, model: type[BaseModel], hint: Hint) -> str:
    """One plain sentence for an error of pydantic."""
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        key, allowed = str(error["loc"][-1]), _keys(model, error["loc"][:-1])
        special = hint(key, allowed)
        return f"unknown key {key!r}" + (f": {special}" if special else f".{nearest(key, allowed)}")
    if kind == "missing":
        about = _about(model, error["loc"])
        return "is required and missing" + (f": {about[0].lower()}{about[1:]}" if about else ".")
    if kind == "value_error":
        return f"{error['ctx']['error']}".removesuffix(".") + "."
    if kind in ("literal_error", "enum"):
        allowed = re.findall("'([^']+)'", error["ctx"]["expected"])
        return f"{value!r} is not allowed.{nearest(str(value), allowed)}"
    if kind in ("tuple_type", "list_type"):
        return f"must be a list, got {_shown(value)}."
    if kind in ("model_type", "dict_type"):
        return f"must be a mapping of keys to values, got {_shown(value)}."
    if kind == "greater_than":
        return f"must be above {error['ctx']['gt']:g}, got {value!r}."
    message = error["msg"].removeprefix("Input ")
    return f"{message[0].lower()}{message[1:]}, got {_shown(value)}."


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys(model: Any, where: tuple[int | str, ...]) -> list[str]:
    """Keys that `model` allows at `where`."""
    for step in where:
        fields = {f.alias or name: f for name, f in model.model_fields.items()}
        if step in fields:
            model = model_in(fields[step].annotation)
    return sorted(f.alias or name for name, f in model.model_fields.items() if name != "resolved")


def _about(model: Any, where: tuple[int | str, ...]) -> str | None:
    """What the field at `where` says of itself."""
    field = None
    for step in where:
        found = next((f for name, f in getattr(model, "model_fields", {}).items() if step in (name, f.alias)), None)
        if found is not None:
            field, model = found, model_in(found.annotation)
    return None if field is None else field.description


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation such as `tuple[GoalSpec, ...] | None` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := model_in(arg))), None)
