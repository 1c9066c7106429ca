"""Rows of learned widths: bits learned by gates, the same bits fixed, and uniform bits of equal size.

The claim of the papers on DropBits (arXiv 1911.12990, 2109.02100), a "quantized lottery ticket": what learns widths and
weights together is better than the same widths, fixed, trained from scratch for as long. It is checked from both
starts: from the float model, and from weights that nothing has trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from types import MappingProxyType

import numpy as np
from learning.bench import Bench, Outcome
from learning.common import RATE, Found, Row, accuracy, spread
from torch import Tensor

from mpsearch.core.assignment import Assignment
from mpsearch.spec.schema import Recipe

WIDEST = 4
PENALTIES = 0.3, 1.0, 3.0
FROM_SCRATCH = 1.0
TIMES = 2
"""Epochs of these rows over those of the others: gates need steps to close."""
STARTS = {"": "the float model", " from scratch": "scratch"}


def rows(bench: Bench) -> Row:
    """Bits of weights between 2 and 4, learned at several penalties, and controls at what was learned."""
    found: Row = {f"uniform{bits}": _fixed(bench, f"uniform{bits}", bits) for bits in (2, 3, 4)}
    for penalty in PENALTIES:
        found |= _pair(bench, penalty, "", MappingProxyType({}))
    return found | _pair(bench, FROM_SCRATCH, " from scratch", bench.untrained)


def _pair(bench: Bench, penalty: float, start: str, weights: Mapping[str, Tensor]) -> Row:
    """Bits that are learned, and the same bits fixed."""
    name = f"learned {penalty:g}{start}"
    options = {"penalty": penalty, "cost": "weight_bits"}
    recipe = Recipe(epochs=TIMES * bench.epochs, learning_rate=RATE, method="gates", options=options)
    learned = bench.trained(name, WIDEST, recipe, weights)
    if learned is None:
        return {}
    fixed = f"fixed {penalty:g}{start}"
    return {name: learned, fixed: _fixed(bench, fixed, Assignment.parse(learned["formats"]), weights)}


def _fixed(
    bench: Bench, name: str, assignment: Assignment | int, weights: Mapping[str, Tensor] = MappingProxyType({})
) -> Outcome | None:
    return bench.trained(name, assignment, Recipe(epochs=TIMES * bench.epochs, learning_rate=RATE), weights)


def table(found: Found, epochs: int) -> list[str]:
    """Markdown; nothing where there is no such row."""
    pairs = [(p, s) for s in STARTS for p in PENALTIES if f"fixed {p:g}{s}" in found]
    if not pairs:
        return []
    lines = ["", "## Learned widths", ""]
    lines += [
        f"Widths of the five layers between 2 and {WIDEST} bits, learned by gates with a penalty on `weight_bits` "
        "(DropBits-style: [learning.md](../learning.md) says what of the papers could not be read); the same widths "
        f"fixed, trained by `lsq` from the same weights for as long; both {TIMES * epochs} epochs. `Uniform` is what "
        "one width for all, trained as long from the float model, has at this size, by lines between 2, 3 and "
        f"{WIDEST} bits. Differences are of the same seed.",
        "",
        "| starts from | penalty | bits | learned | the same, fixed | learned - fixed | learned - uniform |",
        f"|{' --- |' * 7}",
    ]
    for penalty, start in pairs:
        learned, fixed = found[f"learned {penalty:g}{start}"], found[f"fixed {penalty:g}{start}"]
        cells = [
            STARTS[start],
            f"{penalty:g}",
            spread([o["bits"] for o in learned]),
            accuracy(learned),
            accuracy(fixed),
        ]
        cells.append(spread(_differences(learned, fixed), sign="+"))
        cells.append("" if start else spread(_above_uniform(learned, found), sign="+"))
        lines.append(f"| {' | '.join(cells)} |")
    uniform = ", ".join(
        f"{bits} bits {accuracy(found[f'uniform{bits}'])}" for bits in (2, 3, 4) if f"uniform{bits}" in found
    )
    return [*lines, "", f"Uniform, as long: {uniform}.", "", verdict(found, pairs)]


def verdict(found: Found, pairs: Sequence[tuple[float, str]]) -> str:
    """Whether learned widths beat the same widths, by the differences of all pairs."""
    of = {
        text: [
            d
            for p, s in pairs
            if s == start
            for d in _differences(found[f"learned {p:g}{s}"], found[f"fixed {p:g}{s}"])
        ]
        for start, text in STARTS.items()
    }
    parts = []
    for text, differences in of.items():
        if differences:
            better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
            parts.append(
                f"from {text}, learned is better in {better} and worse in {worse} of {len(differences)} trainings, by "
                f"{mean(differences):+.2f} points in the mean"
            )
    return f"Learned against the same widths fixed: {'; '.join(parts)}."


def _differences(one: Sequence[Outcome], other: Sequence[Outcome]) -> list[float]:
    """In points, seed by seed."""
    return [100 * (a["test"] - b["test"]) for a, b in zip(one, other, strict=False)]


def _above_uniform(learned: Sequence[Outcome], found: Found) -> list[float]:
    """Points above uniform widths of the same seed at the size of each, by lines between them."""
    known = [found.get(f"uniform{bits}", ()) for bits in (2, 3, 4)]
    return [
        100 * (o["test"] - float(np.interp(o["bits"], [u["bits"] for u in same], [u["test"] for u in same])))
        for o, *same in zip(learned, *known, strict=False)
    ]
