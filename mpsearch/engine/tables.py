"""A result as tables of plain values, for CSV files, tracking stores and pages."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from mpsearch.engine.measures import is_cost
from mpsearch.engine.views import Point, View

Cell = str | float | int | bool | None


@dataclass(frozen=True)
class Table:
    """Named columns of rows; None where a row has no value."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, records: Sequence[dict[str, Cell]]) -> Table:
        """From records whose keys may differ; columns in order of first appearance."""
        columns = tuple(dict.fromkeys(key for record in records for key in record))
        return cls(columns, tuple(tuple(record.get(c) for c in columns) for record in records))

    def csv(self) -> str:
        """As text, first line the column names; None is empty."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def split(self) -> dict[str, list[list[Cell]] | list[str]]:
        """As the dictionary of `columns` and `data` that MLflow shows as a table."""
        return {"columns": list(self.columns), "data": [list(row) for row in self.rows]}


def evaluations_table(view: View) -> Table:
    """Every evaluation of the ledger, in its order, failed ones included, with the bits of every choice."""
    records = []
    for order, e in enumerate(view.result.evaluations, 1):
        point = view.by_key.get(e.key) if e.is_full else None
        head: dict[str, Cell] = {"evaluation": order, "key": e.key, "asked_by": e.asked_by}
        head |= {"kind": point.kind if point else None, "on_front": bool(point and point.on_front)}
        head |= {"failure": f"{e.failure.kind}: {e.failure.message}" if e.failure else None}
        head |= {"fidelity": e.fidelity, "variant": e.variant, "recipe": e.recipe}
        head |= {**e.measures, **{f"{name}_stderr": v for name, v in e.stderr.items()}, "seconds": e.seconds}
        head |= {f"bits.{name}": e.assignment.at(site.name).bits for name, site in view.sites.choices.items()}
        records.append(head)
    return Table.of(records)


def front_table(view: View) -> Table:
    """Front (or the nearest), uniform controls and float: every measure, test scores and ratios to float."""
    records = []
    for p in view.shown():
        head: dict[str, Cell] = {"name": p.name, "kind": p.kind, "on_front": p.on_front, "knee": p.is_knee}
        records.append({**head, "bits": p.summary, **numbers(view, p), "variant": p.evaluation.variant, "key": p.key})
    return Table.of(records)


def numbers(view: View, point: Point) -> dict[str, float]:
    """Every number known of a point: measures, `_stderr`, `test_` scores, and how many times smaller each cost is."""
    found = dict(point.evaluation.measures)
    found |= {f"{name}_stderr": value for name, value in point.evaluation.stderr.items()}
    if point.test is not None:
        scored = {n: v for n, v in point.test.measures.items() if not is_cost(n)}
        found |= {f"test_{name}": value for name, value in scored.items()}
        found |= {f"test_{name}_stderr": value for name, value in point.test.stderr.items()}
    return found | view.ratios(point)
