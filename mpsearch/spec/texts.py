"""Texts and lists in a space file: what makes one valid, told where it is not."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator as After
from pydantic import Field, StrictStr

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.goal import Limit
from mpsearch.spec.menus import is_word, schemes

_TIME = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>[smh])\s*")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_time_s(text: str) -> float:
    """Seconds in a text such as `90s`, `10m`, `1.5h`. Raises `ValueError` on any other, and on zero."""
    match = _TIME.fullmatch(text)
    if match is None or float(match["number"]) == 0:
        raise ValueError(f"{text!r} is not a time above zero; write for example 90s, 10m or 1.5h")
    return float(match["number"]) * _UNIT_S[match["unit"]]


def _is_time(text: str) -> str:
    parse_time_s(text)
    return text


def _is_format(text: str) -> str:
    try:
        Format.parse(text)
    except BadInput as error:
        raise ValueError(str(error)) from None
    return text


def _is_format_or_word(text: str) -> str:
    if not is_word(text):
        return _is_format(text)
    try:
        schemes(text)
    except BadInput as error:
        raise ValueError(str(error)) from None
    return text


def _is_limit(text: str) -> str:
    try:
        Limit.parse(text)
    except BadInput as error:
        raise ValueError(str(error)) from None
    return text


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """`values` if none is listed twice; raises `ValueError`."""
    twice = sorted({str(v) for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed twice; once is enough")
    return values


def rising(values: tuple[int, ...]) -> tuple[int, ...]:
    """`values` if each is above the one before; raises `ValueError`."""
    if list(values) != sorted(set(values)):
        raise ValueError(f"edges must rise, got {list(values)}; for example {sorted(set(values))}")
    return values


Text = Annotated[StrictStr, Field(min_length=1)]
FormatText = Annotated[Text, After(_is_format)]
FormatTexts = Annotated[tuple[Annotated[Text, After(_is_format_or_word)], ...], Field(min_length=1), After(distinct)]
StartTexts = dict[Text, FormatText]
LimitText = Annotated[Text, After(_is_limit)]
TimeText = Annotated[Text, After(_is_time)]
