"""Small floats in blocks, each with a scale of 8 bits of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.quant.grid import Grid, finite
from mpsearch.quant.minifloat import MiniFloat
from mpsearch.quant.packing import packed_bytes
from mpsearch.quant.rows import Rows, blocks_of, unblocked

SCALE_BITS = 8


@dataclass(frozen=True, eq=False)
class BlockGrid(Grid):
    """Small floats times the scale of their block. A subclass says what a code of a scale means.

    Args:
        kind: the floating-point type of the elements.
        rows: how blocks run.
        codes: of the scales, uint8 [rows, blocks], of a tensor that is stored; None where they are worked out from
            each tensor that comes, as hardware does with values.
    """

    kind: MiniFloat
    rows: Rows
    codes: Tensor | None = None

    block: ClassVar[int]
    """Elements that share a scale; the last block of a row may have fewer."""

    @abstractmethod
    def scales(self, codes: Tensor) -> Tensor:
        """What codes (uint8) stand for, float32 of the same shape. Above 0."""

    @abstractmethod
    def candidates(self, largest: Tensor) -> Sequence[Tensor]:
        """Codes that may suit blocks with these largest magnitudes; the first is the rule of the format."""

    def fitted(self, x: Tensor) -> Self:
        """The same grid with codes of least squared error for `x`, of all candidates."""
        blocks = blocks_of(self.rows.of(x), self.block)
        first, *others = self.candidates(blocks.abs().amax(dim=2))
        best, least = first, self._error(blocks, first)
        for codes in others:
            error = self._error(blocks, codes)
            best, least = torch.where(error < least, codes, best), torch.minimum(error, least)
        return replace(self, codes=best)

    def by_rule(self, x: Tensor) -> Self:
        """The same grid with the codes that the rule of the format gives for `x`."""
        return replace(self, codes=self._codes(blocks_of(self.rows.of(x), self.block)))

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        rows = self.rows.of(x)
        blocks = blocks_of(rows, self.block)
        near = self._nearest(blocks, self._codes(blocks))
        return out.copy_(self.rows.back(unblocked(near, rows.shape[1]), x.shape))

    def _codes(self, blocks: Tensor) -> Tensor:
        return self.candidates(blocks.abs().amax(dim=2))[0] if self.codes is None else self.codes

    def _nearest(self, blocks: Tensor, codes: Tensor) -> Tensor:
        scales = self.scales(codes)[..., None]
        return self.kind.nearest_(blocks / scales).mul_(scales).add_(0.0)

    def _error(self, blocks: Tensor, codes: Tensor) -> Tensor:
        return (self._nearest(blocks, codes) - blocks).square_().sum(dim=2)

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        found = Codes(prod(shape), self.kind.bits)
        return (found,) if self.codes is not None else (found, Codes(self._count(shape), SCALE_BITS))

    def nbits(self, shape: tuple[int, ...]) -> int:
        return 8 * packed_bytes(prod(shape), self.kind.bits) + SCALE_BITS * self._count(shape)

    def _count(self, shape: tuple[int, ...]) -> int:
        rows, n = self.rows.size(shape)
        return rows * -(-n // self.block)

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        rows = self.rows.of(finite(x))
        blocks = blocks_of(rows, self.block)
        codes = self._codes(blocks)
        numbers = self.kind.nearest_(blocks / self.scales(codes)[..., None])
        made = {"codes": self.kind.pack(unblocked(numbers, rows.shape[1])), "scales": codes.reshape(-1).cpu()}
        return made | self.static()

    def static(self) -> dict[str, Tensor]:
        found = super().static()
        if self.codes is not None:  # in `pack` this is the name of the codes of the elements
            found["scales"] = found.pop("codes").reshape(-1)
        return found

    @classmethod
    def from_static(cls, static: Mapping[str, Tensor], shape: tuple[int, ...], **plain: Any) -> Self:
        rest = {name: tensor for name, tensor in static.items() if name != "scales"}
        if "scales" in static:
            plain["codes"] = static["scales"].reshape(plain["rows"].size(shape)[0], -1)
        return super().from_static(rest, shape, **plain)

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        rows, n = self.rows.size(shape)
        numbers = self.kind.unpack(stored["codes"], rows * n).reshape(rows, n)
        scales = self.scales(stored["scales"].reshape(rows, -1))[..., None]
        near = (blocks_of(numbers, self.block) * scales).add_(0.0)
        return self.rows.back(unblocked(near, n), shape).contiguous()
