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
from learning.common import RATE, Found, Row, accuracy, differences, spread
from torch import Tensor

from mpsearch.core.assignment import Assignment
from mpsearch.spec.schema import Recipe

WIDEST = 4
PENALTIES = 0.3, 1.0, 10.0
FROM_SCRATCH = 1.0
STARTS = {"": ("the float model", 1), " from scratch": ("scratch", 3)}
"""What a pair starts from, and its epochs over those of the other rows."""
AS_LONG = 7
"""Epochs, over those of the other rows, that make as many steps as the float model's training and five of these."""


def rows(bench: Bench) -> Row:
    """Bits of weights between 2 and 4, learned at several penalties, and controls at what was learned."""
    found: Row = {}
    for penalty in PENALTIES:
        found |= _pair(bench, penalty, "", MappingProxyType({}))
    found |= _pair(bench, FROM_SCRATCH, " from scratch", bench.untrained)
    learned = found.get(f"learned {FROM_SCRATCH:g}")
    if learned is not None:
        recipe = Recipe(epochs=AS_LONG * bench.epochs, learning_rate=RATE)
        same = Assignment.parse(learned["formats"])
        found["fixed all along"] = bench.trained("fixed all along", same, recipe, bench.untrained)
    return found


def _pair(bench: Bench, penalty: float, start: str, weights: Mapping[str, Tensor]) -> Row:
    """Bits that are learned, and the same bits fixed."""
    epochs = STARTS[start][1] * bench.epochs
    name, fixed = f"learned {penalty:g}{start}", f"fixed {penalty:g}{start}"
    options = {"penalty": penalty, "cost": "weight_bits"}
    recipe = Recipe(epochs=epochs, learning_rate=RATE, method="gates", options=options)
    learned = bench.trained(name, WIDEST, recipe, weights)
    if learned is None:
        return {}
    same, plain = Assignment.parse(learned["formats"]), Recipe(epochs=epochs, learning_rate=RATE)
    return {name: learned, fixed: bench.trained(fixed, same, plain, weights)}


def table(found: Found, epochs: int) -> list[str]:
    """Markdown; nothing where there is no such row."""
    scratch = STARTS[" from scratch"][1] * epochs
    pairs = [(p, s) for s in STARTS for p in PENALTIES if f"fixed {p:g}{s}" in found]
    if not pairs:
        return []
    lines = ["", "## Learned widths", ""]
    lines += [
        f"Widths of the five layers between 2 and {WIDEST} bits, learned by gates with a penalty on `weight_bits` "
        "(DropBits-style: [learning.md](../learning.md) says what of the papers could not be read); the same widths "
        f"fixed, trained by `lsq` from the same weights for as long: {epochs} epochs from the float model, {scratch} "
        "from scratch. `Uniform` is what one width for all, trained by `lsq` from the float model, has at this size, "
        "by lines between 2, 3 and 4 bits. Differences are of the same seed. Penalties were settled by bits and "
        "validation accuracy; test accuracies of seed 0 with earlier gates had been seen by then. Learned counts "
        "epochs after its bits are settled, fixed counts all.",
        "",
        "| starts from | penalty | bits | learned | the same, fixed | learned - fixed | learned - uniform |",
        f"|{' --- |' * 7}",
    ]
    for penalty, start in pairs:
        learned, fixed = found[f"learned {penalty:g}{start}"], found[f"fixed {penalty:g}{start}"]
        bits, above = [o["bits"] for o in learned], [] if start else _above_uniform(learned, found)
        cells = [STARTS[start][0], f"{penalty:g}", spread(bits), accuracy(learned), accuracy(fixed)]
        cells += [spread(points, sign="+") for points in (differences(learned, fixed), above)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", verdict(found, pairs), *_all_along(found, epochs)]


def verdict(found: Found, pairs: Sequence[tuple[float, str]]) -> str:
    """Whether learned widths beat the same widths, by the differences of all pairs."""
    parts = []
    for start, (text, _) in STARTS.items():
        names = [f"{p:g}{s}" for p, s in pairs if s == start]
        points = [d for n in names for d in differences(found[f"learned {n}"], found[f"fixed {n}"])]
        if points:
            better, worse = sum(d > 0 for d in points), sum(d < 0 for d in points)
            parts.append(
                f"from {text}, learned is better in {better} and worse in {worse} of {len(points)} trainings, by "
                f"{mean(points):+.2f} points in the mean"
            )
    return f"Learned against the same widths fixed: {'; '.join(parts)}."


def _all_along(found: Found, epochs: int) -> list[str]:
    """The widths that were learned from the float model, fixed from scratch on."""
    fixed = found.get("fixed all along", ())
    if not fixed:
        return []
    learned = found[f"learned {FROM_SCRATCH:g}"]
    return [
        "",
        f"The widths learned from the float model at penalty {FROM_SCRATCH:g}, fixed and trained from scratch for "
        f"{AS_LONG * epochs} epochs, as many steps as the float model's training and the learning of widths together, "
        f"but without the float model's distorted images: {accuracy(fixed)}. Learned against that: "
        f"{spread(differences(learned, fixed), sign='+')} points.",
    ]


def _above_uniform(learned: Sequence[Outcome], found: Found) -> list[float]:
    """Points above uniform widths of the same seed at the size of each, by lines between them."""
    above = []
    for o in learned:
        known = [u for bits in (2, 3, 4) for u in found.get(f"lsq{bits}", ()) if u["seed"] == o["seed"]]
        if len(known) == 3:
            line = np.interp(o["bits"], [u["bits"] for u in known], [u["test"] for u in known])
            above.append(100 * (o["test"] - float(line)))
    return above
