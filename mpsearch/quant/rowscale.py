"""Two-valued rows: each element is zero or the one value of its row. For bag-of-words features.

Text: `rowscale1`, for values only. A row runs along the channel axis: the features of a node, a token, a position.

The value of a row is worked out while the model runs, from the row itself, so a grid knows batches it has never seen:
it starts from the largest magnitude, and three times takes the mean of all that is nearer to it than to zero. Nothing
is calibrated and nothing is static; the values of the rows, a float32 each, are part of what a tensor takes. A row that
has only zeros and one other value, as a bag of words has, scaled or not, is stored without loss. The rule is our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.options import Options, refuse
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes
from mpsearch.quant.rows import Rows

_OPTIONS = Options(("(none)",))
_ROUNDS = 3
SCALE_BITS = 32


@dataclass(frozen=True)
class RowScaleGrid(Grid):
    """Zero, and one value per row.

    Args:
        rows: how rows run.
    """

    rows: Rows

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        high, value = self.split(self.rows.of(x))
        return out.copy_(self.rows.back(high.mul_(value[:, None]).add_(0.0), x.shape))

    @staticmethod
    def split(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which elements take the value of their row, 1 or 0, [rows, n]; the values [rows]. Both float32."""
        low, high = rows.aminmax(dim=1)
        sign = torch.where(high >= -low, 1.0, -1.0)
        upright = rows * sign[:, None]
        value = torch.maximum(high, -low)
        taken = torch.empty_like(upright)
        for _ in range(_ROUNDS):
            torch.ge(upright, value[:, None] / 2, out=taken)
            total = (taken * upright).sum(dim=1, dtype=torch.float64)  # exact where all are equal
            value = (total / taken.sum(dim=1).clamp(min=1)).float()
        return torch.ge(upright, value[:, None] / 2, out=taken), value * sign

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return Codes(prod(shape), 1), Codes(self.rows.size(shape)[0], SCALE_BITS)

    def nbits(self, shape: tuple[int, ...]) -> int:
        return 8 * packed_bytes(prod(shape), 1) + SCALE_BITS * self.rows.size(shape)[0]

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        high, value = self.split(self.rows.of(finite(x)))
        return {"codes": pack_codes(high, 1), "value": value.cpu()}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        codes = unpack_codes(stored["codes"], 1, prod(shape)).reshape(self.rows.size(shape)).float()
        return self.rows.back(codes.mul_(stored["value"][:, None]).add_(0.0), shape).contiguous()


class RowScale(Quantizer):
    """Two-valued rows: `rowscale1`."""

    scheme = "rowscale"
    menu = ("rowscale1",)

    def canonical(self, fmt: Format, role: Role) -> Format:
        if fmt.bits != 1:
            refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: rowscale1.")
        _OPTIONS.read(fmt, {})
        if role.is_parameter:
            refuse(fmt, f"rows with a value of their own are for values, not for a parameter ({role}). Use int1.")
        return fmt

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> RowScaleGrid:
        self.canonical(fmt, role)
        finite(sample)
        return RowScaleGrid(Rows.of_role(role, axis))

    def width(self, fmt: Format) -> Width:
        """One bit: the value of a row multiplies what the row is summed to."""
        return Width(int(fmt.bits))
