"""The expected cost of formats that are chosen by chance, from exact tables, with its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.cost.terms import Cost, Terms


class Expected:
    """The mean of `cost` where choices are independent; of a cost that is the largest of several, the largest mean.

    Args:
        cost: over a space.
        options: of each choice, in the order of the tables.
        ladders: those of each choice that have a chance, in the order that chances are given in.
    """

    def __init__(self, cost: Cost, options: Sequence[Sequence[Format]], ladders: Sequence[Sequence[Format]]) -> None:
        self._per = cost.per
        orders = [torch.tensor([list(o).index(f) for f in rungs]) for o, rungs in zip(options, ladders, strict=True)]
        self._rows = [(float(row.constant), _ordered(row, orders)) for row in cost.rows]

    def __call__(self, chances: Sequence[Tensor | None]) -> Tensor:
        """In the unit of the measure, for the chances [options] of each choice; None stands for the last option."""
        return (
            torch.stack([self._mean(constant, tables, chances) for constant, tables in self._rows]).amax() / self._per
        )

    def depends_on(self, choice: int) -> bool:
        """Whether the cost is not the same at all options of a choice."""
        tables = (
            (table, choices.index(choice)) for _, row in self._rows for choices, table in row if choice in choices
        )
        return any(bool((table.amax(axis) > table.amin(axis)).any()) for table, axis in tables)

    @staticmethod
    def _mean(
        constant: float, tables: Sequence[tuple[tuple[int, ...], Tensor]], chances: Sequence[Tensor | None]
    ) -> Tensor:
        total = torch.tensor(constant, dtype=torch.float64)
        for choices, table in tables:
            for i in choices:  # each contracts the first axis that is left
                weights = chances[i]
                table = table[-1] if weights is None else torch.tensordot(weights.double().cpu(), table, 1)
            total = total + table
        return total


def _ordered(row: Terms, orders: Sequence[Tensor]) -> list[tuple[tuple[int, ...], Tensor]]:
    """The tables of a row, options of each choice in the order of its ladder."""
    found = []
    for choices, values in row.tables.items():
        table = torch.as_tensor(values, dtype=torch.float64)
        for axis, i in enumerate(choices):
            table = table.index_select(axis, orders[i])
        found.append((choices, table))
    return found
