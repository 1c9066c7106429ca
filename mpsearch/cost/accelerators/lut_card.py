"""The card of a table of times, and the file of rows beside it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictInt

from mpsearch.core.errors import nearest
from mpsearch.core.width import Width
from mpsearch.cost.machine import Machine
from mpsearch.cost.workload import Kind
from mpsearch.spec.card import Block, Card, Number, Positive, Seconds, Whole
from mpsearch.spec.explain import Faults
from mpsearch.spec.schema import Part
from mpsearch.spec.texts import Text

_WIDTH = re.compile(r"(?P<type>int|fp|bf|mx|nvfp)?(?P<bits>[1-9]\d*)")
UNITS = ("seconds", "cycles")
COLUMNS = ("operation", "w", "a")
Pair = tuple[Width, Width]
Table = Mapping[str, Mapping[Pair, float]]
"""Seconds by operation and by its pair of widths."""


def as_width(text: str) -> Width:
    """The width that `int8`, `fp32`, `bf16` or plain bits name. Raises `ValueError` on anything else."""
    match = _WIDTH.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a width such as 4, int8 or fp16")
    return Width(int(match["bits"]), match["type"] or "int")


def _width_text(given: object) -> str:
    text = str(given) if type(given) in (int, str) else repr(given)
    as_width(text)
    return text


WidthText = Annotated[str, BeforeValidator(_width_text)]
"""`int8`, `fp16`, or bare bits, which YAML reads as a number."""


class Row(Part):
    """What an operation takes at a pair of widths."""

    operation: Text
    w: WidthText = Field(
        description="Width of the weight: int8, fp32, or bits; of what multiplies nothing, that of its value."
    )
    a: WidthText = Field(description="Width of the value.")
    seconds: Seconds


class Conversions(Part):
    """What floating-point operations pay for neighbours that run on integers, per element, by their kind.

    `input` is an input of the model. A kind that is not here pays nothing.
    """

    quantize_s: dict[Kind | Literal["input"], Seconds] = Field(default={})
    dequantize_s: dict[Kind, Seconds] = Field(default={})


class LutBlock(Block):
    """The rows, here or in a CSV file."""

    rows: tuple[Row, ...] = ()
    path: Text | None = Field(
        default=None,
        description="CSV file beside the card: columns operation, w, a (bits, or int4, fp16), and seconds or cycles.",
    )
    frequency_hz: Positive | None = Field(default=None, description="Of the cycles.")
    integer_results: tuple[Text, ...] = Field(
        default=(), description="Operations whose integer kernels write codes; with a float result they run on floats."
    )
    conversions: Conversions = Conversions()

    def faults(self) -> Faults:
        """Rows here or in a file."""
        if bool(self.rows) == bool(self.path):
            return [((), "needs either rows or path, the CSV file that holds them.")]
        if self.frequency_hz is not None and self.path is None:
            return [(("frequency_hz",), "is for a file in cycles; rows here are in seconds.")]
        return []


class Measurement(Part):
    """What was measured; another model, batch or machine has other times."""

    workload_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    samples: Whole = Field(description="Of the batch.")
    threads: Whole
    load_average: Number | None = Field(default=None, description="Of the machine while it was measured.")
    runs: Annotated[StrictInt, Field(ge=0)] = Field(default=0, description="Whole models that were measured.")


class LutCard(Card):
    """A card of this kind."""

    kind: Literal["lut_table"]
    table: LutBlock
    measurement: Measurement | None = None
    machine: Machine | None = None

    def faults(self) -> Faults:
        """Rows that contradict each other, and what is wrong with the file."""
        found = super().faults()
        if self.table.path is not None:
            file = read_rows(self.folder / self.table.path, self.table.frequency_hz)
            return [*found, *((("table", "path"), message) for message in file.faults)]
        seen: set[tuple[str, Pair]] = set()
        for i, row in enumerate(self.table.rows):
            key = (row.operation, (as_width(row.w), as_width(row.a)))
            if key in seen:
                message = f"{row.operation} has {row.w} x {row.a} twice; keep one of the two."
                found.append((("table", "rows", i), message))
            seen.add(key)
        return found

    def entries(self) -> Table:
        """All rows. Needs a card without faults."""
        if self.table.path is not None:
            return read_rows(self.folder / self.table.path, self.table.frequency_hz).entries
        entries: dict[str, dict[Pair, float]] = {}
        for row in self.table.rows:
            entries.setdefault(row.operation, {})[as_width(row.w), as_width(row.a)] = row.seconds
        return entries


@dataclass(frozen=True)
class File:
    """What a CSV file holds, or what is wrong with it."""

    entries: Table
    faults: tuple[str, ...] = ()


def read_rows(path: Path, frequency_hz: float | None) -> File:
    """The rows of a CSV file, in seconds."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parsed(path, csv.DictReader(file), frequency_hz)
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.csv")]) if path.parent.is_dir() else "."
        return File({}, (f"{path} is not there.{near}",))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return File({}, (f"{path} cannot be read as CSV: {error}.",))


def _parsed(path: Path, reader: csv.DictReader[str], frequency_hz: float | None) -> File:
    header = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    units = [unit for unit in UNITS if unit in header]
    if sorted(header) != sorted((*COLUMNS, *units)) or len(units) != 1:
        wanted = ", ".join(COLUMNS)
        return File(
            {}, (f"{path}:1: has columns {', '.join(header)}; it needs {wanted} and one of {', '.join(UNITS)}.",)
        )
    (unit,) = units
    if (unit == "cycles") != (frequency_hz is not None):
        message = "is in cycles: give frequency_hz" if unit == "cycles" else "is in seconds: leave out frequency_hz"
        return File({}, (f"{path} {message}.",))
    entries: dict[str, dict[Pair, float]] = {}
    faults = []
    for number, row in enumerate(reader, 2):
        try:
            name, pair, amount = _entry(row, unit)
            if pair in entries.setdefault(name, {}):
                raise ValueError(f"{name} has {row['w']} x {row['a']} twice")
            entries[name][pair] = amount / (frequency_hz or 1.0)
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}.")
    if not entries and not faults:
        faults.append(f"{path} has no rows.")
    return File(entries, tuple(faults))


def _entry(row: Mapping[str, str | None], unit: str) -> tuple[str, Pair, float]:
    if None in row.values() or None in row:  # too few, too many
        raise ValueError("has not as many values as the header has columns")
    cells = {name: (text or "").strip() for name, text in row.items()}
    if not cells["operation"]:
        raise ValueError("names no operation")
    try:
        amount = float(cells[unit])
    except ValueError:
        raise ValueError(f"{cells[unit]!r} is not a number of {unit}") from None
    if not 0 <= amount < float("inf"):
        raise ValueError(f"{cells[unit]} {unit} cannot be; 0 or more")
    return cells["operation"], (as_width(cells["w"]), as_width(cells["a"])), amount
