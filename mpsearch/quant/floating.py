"""Floats: the IEEE half (`fp16`) and the brain float (`bf16`) as they are, and those of 4, 6 and 8 bits with a scale.

Text: `fp16`, `bf16`; `fp4`; `fp6[:e2m3|:e3m2]`; `fp8[:e4m3|:e5m2]`, each of the last three with
`[:tensor|:channel|:gN][:max|:mse|:gain]`.

* `e2m1` (all that `fp4` has), `e2m3`, `e3m2`, `e4m3`, `e5m2`: bits of exponent and mantissa. Types of the Open Compute
  Project, "8-bit Floating Point Specification" (2023) and "Microscaling Formats Specification" (2023): `e4m3` ends at
  448, `e5m2` at 57344; what lies beyond takes the largest, never infinity.
* `tensor`, `channel`, `gN`: one float32 scale for all, per channel, or per N consecutive elements of a channel.
* `max`, `mse`, `gain`: how the scale is found, as for integers (`mpsearch.quant.integer`).

Defaults: `e2m3`, `e4m3`; `channel:gain` for weights, `channel:mse` for embeddings, `tensor:mse` for values.
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
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.minifloat import MiniFloat, fit_minifloat
from mpsearch.quant.options import GRAIN, Options, refuse, short

E2M1, E2M3, E3M2 = MiniFloat(2, 1, 0), MiniFloat(2, 3, 0), MiniFloat(3, 2, -2)
E4M3, E5M2 = MiniFloat(4, 3, -6, unused=1), MiniFloat(5, 2, -14, unused=4)
KINDS: dict[float, dict[str, MiniFloat]] = {
    4: {"e2m1": E2M1},
    6: {"e2m3": E2M3, "e3m2": E3M2},
    8: {"e4m3": E4M3, "e5m2": E5M2},
}
"""Types by bits and name, the default first."""

SCALED = "max|mse|gain"
"""Rules by which the scale of levels is found."""
_OPTIONS = Options(
    ("e4m3", "e5m2", "tensor", "channel", "g32", "max", "mse", "gain"), kind="e[0-9]m[0-9]", grain=GRAIN, range=SCALED
)


@dataclass(frozen=True)
class CastGrid(Grid):
    """The finite values of a floating-point type; what lies beyond takes the largest.

    Args:
        dtype: a floating-point type of torch, of 16 or 32 bits.
    """

    dtype: torch.dtype

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        return out.copy_(self._cast(x))

    def _cast(self, x: Tensor) -> Tensor:
        most = torch.finfo(self.dtype).max
        # By way of float32: a clamp in a narrower type than this one would round its own bounds to infinity.
        return (x if x.dtype == torch.float64 else x.float()).clamp(-most, most).to(self.dtype)

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return (Codes(prod(shape), torch.finfo(self.dtype).bits),)

    def nbits(self, shape: tuple[int, ...]) -> int:
        return self.code_bits(shape)

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        return {"codes": self._cast(finite(x)).cpu().contiguous()}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return stored["codes"].float().reshape(shape)


def scaled_defaults(role: Role) -> dict[str, str]:
    """Grain and range of levels with a scale, where nothing is said."""
    if not role.is_parameter:
        return {"grain": "tensor", "range": "mse"}
    return {"grain": "channel", "range": "gain" if role is Role.WEIGHT else "mse"}


def grain_refusal(grain: str, role: Role) -> str | None:
    """Why no such grain exists; None if it does."""
    if grain.startswith("g") and not role.is_parameter:
        return f"groups ({grain}) need a fixed shape: only parameters have them. Use tensor or channel."
    return None


class Float(Quantizer):
    """`fp4`, `fp6`, `fp8:e5m2`: small floats with a scale. `fp16`: 5 bits of exponent, 10 of mantissa, no scale.

    (`fp32` is the model as it is and reaches no quantizer.)
    """

    scheme = "fp"
    menu = ("fp4", "fp6", "fp8")

    def canonical(self, fmt: Format, role: Role) -> Format:
        if fmt.bits not in KINDS:
            _refuse_options(fmt, f"{', '.join(f'fp{bits}' for bits in KINDS)}, fp16 and fp32")
            return fmt
        words, defaults = self._read(fmt, role)
        kinds = KINDS[fmt.bits]
        if words["kind"] not in kinds:
            refuse(fmt, f"there is no {words['kind']} of {fmt.bits:g} bits. Allowed: {', '.join(kinds)}.")
        refuse(fmt, grain_refusal(words["grain"], role))
        return short(fmt, words, defaults)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> Grid:
        fmt = self.canonical(fmt, role)
        if fmt.bits == 16:
            finite(sample)
            return CastGrid(torch.float16)
        words, _ = self._read(fmt, role)
        kind = KINDS[fmt.bits][words["kind"]]
        return fit_minifloat(sample, kind, Grain.named(words["grain"], axis), words["range"])

    def width(self, fmt: Format) -> Width:
        return Width(int(fmt.bits), "fp")

    @staticmethod
    def _read(fmt: Format, role: Role) -> tuple[dict[str, str], dict[str, str]]:
        defaults = {"kind": next(iter(KINDS[fmt.bits])), **scaled_defaults(role)}
        return _OPTIONS.read(fmt, defaults), defaults


class BrainFloat(Quantizer):
    """`bf16`: 8 bits of exponent, 7 of mantissa; the range of float32."""

    scheme = "bf"

    def canonical(self, fmt: Format, role: Role) -> Format:
        del role
        _refuse_options(fmt, "bf16")
        return fmt

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> CastGrid:
        del fmt, role, axis
        finite(sample)
        return CastGrid(torch.bfloat16)

    def width(self, fmt: Format) -> Width:
        return Width(int(fmt.bits), "bf")


def _refuse_options(fmt: Format, allowed: str) -> None:
    if fmt != Format(fmt.scheme, 16):
        refuse(fmt, f"there is no such float. Allowed: {allowed}; those of 16 bits and more have no options.")
