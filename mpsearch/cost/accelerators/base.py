"""An accelerator: what one operation takes on a device, from the widths of its operands and the bits that it moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from mpsearch.core.width import Width
from mpsearch.cost.sums import Part
from mpsearch.cost.workload import Kind, Operation, Workload
from mpsearch.spec.card import Card


@dataclass(frozen=True)
class Run:
    """One operation with everything decided.

    Args:
        operation: what runs.
        weight, value: widths of the two operands of its products, as asked for; `FLOAT32` where it has none.
        read_bits: bits that each of its reads moves, as the tensors lie in the memory of the device.
        write_bits: bits of its result.
        samples: of the batch.
    """

    operation: Operation
    weight: Width
    value: Width
    read_bits: tuple[int, ...]
    write_bits: int
    samples: int = 1

    @property
    def moved_bits(self) -> int:
        """All bits that it moves, as if nothing stayed near the multipliers."""
        return sum(self.read_bits) + self.write_bits


@dataclass(frozen=True)
class Capacity:
    """What a memory of a device holds: no assignment runs there that needs more.

    Args:
        memory: its name, for people.
        measure: what must fit, in the layout of the device.
        bytes: how much fits, and the program beside it.
    """

    memory: str
    measure: str
    bytes: int


class Accelerator(ABC):
    """One kind of device, described by a card. One file per kind; the registry knows it by `kind`.

    Args:
        card: a valid card of this kind.
    """

    kind: ClassVar[str]
    card_type: ClassVar[type[Card]]

    def __init__(self, card: Card) -> None:
        self.card = card

    @abstractmethod
    def promote(self, kind: Kind, weight: Width, value: Width) -> tuple[Width, Width]:
        """The widths that an operation really runs at: the cheapest pair of the device that holds both operands."""

    @abstractmethod
    def seconds(self, run: Run) -> float:
        """Time of one operation. 0 for what the model of the device does not count (the card's `note` says so)."""

    def joules(self, run: Run) -> float:
        """Energy of one operation: products at their promoted widths, bits moved from the outer memory, and what the
        device takes while it waits.

        Horowitz, ISSCC 2014, as fitted in the card's `energy` block.
        """
        energy = self.card.energy
        assert energy is not None, "`refuses` names what is missing"
        weight, value = self.promote(run.operation.kind, run.weight, run.value)
        bit2 = weight.significant * value.significant * weight.density * value.density
        mac_pj = energy.mac_pj_per_bit2 * bit2 + energy.acc_pj_per_bit * energy.acc_bits
        outer = self.card.memory[-1].energy_j_per_bit if self.card.memory else None
        moved_j = self.moved_bits(run) * (outer or 0.0)
        return run.operation.macs * mac_pj * 1e-12 + moved_j + (energy.static_w or 0.0) * self.seconds(run)

    def moved_bits(self, run: Run) -> int:
        """Bits that one operation moves through the outer memory: each of its tensors once, as it lies there."""
        return run.moved_bits

    def parts(self, workload: Workload) -> list[Part] | None:
        """The parts of `latency_s` in picoseconds, where it is not the sum of `seconds` over kernels; None where it is.

        Raises `BadInput` where the card does not fit `workload`.
        """
        del workload
        return None

    def refuses(self, measure: str) -> str | None:
        """Why the card cannot give `latency_s` or `energy_j`, and what it lacks; None where it can."""
        if measure == "energy_j":
            if self.card.energy is None:
                return "it has no energy block"
            if not self.card.memory or self.card.memory[-1].energy_j_per_bit is None:
                return "its outer memory has no energy_j_per_bit"
        return None

    @property
    def capacities(self) -> tuple[Capacity, ...]:
        """The memories that a model must fit into; none where the model is streamed, or their sizes are not known."""
        return ()

    def fuses(self, producer: Operation, reader: Operation) -> bool:
        """Whether `reader` (the only one of the producer's result) runs in the kernel of `producer`."""
        del producer
        return reader.kind is Kind.ELEMENTWISE
