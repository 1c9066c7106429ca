"""BitFusion: an array of units whose bricks fuse to the widths of the operands (Sharma et al., ISCA 2018).

Cycles and traffic follow the authors' simulator (hsharma35/bitfusion @ 04ec1c87).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from mpsearch.core.width import Width
from mpsearch.cost.accelerators.array import Array, Clock, ceil_div, products
from mpsearch.cost.accelerators.base import Run
from mpsearch.cost.accelerators.tiling import Matmul, Room, Tiling, best_tiling
from mpsearch.cost.workload import Gemm, Kind
from mpsearch.spec.card import Block, Card, Number, Whole
from mpsearch.spec.explain import Faults
from mpsearch.spec.schema import Part


class Sram(Part):
    """A memory of the array, half of which holds the tile that is computed, and half the next."""

    bytes: Whole
    energy_j_per_bit: Number | None = None


class Srams(Part):
    """The three memories of the array."""

    weight: Sram
    value: Sram
    output: Sram


class BitFusionBlock(Clock, Block):
    """rows x columns fusion units: rows add up one sum, columns are output channels."""

    rows: Whole
    columns: Whole
    widest_bits: Whole = 8
    narrowest_bits: Whole = 2
    partial_sum_bits: Whole = 32
    sram: Srams

    def faults(self) -> Faults:
        """Bricks are not wider than what they fuse to."""
        if self.narrowest_bits <= self.widest_bits:
            return []
        message = f"is above widest_bits ({self.widest_bits}); units of widest_bits are fused of bricks of this."
        return [(("narrowest_bits",), message)]


class BitFusionCard(Card):
    """A card of this kind."""

    kind: Literal["bitfusion"]
    bitfusion: BitFusionBlock


@dataclass(frozen=True)
class _Plan:
    """How an operation runs: cycles of its products, tiles, and how often im2col writes each of its values."""

    cycles: int
    tiling: Tiling
    unrolled: float


class BitFusion(Array):
    """max(cycles of products, cycles of memory) + first loads + last store, for the best tiles found.

    Products: m * ceil(n / columns) * window * ceil(channels / (rows * per unit)); the first layer, and all that is no
    convolution, is unrolled (im2col) and adds up whole windows: m * ceil(n / columns) * ceil(k / (rows * per unit)).
    Floating-point operands run as fixed point of as many bits, numbers that shift as the integers that hold them.
    Weights are padded to what the rows take at once, in the outer memory too, so fewer bits can take longer where sums
    are short (depthwise convolutions).
    """

    kind = "bitfusion"
    card_type = BitFusionCard

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        assert isinstance(card, BitFusionCard)
        self.clock = self.block = card.bitfusion
        self.srams = (self.block.sram.weight, self.block.sram.value, self.block.sram.output)
        self.room = Room(*(8 * sram.bytes / 2 for sram in self.srams))
        self._plan = lru_cache(maxsize=None)(self._make_plan)

    def promote(self, kind: Kind, weight: Width, value: Width) -> tuple[Width, Width]:
        """Each operand in the next width that bricks fuse to: 2, 4, 8, then multiples of 8 in several passes."""
        del kind
        return self._fused(weight.fixed_bits), self._fused(value.fixed_bits)

    def _fused(self, bits: int) -> Width:
        widest, fused = self.block.widest_bits, self.block.narrowest_bits
        while fused < min(bits, widest):
            fused *= 2
        return Width(fused if bits <= widest else widest * ceil_div(bits, widest))

    def per_unit(self, weight: Width, value: Width) -> Fraction:
        """Products of one unit in one cycle: 16 of 2 x 2 bits, 1 of 8 x 8, 1/4 of 16 x 16."""
        widest = self.block.widest_bits
        return Fraction(widest**2, self._fused(weight.fixed_bits).bits * self._fused(value.fixed_bits).bits)

    def compute_cycles(self, run: Run) -> int:
        """Cycles of the products alone."""
        return self._planned(run).cycles if run.operation.macs else 0

    def seconds(self, run: Run) -> float:
        """Time in seconds."""
        memory, ends = self._traffic(run)
        per_cycle = self.clock.interface_bits_per_cycle
        steady = max(self.compute_cycles(run), ceil_div(memory - ends, per_cycle))
        return (steady + ceil_div(ends, per_cycle)) / self.clock.freq_hz

    def moved_bits(self, run: Run) -> int:
        """Bits that the tiles load and store, padding and partial sums included."""
        return ceil_div(self._traffic(run)[0], 1)

    def joules(self, run: Run) -> float:
        """Energy in joules, with the memories of the array: each product reads its operands from them, and each result
        is read and written once."""
        weight, value = self.promote(run.operation.kind, run.weight, run.value)
        gemm, macs = products(run.operation), run.operation.macs
        results = gemm.count * gemm.m * gemm.n if macs else 0
        bits = (macs * weight.bits, macs * value.bits, 2 * results * self.block.partial_sum_bits)
        inner = sum(b * (sram.energy_j_per_bit or 0.0) for b, sram in zip(bits, self.srams, strict=True))
        return super().joules(run) + inner

    def refuses(self, measure: str) -> str | None:
        """Energy needs that of each memory of the array too."""
        if measure == "energy_j" and any(sram.energy_j_per_bit is None for sram in self.srams):
            return "not every memory in bitfusion.sram has energy_j_per_bit"
        return super().refuses(measure)

    def _planned(self, run: Run) -> _Plan:
        operation, gemm = run.operation, products(run.operation)
        is_window = not operation.is_first and operation.kind in (Kind.CONV, Kind.CONV_TRANSPOSED)
        touched = gemm.count * gemm.m * gemm.k
        held = touched if operation.value is None else operation.reads[operation.value].elements
        unrolled = touched / held if operation.is_first else 1.0
        weight, value = self._fused(run.weight.fixed_bits), self._fused(run.value.fixed_bits)
        return self._plan(gemm, gemm.window if is_window else 1, unrolled, held, weight, value)

    def _traffic(self, run: Run) -> tuple[float, float]:
        """Bits that cross the interface, and how many of them before the first and after the last product."""
        operation = run.operation
        if operation.gemm is None:
            return run.moved_bits, 0
        plan, count = self._planned(run), operation.gemm.count
        weights = 0 if operation.weight is None else run.read_bits[operation.weight]
        values = 0 if operation.value in (None, operation.weight) else run.read_bits[operation.value]
        others = sum(run.read_bits) - weights - values + run.write_bits
        unrolled, tiling = values * plan.unrolled, plan.tiling
        bits = weights * tiling.weights + unrolled * tiling.values + count * tiling.spilled_bits + others
        first = weights * tiling.first_weights + unrolled * tiling.first_values
        return bits, (first + run.write_bits * tiling.last_results) / count

    def _make_plan(self, gemm: Gemm, window: int, unrolled: float, held: int, weight: Width, value: Width) -> _Plan:
        """Tiles for one group of products, its tensors as wide as they are.

        Args:
            window: positions of the kernel that are computed one after the other; 1 where the product is unrolled.
            held: values that are read, each of which occurs `unrolled` times.
        """
        block, lanes = self.block, self.block.rows * self.per_unit(weight, value)
        cycles = gemm.m * ceil_div(gemm.n, block.columns) * window * math.ceil(gemm.k // window / lanes)
        matmul = Matmul(
            m=gemm.m,
            n=gemm.n,
            steps=gemm.k // window,
            lanes=max(1, int(lanes)),
            window=window,
            columns=block.columns,
            weight_bits=weight.bits,
            value_bits=unrolled * held * value.bits / gemm.count,
            sum_bits=block.partial_sum_bits,
        )
        tiling = best_tiling(matmul, self.room, cycles, self.clock.interface_bits_per_cycle)
        return _Plan(gemm.count * cycles, tiling, unrolled)
