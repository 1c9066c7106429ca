"""The assignment of least score within budgets, as a mixed-integer program solved by HiGHS.

One binary per option and one equation per choice. Options that cost or score something together get joint columns, tied
to their options by flow equations, which is tight where products of binaries are not. A peak is one row per step. Few
columns matter: an assignment that takes an option of reduced cost r scores at least r more than the relaxation, so
the program is solved over the options of small reduced cost and proves by that bound that it needs no others.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import coo_array, csr_array

from mpsearch.core.errors import NothingFeasible
from mpsearch.cost.solve.elimination import least
from mpsearch.cost.solve.presolve import Tables, presolved
from mpsearch.cost.terms import Cost, Terms

Floats = NDArray[np.float64]
_Numbers = NDArray[Any]
Scores = Sequence[Floats]
"""One row per choice, an entry for each of its options; lower is better."""
Joint = Mapping[tuple[int, ...], Floats]
"""Tables [options of i, options of j, ...] that add to the score, for choices i < j < ..."""

_CORE = 4  # columns per choice that the first program gets; more make it slower, fewer make it fail more often
_LARGEST = 1e6  # coefficient in a row: the solver lets a row be 1e-6 over its bound
_OBJECTIVE = 1e4  # largest weight: the solver stops at a difference of 1e-6


def best(
    score: Scores,
    costs: Sequence[Cost],
    budgets: Sequence[float | None],
    joint: Joint | None = None,
    *,
    names: Sequence[str] = (),
    gap: float = 0.0,
) -> tuple[int, ...]:
    """The option of each choice such that the score is least and no cost is over its budget.

    Args:
        score: what each option adds to the score.
        costs, budgets: each cost with the most it may measure, in its own unit; None for any.
        joint: what options of several choices add to the score together.
        names: of the costs, for messages.
        gap: share of the score by which the answer may miss the optimum; 0 proves the optimum.

    Raises `NothingFeasible`, naming the least that each cost can be, where no assignment keeps to the budgets.
    """
    found = find(score, costs, budgets, joint, gap=gap)
    if found is None:
        raise NothingFeasible(_reason(costs, budgets, names))
    return found


def find(
    score: Scores,
    costs: Sequence[Cost],
    budgets: Sequence[float | None],
    joint: Joint | None = None,
    *,
    gap: float = 0.0,
) -> tuple[int, ...] | None:
    """As `best`, but None where no assignment keeps to the budgets."""
    rows = [
        (terms, cost.units(budget))
        for cost, budget in zip(costs, budgets, strict=True)
        if budget is not None
        for terms in cost.rows
    ]
    return _Program(tables(score, joint), rows).solve(gap)


def tightest(cost: Cost) -> float:
    """The least that `cost` can measure, in its own unit."""
    return float(cost.measure(_least_units(cost)))


def loosest(cost: Cost) -> float:
    """The most that `cost` can measure, in its own unit: of several rows, what the one reaches that can be largest."""
    return float(cost.measure(max(-_least_units(Cost((_negated(terms),))) for terms in cost.rows)))


def _negated(terms: Terms) -> Terms:
    joint = {key: -table for key, table in terms.joint.items()}
    return Terms(tuple(-row for row in terms.unary), -terms.constant, joint)


def _least_units(cost: Cost) -> int:
    alone = [_least(terms) for terms in cost.rows]  # the largest row cannot be below the least of any
    values = np.array([terms(alone) for terms in cost.rows])  # [row, best for row]
    low = bound = int(values.diagonal().max())
    high = int(values.max(axis=0).min())
    flat = tables([np.zeros(len(row)) for row in cost.rows[0].unary])
    while low < high:  # mostly all rows can be at `low` together
        found = _Program(flat, [(terms, bound) for terms in cost.rows]).solve()
        if found is None:
            low = bound + 1
        else:
            high = max(int(terms([found])[0]) for terms in cost.rows)
        bound = (low + high) // 2
    return high


def _least(terms: Terms) -> tuple[int, ...]:
    """Where one row is least."""
    found = least([terms])
    if found is None:
        found = _Program({key: table.astype(np.float64) for key, table in terms.tables.items()}, []).solve()
        assert found is not None
    return found


def tables(score: Scores, joint: Joint | None = None) -> dict[tuple[int, ...], Floats]:
    """All tables of a score by the choices that they are over."""
    own: Joint = {(i,): row for i, row in enumerate(score)}
    return {key: np.asarray(table, dtype=np.float64) for key, table in [*own.items(), *(joint or {}).items()]}


def total(score: Scores, joint: Joint | None, indices: ArrayLike) -> Floats:
    """The score [n] at option `indices` [n, choices]."""
    at = np.asarray(indices, dtype=np.intp)
    found = np.zeros(len(at))
    for i, row in enumerate(score):
        found += row[at[:, i]]
    for key, table in (joint or {}).items():
        found += table[tuple(at[:, i] for i in key)]
    return found


def _reason(costs: Sequence[Cost], budgets: Sequence[float | None], names: Sequence[str]) -> str:
    told, reachable = [], True
    for i, (cost, budget) in enumerate(zip(costs, budgets, strict=True)):
        if budget is not None:
            reachable = reachable and _least_units(cost) <= cost.units(budget)
            told.append(
                f"{names[i] if names else f'cost {i}'} is at least {tightest(cost):.10g} and may be {budget:.10g}"
            )
    together = (
        "Each limit can be met alone, but not all together: " if reachable else "No assignment is within the limits: "
    )
    return f"{together}{'; '.join(told)}. Relax {'one of them' if reachable else 'what is out of reach'}."


class _Program:
    """Least `score` with every row within its integer bound."""

    def __init__(self, score: Tables, rows: Sequence[tuple[Terms, int]]) -> None:
        if not all(np.isfinite(table).all() for table in score.values()):
            raise ValueError("a score is not finite; leave the option out instead.")
        sizes = [len(table) for key, table in score.items() if len(key) == 1]
        if any([len(row) for row in terms.unary] != sizes for terms, _ in rows):
            raise ValueError("score and costs are not about the same options.")
        self._rows = rows
        left = presolved([score, *(terms.tables for terms, _ in rows)], sizes)
        self._options, self._together = left.options, left.together
        self._score, *self._costs = left.rows
        self._forbidden: list[tuple[int, ...]] = []

    def solve(self, gap: float = 0.0) -> tuple[int, ...] | None:
        """The optimum, checked in integers; None where there is none."""
        while (found := self._optimum(gap)) is not None:
            if all(terms([found])[0] <= bound for terms, bound in self._rows):
                return found
            self._forbidden.append(found)  # over a bound by less than the solver's tolerance
        return None

    def _optimum(self, gap: float) -> tuple[int, ...] | None:
        if all(len(options) == 1 for options in self._options):
            only = tuple(int(options[0]) for options in self._options)
            return None if only in self._forbidden else only
        relaxed = self._relax()
        if relaxed is None:
            return None
        least, reduced = relaxed
        widest = float(reduced.max())
        fewest = _CORE * (len(self._options) + len(self._together))
        radius = float(np.sort(reduced)[min(fewest, len(reduced)) - 1])
        while True:
            core = np.flatnonzero(reduced <= radius)
            found = self._integer(core, gap)
            above = np.inf if found is None else float(self._weights[found].sum()) - least
            if above <= radius or len(core) == len(reduced):
                return None if found is None else self._picked(found)
            radius = min(above, widest, max(10 * radius, 1e-6 * widest)) * (1 + 1e-6)

    def _relax(self) -> tuple[float, Floats] | None:
        """Optimum of the relaxation and reduced cost [columns]; None where even that is infeasible.

        Where the solver loses its way in the digits, what holds of any optimum: all columns count then.
        """
        (flows, at), (limits, bounds) = self._flows, self._limits
        found = linprog(self._weights, limits, bounds, flows, at, bounds=(0, None), method="highs")
        if found.status == 2:
            return None
        if found.status != 0:
            return 0.0, np.zeros(len(self._weights))
        return float(found.fun), np.maximum(found.lower.marginals, 0)

    def _integer(self, core: NDArray[np.intp], gap: float) -> NDArray[np.intp] | None:
        """Columns of the core that the optimum over it takes; None where nothing is feasible."""
        (flows, at), (limits, bounds) = self._flows, self._limits
        weights = self._weights[core]
        for presolve in (True, False):  # with it the solver is faster, and now and then ends in an error
            with _silence():
                found = milp(
                    weights * (_OBJECTIVE / (weights.max() or 1.0)),
                    integrality=np.ones(len(core)),  # joint columns, too, or it solves for them again, which may fail
                    bounds=Bounds(0, 1),
                    constraints=[
                        LinearConstraint(flows[:, core], at, at),
                        LinearConstraint(limits[:, core], -np.inf, bounds),
                    ],
                    options={"mip_rel_gap": gap, "presolve": presolve},
                )
            if found.status == 2:
                return None
            if found.status == 0:
                chosen: NDArray[np.intp] = core[found.x > 0.5]
                return chosen
        raise RuntimeError(f"the program was not solved: {found.message}")

    def _picked(self, columns: NDArray[np.intp]) -> tuple[int, ...]:
        """The option of each choice, from the columns that are taken."""
        inside = columns[columns < self._starts[-1]] - self._starts[:-1]
        return tuple(int(options[k]) for options, k in zip(self._options, inside, strict=True))

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        """First column of each choice, and of the joint ones."""
        return np.cumsum([0, *map(len, self._options)])

    @cached_property
    def _weights(self) -> Floats:
        weights, _ = self._columns(self._score)
        return weights.astype(np.float64) * (_OBJECTIVE / (float(weights.max()) or 1.0))

    def _columns(self, row: Tables) -> tuple[_Numbers, Any]:
        """A sum over the columns, the least of each choice and table taken out, and what was taken out."""
        parts = [row[i,] for i in range(len(self._options))]
        for key in self._together:
            parts.append(row[key].ravel() if key in row else np.zeros(prod(self._sizes(key)), dtype=np.int64))
        return np.concatenate([part - part.min() for part in parts]), sum(part.min() for part in parts)

    def _sizes(self, key: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(len(self._options[i]) for i in key)

    @cached_property
    def _flows(self) -> tuple[csr_array, Floats]:
        """Equations: one option per choice; joint columns add up to the options they join."""
        rows, columns, values = [], [], []
        width, height = int(self._starts[-1]), len(self._options)

        def add(row: NDArray[np.intp], column: NDArray[np.intp], value: float) -> None:
            rows.append(row)
            columns.append(column)
            values.append(np.full(len(row), value))

        for i, options in enumerate(self._options):
            add(np.full(len(options), i), self._starts[i] + np.arange(len(options)), 1.0)
        for key in self._together:
            shape = self._sizes(key)
            joint = width + np.arange(prod(shape))
            for i, which in zip(key, np.indices(shape), strict=True):
                add(height + which.ravel(), joint, 1.0)
                own = np.arange(len(self._options[i]))
                add(height + own, self._starts[i] + own, -1.0)
                height += len(own)
            width += len(joint)
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
        at = np.zeros(height)
        at[: len(self._options)] = 1.0
        return csr_array(coo_array(entries, shape=(height, width))), at

    @property
    def _limits(self) -> tuple[csr_array, Floats]:
        """The rows that can bind with their bounds, and one row for each forbidden assignment."""
        matrix, bounds = self._bounded
        cuts = np.zeros((len(self._forbidden), matrix.shape[1]))
        for cut, found in zip(cuts, self._forbidden, strict=True):
            inside = [int(np.searchsorted(options, k)) for options, k in zip(self._options, found, strict=True)]
            cut[self._starts[:-1] + inside] = 1.0
        return csr_array(np.concatenate([matrix, cuts])), np.append(bounds, [len(self._options) - 1.0] * len(cuts))

    @cached_property
    def _bounded(self) -> tuple[Floats, Floats]:
        """Rows in units of their common divisor, bounds half a unit up: no whole number is near them.

        What is over a bound alone is as good as just over it; that keeps the numbers of a row alike.
        """
        matrix, bounds = [], []
        for (terms, bound), tables in zip(self._rows, self._costs, strict=True):
            row, constant = self._columns(tables)
            unit = int(np.gcd.reduce(row)) or 1
            left = (bound - int(constant) - terms.constant) // unit
            row = np.minimum(row // unit, max(left + 1, 0))
            scale = min(1.0, _LARGEST / (int(row.max()) or 1))
            matrix.append(row * scale)
            bounds.append((left + 0.5) * scale)
        return np.array(matrix).reshape(len(matrix), self._flows[0].shape[1]), np.array(bounds)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep C's standard output quiet: some versions of HiGHS print there whatever their options say."""
    if os.name != "posix":
        yield
        return
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept = os.dup(1)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
