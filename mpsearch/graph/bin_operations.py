"""Operations on values that are split into bins: one pass per bin, each with the width of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from mpsearch.cost.workload import Access, Operation
from mpsearch.graph.bins import Binned
from mpsearch.graph.tensors import Tensors


def by_bin(operation: Operation, tensors: Tensors, gathered: Binned | None) -> list[tuple[str, Operation]]:
    """`operation` once for each bin of what it reads, else of what it writes, with the bin's label; whole without bins.

    A pass reads the rows of its bin, all of each parameter, and of every other tensor its share of rows. Edges have
    the bins of their source nodes where a gather reads nodes (`gathered`). What has no rows of the bins stays whole.
    """
    touched = [access.tensor for access in (*operation.reads, *operation.writes)]
    first = next((tensors.bins[tensor].binned for tensor in touched if tensor in tensors.bins), None)
    if first is None:
        return [("", operation)]
    counts = (gathered or first).counts
    if operation.gemm is not None and operation.gemm.m % sum(counts):
        return [("", operation)]
    passes = _Passes(operation, tensors, first, gathered or first, counts)
    return [passes.of(number) for number, count in enumerate(counts) if count]


class _Passes:
    def __init__(
        self, operation: Operation, tensors: Tensors, taken: Binned, made: Binned, counts: Sequence[int]
    ) -> None:
        self.operation, self.tensors = operation, tensors
        self.taken, self.made, self.counts = taken, made, counts
        self.before = [0, *accumulate(counts)]

    def of(self, number: int) -> tuple[str, Operation]:
        """The pass over one bin, and the bin's label."""
        whole = self.operation
        reads = self._touched(whole.reads, self.taken, number)
        writes = self._touched(whole.writes, self.made, number)
        gemm = whole.gemm and replace(whole.gemm, m=whole.gemm.m // sum(self.counts) * self.counts[number])
        at = [access.tensor for access in reads]
        labels = {self.tensors.bins[t].label for t in (*at, *(w.tensor for w in writes)) if self._is_of(t, number)}
        return min(labels), replace(
            whole,
            reads=tuple(reads),
            write=writes[0] if writes else None,
            more_writes=tuple(writes[1:]),
            macs=self._share(whole.macs, number) if gemm is None else gemm.macs,
            weight=self._place(whole.weight, at, number),
            value=self._place(whole.value, at, number),
            gemm=gemm,
        )

    def _is_of(self, tensor: int, number: int) -> bool:
        known = self.tensors.bins.get(tensor)
        return (
            known is not None and known.number == number and known.binned.space in (self.taken.space, self.made.space)
        )

    def _touched(self, accesses: Sequence[Access], rows: Binned, number: int) -> list[Access]:
        found = []
        for access in accesses:
            known = self.tensors.bins.get(access.tensor)
            if known is not None and known.binned.space == rows.space:
                if known.number == number:
                    repeated = self.taken is not self.made and rows is self.taken
                    found.append(Access(access.tensor, self._share(access.elements, number)) if repeated else access)
            elif self.tensors.held[access.tensor].is_parameter:
                found.append(access)
            else:
                found.append(Access(access.tensor, self._share(access.elements, number)))
        return found

    def _share(self, elements: int, number: int) -> int:
        """Of `elements` those in the rows of a bin; all bins together have all."""
        total = self.before[-1]
        return elements * self.before[number + 1] // total - elements * self.before[number] // total

    def _place(self, place: int | None, at: Sequence[int], number: int) -> int | None:
        """The place of an operand among the reads of a pass: the bins of one value follow one another."""
        if place is None:
            return None
        known = self.tensors.bins.get(self.operation.reads[place].tensor)
        is_split = known is not None and known.binned.space == self.taken.space
        place += number - known.number if known is not None and is_split else 0
        return at.index(self.operation.reads[place].tensor)
