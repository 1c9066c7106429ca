"""Binary planes: integers as sums of plus and minus ones, weighed by powers of two.

Text: `planes BITS[:sym|:affine][:tensor|:channel|:gN][:max|:mse|:gain]`, 1 to 8 bits.

* `sym`: a scale times an odd integer X from -(2^b - 1) to 2^b - 1: 2^b levels, equally spaced, none of them zero (a
  number halfway goes to the even place, so zero to the level above it). With u = (X + 2^b - 1) / 2 and its digits u_m,

      X = sum over m of 2^m x_m,   x_m = 2 u_m - 1 in {-1, +1},

  exactly, in one way only. So the product of two such vectors of b and c bits is b c products of binary vectors,
  x . w = n - 2 popcount(x XOR w), shifted by m + k and added.
* `affine`: the levels of `int` `affine`, a zero among them. u is the same code, value = (scale / 2) X + an offset, and
  the product gains a correction of rank one, whose sums are popcounts too.
* `max`, `mse`, `gain`: as for integers (`mpsearch.quant.integer`).

A product of b and c planes takes b c products of single bits, which is what `bops` counts. A machine that does r of
them in the time of one product of integers gains while b c < r. Shifting and adding the planes of a sum, and splitting
a value, cost once per result and per value, which is not counted.

Defaults: `sym:channel:gain` for weights (1 bit: `mse`), `sym:channel:mse` for embeddings, `affine:tensor:mse` for
values. Codes are stored plane by plane, all lowest digits first; they take what integers of as many bits take.

The idea is that of Sun et al., "Multi-Precision Quantized Neural Networks via Encoding Decomposition of {-1,+1}" (AAAI
2019, arXiv 1905.13389) and "Quantized Neural Networks via {-1,+1} Encoding Decomposition and Acceleration" (2021, arXiv
2106.09886), of which we know the abstracts; formulas and fitting are our own derivation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from math import prod

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.floating import SCALED, grain_refusal
from mpsearch.quant.grain import Grain, scaled_round_trip
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.integer import Integer
from mpsearch.quant.options import GRAIN, Options, refuse, short
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes
from mpsearch.quant.scale import Levels, fit_scale

_OPTIONS = Options(
    ("sym", "affine", "tensor", "channel", "g32", "max", "mse", "gain"), map="sym|affine", grain=GRAIN, range=SCALED
)


def split(codes: Tensor, bits: int) -> Tensor:
    """Digits of codes (integers in [0, 2**bits)), int32 [bits, *shape], the lowest first."""
    places = torch.arange(bits, dtype=torch.int32, device=codes.device).reshape(-1, *(1 for _ in codes.shape))
    return codes.to(torch.int32) >> places & 1


def join(digits: Tensor) -> Tensor:
    """Inverse of `split`: int32 codes."""
    places = torch.arange(len(digits), dtype=torch.int32, device=digits.device)
    return (digits.to(torch.int32) << places.reshape(-1, *(1 for _ in digits.shape[1:]))).sum(dim=0, dtype=torch.int32)


def pack_planes(codes: Tensor, bits: int) -> Tensor:
    """Codes [any shape] as uint8 [packed_bytes], plane after plane, without gaps between them."""
    return pack_codes(split(codes.reshape(-1), bits), 1)


def unpack_planes(stream: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of `pack_planes`: int32 [count]."""
    return join(unpack_codes(stream, 1, bits * count).reshape(bits, count))


