"""Which pairs of widths a device multiplies, and which numbers a width holds exactly."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Annotated, Literal

from pydantic import Field

from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.workload import Kind
from mpsearch.spec.card import Block, Number, Positive, Whole
from mpsearch.spec.explain import Faults
from mpsearch.spec.schema import Part

_FLOATS = {
    **{("fp", 4): (2, 2), ("fp", 6): (3, 4), ("fp", 8): (5, 4), ("fp", 16): (5, 11), ("bf", 16): (8, 8)},
    **{("fp", 32): (8, 24), ("nvfp", 4): (5, 6)},
    **{("mx", 4): (8, 2), ("mx", 6): (8, 4), ("mx", 8): (8, 4), ("mxint", 8): (8, 7)},
}
"""Bits of the exponent and of the significand, its hidden one included, by kind and bits; of 6 and 8-bit floats the
wider of two formats; of block-scaled ones as numbers, that is with the scale of their block."""
_BLOCK_SCALED = ("mx", "mxint", "nvfp")
PLAUSIBLE = (1e6, 1e17)
"""Multiply-accumulates per second of whatever has a roofline."""


def holds(wide: Width, asked: Width) -> bool:
    """Whether every number of the width `asked` is one of the width `wide`. Float32 stands in for all wider ones.

    An integer of b bits needs b bits, or a float with b bits of significand: 8 in bf16, 11 in fp16, 24 in fp32. One of
    few significant bits needs an integer with room for its shift, or a float with those bits and its exponent. Kernels
    for blocks with scales hold narrower numbers of the same kind; elsewhere a number with the scale of its block needs
    the exponent of that: 8 bits for `mx`, which fp16 lacks.
    """
    if wide in (FLOAT32, asked):
        return True
    if wide.density < 1:
        return is_half_zero(asked) and holds(wide.dense, asked)
    if wide.code:
        return False
    if wide.kind in _BLOCK_SCALED:
        return asked.kind == wide.kind and asked.bits <= wide.bits
    if not wide.is_float:
        return not asked.is_float and asked.fixed_bits <= wide.bits
    exponent, significand = _FLOATS.get((wide.kind, wide.bits), (0, 0))
    if not asked.is_float:
        return asked.significant <= significand and asked.bits - asked.significant <= exponent
    needs = _FLOATS.get((asked.kind, asked.bits), (8, asked.bits))
    return needs[0] <= exponent and needs[1] <= significand


class Pair(Part):
    """A pair of operands: bits of the weight and of the activation, and what kind of numbers both are."""

    w: Whole
    a: Whole
    type: Literal["int", "fp", "bf", "mx", "nvfp"]

    @property
    def widths(self) -> tuple[Width, Width]:
        """Of the weight and of the activation."""
        weight, value = (Width(bits, self.type) for bits in (self.w, self.a))
        return weight, value

    @property
    def weight(self) -> Width:
        """Of the weight."""
        return self.widths[0]

    @property
    def value(self) -> Width:
        """Of the activation."""
        return self.widths[1]

    @property
    def label(self) -> str:
        """How efficiencies name it: w8a8, fp16, bf16."""
        return f"{self.type}{self.w}" if self.type != "int" and self.w == self.a else f"w{self.w}a{self.a}"


class Legal(Pair):
    """A pair of operands that the device multiplies."""

    peak_mac_per_s: Positive = Field(description="Dense multiply-accumulates per second: half of the operations.")
    sparse_mac_per_s: Positive | None = Field(
        default=None,
        description="The same with weights of which 2 of 4 are kept (pruned4:2of4), products by zero counted; null: as "
        "fast as dense ones.",
    )
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = Field(
        default=None, description="Kinds of operations that have kernels for it; null for all."
    )

    @property
    def sparse_weight(self) -> Width:
        """A weight of which 2 of 4 are kept."""
        scheme = "pruned" if self.type == "int" else self.type
        return replace(self.weight, density=0.5, group=4, code=f"{scheme}{self.w}:2of4")


def is_half_zero(weight: Width) -> bool:
    """Whether of 4 consecutive weights at most 2 are kept."""
    return weight.group in (2, 4) and weight.density <= 0.5


class WeightOnly(Part):
    """Kernels that read packed weights (integers, codes of other formats) and multiply floats."""

    compute: Pair
    unpack_s_per_weight: dict[Annotated[str, Field(pattern=r"^(w\d+|[a-z]+[\d.]+(:\w+)*)$")], Number | None] = Field(
        description="Time to take one weight apart, by its width: w4, w8, or by what it is stored as: pq2, mx4. "
        "null: not known, so not offered."
    )


class Precision(Block):
    """What the device multiplies. What is not listed runs as the fastest pair that holds both operands."""

    legal: Annotated[tuple[Legal, ...], Field(min_length=1)]
    weight_only: WeightOnly | None = None

    @property
    def float32(self) -> list[Legal]:
        """The pair that all else falls back to."""
        return [row for row in self.legal if row.widths == (FLOAT32, FLOAT32) and row.kinds is None]

    def faults(self) -> Faults:
        """Float32 for all kinds, no pair twice, peaks that can be."""
        found: Faults = []
        if not self.float32:
            message = (
                "has no row {w: 32, a: 32, type: fp, ...} for all kinds; what has no format is float32, so give its "
                "peak_mac_per_s."
            )
            found.append((("legal",), message))
        for i, row in enumerate(self.legal):
            if any(row.label == before.label and _meet(row, before) for before in self.legal[:i]):
                found.append((("legal", i), f"{row.label} is listed twice for the same kind; keep one of the two."))
            if not PLAUSIBLE[0] <= row.peak_mac_per_s <= PLAUSIBLE[1]:
                message = f"{row.peak_mac_per_s:g} MAC/s cannot be: write the whole number, 65e12 for 65 tera MAC/s."
                found.append((("legal", i, "peak_mac_per_s"), message))
            if not row.peak_mac_per_s <= (row.sparse_mac_per_s or row.peak_mac_per_s) <= 2 * row.peak_mac_per_s:
                message = "lies between peak_mac_per_s and twice that: half of the products are left out."
                found.append((("legal", i, "sparse_mac_per_s"), message))
            if row.type != "int" and any((row.type, bits) not in _FLOATS for bits in (row.w, row.a)):
                floats = ", ".join(f"{kind}{bits}" for kind, bits in _FLOATS if kind != "mxint")
                message = f"there is no {row.label}; floats are {floats}."
                found.append((("legal", i, "type"), message))
        found += [
            (("legal", self.legal.index(narrow), "peak_mac_per_s"), _too_fast(narrow, wide))
            for wide, narrow in permutations(self.legal, 2)
            if _meet(wide, narrow) and _is_too_fast(narrow, wide)
        ]
        for name in self.weight_only.unpack_s_per_weight if self.weight_only is not None else ():
            if name.startswith("int"):
                message = f"integers are named by their bits: write w{name.removeprefix('int')}."
                found.append((("weight_only", "unpack_s_per_weight", name), message))
        if self.weight_only is not None and self.weight_only.compute.widths not in [row.widths for row in self.legal]:
            labels = ", ".join(row.label for row in self.legal)
            found.append((("weight_only", "compute"), f"{self.weight_only.compute.label} is none of {labels}."))
        return found


def _meet(one: Legal, other: Legal) -> bool:
    """Whether some kind of operation has both."""
    return one.kinds is None or other.kinds is None or bool(set(one.kinds) & set(other.kinds))


def _is_too_fast(narrow: Legal, wide: Legal) -> bool:
    """Whether halving both widths pays more than four times. Float32 runs on units of its own, so it sets no bound."""
    if FLOAT32 in wide.widths or narrow.w > wide.w or narrow.a > wide.a:
        return False
    return narrow.peak_mac_per_s > 1.01 * wide.peak_mac_per_s * (wide.w * wide.a) / (narrow.w * narrow.a)


def _too_fast(narrow: Legal, wide: Legal) -> str:
    times = narrow.peak_mac_per_s / wide.peak_mac_per_s
    most = wide.w * wide.a / (narrow.w * narrow.a)
    return (
        f"{narrow.label} is {times:.3g} times as fast as {wide.label}, and {most:.3g} times is the most that its bits "
        "allow; are both dense MAC/s?"
    )
