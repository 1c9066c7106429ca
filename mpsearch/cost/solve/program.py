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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import coo_array, csr_array

from mpsearch.core.errors import NothingFeasible
from mpsearch.cost.terms import Cost, Terms

Floats = NDArray[np.float64]
_Numbers = NDArray[Any]
Scores = Sequence[Floats]
"""One row per choice, an entry for each of its options; lower is better."""
Pairs = Mapping[tuple[int, int], Floats]
"""Tables [options of i, options of j] that add to the score, for pairs i < j of choices."""

_CORE = 4  # columns per choice that the first program gets; more make it slower, fewer make it fail more often
_LARGEST = 1e6  # coefficient in a row: the solver lets a row be 1e-6 over its bound
_OBJECTIVE = 1e4  # largest weight: the solver stops at a difference of 1e-6


def best(
    score: Scores,
    costs: Sequence[Cost],
    budgets: Sequence[float | None],
    pairs: Pairs | None = None,
    *,
    names: Sequence[str] = (),
    gap: float = 0.0,
) -> tuple[int, ...]:
    """The option of each choice such that the score is least and no cost is over its budget.

    Args:
        score: what each option adds to the score.
        costs, budgets: each cost with the most it may measure, in its own unit; None for any.
        pairs: what pairs of options add to the score.
        names: of the costs, for messages.
        gap: share of the score by which the answer may miss the optimum; 0 proves the optimum.

    Raises `NothingFeasible`, naming the least that each cost can be, where no assignment keeps to the budgets.
    """
    found = find(score, costs, budgets, pairs, gap=gap)
    if found is None:
        raise NothingFeasible(_reason(costs, budgets, names))
    return found


