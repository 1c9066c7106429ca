"""Integers with one scale per group of output channels whose ranges are alike: between one per tensor and per channel.

Text: `sub BITS[:nG][:sorted|:blocks][:sym|:affine][:max|:mse|:gain]`, 2 to 8 bits, for parameters only.

* `nG`: number of groups; no more than there are channels. One group is `int` with one scale per tensor, as many as
  channels is one scale per channel.
* `sorted`: channels of similar largest magnitude share a group. Sorted by it they are cut where

      sum over channels of (largest magnitude of the group / largest magnitude of the channel)^2

  is least: the noise of each channel against its own values, the same for all. The cut is exact (dynamic programming)
  up to 2048 channels; beyond, groups end at one of 2048 equally spaced places. Which group a channel belongs to is
  stored, in ceil(log2 G) bits, as nothing else is known of the layers beside.
* `blocks`: G runs of channels as they lie; nothing to store, and much worse where ranges differ.
* the rest is as for integers (`mpsearch.quant.integer`).

Defaults: `n4:sorted:sym:gain`, for embeddings `mse`.

That parts of a tensor get parameters of their own, 8 bits and `affine:max`, is the idea of Dinh et al., "Subtensor
Quantization for Mobilenets" (2020, arXiv 2011.08009), of which we know the abstract; how to cut is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, Self

import torch
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.floating import SCALED
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import Quantizer, finite
from mpsearch.quant.integer import Integer
from mpsearch.quant.options import Options, refuse, short
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes

_OPTIONS = Options(
    ("n4", "n8", "sorted", "blocks", "sym", "affine", "max", "mse", "gain"),
    number="n[1-9][0-9]*",
    order="sorted|blocks",
    map="sym|affine",
    range=SCALED,
)
_PLACES = 2048  # where a group may end
_DEAD = 1e-6  # of the largest magnitude: a channel that no scale of this tensor can represent


@dataclass(frozen=True, eq=False)
class SubtensorGrid(AffineGrid):
    """The affine grid with scales of groups of channels.

    Args:
        scale, zero_point: of the group of each channel, [channels].
        member: the group of each channel, int64 [channels]; every group has one.
        stored: whether that is stored.
    """

    member: Tensor
    stored: bool

    @property
    def _first(self) -> Tensor:
        """A channel of each group, [groups]."""
        groups = torch.arange(int(self.member.max()) + 1, device=self.member.device)
        return (self.member == groups[:, None]).int().argmax(dim=1)

    def nbits(self, shape: tuple[int, ...]) -> int:
        groups = int(self.member.max()) + 1
        zero_points = 0 if self.zero_point is None else packed_bytes(groups, self.bits)
        members = packed_bytes(len(self.member), (groups - 1).bit_length()) if self.stored else 0
        return 8 * (packed_bytes(prod(shape), self.bits) + 4 * groups + zero_points + members)

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        return {"codes": self._pack(self.codes(x)), **self.static()}

    def static(self) -> dict[str, Tensor]:
        first = self._first
        stored = {"scale": self.scale[first].cpu()}
        if self.zero_point is not None:
            stored["zero_point"] = self._pack(self.zero_point[first])
        if self.stored:
            stored["member"] = pack_codes(self.member, (len(first) - 1).bit_length())
        return stored

    @classmethod
    def from_static(cls, static: Mapping[str, Tensor], shape: tuple[int, ...], **plain: Any) -> Self:
        scale, channels = static["scale"], shape[plain["grain"].axis] if len(shape) > 1 else prod(shape)
        if plain["stored"]:
            member = unpack_codes(static["member"], (len(scale) - 1).bit_length(), channels).long()
        else:
            member = _in_runs(channels, len(scale))
        grid = cls(**{**plain, "scale": scale[member], "zero_point": None}, member=member)
        if "zero_point" not in static:
            return grid
        return replace(grid, zero_point=grid._unpack(static["zero_point"], tuple(scale.shape))[member])

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("scale", "zero_point", "member")}
        grid = self.from_static(stored, shape, **plain)
        spread = {"codes": stored["codes"], "scale": grid.scale}
        if grid.zero_point is not None:
            spread["zero_point"] = self._pack(grid.zero_point)
        return super().unpack(spread, shape)


class Subtensor(Quantizer):
    """Integers with a scale per group of channels of similar range: `sub8`, `sub4:n8`, `sub8:affine:max`."""

    scheme = "sub"
    menu = ("sub2", "sub3", "sub4", "sub8")

    def canonical(self, fmt: Format, role: Role) -> Format:
        return short(fmt, *_read(fmt, role))

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> SubtensorGrid:
        words, _ = _read(fmt, role)
        channels = finite(sample).movedim(axis, 0).flatten(1) if sample.dim() > 1 else finite(sample).reshape(-1, 1)
        groups = min(int(words["number"][1:]), len(channels))
        if words["order"] == "sorted":
            member = partition(channels.float().abs().amax(dim=1).cpu(), groups)
        else:
            member = _in_runs(len(channels), groups)
        integers, quantizer = Format("int", fmt.bits, (words["map"], "tensor", words["range"])), Integer()
        grids = []
        for group in range(groups):
            grid = quantizer.fit(channels[member.to(sample.device) == group], integers, role, 0)
            assert isinstance(grid, AffineGrid)
            grids.append(grid)
        member = member.to(sample.device)
        scale = torch.stack([grid.scale for grid in grids])[member]
        zeros = [grid.zero_point for grid in grids if grid.zero_point is not None]
        zero_point = torch.stack(zeros)[member] if zeros else None
        codes = grids[0].bits, grids[0].qmin, grids[0].qmax
        return SubtensorGrid(*codes, scale, zero_point, Grain(axis), member, words["order"] == "sorted")

    def width(self, fmt: Format) -> Width:
        """Integers: a group's scale multiplies whole sums, as one per channel does."""
        return Width(int(fmt.bits))