@dataclass(frozen=True, eq=False)
class OddGrid(Grid):
    """Odd integers times a scale.

    Args:
        bits: of a code.
        scale: half the distance between neighbours, float32: [] per tensor, [channels] or [channels, groups]. 0 where
            there is nothing but zero.
        grain: which elements share a scale.
    """

    bits: int
    scale: Tensor
    grain: Grain

    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        nearest_ = partial(_nearest_, bits=self.bits)
        return scaled_round_trip(x, out, self.grain, self._inverse, 2 * self.scale, nearest_)

    @property
    def _inverse(self) -> Tensor:
        return torch.where(self.scale > 0, 0.5 / self.scale, 0.0)

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return (Codes(prod(shape) * self.bits, 1, is_stream=True),)

    def nbits(self, shape: tuple[int, ...]) -> int:
        return 8 * (packed_bytes(prod(shape), self.bits) + 4 * self.scale.numel())

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        halves = _nearest_(finite(x).float() * self.grain.spread(self._inverse, x.shape), self.bits)
        codes = (halves + (2**self.bits - 1) / 2).to(torch.int32)
        return {"codes": pack_planes(codes, self.bits), **self.static()}

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        codes = unpack_planes(stored["codes"], self.bits, prod(shape)).reshape(shape)
        halves = codes.float() - (2**self.bits - 1) / 2
        return halves.mul_(self.grain.spread(2 * stored["scale"], shape)).add_(0.0)


@dataclass(frozen=True, eq=False)
class AffinePlanes(AffineGrid):
    """The affine grid, its codes stored plane by plane."""

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return (Codes(prod(shape) * self.bits, 1, is_stream=True),)

    def _pack(self, codes: Tensor) -> Tensor:
        return pack_planes(codes - self.qmin, self.bits)

    def _unpack(self, stream: Tensor, shape: tuple[int, ...]) -> Tensor:
        return unpack_planes(stream, self.bits, prod(shape)).reshape(shape) + self.qmin


class Planes(Quantizer):
    """Sums of binary planes, 1 to 8 bits: `planes2`, `planes4:affine`."""

    scheme = "planes"
    menu = ("planes2", "planes3", "planes4")

    def canonical(self, fmt: Format, role: Role) -> Format:
        words, defaults = _read(fmt, role)
        refuse(fmt, grain_refusal(words["grain"], role))
        if fmt.bits == 1 and words["range"] == "gain":
            refuse(fmt, "gain needs 2 to 8 bits; drop it.")
        return short(fmt, words, defaults)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> Grid:
        words, _ = _read(self.canonical(fmt, role), role)
        bits, grain = int(fmt.bits), Grain.named(words["grain"], axis)
        if words["map"] == "sym":
            levels = Levels(lambda t: _nearest_(t.mul_(0.5), bits).mul_(2.0), 2.0**bits - 1)
            return OddGrid(bits, fit_scale(sample, grain, levels, words["range"], dead=0.0), grain)
        integers = Format("int", fmt.bits, ("affine", words["grain"], words["range"]))
        grid = Integer().fit(sample, integers, role, axis)
        if not isinstance(grid, AffineGrid):
            return grid  # of one bit: it is a plane
        return AffinePlanes(**{field.name: getattr(grid, field.name) for field in fields(grid)})

    def width(self, fmt: Format) -> Width:
        """A binary vector per bit; as a whole, integers with an offset."""
        return Width(int(fmt.bits), is_binary=True, code="" if fmt.bits == 1 else f"{fmt.scheme}{fmt.bits:g}")


def _nearest_(halves: Tensor, bits: int) -> Tensor:
    """Move `halves`, numbers over twice the scale, to the nearest odd half, in place."""
    half = 2.0 ** (bits - 1)
    return halves.sub_(0.5).round_().clamp_(-half, half - 1).add_(0.5)


def _read(fmt: Format, role: Role) -> tuple[dict[str, str], dict[str, str]]:
    if fmt.bits not in range(1, 9):
        refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: 1 to 8.")
    defaults = {"map": "affine", "grain": "tensor", "range": "mse"}
    if role.is_parameter:
        gain = role is Role.WEIGHT and fmt.bits > 1
        defaults = {"map": "sym", "grain": "channel", "range": "gain" if gain else "mse"}
    return _OPTIONS.read(fmt, defaults), defaults
