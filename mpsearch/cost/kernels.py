"""The kernels that a device runs a workload as: operations, joined and split as its runtime does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from mpsearch.cost.accelerators.base import Accelerator
from mpsearch.cost.workload import Kind, Operation, Workload

MOST_READS = 4
"""Tensors that a joined kernel reads at most: weight, value, bias and one more, as fused kernels of cuDNN and oneDNN.
It bounds how many choices a kernel depends on, too."""


def fused(accelerator: Accelerator, workload: Workload) -> list[Operation]:
    """Kernels in the order of computation: an operation, and what alone reads its result where the device fuses that.

    What is joined multiplies nothing, so that a kernel has the products of its first operation; the tensor between the
    two is never stored. A copy that brings together more tensors than a kernel reads is a copy for each of them.
    """
    operations = [part for operation in workload.operations for part in _apart(operation)]
    reads = Counter(access.tensor for operation in operations for access in operation.reads)
    writes = Counter(access.tensor for operation in operations for access in operation.writes)
    kernels: list[Operation] = []
    made: dict[int, int] = {}  # tensor to the kernel that writes it

    def joins(kernel: int, operation: Operation) -> bool:
        producer = kernels[kernel]
        if operation.macs or producer.write is None or producer.more_writes:
            return False
        inside = producer.write.tensor
        if reads[inside] > 1 or writes[inside] > 1 or inside in workload.outputs:
            return False
        touched = {access.tensor for access in (*producer.reads, *operation.reads)} - {inside}
        return len(touched) <= max(MOST_READS, len(producer.reads)) and accelerator.fuses(producer, operation)

    for operation in operations:
        ready = {made[access.tensor] for access in operation.reads if access.tensor in made}
        into = max((kernel for kernel in ready if joins(kernel, operation)), default=None)
        if into is None:
            kernels.append(operation)
            into = len(kernels) - 1
        else:
            kernels[into] = _joined(kernels[into], operation)
        made |= {access.tensor: into for access in operation.writes}
    return kernels


def _joined(producer: Operation, operation: Operation) -> Operation:
    assert producer.write is not None
    known = {access.tensor for access in producer.reads}
    more = [a for a in operation.reads if a.tensor != producer.write.tensor and a.tensor not in known]
    return replace(producer, reads=(*producer.reads, *more), write=operation.write, more_writes=operation.more_writes)


def _apart(operation: Operation) -> Iterator[Operation]:
    """A copy for each tensor that is read, where they are too many; else the operation as it is."""
    written = operation.write
    if operation.kind is not Kind.COPY or len(operation.reads) <= MOST_READS or written is None:
        yield operation
        return
    first = True
    for access in operation.reads:
        write = replace(written, elements=access.elements)
        yield replace(operation, reads=(access,), write=write, more_writes=operation.more_writes if first else ())
        first = False
