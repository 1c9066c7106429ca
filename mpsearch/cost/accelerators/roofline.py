"""The roofline: a kernel takes as long as its products at the device's rate, or its bytes at the bandwidth of the
memory that holds them, whichever is longer (Williams, Waterman, Patterson, CACM 2009), with a rate per precision.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

from mpsearch.core.width import Width
from mpsearch.cost.accelerators.base import Accelerator, Run
from mpsearch.cost.accelerators.precision import holds, is_half_zero
from mpsearch.cost.accelerators.roofline_card import RooflineCard
from mpsearch.cost.workload import Kind, Operation
from mpsearch.spec.card import Card

_STORED = (Kind.CONV, Kind.CONV_TRANSPOSED, Kind.LINEAR, Kind.RECURRENT)
"""Products whose weight is stored with the model, so that it is brought into the form of the kernel only once."""


_SINGLE_BITS = (Width(1), Width(1))


class _Way(NamedTuple):
    """How a pair of operands is multiplied: the widths that it runs at, how fast, and as which row of the card."""

    widths: tuple[Width, Width]
    mac_per_s: float
    label: str


class Roofline(Accelerator):
    """launch + max(MACs / (peak * efficiency), bytes / bandwidth) + unpacking + conversions, in seconds.

    * The pair of widths is the fastest legal one that holds both operands; a tie goes to the narrower.
    * Two sums of M and K binary vectors may also run on a kernel for single bits, in M * K passes.
    * Weights of which at most 2 of 4 are kept run, beside values that are dense, at the rate that a card has for them.
    * An operand that runs as a wider number than asked is moved as wide as it runs: it was widened ahead of the kernel,
      so that a width without a kernel gains nothing. Weights are read as stored where the card knows what taking them
      apart costs (`weight_only`), and pay for it: packed integers, and what is looked up in a codebook.
    * The bandwidth is that of the innermost level that holds all that the kernel moves and whose bandwidth is known.
    * What multiplies nothing is bound by its bytes; its efficiency is a fraction of the bandwidth.
    * What a card does not say (`launch_s`, an efficiency) counts as free, so that the time is a lower bound.
    """

    kind = "roofline"
    card_type = RooflineCard

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        assert isinstance(card, RooflineCard)
        self.roof = card
        self.ways = lru_cache(maxsize=None)(self._way)

    def promote(self, kind: Kind, weight: Width, value: Width) -> tuple[Width, Width]:
        """The fastest legal pair that holds both operands, or both as they are, bit by bit; float32 where none does."""
        return self.ways(kind, weight, value).widths

    def seconds(self, run: Run) -> float:
        """Time of one kernel."""
        operation = run.operation
        moved_bytes = self.moved_bits(run) / 8
        bandwidth = self._bandwidth(moved_bytes)
        if not operation.macs:
            return self._launch_s + moved_bytes / (bandwidth * self._efficiency(operation, None))
        way = self.ways(operation.kind, run.weight, run.value)
        products_s = operation.macs / (way.mac_per_s * self._efficiency(operation, way.label))
        return (
            self._launch_s
            + max(products_s, moved_bytes / bandwidth)
            + (self._unpack_s(run) or 0.0)
            + self._convert_s(run)
        )

    def moved_bits(self, run: Run) -> int:
        """Bits that a kernel moves: operands as it reads them, all else as it is stored."""
        moved = list(run.read_bits)
        for place, asked, runs in self._operands(run):
            if runs != asked and (place != run.operation.weight or self._unpack_s(run) is None):
                moved[place] = max(moved[place], ceil(run.operation.reads[place].elements * runs.stored_bits))
        return sum(moved) + run.write_bits

    def refuses(self, measure: str) -> str | None:
        """Time needs the bandwidth of the outer memory."""
        memory = self.card.memory
        if measure in ("latency_s", "energy_j") and (not memory or memory[-1].read_bytes_per_s is None):
            return "its outer memory has no read_bytes_per_s"
        return super().refuses(measure)

    def fuses(self, producer: Operation, reader: Operation) -> bool:
        """Kinds that the card lists join the kernel of their producer."""
        return reader.kind in self.roof.fusion

    def _way(self, kind: Kind, weight: Width, value: Width) -> _Way:
        rows = [row for row in self.roof.precision.legal if row.kinds is None or kind in row.kinds]
        able = [row for row in rows if holds(row.weight, weight) and holds(row.value, value)]
        ways = [_Way(row.widths, row.peak_mac_per_s, row.label) for row in able or self.roof.precision.float32]
        if is_half_zero(weight):
            halved = (row for row in able if row.sparse_mac_per_s is not None)
            ways += [_Way((row.sparse_weight, row.value), row.sparse_mac_per_s or 0.0, row.label) for row in halved]
        if weight.is_binary and value.is_binary:
            passes = weight.significant * value.significant
            single = (row for row in rows if row.widths == _SINGLE_BITS)
            ways += [_Way((weight, value), row.peak_mac_per_s / passes, row.label) for row in single]
        return max(
            ways,
            key=lambda way: (
                way.mac_per_s,
                -sum(width.significant for width in way.widths),
                way.widths[0].is_float == weight.is_float,
            ),
        )

    def _operands(self, run: Run) -> list[tuple[int, Width, Width]]:
        """Place in the reads, width as asked and width as run, of the operands that are tensors."""
        operation = run.operation
        if not operation.macs:
            return []
        weight, value = self.promote(operation.kind, run.weight, run.value)
        both = ((operation.weight, run.weight, weight), (operation.value, run.value, value))
        return [(place, asked, runs) for place, asked, runs in both if place is not None]

    def _unpack_s(self, run: Run) -> float | None:
        """What taking packed weights apart costs; None where no kernel does that, or its cost is not known."""
        operation, known = run.operation, self.roof.precision.weight_only
        if known is None or operation.weight is None or operation.kind not in _STORED:
            return None
        name = f"w{run.weight.bits}" if run.weight == Width(run.weight.bits) else str(run.weight)
        per_weight = known.unpack_s_per_weight.get(name)
        if per_weight is None or self.promote(operation.kind, run.weight, run.value) != known.compute.widths:
            return None
        return operation.reads[operation.weight].elements * per_weight

    def _convert_s(self, run: Run) -> float:
        """What bringing values into the number format of the kernel costs. Weights are stored in it."""
        known = self.roof.overhead.convert_s_per_element
        return sum(
            run.operation.reads[place].elements * (known.get(f"{asked}->{runs}") or 0.0)
            for place, asked, runs in self._operands(run)
            if place != run.operation.weight or run.operation.kind not in _STORED
        )

    def _efficiency(self, operation: Operation, label: str | None) -> float:
        named = next((found for name in _names(operation) if (found := self.roof.efficiency.get(name))), {})
        return named.get(label or "all", named.get("all", 1.0))

    def _bandwidth(self, moved_bytes: float) -> float:
        *inner, outer = self.card.memory
        for level in inner:
            if level.read_bytes_per_s is not None and level.bytes is not None and moved_bytes <= level.bytes:
                return level.read_bytes_per_s
        assert outer.read_bytes_per_s is not None, "`refuses` names what is missing"
        return outer.read_bytes_per_s

    @property
    def _launch_s(self) -> float:
        return self.roof.overhead.launch_s or 0.0


def _names(operation: Operation) -> list[str]:
    """Names of efficiencies that fit an operation, the most special first."""
    special = []
    if operation.kind is Kind.CONV and operation.gemm is not None:
        special += ["conv_first"] * operation.is_first
        special += ["conv_depthwise"] * operation.gemm.is_depthwise
        special += ["conv_pointwise"] * (operation.gemm.window == 1)
    return [*special, str(operation.kind)]
