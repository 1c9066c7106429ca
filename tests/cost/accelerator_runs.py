"""Operations on bundled cards, at the widths that a test names."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import mpsearch.cost
from mpsearch.core.width import Width
from mpsearch.cost.accelerators.base import Accelerator, Run
from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.cost.workload import Access, Gemm, Kind, Operation

CARDS = sorted((Path(mpsearch.cost.__file__).parent / "cards").glob("*.yaml"))


@cache
def bundled(name: str) -> Any:
    """The accelerator of the bundled card `name`."""
    return load_accelerator(next(path for path in CARDS if path.stem == name))


def device(name: str, **block: Any) -> Any:
    """The same, with other values in the block of its kind."""
    made = bundled(name)
    data = made.card.model_dump(by_alias=True, exclude_unset=True)
    data[made.kind] = {**data[made.kind], **block}
    return type(made)(made.card_type.model_validate(data))


def conv(
    size: int, ci: int, co: int, kernel: int, *, stride: int = 1, samples: int = 1, groups: int = 1, first: bool = False
) -> Operation:
    """A convolution to `size` x `size` positions; a linear layer where its kernel and its positions are one."""
    gemm = Gemm(
        m=samples * size**2,
        n=co // groups,
        k=ci // groups * kernel**2,
        count=groups,
        window=kernel**2,
        stride=stride**2,
    )
    reads = (Access(0, samples * (size * stride) ** 2 * ci), Access(1, co * gemm.k))
    kind = Kind.LINEAR if size == kernel == 1 else Kind.CONV
    write = Access(2, gemm.m * co)
    return Operation("op", kind, reads, write, gemm.m * co * gemm.k, weight=1, value=0, gemm=gemm, is_first=first)


def linear(inside: int, outside: int, samples: int = 1) -> Operation:
    """A linear layer."""
    return conv(1, inside, outside, 1, samples=samples)


def at(operation: Operation, weight: int | Width, value: int | Width, result_bits: int | None = None) -> Run:
    """`operation` at widths of weights and values (integers of so many bits), its tensors without gaps."""
    w, a = (x if isinstance(x, Width) else Width(x) for x in (weight, value))
    bits = {operation.weight: w.bits, operation.value: a.bits}
    moved = tuple(access.elements * bits.get(place, a.bits) for place, access in enumerate(operation.reads))
    written = sum(access.elements for access in operation.writes)
    return Run(operation, w, a, moved, written * (a.bits if result_bits is None else result_bits))


def cycles(accelerator: Accelerator, run: Run) -> float:
    """Time in cycles of the accelerator's clock."""
    block = getattr(accelerator.card, accelerator.kind)
    return accelerator.seconds(run) * block.freq_hz
