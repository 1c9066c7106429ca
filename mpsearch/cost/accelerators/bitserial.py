"""Bit-serial arrays: products one bit at a time, so that time is proportional to the bits.

* Both operands serial, as BISMO (Umuroglu et al., arXiv 1806.08862): w * a passes over binary matrices.
* One operand serial, as Stripes (Judd et al., MICRO 2016), which takes values bit by bit and weights whole, and as
  Loom (Sharify et al., arXiv 1706.07853) in its fully connected layers, which takes weights bit by bit.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

from pydantic import Field, StrictInt

from mpsearch.core.width import Width
from mpsearch.cost.accelerators.array import Array, Clock, ceil_div, products
from mpsearch.cost.accelerators.base import Run
from mpsearch.cost.workload import Kind
from mpsearch.spec.card import Card, Whole


class BitSerialBlock(Clock):
    """A dot-product unit of `depth` bits for each of `rows` x `columns` results."""

    serial: Literal["both", "weight", "value"] = Field(description="Which operand is taken bit by bit.")
    rows: Whole = Field(description="Positions that are computed at once.")
    columns: Whole = Field(description="Output channels that are computed at once.")
    depth: Whole = Field(description="Products of one result that are added in one cycle.")
    word_bits: Whole = Field(default=16, description="Width of the operand that is not serial.")
    fill_cycles: Annotated[StrictInt, Field(ge=0)] = Field(default=0, description="To fill and drain the pipeline.")


class BitSerialCard(Card):
    """A card of this kind."""

    kind: Literal["bitserial"]
    bitserial: BitSerialBlock


class BitSerial(Array):
    """passes * ceil(m / rows) * ceil(n / columns) * ceil(k / depth) + fill cycles, with w * a, w or a passes.

    Sums of binary vectors take a pass each, as if where their number differs the longest were sorted to run together.
    Floating-point operands run as fixed point of as many bits, numbers that shift as the integers that hold them.
    """

    kind = "bitserial"
    card_type = BitSerialCard

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        assert isinstance(card, BitSerialCard)
        self.clock = self.block = card.bitserial

    def promote(self, kind: Kind, weight: Width, value: Width) -> tuple[Width, Width]:
        """A serial operand as it is, the other in whole words."""
        del kind
        word = self.block.word_bits
        w, a = (ceil(x.significant) if x.is_binary else x.fixed_bits for x in (weight, value))
        if self.block.serial == "weight":
            a = word * ceil_div(a, word)
        if self.block.serial == "value":
            w = word * ceil_div(w, word)
        return Width(w), Width(a)

    def compute_cycles(self, run: Run) -> int:
        """Passes over tiles of the array."""
        block, gemm = self.block, products(run.operation)
        if not run.operation.macs:
            return 0
        weight, value = self.promote(run.operation.kind, run.weight, run.value)
        passes = {
            "both": weight.bits * value.bits,
            "weight": weight.bits * ceil_div(value.bits, block.word_bits),
            "value": value.bits * ceil_div(weight.bits, block.word_bits),
        }[block.serial]
        tiles = ceil_div(gemm.m, block.rows) * ceil_div(gemm.n, block.columns) * ceil_div(gemm.k, block.depth)
        return gemm.count * (passes * tiles + block.fill_cycles)
