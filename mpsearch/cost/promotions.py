"""What the user should know of widths that a device has no kernel for: what they run as, and whether that pays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, product
from math import ceil

from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost.accelerators.base import Accelerator
from mpsearch.cost.device import run
from mpsearch.cost.kernels import fused
from mpsearch.cost.memory import Packed, PackedAt
from mpsearch.cost.workload import FLOAT32, Kind, Operation, Width, Workload, width

_OTHER = {"weights": "values", "values": "weights"}


@dataclass(frozen=True)
class _Asked:
    """An operand of one kernel in one format, beside the other operand in one."""

    kernel: int
    kind: Kind
    noun: str
    width: Width
    beside: Width
    alone: Width
    """What it runs as beside an operand of its own width."""
    runs: Width
    saves: bool
    """Whether the kernel is faster than with this operand in the width that it runs as."""
    gains: bool
    """Whether the kernel is faster than with this operand in float32."""


@dataclass
class _Fate:
    """Widths that fare alike."""

    widths: list[Width] = field(default_factory=list)
    kernels: set[int] = field(default_factory=set)
    kinds: set[Kind] = field(default_factory=set)
    saves: bool = False


def promotions(accelerator: Accelerator, workload: Workload, space: Space) -> list[str]:
    """One sentence for each width of `space` that runs as a wider one, and one for those that gain no time at all.

    Scales are left out of account: they are small, and the same at every width.
    """
    found = [asked for asked in _asked(accelerator, workload, space) if asked.width != FLOAT32]
    name = accelerator.card.name
    kinds = {noun: {asked.kind for asked in found if asked.noun == noun} for noun in _OTHER}
    lines = []
    for (noun, runs), fates in _fates(a for a in found if a.runs == a.alone != a.width).items():
        for fate in fates.values():
            lines.append(
                f"{name} has no kernel for {_words(fate.widths)} {noun}: they run as {runs} {_tail(fate, kinds[noun])}"
            )
    for (noun, runs), fates in _fates(a for a in found if a.runs not in (a.alone, a.width)).items():
        for beside, fate in fates.items():
            other = f"{_words(beside)} {_OTHER[noun]}"
            lines.append(
                f"{name} runs {_words(fate.widths)} {noun} as {runs} beside {other} {_tail(fate, kinds[noun])}"
            )
    for noun in _OTHER:
        gaining = {asked.width for asked in found if asked.noun == noun and asked.gains}
        idle = {asked.width for asked in found if asked.noun == noun} - gaining
        if idle:
            lines.append(f"{_words(idle)} {noun} gain no time at all on {name}.")
    return lines


def _fates(found: Iterable[_Asked]) -> dict[tuple[str, Width], dict[tuple[Width, ...], _Fate]]:
    """By noun and width that is run: by the widths beside it, what fares alike."""
    each: dict[tuple[str, Width, Width], dict[Width, list[_Asked]]] = {}
    for asked in found:
        each.setdefault((asked.noun, asked.runs, asked.width), {}).setdefault(asked.beside, []).append(asked)
    fates: dict[tuple[str, Width], dict[tuple[Width, ...], _Fate]] = {}
    for (noun, runs, own), by_beside in sorted(
        each.items(), key=lambda item: (item[0][0] != "weights", item[0][2].bits)
    ):
        beside = tuple(sorted(by_beside, key=_order))
        fate = fates.setdefault((noun, runs), {}).setdefault(beside, _Fate())
        fate.widths.append(own)
        for asked in chain.from_iterable(by_beside.values()):
            fate.kernels.add(asked.kernel)
            fate.kinds.add(asked.kind)
            fate.saves |= asked.saves
    return fates


def _asked(accelerator: Accelerator, workload: Workload, space: Space) -> Iterator[_Asked]:
    packed = _codes(workload)
    choice_of = {site: choice for choice in space.choices for site in choice.sites}
    for number, kernel in enumerate(fused(accelerator, workload)):
        held = [workload.operand(kernel, place) for place in (kernel.weight, kernel.value)]
        sites = [None if tensor is None else tensor.site for tensor in held]
        seconds = partial(_seconds, accelerator, workload, kernel, packed, sites)
        for formats in _pairs([choice_of.get(site or "") for site in sites]) if kernel.macs else ():
            widths = [FLOAT32 if site is None else width(fmt) for site, fmt in zip(sites, formats, strict=True)]
            runs = accelerator.promote(kernel.kind, *widths)
            for i, tensor in enumerate(held):
                if tensor is None or sites[i] not in choice_of:
                    continue
                wider, plain = ((*formats[:i], fmt, *formats[i + 1 :]) for fmt in (_format(runs[i]), FP32))
                yield _Asked(
                    number,
                    kernel.kind,
                    "weights" if tensor.is_parameter else "values",
                    widths[i],
                    widths[1 - i],
                    accelerator.promote(kernel.kind, widths[i], widths[i])[i],
                    runs[i],
                    seconds(formats) < seconds(wider),
                    seconds(formats) < seconds(plain),
                )


def _seconds(
    accelerator: Accelerator,
    workload: Workload,
    kernel: Operation,
    packed: PackedAt,
    sites: list[str | None],
    formats: tuple[Format, ...],
) -> float:
    """Time of a kernel with its two operands in `formats` and all else in float32."""
    at = dict.fromkeys(workload.sites(kernel), FP32)
    at |= {site: fmt for site, fmt in zip(sites, formats, strict=True) if site is not None}
    return accelerator.seconds(run(accelerator, workload, kernel, packed, at))


def _pairs(choices: list[Choice | None]) -> Iterator[tuple[Format, ...]]:
    """Formats of the two operands that the space has together."""
    options = [(FP32,) if choice is None else choice.options for choice in choices]
    if choices[0] is not None and choices[0] is choices[1]:
        yield from zip(*options, strict=True)
    else:
        yield from product(*options)


def _codes(workload: Workload) -> PackedAt:
    """Codes alone."""
    elements = {held.site: held.elements for held in workload.tensors}

    def packed(site: str, fmt: Format) -> Packed:
        bits = ceil(elements[site] * fmt.bits)
        return Packed(bits, bits, 0)

    return packed


def _format(wide: Width) -> Format:
    return Format("bf" if wide.is_brain else "fp" if wide.is_float else "int", wide.bits)


def _order(wide: Width) -> tuple[int, str]:
    return wide.bits, str(wide)


def _words(widths: Iterable[Width]) -> str:
    return _listed(map(str, sorted(set(widths), key=_order)))


def _listed(words: Iterable[str]) -> str:
    """`int2, int3 and int4`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _tail(fate: _Fate, kinds: set[Kind]) -> str:
    """In how many operations, of which kinds where it is not all of `kinds`, and whether it pays."""
    count = len(fate.kernels)
    which = "" if fate.kinds == kinds else f": {_listed(sorted(fate.kinds))}"
    gain = "faster only by the bytes that they save" if fate.saves else "no faster"
    return f"({count} operation{'s' * (count != 1)}{which}), {gain}."
