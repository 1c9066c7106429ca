"""Small floating-point numbers: a sign, a few bits of exponent, a few of mantissa, all times a scale.

One family: with one bit of exponent the levels are equally spaced, with no bit of mantissa they are powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ldexp, prod

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.quant.grain import Grain, scaled_round_trip
from mpsearch.quant.grid import Grid, finite
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes
from mpsearch.quant.scale import Levels, fit_scale

_MOST_BITS = 16
_EXPONENT = 0x7F80_0000  # of a float32


@dataclass(frozen=True)
class MiniFloat:
    """A floating-point type that saturates: no infinity, and what codes it has for NaN are not used.

    Exponent code 0 holds the multiples of 2^(lowest - mantissa) below 2^lowest, zero among them (subnormal numbers);
    code E the numbers 2^(lowest + E - 1) * (1 + i / 2^mantissa).

    Args:
        exponent, mantissa: bits of each.
        lowest: exponent of the smallest normal number: 1 - bias.
        unused: codes at the top that are no numbers.
        signed: whether there is a sign bit; without it, negative values are met by zero.
    """

    exponent: int
    mantissa: int
    lowest: int
    unused: int = 0
    signed: bool = True

    def __post_init__(self) -> None:
        if not (self.exponent >= 0 and self.mantissa >= 0 and self.bits <= _MOST_BITS):
            raise ValueError(f"a small float has at most {_MOST_BITS} bits, not {self}.")

    @property
    def bits(self) -> int:
        """Of a code."""
        return self.signed + self.exponent + self.mantissa

    @cached_property
    def magnitudes(self) -> Tensor:
        """All numbers that are not negative, ascending: the number of a code without its sign."""
        whole = 2**self.mantissa
        codes = (divmod(code, whole) for code in range(2**self.exponent * whole - self.unused))
        step = self.lowest - self.mantissa
        return torch.tensor([ldexp(i + whole, step + e - 1) if e else ldexp(i, step) for e, i in codes])

    @cached_property
    def most(self) -> float:
        """The largest number."""
        return float(self.magnitudes[-1])

    def nearest_(self, x: Tensor) -> Tensor:
        """Move float32 `x` to the nearest numbers, in place; ties go to the even mantissa. Returns `x`.

        Adding 1.5 * 2^23 steps and taking them off again rounds to whole steps, in the processor's own rounding.
        """
        binade = (x.view(torch.int32) & _EXPONENT).view(torch.float32)
        binade.clamp_(2.0**self.lowest, self._highest).mul_(1.5 * 2.0 ** (23 - self.mantissa))
        return x.add_(binade).sub_(binade).clamp_(-self.most if self.signed else 0.0, self.most)

    @cached_property
    def _highest(self) -> float:
        return 2.0 ** (self.lowest + max(0, 2**self.exponent - 2))

    @property
    def levels(self) -> Levels:
        """For the search of a scale."""
        return Levels(self.nearest_, self.most)

    def pack(self, numbers: Tensor) -> Tensor:
        """Numbers of this type, contiguous float32 [any shape], as a stream of codes; the sign is the top bit."""
        flat = numbers.detach().cpu().reshape(-1)
        codes = torch.searchsorted(self.magnitudes, flat.abs()).to(torch.int32)
        return pack_codes(codes | ((flat < 0).to(torch.int32) << (self.bits - 1)), self.bits)

    def unpack(self, stream: Tensor, count: int) -> Tensor:
        """Inverse of `pack`: float32 [count]."""
        codes = unpack_codes(stream, self.bits, count)
        if not self.signed:
            return self.magnitudes[codes]
        half = 1 << (self.bits - 1)
        numbers = self.magnitudes[codes & (half - 1)]
        return torch.where(codes >= half, -numbers, numbers)


@dataclass(frozen=True, eq=False)
class MiniFloatGrid(Grid):
    """Small floats times a scale.

    Args:
        kind: the floating-point type.
        scale: what 1 stands for, float32: [] per tensor, [channels] or [channels, groups]. Above 0.
        grain: which elements share a scale.
    """

    kind: MiniFloat
    scale: Tensor
    grain: Grain

    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return scaled_round_trip(x, out, self.grain, 1.0 / self.scale, self.scale, self.kind.nearest_)

    @cached_property
    def absorbs_relu(self) -> bool:
        return not self.kind.signed

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return (Codes(prod(shape), self.kind.bits),)

    def nbits(self, shape: tuple[int, ...]) -> int:
        return 8 * (packed_bytes(prod(shape), self.kind.bits) + 4 * self.scale.numel())

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        numbers = self.kind.nearest_((finite(x).float() * self.grain.spread(1.0 / self.scale, x.shape)).contiguous())
        return {"codes": self.kind.pack(numbers), **self.static()}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        numbers = self.kind.unpack(stored["codes"], prod(shape)).reshape(shape)
        return (numbers * self.grain.spread(stored["scale"], shape)).add_(0.0)


def fit_minifloat(sample: Tensor, kind: MiniFloat, grain: Grain, rule: str) -> MiniFloatGrid:
    """The grid of `kind` for `sample`, its scales found by `rule` (`mpsearch.quant.scale.fit_scale`)."""
    return MiniFloatGrid(kind, fit_scale(sample, grain, kind.levels, rule), grain)
