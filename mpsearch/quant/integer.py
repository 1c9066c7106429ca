"""Uniform integers, 1 to 8 and 16 bits.

Text: `int BITS[:affine|:sym][:tensor|:channel|:gN][:max|:p99.99|:entropy|:mse]`.

* `sym`: codes -(2^(b-1) - 1) to 2^(b-1) - 1. Two bits would have three levels, so `int2` uses all four codes
  -2 to 1, and the sign of each scale is the one that loses less. `int1` is plus or minus the mean magnitude.
* `affine`: codes 0 to 2^b - 1, one of them exactly zero. `int1` is the two ends of the range, which by `mse` are the
  two values of least squared error.
* `tensor`, `channel`, `gN`: one scale for all, per channel, or per N consecutive elements of a channel.
* `max`, `pNN`, `entropy`, `mse`: how the range is found (`mpsearch.quant.calibrate`,
  `mpsearch.quant.search`).

Defaults: `sym:channel:mse` for parameters, `affine:tensor:mse` for values. Measured with all inputs of convolutions
and linear layers of three networks (ResNets on digits and CIFAR-10, ViT on digits) at 2, 3, 4, 6 and 8 bits, all else
float: for values, `mse` diverges least from the float outputs in 10 of 15 cases. The exceptions are ResNet-20 at 6
and 8 bits, by little, and the digits ResNet at 2 to 4, where `p99.9` is better (accuracy at 2 bits 0.95 against 0.92).
At 2 bits on ResNet-20 `mse` keeps 0.58 of 0.87, `entropy` 0.43, `p99.9` 0.41, `max` 0.25. `entropy` can fail badly.

For parameters the default is no safe winner. Accuracy with weights alone quantized, sequential bias correction on:

    =====================  =====  =====  =====  ========
    network, bits            mse    max    p99  affine
    =====================  =====  =====  =====  ========
    digits ResNet, 2       0.965  0.914  0.844  0.961
    digits ViT, 2          0.980  0.967  0.876  0.980
    digits ResNet, 3       0.984  0.984  0.984  0.992
    ResNet-20, 3           0.402  0.801  0.822  0.796
    ResNet-20, 4           0.852  0.849  0.850  0.861
    =====================  =====  =====  =====  ========

The least squared error also shrinks each channel, which adds up over layers (at 3 bits on ResNet-20, scales enlarged
to undo it give 0.77 in place of 0.41, on 1,000 images): let the search choose the range where 3 bits matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.binary import BinaryGrid
from mpsearch.quant.calibrate import entropy, percentile, span
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.search import Codes, covering, least_squares, two_means

_BITS = (*range(1, 9), 16)
_KINDS = {
    "map": re.compile("affine|sym"),
    "grain": re.compile("tensor|channel|g[1-9][0-9]*"),
    "range": re.compile(r"max|entropy|mse|p[0-9]+(\.[0-9]+)?"),
}
_WORDS = ("affine", "sym", "tensor", "channel", "g64", "max", "p99.99", "entropy", "mse")
_DEAD = 2.0**-100  # a row of magnitudes below this is zero: the reciprocal of its scale would not be safe


@dataclass(frozen=True)
class _Plan:
    """The options of a format, none left out."""

    map: str
    grain: str
    range: str

    @classmethod
    def default(cls, role: Role) -> _Plan:
        return cls("sym", "channel", "mse") if role.is_parameter else cls("affine", "tensor", "mse")

    @classmethod
    def read(cls, fmt: Format, role: Role) -> _Plan:
        """Raises `BadInput` on a word that is unknown or comes twice."""
        words = vars(cls.default(role)).copy()
        given: set[str] = set()
        for word in fmt.options:
            kind = next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(word)), None)
            if kind is None:
                raise BadInput(f"format {str(fmt)!r}: unknown option {word!r}.{nearest(word, _WORDS)}")
            if kind in given:
                raise BadInput(f"format {str(fmt)!r}: {word!r} is a second {kind}; give one of {_KINDS[kind].pattern}.")
            given.add(kind)
            words[kind] = word
        if words["range"].startswith("p"):
            words["range"] = f"p{float(words['range'][1:]):g}"
        return cls(**words)

    @property
    def percent(self) -> float | None:
        """Of the values that the range holds, where the range is a percentile."""
        return float(self.range[1:]) if self.range.startswith("p") else None

    def along(self, axis: int) -> Grain:
        """The grain for a tensor with this channel axis."""
        if self.grain == "tensor":
            return Grain()
        return Grain(axis, int(self.grain[1:]) if self.grain.startswith("g") else None)

    def refusal(self, bits: float, role: Role) -> str | None:
        """Why no such format exists; None if it does."""
        if bits not in _BITS:
            return f"int has no {bits:g} bits. Allowed: {', '.join(map(str, _BITS))}."
        if self.grain.startswith("g") and not role.is_parameter:
            return f"groups ({self.grain}) need a fixed shape: only parameters have them. Use tensor or channel."
        if self.percent is not None and not 50 < self.percent <= 100:
            return f"a percentile lies above 50 and at most at 100, not {self.range}; for example p99.99."
        if bits == 1 and self.map == "sym" and self.range != "mse":
            return f"one symmetric bit is plus or minus the mean magnitude, it has no range; drop {self.range}."
        if self.range == "entropy" and (self.grain != "tensor" or not 2 <= bits <= 8):
            return "entropy needs one scale per tensor and 2 to 8 bits; for example int8:tensor:entropy."
        return None


class Integer(Quantizer):
    """Every format of scheme `int`."""

    scheme = "int"

    def canonical(self, fmt: Format, role: Role) -> Format:
        plan, default = _Plan.read(fmt, role), _Plan.default(role)
        refusal = plan.refusal(fmt.bits, role)
        if refusal:
            raise BadInput(f"format {str(fmt)!r}: {refusal}")
        kept = (word for word, usual in zip(vars(plan).values(), vars(default).values(), strict=True) if word != usual)
        return Format(self.scheme, fmt.bits, tuple(kept))

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> Grid:
        plan = _Plan.read(self.canonical(fmt, role), role)
        fit = _fit_one_bit if fmt.bits == 1 else _fit_codes
        grid = fit(finite(sample).cpu(), int(fmt.bits), plan, plan.along(axis))  # on the CPU: equal grids everywhere
        return grid.to(sample.device)


def _fit_codes(sample: Tensor, bits: int, plan: _Plan, grain: Grain) -> AffineGrid:
    affine = plan.map == "affine"
    half = 2 ** (bits - 1)
    codes = Codes(0, 2 * half - 1, True) if affine else Codes(-half if bits == 2 else 1 - half, half - 1, False)
    scales, zeros = [], []
    for rows in grain.rows(sample):
        largest = rows.abs().amax(dim=1).double()
        dead = largest < _DEAD
        unit = (rows / largest.masked_fill(dead, torch.inf)[:, None]).float()
        if plan.range == "mse" and bits <= 8:  # wider codes lose nothing at full range
            scale, zero = least_squares(unit, codes)
        else:
            scale, zero = covering(unit, *_ends(unit, bits, plan), codes)
        scales.append((scale.double() * largest).masked_fill(dead, 1.0).float())
        zeros.append(zero.to(torch.int32))
    scale, zero = (grain.gather(blocks, sample.shape) for blocks in (scales, zeros))
    return AffineGrid(bits, codes.qmin, codes.qmax, scale, zero if affine else None, grain)


def _fit_one_bit(sample: Tensor, bits: int, plan: _Plan, grain: Grain) -> BinaryGrid:
    del bits
    blocks = grain.rows(sample)
    if plan.map == "sym":
        spans = [2 * rows.abs().mean(dim=1, dtype=torch.float64).float() for rows in blocks]
        return BinaryGrid(grain.gather(spans, sample.shape), None, grain)
    ends = [two_means(rows) if plan.range == "mse" else _ends(rows, 1, plan) for rows in blocks]
    span, low = (grain.gather(numbers, sample.shape) for numbers in zip(*((h - w, w) for w, h in ends), strict=True))
    return BinaryGrid(span.float(), low.float(), grain)


def _ends(rows: Tensor, bits: int, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Lowest and highest value to represent, [rows] each: by magnitude where the codes are symmetric.

    A range of nothing (a percentile of mostly zeros) gives way to the full one.
    """
    full = span(rows)
    if plan.range == "entropy":
        return entropy(rows, bits)
    if plan.percent is None:
        return full
    low, high = percentile(rows if plan.map == "affine" else rows.abs(), plan.percent)
    low = low if plan.map == "affine" else -high
    empty = low == high
    return torch.where(empty, full[0], low), torch.where(empty, full[1], high)
