"""Sparse storage: row pointers, column indices, and codes of what is not zero.

Text: `sparse BITS[:mse|:max]` with 1 to 8 bits (integers, `affine`, one scale for all), 16 (half floats) or 32 (floats
as they are); `sparse1:row`, for values only: what is not zero in a row is one value (`mpsearch.quant.rowscale`), stored
once per row, and elements have no code at all. `mse` is the default.

Zeros stay zero, and what is rounded to zero is not stored either. Scales are fitted to what is not zero. Rows are
output channels of a parameter, and run along the channel axis of a value. An index takes as many bits as columns need
(32 beyond 2^16), a pointer 32.

How much a tensor takes depends on its numbers: on a parameter it is counted, on values counted in the calibration
sample and taken in proportion to the size. Bits are those of a code; the share of zeros makes it cheap or dear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Self

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.floating import CastGrid
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.integer import Integer
from mpsearch.quant.options import Options, refuse, short
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes
from mpsearch.quant.rows import Rows
from mpsearch.quant.rowscale import SCALE_BITS, RowScaleGrid

_OPTIONS = Options(("mse", "max", "row"), range="mse|max|row")
_DEFAULTS = {"range": "mse"}
_FLOATS = {16: torch.float16, 32: torch.float32}
POINTER_BITS = 32


@dataclass(frozen=True, eq=False)
class SparseGrid(Grid):
    """Zero, and the values of another grid.

    Args:
        inner: of what is not zero: one scale for all, or one value per row.
        rows: how rows run.
        stored, of: how many of so many elements were not zero on the calibration sample.
    """

    inner: Grid
    rows: Rows
    stored: int
    of: int

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        zero = x == 0
        return self.inner.round_trip(x, out).masked_fill_(zero, 0.0)

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        (rows, n), entries = self.rows.size(shape), self.entries(shape)
        found = (Codes(rows, SCALE_BITS),) if self._by_row else self.inner.arrays((entries,))
        return (*found, Codes(entries, index_bits(n)), Codes(rows + 1, POINTER_BITS))

    def nbits(self, shape: tuple[int, ...]) -> int:
        (rows, n), entries = self.rows.size(shape), self.entries(shape)
        made = POINTER_BITS * (rows + 1) + 8 * packed_bytes(entries, index_bits(n))
        return made + (SCALE_BITS * rows if self._by_row else self.inner.nbits((entries,)))

    def entries(self, shape: tuple[int, ...]) -> int:
        """How many elements of a tensor of `shape` are expected not to be zero; exact for the calibration sample."""
        return self.stored * prod(shape) // self.of

    @property
    def _by_row(self) -> bool:
        return isinstance(self.inner, RowScaleGrid)

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        rows = self.rows.of(self.round_trip(finite(x).float()))
        row, column = rows.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(rows))
        stored = {
            "pointers": torch.cat((counts.new_zeros(1), counts.cumsum(0))).to(torch.int32).cpu(),
            "indices": pack_indices(column, index_bits(rows.shape[1])),
        }
        if self._by_row:
            return stored | {"value": RowScaleGrid.split(self.rows.of(x))[1].cpu()}
        if len(row):
            return stored | self.inner.pack(rows[row, column])
        constants = self.inner.pack(torch.zeros(1))
        return stored | constants | {"codes": constants["codes"][:0]}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        rows, n = self.rows.size(shape)
        counts = stored["pointers"].long().diff()
        row, entries = torch.arange(rows).repeat_interleave(counts), int(counts.sum())
        column = unpack_indices(stored["indices"], index_bits(n), entries)
        found = torch.zeros(rows, n)
        if self._by_row:
            found[row, column] = stored["value"][row]
        elif entries:
            found[row, column] = self.inner.unpack(stored, (entries,))
        return self.rows.back(found, shape).contiguous()

    def static(self) -> dict[str, Tensor]:
        return self.inner.static()

    def to(self, device: torch.device | str) -> Self:
        return replace(self, inner=self.inner.to(device))


class Sparse(Quantizer):
    """Sparse storage with codes of 1 to 8, 16 or 32 bits: `sparse8`, `sparse32`, `sparse1:row`."""

    scheme = "sparse"
    menu = ("sparse1:row", "sparse4", "sparse8")

    def canonical(self, fmt: Format, role: Role) -> Format:
        words = _OPTIONS.read(fmt, _DEFAULTS)
        if fmt.bits not in (*range(1, 9), *_FLOATS):
            refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: 1 to 8, 16, 32.")
        if fmt.bits in _FLOATS and fmt.options:
            refuse(fmt, "floats have no options. Allowed: sparse16, sparse32.")
        if words["range"] == "row" and (fmt.bits != 1 or role.is_parameter):
            refuse(fmt, "a value per row is for values, not for parameters. Allowed: sparse1:row.")
        return short(fmt, words, _DEFAULTS)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> SparseGrid:
        words = _OPTIONS.read(self.canonical(fmt, role), _DEFAULTS)
        x, rows = finite(sample), Rows.of_role(role, axis)
        inner: Grid
        if words["range"] == "row":
            inner = RowScaleGrid(rows)
        elif fmt.bits in _FLOATS:
            inner = CastGrid(_FLOATS[int(fmt.bits)])
        else:
            some = x[x != 0] if bool((x != 0).any()) else x.reshape(-1)[:1]
            integers = Format("int", fmt.bits, ("affine", "tensor", words["range"]))
            inner = Integer().fit(some, integers, Role.ACTIVATION, 0)
        grid = SparseGrid(inner, rows, 0, x.numel())
        return replace(grid, stored=int(grid.round_trip(x.float()).count_nonzero()))

    def width(self, fmt: Format) -> Width:
        """That of its values: zeros are products like any other, unless an accelerator leaves them out."""
        return Width(int(fmt.bits), "fp" if fmt.bits in _FLOATS else "int", code=f"{fmt.scheme}{fmt.bits:g}")


def index_bits(columns: int) -> int:
    """Bits of the place of one of so many columns."""
    bits = max(1, (columns - 1).bit_length())
    return bits if bits <= 16 else 32


def pack_indices(indices: Tensor, bits: int) -> Tensor:
    """Places of `index_bits` bits, on the CPU."""
    if bits == 32:
        return indices.to(torch.int32).cpu()
    return pack_codes(indices, bits)


def unpack_indices(stored: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of `pack_indices`: int64 [count]."""
    return stored.long() if bits == 32 else unpack_codes(stored, bits, count).long()
