"""FPGAs: multipliers made of look-up tables, which only the significant bits of the operands need, and of DSP blocks.

The model of the tables is analytic: one per pair of bits of the multiplier, one per bit of the adder, half of one per
bit and stage of a shifter. One published figure sets its scale; nothing here was fitted to a synthesis.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

from pydantic import Field, StrictInt

from mpsearch.core.width import Width
from mpsearch.cost.accelerators.array import ceil_div
from mpsearch.cost.accelerators.base import Accelerator, Run
from mpsearch.cost.workload import Kind
from mpsearch.spec.card import Card, Number, Positive, Whole
from mpsearch.spec.schema import Part

_DSP_PRODUCTS = {4: 4, 8: 2, 18: 1}
"""Products of one DSP48E2 (27 x 18 bits) by the width of the wider operand; two of 8 bits share one operand."""


class Dsp(Part):
    """Multiplier blocks that work beside the look-up tables."""

    count: Whole
    freq_hz: Positive


class FpgaBlock(Part):
    """What the device has, and what a multiplier of it takes."""

    luts: Whole = Field(description="Look-up tables of six inputs that multiply.")
    peak_mac_per_s_per_klut: Positive = Field(
        description="Published peak of 1000 look-up tables, half of its operations per second; taken as that of 1 x 1 "
        "significant bits, which scales all others."
    )
    lut_per_bit_pair: Positive = 1.0
    lut_per_adder_bit: Number = 1.0
    lut_per_shifted_bit: Number = 0.5
    sum_headroom_bits: Annotated[StrictInt, Field(ge=0)] = Field(default=10, description="log2 of the longest sum.")
    dsp: Dsp | None = None


class FpgaCard(Card):
    """A card of this kind."""

    kind: Literal["fpga"]
    fpga: FpgaBlock


class Fpga(Accelerator):
    """Products at the rate that the tables and blocks allow, as if all were multipliers of just the widths asked for.

    Floating-point operands run as fixed point of as many bits, sums of binary vectors as integers of so many; each
    tensor crosses the outer memory once.
    """

    kind = "fpga"
    card_type = FpgaCard

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        assert isinstance(card, FpgaCard)
        self.block = card.fpga

    def promote(self, kind: Kind, weight: Width, value: Width) -> tuple[Width, Width]:
        """Every width as it is, zeros and all; floats as integers of as many bits as enter their products."""
        del kind
        w, a = (Width(ceil(x.significant)) if x.is_float else x.dense for x in (weight, value))
        return w, a

    def luts(self, weight: Width, value: Width) -> float:
        """Look-up tables of one multiplier with its adder.

        A value of b bits of which s are significant is s bits shifted by up to 2^(b - s) - 2 places, as in ESB (Gong
        et al., arXiv 2109.03513): s x s bits are multiplied, and the product is shifted by the sum of both shifts.
        """
        block, shift = self.block, weight.shift + value.shift
        product_bits = weight.significant + value.significant + shift
        multiplier = block.lut_per_bit_pair * weight.significant * value.significant
        shifter = block.lut_per_shifted_bit * product_bits * shift.bit_length()
        return multiplier + shifter + block.lut_per_adder_bit * (product_bits + block.sum_headroom_bits)

    def mac_per_s(self, weight: Width, value: Width) -> float:
        """Products per second of tables and blocks together, at widths that `promote` gave."""
        block, one = self.block, Width(1)
        in_tables = block.luts / 1e3 * block.peak_mac_per_s_per_klut * self.luts(one, one) / self.luts(weight, value)
        return in_tables + (block.dsp.freq_hz * block.dsp.count * _packed(weight, value) if block.dsp else 0.0)

    def seconds(self, run: Run) -> float:
        """The longer of products and memory, in seconds."""
        operation = run.operation
        rate = self.mac_per_s(*self.promote(operation.kind, run.weight, run.value))
        fed = self.card.memory[-1].read_bytes_per_s if self.card.memory else None
        return max(operation.macs / rate, self.moved_bits(run) / 8 / fed if fed else 0.0)


def _packed(weight: Width, value: Width) -> float:
    """Products of one block in one cycle; wide operands take several cycles."""
    narrow, wide = sorted((weight.fixed_bits, value.fixed_bits))
    for bits, many in _DSP_PRODUCTS.items():
        if wide <= bits:
            return many
    return 1 / (ceil_div(narrow, 18) * ceil_div(wide, 27))
