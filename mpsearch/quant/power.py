"""Powers of two: zero and plus or minus the largest level, its half, its quarter and so on. Products are shifts.

Text: `pow BITS[:tensor|:channel|:gN][:max|:mse|:gain]`, 2 to 4 bits, with 1, 3 and 7 powers. More bits would add powers
below 2^-6 of the largest, which gains nothing. Values without negatives on the calibration sample (after a ReLU) need
no sign and have 3, 7 and 15 powers. A number goes to the nearest level, not to the nearest exponent.

Defaults: `channel:gain` for weights, `channel:mse` for embeddings, `tensor:mse` for values. The scale itself is any
float32: it multiplies sums, not products.

Source: Miyashita et al., "Convolutional Neural Networks using Logarithmic Data Representation" (2016, arXiv
1603.01025); Zhou et al., "Incremental Network Quantization: Towards Lossless CNNs with Low-Precision Weights" (ICLR
2017).
"""

from __future__ import annotations

from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.floating import SCALED, grain_refusal, scaled_defaults
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import Quantizer, finite
from mpsearch.quant.minifloat import MiniFloat, MiniFloatGrid, fit_minifloat
from mpsearch.quant.options import GRAIN, Options, refuse, short

_OPTIONS = Options(("tensor", "channel", "g32", "max", "mse", "gain"), grain=GRAIN, range=SCALED)


class PowerOfTwo(Quantizer):
    """Powers of two, 2 to 4 bits: `pow3`, `pow4:tensor`."""

    scheme = "pow"
    menu = ("pow3", "pow4")

    def canonical(self, fmt: Format, role: Role) -> Format:
        if fmt.bits not in (2, 3, 4):
            refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: pow2, pow3, pow4.")
        words = _OPTIONS.read(fmt, scaled_defaults(role))
        refuse(fmt, grain_refusal(words["grain"], role))
        return short(fmt, words, scaled_defaults(role))

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> MiniFloatGrid:
        words = _OPTIONS.read(self.canonical(fmt, role), scaled_defaults(role))
        signed = role.is_parameter or bool((finite(sample) < 0).any())
        exponent = int(fmt.bits) - signed
        kind = MiniFloat(exponent, 0, 2 - 2**exponent, signed=signed)  # the largest level is 1
        return fit_minifloat(sample, kind, Grain.named(words["grain"], axis), words["range"])

    def width(self, fmt: Format) -> Width:
        """One significant bit: a product is a shift."""
        return Width(int(fmt.bits), significant=1, code=f"{fmt.scheme}{fmt.bits:g}")
