"""What the user should know of widths that a device has no kernel for: what they run as, and whether that pays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from math import ceil

from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Choice, Space
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.base import Accelerator
from mpsearch.cost.device import run
from mpsearch.cost.kernels import fused
from mpsearch.cost.memory import Packed, PackedAt
from mpsearch.cost.width import width
from mpsearch.cost.workload import Kind, Operation, Workload

_OTHER = {"weights": "values", "values": "weights"}
_LONGER = 1.02
"""How many times as long as with a wider operand a kernel takes, from which on that is worth a word."""


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
    longer: Mapping[Width, float]
    """By each wider width of the same choice with which the kernel is faster, how many times as long it takes."""


@dataclass(frozen=True)
class _Fate:
    """Widths that fare alike."""

    noun: str
    runs: Width
    beside: tuple[Width, ...]
    kernels: frozenset[int]
    kinds: frozenset[Kind]
    saves: bool

    def tail(self, kinds: frozenset[Kind]) -> str:
        """In how many operations, of which kinds where it is not all of `kinds`, and whether it pays."""
        gain = "faster only by the bytes that they save" if self.saves else "no faster"
        return f"{_where(self.kernels, self.kinds, kinds)}, {gain}."


def promotions(accelerator: Accelerator, workload: Workload, space: Space) -> list[str]:
    """One sentence for each width of `space` that runs as a wider one, one for each that takes longer than a wider one,
    and one for those that gain no time at all.

    Scales are left out of account: they are small, and the same at every width.
    """
    found = [asked for asked in _asked(accelerator, workload, space) if asked.width != FLOAT32]
    name = accelerator.card.name
    kinds = {noun: frozenset(asked.kind for asked in found if asked.noun == noun) for noun in _OTHER}
    lines = []
    for fate, widths in _fates(a for a in found if a.runs == a.alone != a.width).items():
        subject = f"{name} has no kernel for {_words(widths)} {fate.noun}"
        lines.append(f"{subject}: they run as {fate.runs} {fate.tail(kinds[fate.noun])}")
    for fate, widths in _fates(a for a in found if a.runs not in (a.alone, a.width)).items():
        subject = f"{name} runs {_words(widths)} {fate.noun} as {fate.runs}"
        lines.append(f"{subject} beside {_words(fate.beside)} {_OTHER[fate.noun]} {fate.tail(kinds[fate.noun])}")
    for noun in _OTHER:
        gaining = {asked.width for asked in found if asked.noun == noun and asked.gains}
        idle = {asked.width for asked in found if asked.noun == noun} - gaining
        if idle:
            lines.append(f"{_words(idle)} {noun} gain no time at all on {name}.")
    return lines + [f"{name} takes {line}" for line in _longer(found, kinds)]


def _longer(found: Sequence[_Asked], kinds: Mapping[str, frozenset[Kind]]) -> Iterator[str]:
    """A sentence for widths that take longer than the same wider ones in the same kernels."""
    alike: dict[tuple[str, tuple[Width, ...], frozenset[int], frozenset[Kind]], dict[Width, float]] = {}
    for noun, own in dict.fromkeys((asked.noun, asked.width) for asked in found):
        every = [asked for asked in found if (asked.noun, asked.width) == (noun, own) and asked.longer]
        wider = tuple(sorted({width for asked in every for width in asked.longer}, key=_order))
        where = frozenset(asked.kernel for asked in every), frozenset(asked.kind for asked in every)
        if every:
            most = max(times for asked in every for times in asked.longer.values())
            alike.setdefault((noun, wider, *where), {})[own] = most
    for (noun, wider, kernels, of), times in alike.items():
        more = f"up to {max(times.values()) - 1:.0%} longer"
        yield f"{more} for {_words(times)} {noun} than for {_words(wider)} {_where(kernels, of, kinds[noun])}."


def _fates(found: Iterable[_Asked]) -> dict[_Fate, list[Width]]:
    """What widths run as, where, beside which others and whether it pays; by that, the widths."""
    each: dict[tuple[str, Width, Width], list[_Asked]] = {}
    for asked in found:
        each.setdefault((asked.noun, asked.runs, asked.width), []).append(asked)
    fates: dict[_Fate, list[Width]] = {}
    for noun, runs, own in sorted(each, key=lambda key: (key[0] != "weights", *_order(key[2]))):
        every = each[noun, runs, own]
        fate = _Fate(
            noun,
            runs,
            tuple(sorted({asked.beside for asked in every}, key=_order)),
            frozenset(asked.kernel for asked in every),
            frozenset(asked.kind for asked in every),
            any(asked.saves for asked in every),
        )
        fates.setdefault(fate, []).append(own)
    return fates


def _asked(accelerator: Accelerator, workload: Workload, space: Space) -> Iterator[_Asked]:
    packed = _codes(workload)
    choice_of = {site: choice for choice in space.choices for site in choice.sites}
    for number, kernel in enumerate(fused(accelerator, workload)):
        held = [workload.operand(kernel, place) for place in (kernel.weight, kernel.value)]
        sites = [None if tensor is None else tensor.site for tensor in held]
        choices = [choice_of.get(site or "") for site in sites]
        seconds = cache(partial(_seconds, accelerator, workload, kernel, packed, sites))
        for formats in _pairs(choices) if kernel.macs else ():
            widths = [FLOAT32 if site is None else width(fmt) for site, fmt in zip(sites, formats, strict=True)]
            runs = accelerator.promote(kernel.kind, *widths)
            for i, tensor in enumerate(held):
                if tensor is None or sites[i] not in choice_of:
                    continue
                instead = formats[i] if runs[i] == widths[i] else Format(runs[i].kind, runs[i].bits)
                wider, plain = ((*formats[:i], fmt, *formats[i + 1 :]) for fmt in (instead, FP32))
                yield _Asked(
                    number,
                    kernel.kind,
                    "weights" if tensor.is_parameter else "values",
                    widths[i],
                    widths[1 - i],
                    accelerator.promote(kernel.kind, widths[i], widths[i])[i],
                    runs[i],
                    runs[i].density == 1 and seconds(formats) < seconds(wider),
                    seconds(formats) < seconds(plain),
                    _beaten_by(seconds, choices, formats, i),
                )


def _beaten_by(
    seconds: Callable[[tuple[Format, ...]], float],
    choices: Sequence[Choice | None],
    formats: tuple[Format, ...],
    i: int,
) -> dict[Width, float]:
    """Wider options of operand `i`, and of what is tied to it, with which a kernel takes less time; how many times."""
    mine = choices[i]
    assert mine is not None
    found = {}
    for option in mine.options:
        if width(option).bits > width(formats[i]).bits:
            other = tuple(option if choice is mine else fmt for choice, fmt in zip(choices, formats, strict=True))
            times = seconds(formats) / max(seconds(other), 1e-15)
            if times >= _LONGER:
                found[width(option)] = times
    return found


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
        bits = ceil(elements[site] * (width(fmt).stored_bits if width(fmt).group else fmt.bits))
        return Packed(bits, bits, 0)

    return packed


def _where(kernels: Collection[int], of: frozenset[Kind], kinds: frozenset[Kind]) -> str:
    """In how many kernels, of which kinds where it is not all of `kinds`."""
    which = "" if of == kinds else f": {_listed(sorted(of))}"
    return f"({len(kernels)} operation{'s' * (len(kernels) != 1)}{which})"


def _order(wide: Width) -> tuple[int, str]:
    return wide.bits, str(wide)


def _words(widths: Iterable[Width]) -> str:
    return _listed(map(str, sorted(set(widths), key=_order)))


def _listed(words: Iterable[str]) -> str:
    """`int2, int3 and int4`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
