"""Microcontrollers without multipliers for short words: codes are unpacked to 16 bits, so low bits take longer.

Cycles are counts of instructions of CMix-NN's inner loops (Capotondi et al., IEEE TCAS-II 2020; EEESlab/CMix-NN
@ a97415fd): bits buy room in flash and RAM, not time.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.base import Accelerator, Capacity, Run
from mpsearch.cost.workload import Kind
from mpsearch.spec.card import Block, Card, Number, Positive, Whole
from mpsearch.spec.explain import Faults

WidthName = Annotated[str, Field(pattern=r"^(int[1-9]\d*|fp32)$")]


class McuBlock(Block):
    """One core. The cycles are by width: `int8`, `int4`, ..., `fp32`."""

    freq_hz: Positive
    flash_bytes: Whole = Field(description="Room for the model; what needs more is marked on a front.")
    sram_bytes: Whole = Field(description="Room for the activations; what needs more is marked on a front.")
    cycles_per_mac: dict[WidthName, Positive] = Field(description="By width of the weight, unpacking included.")
    im2col_cycles_per_element: dict[WidthName, Number] = Field(description="By width of the value that is unpacked.")
    requant_cycles_per_output: Number
    cycles_per_access: Positive = Field(description="For each number read or written by what multiplies nothing.")

    def faults(self) -> Faults:
        """Both tables of cycles have the same widths, and the float model runs."""
        weights, values = set(self.cycles_per_mac), set(self.im2col_cycles_per_element)
        found: Faults = []
        if weights != values:
            differ = ", ".join(sorted(weights ^ values))
            message = f"has other widths than cycles_per_mac ({differ}); give both tables the same."
            found.append((("im2col_cycles_per_element",), message))
        if "fp32" not in weights:
            message = "has no fp32, which what is not quantized runs in, and the float model; add it."
            found.append((("cycles_per_mac",), message))
        return found


class McuCard(Card):
    """A card of this kind."""

    kind: Literal["mcu"]
    mcu: McuBlock


class Mcu(Accelerator):
    """(products * cycles of the weight + unpacked values * cycles + results * requantization) / frequency.

    Whatever is wider than its integers, and all floating-point numbers, run as float32; numbers that shift run as the
    integers that hold them.
    """

    kind = "mcu"
    card_type = McuCard

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        assert isinstance(card, McuCard)
        self.block = card.mcu
        self.integers = sorted(int(name.removeprefix("int")) for name in card.mcu.cycles_per_mac if name != "fp32")

    @property
    def capacities(self) -> tuple[Capacity, ...]:
        """What is stored with the model lies in the flash, and values while it runs in the SRAM."""
        return (
            Capacity("flash", "memory_bytes", self.block.flash_bytes),
            Capacity("SRAM", "activation_peak_bytes", self.block.sram_bytes),
        )

    def promote(self, kind: Kind, weight: Width, value: Width) -> tuple[Width, Width]:
        """Each operand in the next integer container, or both in float32."""
        del kind
        widest = max(self.integers, default=0)
        if any(x.is_float or x.fixed_bits > widest for x in (weight, value)):
            return FLOAT32, FLOAT32
        w, a = (Width(next(b for b in self.integers if b >= x.fixed_bits)) for x in (weight, value))
        return w, a

    def seconds(self, run: Run) -> float:
        """Time in seconds."""
        operation, block = run.operation, self.block
        written = sum(access.elements for access in operation.writes)
        if not operation.macs:
            cycles = block.cycles_per_access * (sum(access.elements for access in operation.reads) + written)
            return cycles / block.freq_hz
        weight, value = self.promote(operation.kind, run.weight, run.value)
        unpacked = 0 if operation.value is None else operation.reads[operation.value].elements
        if operation.gemm is not None:
            unpacked = operation.gemm.count * operation.gemm.m * operation.gemm.k
        cycles = operation.macs * block.cycles_per_mac[str(weight)]
        cycles += unpacked * block.im2col_cycles_per_element[str(value)]
        cycles += 0 if weight.is_float else written * block.requant_cycles_per_output
        return cycles / block.freq_hz