def _in_runs(channels: int, groups: int) -> Tensor:
    """The group, int64 [channels], of channels in runs as equal as can be."""
    return torch.arange(channels) * groups // channels


def partition(largest: Tensor, groups: int) -> Tensor:
    """The group, int64 [channels], of channels with these largest magnitudes; see above for what is least."""
    ordered, order = largest.double().sort(stable=True)
    share = torch.where(ordered > _DEAD * ordered[-1], ordered.clamp(min=2.0**-500).pow(-2), 0.0)
    total = torch.cat((torch.zeros(1, dtype=torch.float64), share.cumsum(0)))
    n = len(ordered)
    ends = torch.arange(n + 1) if n <= _PLACES else torch.linspace(0, n, _PLACES + 1).round().long().unique()
    # noise of one group from end i to end j; it cannot be empty
    noise = ordered[(ends - 1).clamp(min=0)].square() * (total[ends] - total[ends][:, None])
    noise[torch.ones_like(noise, dtype=torch.bool).tril()] = torch.inf
    best, cuts = noise[0], []
    for _ in range(groups - 1):
        best, before = (best[:, None] + noise).min(dim=0)
        cuts.append(before)
    member = torch.zeros(n, dtype=torch.int64)
    place = len(ends) - 1
    for group, before in zip(range(groups - 1, 0, -1), reversed(cuts), strict=True):
        start = int(before[place])
        member[order[int(ends[start]) : int(ends[place])]] = group
        place = start
    return member


def _read(fmt: Format, role: Role) -> tuple[dict[str, str], dict[str, str]]:
    if not role.is_parameter:
        refuse(fmt, f"groups of channels are for parameters, not for a value ({role}). Use int with channel.")
    if fmt.bits not in range(2, 9):
        refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: 2 to 8.")
    gain = "gain" if role is Role.WEIGHT else "mse"
    defaults = {"number": "n4", "order": "sorted", "map": "sym", "range": gain}
    return _OPTIONS.read(fmt, defaults), defaults
