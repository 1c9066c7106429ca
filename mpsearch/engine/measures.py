"""How measures are named and written: units, prefixes, scales and ticks, all told by the name.

A name is `stem_unit`, and `stem_unit@card` where it is meant for an accelerator: `latency_s@nvidia-t4`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, floor, isfinite, log2, log10

from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.goal import Goal

DIGITS = 3
"""Digits of a cost where nothing stands beside it."""
OPERATIONS = ("bops", "bops_baskin", "macs_bits")
"""Counts of operations: the whole name is the unit."""
_UNITS = {"_bytes": "B", "_bits": "bits", "_s": "s", "_j": "J"}
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_SI = dict(zip(range(-6, 6), ("a", "f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P"), strict=True))
_POWERS = {"s": (-4, 0), "J": (-6, 1), "": (0, 5)}
"""Prefixes that people use with a unit, as powers of 1000: nobody says kiloseconds."""
_TINY = 1e-18
"""What stands for zero where a logarithm is taken: below any second, joule or byte that is counted."""


def split(measure: str) -> tuple[str, str]:
    """`latency_s@nvidia-t4` as (`latency_s`, `nvidia-t4`); no card is an empty text."""
    name, _, card = measure.partition("@")
    return name, card


def is_cost(measure: str) -> bool:
    """Whether a measure is bytes, seconds, joules, bits or operations, told by the unit in its name."""
    return Goal(measure).on_log_scale


def cost_stem(measure: str) -> str:
    """`memory_bytes` to `memory`, `latency_s@nvidia-t4` to `latency@nvidia-t4`: a cost without its unit."""
    name, card = split(measure)
    suffix = next((unit for unit in _UNITS if name.endswith(unit)), "")
    return (name if name in OPERATIONS else name.removesuffix(suffix)) + (f"@{card}" if card else "")


def ratio_name(measure: str) -> str:
    """What the ratio of a cost to that of the float model is called: `memory_ratio`, `latency_ratio@nvidia-t4`."""
    name, card = split(cost_stem(measure))
    return f"{name}_ratio" + (f"@{card}" if card else "")


def spoken(measure: str) -> str:
    """The name for an axis: `memory`, `latency @ nvidia-t4`."""
    name, card = split(cost_stem(measure))
    return name.replace("_", " ") + (f" @ {card}" if card else "")


def number(measure: str, value: float, digits: int = DIGITS) -> str:
    """A measure's value with its unit, short: `12.3 KiB`, `1.23 ms`, `67.2 G` operations, `0.9519`.

    Args:
        digits: that count, of a cost; what is none has one more behind the point.
    """
    unit = _unit(measure)
    if unit is None:
        return f"{value:.{digits + 1}f}" if abs(value) < 10 else f"{value:.{digits + 2}g}"
    if unit == "bits":
        return f"{value:.{digits}g} bits"
    if unit != "B":
        return _prefixed(value, unit, digits)
    power = min(len(_BINARY) - 1, max(0, (max(round(abs(value)), 1).bit_length() - 1) // 10))
    scaled = value / 1024**power
    return f"{scaled:.{max(digits, 4 if scaled >= 999.5 else 3)}g} {_BINARY[power]}"


def digits_apart(measure: str, values: Iterable[float]) -> int:
    """The fewest digits with which different `values` look different; no more than 7, where rounding begins."""
    distinct = set(values)
    told = {digits: len({number(measure, v, digits) for v in distinct}) for digits in range(DIGITS, 8)}
    return next(digits for digits, count in told.items() if count == max(told.values()))


def with_error(evaluation: Evaluation, measure: str, digits: int = DIGITS) -> str:
    """A measure with its standard error where one is known: `0.9519 ± 0.0041`."""
    value, error = evaluation.measures[measure], evaluation.stderr.get(measure)
    told = number(measure, value, digits)
    if not error:
        return told
    if _unit(measure) is not None:
        return f"{told} ± {number(measure, error)}"
    return f"{told} ± {error:.4f}" if abs(value) < 10 else f"{told} ± {error:.2g}"


def meant(name: str, known: Iterable[str]) -> str:
    """The one of the `known` measures that `name` says: itself, or its short form without the only accelerator.

    Raises `BadInput` where there is none, and where several accelerators have it.
    """
    names = list(known)
    if name in names:
        return name
    found = [full for full in names if split(full)[0] == name]
    if len(found) > 1:
        raise BadInput(f"{name!r} is known of several accelerators; write one of {', '.join(found)}.")
    if not found:
        raise BadInput(f"no measure {name!r}.{nearest(name, names)}")
    return found[0]


def log2_of(value: float) -> float:
    """Logarithm of a cost; of zero, that of something tiny."""
    return log2(max(value, _TINY))


def log_ticks(measure: str, low: float, high: float) -> list[float]:
    """Some values of a cost between 2**low and 2**high that are short to write, 2 to 10 of them."""
    return _log2_ticks(low, high) if _unit(measure) in ("B", "bits", None) else _log10_ticks(2.0**low, 2.0**high)


def linear_ticks(measure: str, high: float) -> list[float]:
    """4 to 8 values of a cost from 0 to `high`, which is above 0."""
    binary = _unit(measure) in ("B", "bits", None)
    step = 2.0 ** floor(log2(high / 3)) if binary else _step(high / 3)
    return [k * step for k in range(floor(high / step) + 1)]


def _log2_ticks(low: float, high: float) -> list[float]:
    """Powers of two, or a finer ladder where the axis is short."""
    ticks: list[float] = []
    for step in (32, 16, 8, 4, 2, 1, 0.5, 0.25, 0.125):
        ticks = [2.0 ** (k * step) for k in range(ceil(low / step), floor(high / step) + 1)]
        if len(ticks) >= 3:
            break
    return ticks


def _log10_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 3, or 2 and 5, between them; equal steps where the axis is short."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    ladders: Sequence[Sequence[float]] = (
        [10.0**k for k in decades if k % 3 == 0],
        *([digit * 10.0**k for k in decades for digit in digits] for digits in ((1,), (1, 3), (1, 2, 5))),
    )
    for ladder in ladders:
        ticks = [tick for tick in ladder if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    step = _step((high - low) / 3)
    return [k * step for k in range(ceil(low / step), floor(high / step) + 1)]


def _step(most: float) -> float:
    """The largest of 1, 2, 5, 10, ... that is not above `most`."""
    decade = 10.0 ** floor(log10(most))
    return max(digit * decade for digit in (1, 2, 5) if digit * decade <= most)


def _unit(measure: str) -> str | None:
    """`B`, `bits`, `s`, `J`, nothing for operations; None for what is no cost."""
    name, _ = split(measure)
    return "" if name in OPERATIONS else next((unit for end, unit in _UNITS.items() if name.endswith(end)), None)


def _prefixed(value: float, unit: str, count: int) -> str:
    """So many digits, with the prefix that keeps three before the point."""
    if value == 0 or not isfinite(value):
        return f"{value:g} {unit}".rstrip()
    low, high = _POWERS[unit]
    exponent = int(f"{value:.{count - 1}e}".partition("e")[2])  # after rounding: 0.9999 ms is 1 ms
    power = min(high, max(low, exponent // 3))
    scaled = value / 1000.0**power
    digits = f"{scaled:.0f}" if abs(scaled) >= 10**count - 0.5 else f"{scaled:.{count}g}"
    return f"{digits} {_SI[power]}{unit}".rstrip()
