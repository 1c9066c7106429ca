"""What arrays of multipliers with one clock have in common: time in cycles, and a connection to the outer memory."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field

from mpsearch.cost.accelerators.base import Accelerator, Run
from mpsearch.cost.workload import Gemm, Operation
from mpsearch.spec.card import Positive
from mpsearch.spec.schema import Part


class Clock(Part):
    """How fast an array runs, and how fast it is fed."""

    freq_hz: Positive
    interface_bits_per_cycle: Positive = Field(description="Between the array's own memories and the outer one.")


class Array(Accelerator):
    """Products and memory overlap: an operation takes the cycles of whichever takes more.

    Every tensor crosses the interface once, as if the memories of the array held what is used again: a lower bound.
    """

    clock: Clock

    @abstractmethod
    def compute_cycles(self, run: Run) -> int:
        """Cycles of the products alone; 0 where there are none."""

    def memory_cycles(self, run: Run) -> int:
        """Cycles in which all that is read and written crosses the interface."""
        return ceil_div(run.moved_bits, self.clock.interface_bits_per_cycle)

    def seconds(self, run: Run) -> float:
        """The longer of both, in seconds."""
        return max(self.compute_cycles(run), self.memory_cycles(run)) / self.clock.freq_hz


def products(operation: Operation) -> Gemm:
    """Sizes of the products of `operation`; those outside of matrix products are sums of one product each."""
    return operation.gemm or Gemm(m=1, n=operation.macs, k=1)


def ceil_div(a: float, b: float) -> int:
    """a / b, rounded up."""
    return int(-(-a // b))
