"""What of an assignment its time is made of: operations on integers, and elements that are converted."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.assignment import Assignment
from mpsearch.core.width import Width
from mpsearch.cost.conversions import asked, dequantized, inputs, is_code, quantized
from mpsearch.cost.workload import Operation, Workload

INT8 = Width(8)


class Features:
    """Turns assignments into numbers that times are additive in.

    Args:
        workload: the model on one batch.
        capable: names of the operations that can run on integers.
        integer_results: names of those whose integer kernels write codes.
    """

    def __init__(self, workload: Workload, capable: Collection[str], integer_results: Collection[str] = ()) -> None:
        self.workload, self.capable = workload, frozenset(capable)
        self.integer_results = frozenset(integer_results) & self.capable
        self.names = tuple(operation.name for operation in workload.operations)
        kinds = list(dict.fromkeys(operation.kind for operation in workload.operations))
        self.conversions = (("quantize", "input"), *((what, str(kind)) for what in _WHAT for kind in kinds))
        """Columns of `switches`: what is done, by which kind of operation."""

    def narrow(self, assignment: Assignment) -> frozenset[str]:
        """Names of the operations that run on integers."""
        return frozenset(
            o.name for o in self.workload.operations if o.name in self.capable and self._fits(o, assignment)
        )

    def row(self, narrow: Collection[str]) -> NDArray[np.float64]:
        """1 for each operation [operations] that runs on integers."""
        return np.array([float(name in narrow) for name in self.names])

    def switches(self, assignment: Assignment, narrow: Collection[str]) -> NDArray[np.float64]:
        """Elements converted [conversions], where the operations `narrow` run on integers."""
        counts = dict.fromkeys(self.conversions, 0)
        for access in inputs(self.workload):
            site = self.workload.tensors[access.tensor].site
            if site is not None and is_code(assignment.at(site)):
                counts["quantize", "input"] += access.elements
        for operation in self.workload.operations:
            if operation.name not in narrow:
                for what, count in _WHAT.items():
                    counts[what, str(operation.kind)] += count(self.workload, operation, assignment)
        return np.array(list(counts.values()), dtype=float)

    def alike(self) -> list[int]:
        """The class of each operation: equal for those of one kind and size."""
        shapes = [_shape(self.workload, operation) for operation in self.workload.operations]
        known = {shape: number for number, shape in enumerate(dict.fromkeys(shapes))}
        return [known[shape] for shape in shapes]

    def _fits(self, operation: Operation, assignment: Assignment) -> bool:
        pair = asked(self.workload, operation, assignment, self.integer_results)
        return all(not wide.is_float and wide.bits <= INT8.bits for wide in pair)


_WHAT = {"quantize": quantized, "dequantize": dequantized}


def _shape(workload: Workload, operation: Operation) -> tuple[object, ...]:
    reads = tuple((workload.tensors[a.tensor].is_parameter, a.elements) for a in operation.reads)
    return operation.kind, operation.gemm, operation.macs, reads, tuple(a.elements for a in operation.writes)
