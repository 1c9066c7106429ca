"""Codes: what a packed tensor is made of, so that the memory of any device can be counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Codes:
    """An array of numbers of equal width.

    Args:
        count: how many.
        bits: of each.
        is_stream: whether they are read as words of many, not one by one: digits of binary vectors.
    """

    count: int
    bits: int
    is_stream: bool = False

    @property
    def total_bits(self) -> int:
        """Of all, without gaps."""
        return self.count * self.bits

    @property
    def padded_bits(self) -> int:
        """Of all, filled up to whole bytes: as they are packed."""
        return -(-self.total_bits // 8) * 8
