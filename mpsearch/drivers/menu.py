"""Which options of a choice are worth asking, and how far apart they are: what is known before anything is measured.

Of options that differ in width alone, fewer bits are more noise and fewer bytes, and each has its place. Of formats of
several kinds many have none: at the same site another one takes no more of any cost and adds no more quantization
noise. These are left out until nothing else is left to ask. And formats of any kind that add the same noise are
neighbours to a model of the loss, whatever their widths.

Noise is measured by the probe of the float model, as the root of the relative squared error of a site on the grid that
is deployed. Where there is no probe, or nothing but widths to tell apart, it is 4 * 2^-bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost
from mpsearch.problem.base import Problem

Floats = NDArray[np.float64]

_PER_ROOT = 2.75
"""From roots of relative squared errors to the unit of 4 * 2^-bits: that of integers of 2 to 8 bits for weights."""
_APART, _APART_WHERE_MEASURED = 0.1, 0.005
"""How far apart two formats of equal noise are that differ in more than their width; int2 and int3 are 0.5 apart."""
_NEGLIGIBLE = 0.02
"""Noise below which options are alike: that of 8 bits."""


@dataclass(frozen=True)
class Menu:
    """What to ask of a space.

    Args:
        noise: amplitude [options] of the quantization noise, by choice.
        kept: indices of the options worth asking, ascending, by choice.
        instead: for each option [options] one that is kept and at least as good in everything known; itself if kept.
        measured: whether the noise is that of the probe, and not guessed from the width.
    """

    noise: tuple[Floats, ...]
    kept: tuple[NDArray[np.int16], ...]
    instead: tuple[NDArray[np.int16], ...]
    measured: bool = False

    @classmethod
    def whole(cls, space: Space) -> Menu:
        """Every option, its noise by its width."""
        indices = tuple(np.arange(len(choice.options), dtype=np.int16) for choice in space.choices)
        noise = tuple(np.array([4 * 2.0**-fmt.bits for fmt in choice.options]) for choice in space.choices)
        return cls(noise, indices, indices)

    @classmethod
    def of(cls, space: Space, problem: Problem, goals: Sequence[Goal]) -> Menu:
        """The options that the costs among `goals` and the noise leave; all of them where the problem has no probe.

        What is measured is taken to suffer from noise.
        """
        if not any(_differ_in_kind(choice.options) for choice in space.choices):
            return cls.whole(space)
        try:
            errors = problem.probe().relative_errors()
        except BadInput:
            return cls.whole(space)
        costs = [(cost, goal) for goal in goals if (cost := problem.cost(goal.name)) is not None]
        found = [_of(choice, errors, _excess(i, costs, len(choice.options))) for i, choice in enumerate(space.choices)]
        noise, kept, instead = zip(*found, strict=True)
        return cls(noise, kept, instead, measured=True)

    @property
    def apart(self) -> float:
        """Squared distance of two formats of equal noise that differ in more than their width."""
        return _APART_WHERE_MEASURED if self.measured else _APART

    def moved(self, rows: NDArray[np.int16]) -> NDArray[np.int16]:
        """`rows` [n, choices] with what is not kept replaced by what is as good."""
        return np.stack([instead[column] for instead, column in zip(self.instead, rows.T, strict=True)], axis=1)


def family(fmt: Format) -> str:
    """The text of a format without its width: scheme, grain, range."""
    return str(fmt).replace(f"{fmt.bits:g}", "", 1)


def _differ_in_kind(options: Sequence[Format]) -> bool:
    return len({family(fmt) for fmt in options if not fmt.is_float32}) > 1


def _of(
    choice: Choice, errors: Mapping[str, Floats], excess: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.int16], NDArray[np.int16]]:
    """Noise, options kept, and what stands for each option.

    Args:
        excess: [options, options], whether the second may cost more than the first.
    """
    count = len(choice.options)
    found = [errors[site] for site in choice.sites if site in errors]
    noise = _PER_ROOT * np.sqrt(found or np.zeros((1, count)))  # [sites, options]
    level = np.maximum(noise, _NEGLIGIBLE)
    worse = excess | (level[:, None, :] > level[:, :, None]).any(axis=0)  # of two, the second is in something
    # of two that are alike the narrower stays, of equal widths the first
    turn = np.argsort([fmt.bits for fmt in choice.options], kind="stable")
    place = np.empty(count, dtype=int)
    place[turn] = np.arange(count)
    beats = ~worse & (worse.T | (place[None, :] < place[:, None]))  # the second beats the first
    kept = np.asarray(~beats.any(axis=1))
    mean = noise.mean(axis=0)
    quiet = np.where(kept[None, :] & ~worse, mean[None, :], math.inf)  # the quietest of those that are as good
    instead = np.where(kept, np.arange(count), quiet.argmin(axis=1)).astype(np.int16)
    return mean, np.flatnonzero(kept).astype(np.int16), instead


def _excess(choice: int, costs: Sequence[tuple[Cost, Goal]], count: int) -> NDArray[np.bool_]:
    """Whether [options, options], for some options of the other choices, the second is the worse in a cost."""
    found = np.zeros((count, count), dtype=bool)
    for cost, goal in costs:
        signs = {-1 if goal.maximise else 1} | ({-1 if goal.limit.sense == ">=" else 1} if goal.limit else set())
        for terms, sign in product(cost.rows, signs):
            most = np.zeros((count, count), dtype=np.int64)
            for key, table in terms.tables.items():
                if choice in key:
                    by_option = sign * np.moveaxis(table, key.index(choice), 0).reshape(count, -1)
                    most += np.array([(by_option - row).max(axis=1) for row in by_option])
            found |= most > 0
    return found
