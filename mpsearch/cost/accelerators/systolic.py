"""Systolic arrays, in the cycles that SCALE-Sim v2 counts without stalls (scalesim-project/scale-sim-v2 @ 22f88b17)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mpsearch.core.width import Width
from mpsearch.cost.accelerators.array import Array, Clock, ceil_div
from mpsearch.cost.accelerators.base import Run
from mpsearch.cost.workload import Gemm, Kind
from mpsearch.spec.card import Card, Whole

IntName = Annotated[str, Field(pattern=r"^int[1-9]\d*$")]


class SystolicBlock(Clock):
    """rows x columns multipliers, each with a word that holds one operand or several short ones."""

    rows: Whole
    columns: Whole
    dataflow: Literal["os", "ws", "is"] = Field(description="Which operand stays: output, weight or input.")
    pack: dict[IntName, Whole] = Field(
        min_length=1, description="Widths that run, with the products per cycle: {int8: 1, int4: 2}."
    )


class SystolicCard(Card):
    """A card of this kind."""

    kind: Literal["systolic"]
    systolic: SystolicBlock


class Systolic(Array):
    """Folds of the product onto the array, one after the other, each filled and drained.

    Short operands share a word along the sum: k becomes ceil(k / pack). Operands wider than the widest word take a
    pass for each pair of words; floating-point ones run as fixed point of as many bits, and numbers that shift as the
    integers that hold them. Products outside of matrix products take one column each.
    """

    kind = "systolic"
    card_type = SystolicCard

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        assert isinstance(card, SystolicCard)
        self.clock = self.block = card.systolic
        self.pack = {int(name.removeprefix("int")): many for name, many in card.systolic.pack.items()}

    def promote(self, kind: Kind, weight: Width, value: Width) -> tuple[Width, Width]:
        """Both in the narrowest word that holds the wider of them, or in several of the widest."""
        del kind
        bits, widest = max(weight.fixed_bits, value.fixed_bits), max(self.pack)
        word = min((b for b in self.pack if b >= bits), default=widest * ceil_div(bits, widest))
        return Width(word), Width(word)

    def compute_cycles(self, run: Run) -> int:
        """Stall-free cycles of every group."""
        operation, widest = run.operation, max(self.pack)
        bits = self.promote(operation.kind, run.weight, run.value)[0].bits
        many, passes = self.pack.get(bits, self.pack[widest]), ceil_div(bits, widest) ** 2
        if operation.gemm is None:
            return ceil_div(operation.macs * passes, self.block.columns * many)
        gemm = operation.gemm
        k = ceil_div(gemm.k * passes, many)
        return gemm.count * cycles(self.block, gemm.m, k, gemm.n)


def folded(block: SystolicBlock, m: int, k: int, n: int) -> tuple[int, int, int]:
    """What of a product [m, k] x [k, n] lies along the rows, along the columns, and in time."""
    return {"os": (m, n, k), "ws": (k, n, m), "is": (k, m, n)}[block.dataflow]


def cycles(block: SystolicBlock, m: int, k: int, n: int) -> int:
    """Cycles of one product: folds * (time + fill and drain) - 1. Operands that stay are loaded row by row first."""
    across, along, time = folded(block, m, k, n)
    folds = ceil_div(across, block.rows) * ceil_div(along, block.columns)
    loading = 0 if block.dataflow == "os" else block.rows
    return folds * (time + loading + block.rows + block.columns - 2) - 1


def mapping_efficiency(block: SystolicBlock, gemm: Gemm) -> float:
    """Share of the multipliers that have something to do, over all folds."""
    across, along, _ = folded(block, gemm.m, gemm.k, gemm.n)
    held = ceil_div(across, block.rows) * block.rows * ceil_div(along, block.columns) * block.columns
    return across * along / held
