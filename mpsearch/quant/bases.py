"""The grid of multi-bit binary bases: per group the sums of its coordinates, each with either sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from mpsearch.core.codes import Codes
from mpsearch.quant.grid import Grid, finite
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes

_COMPARED = 64  # levels up to which values are compared with all


def stored_bits(counts: Sequence[int], sizes: Sequence[int], coordinate_bits: int = 32, most: int | None = None) -> int:
    """Bits that groups with these numbers of bases and elements take, bytes not filled up.

    sum of I (n + coordinate bits) over groups of n elements with I bases, and how many bases each group has, in
    ceil(log2(most + 1)) bits, unless all have the same (`most` is None).
    """
    fields = 0 if most is None else len(counts) * most.bit_length()
    return sum(i * (n + coordinate_bits) for i, n in zip(counts, sizes, strict=True)) + fields


@dataclass(frozen=True)
class Groups:
    """Which weights share bases.

    Args:
        axis: the output-channel axis.
        shape: of the tensor.
        size: elements of a group; the last one of a channel may have fewer.
        across: whether input channels run along a group, a kernel position each; else in the order they lie.
    """

    axis: int
    shape: tuple[int, ...]
    size: int
    across: bool = False

    @classmethod
    def named(cls, word: str, axis: int, shape: tuple[int, ...]) -> Groups:
        """The groups that the option `channel`, `pixel`, `kernel` or `gN` names."""
        shape = tuple(shape)
        if word.startswith("g"):
            return cls(axis, shape, int(word[1:]))
        inputs, *kernel = [n for i, n in enumerate(shape) if i != axis % len(shape)] or [1]
        if word == "channel" or not kernel:
            return cls(axis, shape, inputs * prod(kernel))
        return cls(axis, shape, inputs, across=True) if word == "pixel" else cls(axis, shape, prod(kernel))

    def of(self, x: Tensor) -> Tensor:
        """Groups as rows, float32 [groups, size], filled up with zeros."""
        moved = x.float().movedim(self.axis, 0) if x.dim() else x.float().reshape(1)
        if self.across:
            moved = moved.movedim(1, -1)
        rows = moved.reshape(moved.shape[0], -1)
        return pad(rows, (0, -rows.shape[1] % self.size)).reshape(-1, self.size)

    def back(self, rows: Tensor) -> Tensor:
        """Inverse of `of`, a view or a copy."""
        channels = self.shape[self.axis] if self.shape else 1
        others = [n for i, n in enumerate(self.shape) if i != self.axis % len(self.shape)]
        flat = rows.reshape(channels, -1)[:, : prod(others)]
        if self.across:
            return flat.reshape(channels, *others[1:], others[0]).movedim(-1, 1).movedim(0, self.axis)
        return flat.reshape(channels, *others).movedim(0, self.axis) if self.shape else flat.reshape(())

    def sizes(self) -> Tensor:
        """Elements of each group, int64 [groups]."""
        channels = self.shape[self.axis] if self.shape else 1
        n = prod(self.shape) // channels
        of_channel = [min(self.size, n - start) for start in range(0, n, self.size)]
        return torch.tensor(of_channel).repeat(channels)


@dataclass(frozen=True)
class Bases:
    """Coordinates of groups.

    Args:
        coordinates: float32 [groups, most], not negative; 0 beyond a group's own number.
    """

    coordinates: Tensor

    @cached_property
    def levels(self) -> Tensor:
        """All sums, float32 [groups, 2^most]: bit i of the place says whether coordinate i is added or taken off."""
        place = torch.arange(2 ** self.coordinates.shape[1], device=self.coordinates.device)
        total = torch.zeros(len(self.coordinates), len(place), device=place.device)
        for i in range(self.coordinates.shape[1]):
            total += self.coordinates[:, i : i + 1] * ((place >> i & 1) * 2 - 1)
        return total + 0.0

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Levels ascending, their places, and from where on a value goes to the next one: always above the former."""
        levels, places = self.levels.sort(dim=1, stable=True)
        low, high = levels[:, :-1], levels[:, 1:]
        above = torch.nextafter(low, torch.full_like(low, torch.inf))
        return levels, places, torch.maximum(above, low + (high - low) / 2).contiguous()

    def nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Places (int64) and values (float32) of the levels nearest to `rows` [groups, n]."""
        levels, places, bounds = self._sorted
        if levels.shape[1] > _COMPARED:
            at = torch.searchsorted(bounds, rows.contiguous(), right=True)
        else:  # as floats: several times faster than a search, and than adding up what is true
            passed, count = torch.empty_like(rows), torch.zeros_like(rows)
            for j in range(bounds.shape[1]):
                count += torch.ge(rows, bounds[:, j : j + 1], out=passed)
            at = count.long()
        return places.gather(1, at), levels.gather(1, at)


@dataclass(frozen=True, eq=False)
class BasesGrid(Grid):
    """Sums of coordinates with either sign.

    Args:
        coordinates: float32 [groups, most], not negative; 0 beyond a group's own number.
        counts: how many bases each group has, int64 [groups].
        groups: which weights share them.
        coordinate_bits: 32 or 16.
        most: the largest number of bases a group may have, where groups differ; None where all have the same.
    """

    coordinates: Tensor
    counts: Tensor
    groups: Groups
    coordinate_bits: int
    most: int | None

    @cached_property
    def _bases(self) -> Bases:
        return Bases(self.coordinates)

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        return out.copy_(self.groups.back(self._bases.nearest(self.groups.of(x))[1]))

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return (Codes(int((self.counts.cpu() * self._sizes(shape)).sum()), 1, is_stream=True),)

    def nbits(self, shape: tuple[int, ...]) -> int:
        fields = 0 if self.most is None else packed_bytes(len(self.counts), self.most.bit_length())
        coordinates = self.coordinate_bits * int(self.counts.sum())
        return 8 * (packed_bytes(self.code_bits(shape), 1) + fields) + coordinates

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        places, _ = self._bases.nearest(self.groups.of(finite(x)))
        digits = torch.stack([places.cpu() >> i & 1 for i in range(self._width)], dim=1)
        return {"codes": pack_codes(digits[self._holds()], 1), **self.static()}

    def static(self) -> dict[str, Tensor]:
        coordinates = self.coordinates.cpu()[_has(self.counts.cpu(), self._width)]
        stored = {"coordinates": coordinates.half() if self.coordinate_bits == 16 else coordinates}
        return stored if self.most is None else stored | {"counts": pack_codes(self.counts, self.most.bit_length())}

    @classmethod
    def from_static(cls, static: Mapping[str, Tensor], shape: tuple[int, ...], **plain: Any) -> Self:
        most, flat, number = plain["most"], static["coordinates"].float(), len(plain["groups"].sizes())
        width = len(flat) // number if most is None else most
        counts = torch.full((number,), width)
        if most is not None:
            counts = unpack_codes(static["counts"], most.bit_length(), number).long()
        coordinates = torch.zeros(number, width)
        coordinates[_has(counts, width)] = flat
        return cls(coordinates, counts, **plain)

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        self._sizes(shape)
        plain = {"groups": self.groups, "coordinate_bits": self.coordinate_bits, "most": self.most}
        grid = self.from_static(stored, shape, **plain)
        holds = grid._holds()
        digits = torch.zeros(holds.shape, dtype=torch.int64)
        digits[holds] = unpack_codes(stored["codes"], 1, int(holds.sum())).long()
        places = (digits << torch.arange(grid._width)[:, None]).sum(dim=1)
        return self.groups.back(grid._bases.levels.gather(1, places)).contiguous()

    @property
    def _width(self) -> int:
        return self.coordinates.shape[1]

    def _sizes(self, shape: tuple[int, ...]) -> Tensor:
        if tuple(shape) != self.groups.shape:
            raise ValueError(f"bases were fitted to the shape {self.groups.shape}, not to {tuple(shape)}.")
        return self.groups.sizes()

    def _holds(self) -> Tensor:
        """Which digits there are, bool [groups, most, size]."""
        inside = torch.arange(self.groups.size) < self.groups.sizes()[:, None]
        return _has(self.counts.cpu(), self._width)[..., None] & inside[:, None]


def _has(counts: Tensor, width: int) -> Tensor:
    """Which of `width` coordinates there are, bool [groups, width]."""
    return torch.arange(width) < counts[:, None]
