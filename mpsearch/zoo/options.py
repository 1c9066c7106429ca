"""Checks of an objective's options; a message names the option, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from mpsearch.core.errors import BadInput, nearest


def one_of(option: str, value: object, allowed: Iterable[str]) -> str:
    """`value` if it is one of `allowed`; raises `BadInput` with the nearest name."""
    names = list(allowed)
    if not isinstance(value, str) or value not in names:
        raise BadInput(f"objective option {option}: {value!r} is not known.{nearest(str(value), names)}")
    return value


def whole(option: str, value: object, least: int, most: int | None = None) -> int:
    """`value` if it is a whole number from `least` to `most`; raises `BadInput`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
        raise BadInput(f"objective option {option}: {value!r} is not {allowed}.")
    return value


def factor(option: str, value: object) -> float:
    """`value` if it is a number above 0; raises `BadInput`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadInput(f"objective option {option}: {value!r} is not a number above 0.")
    return float(value)


def widened(channels: int, width: float) -> int:
    """`width` times as many channels, rounded up; the rounding error of the product is no channel."""
    return math.ceil(round(channels * width, 9))


def shuffled_parts(n: int, size: int, epoch: int) -> list[Tensor]:
    """`in_parts`, rows in an order of their own in each epoch."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
    return [order[rows] for rows in in_parts(n, size)]


def in_parts(n: int, size: int, most: int | None = None) -> list[Tensor]:
    """Row numbers 0 to n - 1 in batches of `size`. A single row left over joins the batch before it.

    Where there are more than `most`, that many evenly spaced ones.
    """
    rows = torch.arange(n) if most is None or n <= most else torch.arange(most) * n // most
    parts = list(rows.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
