"""Elastic significant bits: k bits of fraction, the other bits of a code for sign and exponent.

Text: `esb BITS[:kN][:tensor|:channel|:gN][:align|:max|:mse|:gain]`, 2 to 8 bits.

With e = BITS - k - 1 bits of exponent the levels are

    i / 2^k  and  2^n (1 + i / 2^k),   i = 0 .. 2^k - 1,  n = 0 .. 2^e - 2

times a scale, and the same below zero: 2^BITS - 1 in all. k = BITS - 2 is the uniform grid, k = 0 are powers of two. A
product multiplies significands of k + 1 bits and shifts. For normal numbers k = BITS - 3 loses least from 4 bits on; at
2 and 3 bits it is the uniform grid. Those are the defaults. More than 3 bits of exponent gain nothing.

Values without negatives on the calibration sample (after a ReLU) need no sign: its bit goes to the fraction, so that
the levels are the upper half of those of one more bit (our own; the authors' code has signed levels only).

* `align`: the authors' aligner. The scale is lambda times the standard deviation (without signs: of what is not zero,
  had it random signs), lambda being the scale of least squared error for normal numbers. A row that is far from centred
  on zero (mean beyond two deviations) is no such thing: its largest magnitude meets the largest level.
* `max`, `mse`, `gain`: as for integers (`mpsearch.quant.integer`).

Defaults: `channel:gain` for weights, `channel:mse` for embeddings, `tensor:mse` for values.

Source: Gong et al., "Elastic Significant Bit Quantization and Acceleration for Deep Neural Networks" (2021, arXiv
2109.03513), from the abstract and the authors' re-implementation in GongCheng1919/autoqnn-pytorch. That shifts by the
mean, as an option, which would move zero, and takes equally spaced levels without a zero in place of k = BITS - 2:
neither is offered here. Its lambdas are ours but for (4, 0) and (5, 1), where ours have less error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.floating import SCALED, grain_refusal, scaled_defaults
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import Quantizer, finite
from mpsearch.quant.minifloat import MiniFloat, MiniFloatGrid, fit_minifloat
from mpsearch.quant.options import GRAIN, Options, refuse, short
from mpsearch.quant.scale import DEAD

LAMBDA = {
    (2, 0): 1.22401, (3, 0): 0.518127, (3, 1): 1.30154, (4, 0): 0.0655253, (4, 1): 0.487079, (4, 2): 1.41365,
    (5, 1): 0.0766382, (5, 2): 0.482773, (5, 3): 1.54599, (6, 2): 0.0405514, (6, 3): 0.499672, (6, 4): 1.6878,
    (7, 3): 0.0409406, (7, 4): 0.524688, (7, 5): 1.83236, (8, 4): 0.0411767, (8, 5): 0.552655, (8, 6): 1.97569,
    (9, 5): 0.0415863, (9, 6): 0.581613, (9, 7): 2.1156,
}  # fmt: skip
"""The scale of least squared error for normal numbers of deviation 1, by bits and k; by exact integration."""

_OPTIONS = Options(
    ("k1", "tensor", "channel", "g32", "align", "max", "mse", "gain"),
    k="k[0-9]",
    grain=GRAIN,
    range=f"align|{SCALED}",
)
_CENTRED = 2.0  # deviations that the mean may be off


def elastic(bits: int, k: int) -> MiniFloat:
    """The type of `bits` bits with `k` of fraction."""
    return MiniFloat(bits - k - 1, k, 0)


class Esb(Quantizer):
    """Elastic significant bits, 2 to 8 bits: `esb4`, `esb4:k2`, `esb6:k3:align`."""

    scheme = "esb"
    menu = ("esb3", "esb4", "esb5", "esb6", "esb8")

    def canonical(self, fmt: Format, role: Role) -> Format:
        words, defaults = _read(fmt, role)
        refuse(fmt, grain_refusal(words["grain"], role))
        allowed = [k for bits, k in LAMBDA if bits == fmt.bits]
        if int(words["k"][1:]) not in allowed:
            refuse(
                fmt, f"{words['k']} leaves no 1 to 3 bits of exponent. Allowed: {', '.join(f'k{k}' for k in allowed)}."
            )
        return short(fmt, words, defaults)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> MiniFloatGrid:
        words, _ = _read(self.canonical(fmt, role), role)
        bits, k, grain = int(fmt.bits), int(words["k"][1:]), Grain.named(words["grain"], axis)
        unsigned = not role.is_parameter and bool((finite(sample) >= 0).all())
        kind = MiniFloat(bits - k - 1, k + 1, 0, signed=False) if unsigned else elastic(bits, k)
        if words["range"] != "align":
            return fit_minifloat(sample, kind, grain, words["range"])
        return MiniFloatGrid(kind, _aligned(sample, kind, grain, LAMBDA[bits + unsigned, k + unsigned]), grain)

    def width(self, fmt: Format) -> Width:
        """Significands of k + 1 bits. Values without a sign have one more, which only their grid knows."""
        k = next((word for word in fmt.options if word.startswith("k")), _default_k(fmt))
        code = str(Format(fmt.scheme, fmt.bits, tuple(word for word in fmt.options if word == k)))
        return Width(int(fmt.bits), significant=int(k[1:]) + 1, code=code)


def _aligned(sample: Tensor, kind: MiniFloat, grain: Grain, factor: float) -> Tensor:
    """Scales of `factor` deviations; where there is no sign, of what is not zero, had it random signs."""
    scales = []
    for rows in grain.rows(finite(sample).cpu()):
        rows = rows.double()
        largest, total, power = rows.abs().amax(dim=1), rows.sum(dim=1), rows.square().sum(dim=1)
        number = rows.shape[1] if kind.signed else (rows > 0).sum(dim=1).clamp(min=1)
        mean, power = total / number, power / number
        variance = (power - mean.square()).clamp(min=0)
        centred = mean.square() <= _CENTRED**2 * variance
        deviation = (variance if kind.signed else power).sqrt()
        scale = torch.where(centred, factor * deviation, largest / kind.most)
        scales.append(torch.where(largest < DEAD, 1.0, scale).float())
    return grain.gather(scales, sample.shape).to(sample.device)


def _default_k(fmt: Format) -> str:
    return f"k{int(fmt.bits) - (2 if fmt.bits < 4 else 3)}"


def _read(fmt: Format, role: Role) -> tuple[dict[str, str], dict[str, str]]:
    if fmt.bits not in range(2, 9):
        refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: 2 to 8.")
    defaults = {"k": _default_k(fmt), **scaled_defaults(role)}
    return _OPTIONS.read(fmt, defaults), defaults
