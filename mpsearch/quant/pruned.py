"""Pruned weights: the smallest are zero, the rest are integers with a scale per channel.

Text: `pruned BITS[:sP|:NofM]` with 1 to 8 bits, for parameters only. At 1 bit the rest is plus or minus the mean
magnitude of what a channel keeps: ternary weights.

* `sP`: P percent of the tensor are zero, wherever they lie: those of least magnitude. `s50` is the default.
* `NofM`: of M consecutive numbers of a sum the N largest are kept. They run over the channels of the input, then on to
  the next place of the kernel. `2of4` is what sparse matrix units multiply, on cards that say how fast.

Which are zero is settled when the grid is fitted. Stored is whatever is least, by the shape alone, of: codes of all
(from 2 bits on); codes of what is kept and a bit for each number; codes, column indices and a pointer for each row; for
`NofM`, codes and their places within the M. A kept number that rounds to zero is stored as such, so that training
changes nothing of what the tensor takes.

Of products those of kept weights are counted (`bops`). A device without sparse units is no faster by them.

Sources: Hawks et al., "Ps and Qs: Quantization-aware pruning for efficient low latency neural network inference" (arXiv
2102.11289); `NofM`: Mishra et al., "Accelerating sparse deep neural networks" (arXiv 2104.08378); 1 bit: Li et al.,
"Ternary weight networks" (arXiv 1605.04711), whose threshold is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.binary import BinaryGrid
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.integer import Integer
from mpsearch.quant.options import Options, refuse, short
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes
from mpsearch.quant.pattern import Pattern, order_of
from mpsearch.quant.sparse import POINTER_BITS, index_bits, pack_indices, unpack_indices

_OPTIONS = Options(("s50", "s75", "2of4", "1of4"), zeros=r"s[0-9]+(\.[0-9]+)?|[0-9]+of[0-9]+")
_DEFAULTS = {"zeros": "s50"}
_LARGEST_GROUP = 64


@dataclass(frozen=True, eq=False)
class PrunedGrid(Grid):
    """Zero where nothing is kept, elsewhere the values of another grid.

    Args:
        inner: of what is kept: one code per number, and zero among its values from 2 bits on.
        bits: of a code.
        kept: which numbers are, bool, of the tensor's own shape.
        axis: the channel axis.
        pattern: by which they were chosen.
    """

    inner: Grid
    bits: int
    kept: Tensor
    axis: int
    pattern: Pattern

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return self.inner.round_trip(x, out).masked_fill_(~self.kept, 0.0)

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return self._least(order_of(shape, self.axis))[1]

    def nbits(self, shape: tuple[int, ...]) -> int:
        constants = self.inner.nbits(shape) - 8 * packed_bytes(prod(shape), self.bits)
        return constants + sum(codes.padded_bits for codes in self.arrays(shape))

    def _least(self, order: Tensor) -> tuple[str, tuple[Codes, ...]]:
        """The form that takes least before it is filled up to bytes, the simplest of equals."""
        rows, n = order.shape
        kept = Codes(self.pattern.count(rows, n), self.bits)
        forms: dict[str, tuple[Codes, ...]] = {"dense": (Codes(rows * n, self.bits),)} if self.bits > 1 else {}
        forms["bitmap"] = kept, Codes(rows * n, 1, is_stream=True)
        forms["indices"] = kept, Codes(kept.count, index_bits(n)), Codes(rows + 1, POINTER_BITS)
        if self.pattern.of:
            forms["places"] = kept, Codes(kept.count, (self.pattern.of - 1).bit_length())
        return min(forms.items(), key=lambda form: sum(codes.total_bits for codes in form[1]))

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        order = order_of(x.shape, self.axis)
        form, arrays = self._least(order)
        stored = self.inner.pack(finite(x).masked_fill(~self.kept, 0.0))
        if form == "dense":
            return stored
        kept = self.kept.cpu().flatten()[order]
        codes = unpack_codes(stored["codes"], self.bits, x.numel())[order][kept]
        row, column = kept.nonzero(as_tuple=True)
        stored["codes"] = pack_codes(codes, self.bits)
        if form == "bitmap":
            return stored | {"kept": pack_codes(kept, 1)}
        if form == "places":
            return stored | {"places": pack_codes(column % self.pattern.of, arrays[1].bits)}
        counts = torch.bincount(row, minlength=len(kept))
        pointers = torch.cat((counts.new_zeros(1), counts.cumsum(0))).to(torch.int32)
        return stored | {"indices": pack_indices(column, arrays[1].bits), "pointers": pointers}

    def static(self) -> dict[str, Tensor]:
        return self.inner.static()

    @classmethod
    def from_static(cls, static: Mapping[str, Tensor], shape: tuple[int, ...], **plain: Any) -> Self:
        """What is kept stands with the codes of each tensor: here everything is."""
        del static
        return cls(**plain, kept=torch.ones(shape, dtype=torch.bool))

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        order = order_of(shape, self.axis)
        form, arrays = self._least(order)
        if form == "dense":
            return self.inner.unpack(stored, shape)
        places = order[self._found(stored, form, arrays, *order.shape)]
        codes = torch.zeros(prod(shape), dtype=torch.int32)
        codes[places] = unpack_codes(stored["codes"], self.bits, len(places))
        whole = self.inner.unpack({**stored, "codes": pack_codes(codes, self.bits)}, shape).flatten()
        return torch.zeros(prod(shape)).index_copy_(0, places, whole[places]).reshape(shape)

    def _found(self, stored: Mapping[str, Tensor], form: str, arrays: tuple[Codes, ...], rows: int, n: int) -> Tensor:
        """What is kept, bool [rows, n]."""
        if form == "bitmap":
            return unpack_codes(stored["kept"], 1, rows * n).bool().reshape(rows, n)
        kept = torch.zeros(rows, n, dtype=torch.bool)
        if form == "places":
            within = unpack_codes(stored["places"], arrays[1].bits, arrays[1].count).long().reshape(rows, -1)
            return kept.scatter_(1, torch.arange(within.shape[1]) // self.pattern.kept * self.pattern.of + within, True)
        column = unpack_indices(stored["indices"], arrays[1].bits, arrays[1].count)
        kept[torch.arange(rows).repeat_interleave(stored["pointers"].diff().long()), column] = True
        return kept

    def to(self, device: torch.device | str) -> Self:
        return replace(self, inner=self.inner.to(device), kept=self.kept.to(device))


class Pruned(Quantizer):
    """Zeros and integers: `pruned4` (half are zero), `pruned4:s75`, `pruned8:2of4`, `pruned1` (ternary)."""

    scheme = "pruned"
    menu = ("pruned1", "pruned4", "pruned4:2of4", "pruned4:s75")

    def canonical(self, fmt: Format, role: Role) -> Format:
        word = _OPTIONS.read(fmt, _DEFAULTS)["zeros"]
        if not role.is_parameter:
            refuse(fmt, f"what is zero is settled for parameters, not for a value ({role}). Use sparse or int.")
        if fmt.bits not in range(1, 9):
            refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: 1 to 8.")
        if word.startswith("s"):
            if not 0 < float(word[1:]) < 100:
                refuse(fmt, f"{word[1:]} percent cannot be zero. Allowed: above 0 and below 100, as in s50.")
        elif not 0 < (ends := tuple(map(int, word.split("of"))))[0] < ends[1] <= _LARGEST_GROUP:
            refuse(fmt, f"{word} keeps none, all or few of many. Allowed: 0 < N < M <= {_LARGEST_GROUP}, as in 2of4.")
        return short(fmt, {"zeros": Pattern.named(word).word}, _DEFAULTS)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> PrunedGrid:
        pattern, bits = pattern_of(self.canonical(fmt, role)), int(fmt.bits)
        x = finite(sample)
        kept = pattern.mask(x, axis)
        pruned = x.masked_fill(~kept, 0.0)
        inner = _signs(pruned, kept, axis) if bits == 1 else Integer().fit(pruned, Format("int", bits), role, axis)
        return PrunedGrid(inner, bits, kept, axis, pattern)

    def width(self, fmt: Format) -> Width:
        """That of what is kept; of ternary weights one bit is multiplied, and two are needed to hold them."""
        pattern, bits = pattern_of(fmt), int(fmt.bits)
        held = bits if bits > 1 else 2
        return Width(held, significant=bits, code=str(fmt), density=1 - pattern.share, group=pattern.of)


def pattern_of(fmt: Format) -> Pattern:
    """Where the zeros of a canonical format of this scheme lie."""
    return Pattern.named(_OPTIONS.read(fmt, _DEFAULTS)["zeros"])


def _signs(pruned: Tensor, kept: Tensor, axis: int) -> BinaryGrid:
    """Plus and minus the mean magnitude of what each channel keeps."""
    grain = Grain.named("channel", axis)
    (sizes,), (counts,) = (grain.rows(t) for t in (pruned.abs().cpu(), kept.cpu()))
    means = sizes.sum(dim=1, dtype=torch.float64) / counts.sum(dim=1).clamp(min=1)
    return BinaryGrid(grain.gather([2 * means.float()], pruned.shape), None, grain).to(pruned.device)
