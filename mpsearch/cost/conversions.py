"""Between integers and floats: at which widths operations are asked to run, and what they have to convert.

An operation that runs on floats beside integers dequantizes the codes that it reads and quantizes the codes that it
writes. So every conversion belongs to a floating-point operation, but for inputs of the model, which no operation
writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mpsearch.core.format import FP32, Format
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.width import width
from mpsearch.cost.workload import Access, Operation, Workload

At = Mapping[str, Format]
"""Formats by site."""


def is_code(fmt: Format) -> bool:
    """Whether numbers in `fmt` are stored as integers."""
    return not width(fmt).is_float


def asked(
    workload: Workload, operation: Operation, at: At, integer_results: Collection[str] = ()
) -> tuple[Width, Width]:
    """The widths of weight and value that `operation` is asked to run at.

    What multiplies nothing is asked to run at the widest of all that it reads, twice.

    Args:
        integer_results: names of operations whose integer kernels write codes: with a float result they run on floats.
    """
    if operation.name in integer_results and not all(_is_stored_as_code(workload, a, at) for a in operation.writes):
        return FLOAT32, FLOAT32
    if operation.weight is None and operation.value is None:
        widths = [_width(workload, access, at) for access in operation.reads]
        widest = max(widths, key=lambda w: (w.is_float, w.bits), default=FLOAT32)
        return widest, widest
    reads = [None if place is None else operation.reads[place] for place in (operation.weight, operation.value)]
    weight, value = (FLOAT32 if access is None else _width(workload, access, at) for access in reads)
    return weight, value


def dequantized(workload: Workload, operation: Operation, at: At) -> int:
    """Elements that `operation` takes from codes to floats, if it runs on floats. Weights are taken beforehand."""
    values = (a for a in operation.reads if not workload.tensors[a.tensor].is_parameter)
    return sum(access.elements for access in values if _is_stored_as_code(workload, access, at))


def quantized(workload: Workload, operation: Operation, at: At) -> int:
    """Elements that `operation` takes from floats to codes, if it runs on floats."""
    return sum(access.elements for access in operation.writes if _is_stored_as_code(workload, access, at))


def inputs(workload: Workload) -> list[Access]:
    """Tensors with a site that no operation writes, and that are not stored with the model."""
    written = {access.tensor for operation in workload.operations for access in operation.writes}
    read = {access.tensor for operation in workload.operations for access in operation.reads}
    held = workload.tensors
    own = (i for i in sorted(read - written) if held[i].site is not None and not held[i].is_parameter)
    return [Access(i, held[i].elements) for i in own]


def _format(workload: Workload, access: Access, at: At) -> Format:
    site = workload.tensors[access.tensor].site
    return FP32 if site is None else at.get(site, FP32)


def _width(workload: Workload, access: Access, at: At) -> Width:
    return width(_format(workload, access, at))


def _is_stored_as_code(workload: Workload, access: Access, at: At) -> bool:
    return is_code(_format(workload, access, at))
