"""Latency and energy of a workload on an accelerator, as sums over its kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mpsearch.core.format import FP32, Format
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.base import Accelerator, Run
from mpsearch.cost.kernels import fused
from mpsearch.cost.layout import stored_bits
from mpsearch.cost.memory import PackedAt
from mpsearch.cost.sums import Part, Sum
from mpsearch.cost.width import width
from mpsearch.cost.workload import Access, Operation, Workload

PICO, FEMTO = 10**12, 10**15


def latency(accelerator: Accelerator, workload: Workload, packed: PackedAt) -> Sum:
    """`latency_s` of one batch: kernels one after the other, then the card's calibration."""
    line = accelerator.card.calibration
    fixed = Part("(fixed)", (), lambda _: round(line.intercept_s * PICO))
    kernels = accelerator.parts(workload)
    if kernels is None:
        kernels = _parts(accelerator, workload, packed, lambda run: round(accelerator.seconds(run) * line.slope * PICO))
    return Sum([fixed, *kernels] if line.intercept_s else kernels, per=PICO)


def energy(accelerator: Accelerator, workload: Workload, packed: PackedAt) -> Sum:
    """`energy_j` of one batch."""
    kernels = _parts(accelerator, workload, packed, lambda run: round(accelerator.joules(run) * FEMTO))
    return Sum(kernels, per=FEMTO)


def _parts(accelerator: Accelerator, workload: Workload, packed: PackedAt, units: Callable[[Run], int]) -> list[Part]:
    kernels = fused(accelerator, workload)
    return [Part(k.name, workload.sites(k), partial(_units, accelerator, workload, k, packed, units)) for k in kernels]


def _units(
    accelerator: Accelerator,
    workload: Workload,
    operation: Operation,
    packed: PackedAt,
    units: Callable[[Run], int],
    formats: tuple[Format, ...],
) -> int:
    return units(
        run(accelerator, workload, operation, packed, dict(zip(workload.sites(operation), formats, strict=True)))
    )


def run(
    accelerator: Accelerator, workload: Workload, operation: Operation, packed: PackedAt, at: dict[str, Format]
) -> Run:
    """`operation` with its sites in the formats `at`."""

    def moved(access: Access) -> int:
        held = workload.tensors[access.tensor]
        fmt = FP32 if held.site is None else at[held.site]
        taken = None if fmt == FP32 or held.site is None else packed(held.site, fmt)
        bits = stored_bits(accelerator.card.layout, held, taken)
        return bits if access.elements == held.elements else -(-bits * access.elements // held.elements)

    def wide(place: int | None) -> Width:
        held = workload.operand(operation, place)
        return FLOAT32 if held is None or held.site is None else width(at[held.site])

    return Run(
        operation,
        wide(operation.weight),
        wide(operation.value),
        tuple(map(moved, operation.reads)),
        sum(map(moved, operation.writes)),
        workload.samples,
    )
