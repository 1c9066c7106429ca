"""Measures of the workload itself, on no device: bit operations and weighted multiply-accumulates.

* `bops`: MACs * p * w * a, as HAWQ-V3 counts (Yao et al., arXiv 2011.10680); a float32 operand has 32 bits.
* `bops_baskin`: MACs * (p * w * a + w + a + log2 K) for sums of K products, as UNIQ counts (Baskin et al., arXiv
  1804.10969).
* `macs_bits`: MACs * max(w, a): what hardware that is serial in the wider operand takes.

Both sources know integers and float32. What w and a are for other formats is our own choice: the bits that enter a
product (`mpsearch.core.width.Width.significant`). Floats count all of theirs, as float32 does, without the scales of
their blocks; numbers with few significant bits count those, and not the shift (Gong et al., arXiv 2109.03513); what is
looked up in a codebook counts as the float that is found there; sums of binary vectors count their number, so that two
of M and K take M * K single bits for each product (Sun et al., arXiv 2106.09886), and one beside values of a bits M
additions of those. Products with scales and coordinates, one per sum, are not counted.

p is the share of weights that the format keeps: 1 but for pruned ones. With it `bops_baskin` is the count of Hawks et
al. (arXiv 2102.11289): products fall away, the additions stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from mpsearch.core.format import Format
from mpsearch.core.width import FLOAT32
from mpsearch.cost.sums import Part, Sum
from mpsearch.cost.width import width
from mpsearch.cost.workload import Operation, Workload

Rule = Callable[[int, float, float, float, float], float]
"""Multiply-accumulates, bits of both operands, length of the sums, share of products that are made; to the measure."""


def bops(macs: int, w: float, a: float, reduction: float, density: float) -> float:
    """HAWQ-V3's definition."""
    del reduction
    return macs * density * w * a


def bops_baskin(macs: int, w: float, a: float, reduction: float, density: float) -> float:
    """UNIQ's definition: products of all pairs of bits, and the accumulator."""
    return macs * (density * w * a + w + a + math.log2(reduction))


def macs_bits(macs: int, w: float, a: float, reduction: float, density: float) -> float:
    """The wider operand's bits; zeros take as long as others."""
    del reduction, density
    return macs * max(w, a)


RULES: dict[str, Rule] = {
    "bops": bops,
    "bops_baskin": bops_baskin,
    "macs_bits": macs_bits,
}


def operation_measures(workload: Workload) -> dict[str, Sum]:
    """`bops`, `bops_baskin` and `macs_bits` of `workload`, for one batch."""
    return {
        name: Sum([_part(workload, operation, rule) for operation in workload.operations if operation.macs])
        for name, rule in RULES.items()
    }


def _part(workload: Workload, operation: Operation, rule: Rule) -> Part:
    held = [workload.operand(operation, place) for place in (operation.weight, operation.value)]
    operands = [None if h is None else h.site for h in held]
    sites = tuple(dict.fromkeys(site for site in operands if site is not None))
    return Part(operation.name, sites, partial(_units, operation, operands, sites, rule))


def _units(
    operation: Operation,
    operands: list[str | None],
    sites: tuple[str, ...],
    rule: Rule,
    formats: tuple[Format, ...],
) -> int:
    at = dict(zip(sites, formats, strict=True))
    w, a = (FLOAT32 if site is None else width(at[site]) for site in operands)
    density = w.density * a.density
    return round(rule(operation.macs, w.significant, a.significant, operation.reduction, density))