def find(
    score: Scores,
    costs: Sequence[Cost],
    budgets: Sequence[float | None],
    pairs: Pairs | None = None,
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
    return _Program([np.asarray(row, dtype=np.float64) for row in score], pairs or {}, rows).solve(gap)


def tightest(cost: Cost) -> float:
    """The least that `cost` can measure, in its own unit."""
    return float(cost.measure(_least_units(cost)))


def _least_units(cost: Cost) -> int:
    alone = []  # what is best for each row; the largest row cannot be below the least of any
    for terms in cost.rows:
        tables = {key: table.astype(np.float64) for key, table in terms.joint.items()}
        found = _Program([row.astype(np.float64) for row in terms.unary], tables, []).solve()
        assert found is not None
        alone.append(found)
    values = np.array([terms(alone) for terms in cost.rows])  # [row, best for row]
    low = bound = int(values.diagonal().max())
    high = int(values.max(axis=0).min())
    flat = [np.zeros(len(row)) for row in cost.rows[0].unary]
    while low < high:  # mostly all rows can be at `low` together
        found = _Program(flat, {}, [(terms, bound) for terms in cost.rows]).solve()
        if found is None:
            low = bound + 1
        else:
            high = max(int(terms([found])[0]) for terms in cost.rows)
        bound = (low + high) // 2
    return high


def total(score: Scores, pairs: Pairs | None, indices: ArrayLike) -> Floats:
    """The score [n] at option `indices` [n, choices]."""
    at = np.asarray(indices, dtype=np.intp)
    found = np.zeros(len(at))
    for i, row in enumerate(score):
        found += row[at[:, i]]
    for (i, j), table in (pairs or {}).items():
        found += table[at[:, i], at[:, j]]
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
    """Least `score` + `pairs` with every row within its integer bound."""

    def __init__(self, score: Scores, pairs: Pairs, rows: Sequence[tuple[Terms, int]]) -> None:
        if not np.isfinite(np.concatenate([np.zeros(1), *score])).all():
            raise ValueError("a score is not finite; leave the option out instead.")
        if any([len(row) for row in terms.unary] != [len(row) for row in score] for terms, _ in rows):
            raise ValueError("score and costs are not about the same options.")
        self._score, self._pairs, self._rows = score, pairs, rows
        self._together = sorted({*pairs, *(key for terms, _ in rows for key in terms.joint)})
        self._options = [self._worth_taking(i) for i in range(len(score))]
        self._forbidden: list[tuple[int, ...]] = []

    def solve(self, gap: float = 0.0) -> tuple[int, ...] | None:
        """The optimum, checked in integers; None where there is none."""
        while (found := self._optimum(gap)) is not None:
            if all(terms([found])[0] <= bound for terms, bound in self._rows):
                return found
            self._forbidden.append(found)  # over a bound by less than the solver's tolerance
        return None

    def _worth_taking(self, i: int) -> NDArray[np.intp]:
        """Options of choice `i` that no other one matches or beats in everything."""
        tables = [self._score[i][:, None], *(terms.unary[i][:, None] for terms, _ in self._rows)]
        for found in (self._pairs, *(terms.joint for terms, _ in self._rows)):
            tables += [table if a == i else table.T for (a, b), table in found.items() if i in (a, b)]
        values = np.concatenate(tables, axis=1)
        covers = (values[:, None] <= values[None]).all(axis=2)  # [by, what]
        earlier = np.tri(len(values), k=-1, dtype=bool).T
        return np.flatnonzero(~(covers & (~covers.T | earlier)).any(axis=0))

    def _optimum(self, gap: float) -> tuple[int, ...] | None:
        if all(len(options) == 1 for options in self._options):
            only = tuple(int(options[0]) for options in self._options)
            return None if only in self._forbidden else only
        relaxed = self._relax()
        if relaxed is None:
            return None
        least, reduced = relaxed
        widest = float(reduced.max())
        radius = float(np.sort(reduced)[min(_CORE * len(self._options), len(reduced)) - 1])
        while True:
            core = np.flatnonzero(reduced <= radius)
            found = self._integer(core, gap)
            above = np.inf if found is None else float(self._weights[found].sum()) - least
            if above <= radius or len(core) == len(reduced):
                return None if found is None else self._picked(found)
            radius = min(above, widest, max(10 * radius, 1e-6 * widest)) * (1 + 1e-6)

    def _relax(self) -> tuple[float, Floats] | None:
        """Optimum of the relaxation and reduced cost [columns]; None where even that is infeasible."""
        (flows, at), (limits, bounds) = self._flows, self._limits
        found = linprog(self._weights, limits, bounds, flows, at, bounds=(0, None), method="highs")
        if found.status == 2:
            return None
        if found.status != 0:
            raise RuntimeError(f"the relaxation was not solved: {found.message}")
        return float(found.fun), np.maximum(found.lower.marginals, 0)

    def _integer(self, core: NDArray[np.intp], gap: float) -> NDArray[np.intp] | None:
        """Columns of the core that the optimum over it takes; None where nothing is feasible."""
        (flows, at), (limits, bounds) = self._flows, self._limits
        weights = self._weights[core]
        with _silence():
            found = milp(
                weights * (_OBJECTIVE / (weights.max() or 1.0)),
                integrality=core < self._starts[-1],
                bounds=Bounds(0, 1),
                constraints=[
                    LinearConstraint(flows[:, core], at, at),
                    LinearConstraint(limits[:, core], -np.inf, bounds),
                ],
                options={"mip_rel_gap": gap},
            )
        if found.status == 2:
            return None
        if found.status != 0:
            raise RuntimeError(f"the program was not solved: {found.message}")
        chosen: NDArray[np.intp] = core[found.x > 0.5]
        return chosen

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
        weights, _ = self._columns(self._score, self._pairs)
        return weights.astype(np.float64) * (_OBJECTIVE / (float(weights.max()) or 1.0))

    def _columns(self, unary: Sequence[_Numbers], pairs: Mapping[tuple[int, int], _Numbers]) -> tuple[_Numbers, Any]:
        """A sum over the columns, the least of each choice and pair taken out, and what was taken out."""
        parts = [row[options] for row, options in zip(unary, self._options, strict=True)]
        for i, j in self._together:
            sizes = len(self._options[i]), len(self._options[j])
            table = pairs[i, j][np.ix_(self._options[i], self._options[j])] if (i, j) in pairs else np.zeros(sizes, int)
            parts.append(table.ravel())
        return np.concatenate([part - part.min() for part in parts]), sum(part.min() for part in parts)

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
        for pair in self._together:
            shape = tuple(len(self._options[i]) for i in pair)
            joint = width + np.arange(shape[0] * shape[1])
            for i, which in zip(pair, np.indices(shape), strict=True):
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
        """Rows in units of their common divisor, bounds half a unit up: no whole number is near them."""
        matrix, bounds = [], []
        for terms, bound in self._rows:
            row, constant = self._columns(terms.unary, terms.joint)
            unit = int(np.gcd.reduce(row)) or 1
            left = (bound - int(constant) - terms.constant) // unit + 0.5
            scale = min(1.0, _LARGEST / (int(row.max()) // unit or 1))
            matrix.append(row // unit * scale)
            bounds.append(left * scale)
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
