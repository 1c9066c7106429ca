"""Grids as plain data beside the tensors they store, and back: what a file of a quantized model says of them.

A grid is a frozen dataclass of numbers, texts, smaller dataclasses and tensors. What is not a tensor is written as
JSON; tensors are those of `Grid.static`. Which classes the smaller parts have is told by the annotations of the grid's
own class, and never by what is read, so that nothing but grids is ever made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.quant.grid import Grid
from mpsearch.spec import registry

_MOST = 1 << 40  # no count, size or place is as large


def described(grid: Grid) -> dict[str, Any]:
    """All of `grid` but its tensors, ready for JSON; `grid` is its class."""
    return {"grid": type(grid).__name__, **_fields(grid)}


def rebuilt(facts: Mapping[str, Any], fmt: Format, static: Mapping[str, Tensor], shape: tuple[int, ...]) -> Grid:
    """The grid that `described` and `Grid.static` told of.

    Args:
        fmt: its format, whose scheme knows the class.
        shape: of the tensors it is for; of a value, those of one batch.

    Raises:
        BadInput: the scheme is unknown.
        ValueError: anything else does not fit.
    """
    registry.load("quantizers", fmt.scheme)  # its module has the class
    return _grid(facts, static, shape)


def _grid(facts: Mapping[str, Any], static: Mapping[str, Tensor], shape: tuple[int, ...]) -> Grid:
    known = {kind.__name__: kind for kind in _below(Grid)}
    if facts.get("grid") not in known:
        raise ValueError(f"there is no grid {facts.get('grid')!r}")
    kind = known[facts["grid"]]
    hints = get_type_hints(kind)
    plain: dict[str, Any] = {}
    for name, value in facts.items():
        if name == "grid":
            continue
        if name not in hints:
            raise ValueError(f"{kind.__name__} has no field {name!r}")
        inner = hints[name] is Grid and isinstance(value, dict)
        plain[name] = _grid(value, static, shape) if inner else _typed(value, hints[name])
    try:
        return kind.from_static(static, shape, **plain)
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{kind.__name__} cannot be made of it ({type(error).__name__}: {error})") from error


def _below(kind: type) -> list[type[Grid]]:
    below: Sequence[type[Grid]] = kind.__subclasses__()
    return [found for sub in below for found in (sub, *_below(sub))]


def _fields(thing: Any) -> dict[str, Any]:
    pairs = ((field.name, getattr(thing, field.name)) for field in fields(thing))
    return {name: _plain(value) for name, value in pairs if not isinstance(value, Tensor)}


def _plain(value: Any) -> Any:
    if isinstance(value, Grid):
        return described(value)
    if is_dataclass(value):
        return _fields(value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return list(value) if isinstance(value, tuple) else value


def _typed(value: Any, hint: Any) -> Any:
    """`value` as a field of type `hint` holds it. Raises `ValueError` on anything else."""
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if value is None and kind is type(None):
            return None
        if kind in (bool, str) and type(value) is kind:
            return value
        if kind is int and type(value) is int and abs(value) < _MOST:
            return value
        if kind is float and type(value) in (int, float):
            return float(value)
        if kind is torch.dtype and isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype):
            return getattr(torch, value)
        if get_origin(kind) is tuple and isinstance(value, list):
            return tuple(_typed(item, get_args(kind)[0]) for item in value)
        if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
            return _part(kind, value)
    raise ValueError(f"{value!r:.60} is no {hint}")


def _part(kind: type, facts: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    if set(facts) != {field.name for field in fields(kind)}:
        raise ValueError(f"{kind.__name__} has the fields {', '.join(hints)}, not {', '.join(facts)}")
    return kind(**{name: _typed(value, hints[name]) for name, value in facts.items()})
