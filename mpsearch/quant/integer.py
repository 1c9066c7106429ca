"""Uniform integers, 1 to 8 and 16 bits.

Text: `int BITS[:affine|:sym][:GRAIN][:RANGE][:nearest|:stochastic]`, GRAIN one of `tensor`, `channel`, `gate`, `gN`;
RANGE one of `max`, `p99.99`, `entropy`, `mse`, `gain`, `rows`.

* `sym`: codes -(2^(b-1) - 1) to 2^(b-1) - 1. Two bits would have three levels, so `int2` uses all four codes
  -2 to 1, and the sign of each scale is the one that loses less. `int1` is plus or minus the mean magnitude.
* `affine`: codes 0 to 2^b - 1, one of them exactly zero. `int1` is the two ends of the range, which by `mse` are the
  two values of least squared error.
* `tensor`, `channel`, `gN`: one scale for all, per channel, or per N consecutive elements of a channel.
* `gate`: one scale per gate of a recurrent matrix (Li, Alvarez, "On the quantization of recurrent neural networks",
  2021): 4 for an LSTM, 3 for a GRU, 1 for a projection.
* `max`, `pNN`, `entropy`, `mse`, `gain`: how the range is found (`mpsearch.quant.calibrate`,
  `mpsearch.quant.search`). `gain` is `mse` with a penalty on the gain error, a rule of our own.
* `rows`: the range of SGQuant (Feng et al., arXiv 2007.05100), for what lies on nodes and edges of a graph: from the
  mean over rows of the least value of each, to that of the largest. It clips. From 2 bits on it is stretched to hold
  zero, which theirs need not; at 1 bit it is theirs.
* `nearest`, `stochastic`: how a number is rounded (`mpsearch.quant.stochastic`); 2 to 8 bits have both.

Defaults: `sym:channel:gain` for weights (1 and 16 bits: `mse`), `sym:channel:mse` for embeddings, `affine:tensor:mse`
for values; `nearest`.

Values, measured with all inputs of convolutions and linear layers of three networks (ResNets on digits and CIFAR-10,
ViT on digits) at 2, 3, 4, 6 and 8 bits, all else float: `mse` diverges least from the float outputs in 10 of 15 cases.
The exceptions are ResNet-20 at 6 and 8 bits, by little, and the digits ResNet at 2 to 4, where `p99.9` is better
(accuracy at 2 bits 0.95 against 0.92). At 2 bits on ResNet-20 `mse` keeps 0.58 of 0.87, `entropy` 0.43, `p99.9` 0.41,
`max` 0.25. `entropy` can fail badly.

Features of graph networks keep `mse` too. Accuracy on Cora's validation nodes, at float weights of the last epoch:

    ==============================  =====  =====  =====  =====  =====
    quantized, bits                 mse    rows   p99.9  max    float
    ==============================  =====  =====  =====  =====  =====
    GCN, features, 1                0.782  0.784  0.554  0.114  0.784
    GCN, features, 2                0.778  0.780  0.772  0.212  0.784
    GAT, features, 1                0.792  0.780  0.720  0.142  0.812
    GAT, features, 2                0.810  0.806  0.722  0.194  0.812
    GCN, also messages, ..., 2      0.652  0.622  0.126  0.122  0.784
    GCN, also messages, ..., 4      0.778  0.756  0.710  0.738  0.784
    GAT, also messages, ..., 2      0.698  0.624  0.168  0.142  0.812
    ==============================  =====  =====  =====  =====  =====

On features alone `mse` and `rows` do equally well there and on a graph of digits (GCN and GAT, 1 to 8 bits, within 1.2
points, to and fro); with messages, attention and aggregates `mse` is better in 6 of 8 cases at 1 and 2 bits. `max`
wipes sparse rows out.

Weights, measured with all of them quantized, the rest float, sequential bias correction, on validation splits.
Accuracy and log-loss; perplexity of the language model:

    ========================  ===========  ===========  ===========  ===========
    network, bits             gain         mse          max          p99
    ========================  ===========  ===========  ===========  ===========
    CIFAR ResNet-20, 2        0.682 0.927  0.103 2.535  0.244 2.092  0.195 2.353
    CIFAR ResNet-20, 3        0.836 0.497  0.412 1.553  0.804 0.825  0.831 0.582
    CIFAR ResNet-20, 4        0.864 0.446  0.860 0.418  0.860 0.482  0.859 0.425
    digits ResNet-10, 2       0.980 0.345  0.965 0.949  0.914 0.426  0.844 0.559
    digits ResNet-10, 3       0.984 0.145  0.984 0.247  0.984 0.141  0.984 0.116
    digits ViT, 2             0.984 0.175  0.971 0.268  0.980 0.193  0.929 0.363
    digits ViT, 3             0.987 0.139  0.987 0.155  0.987 0.147  0.984 0.148
    small digits ResNet, 2    0.998 0.018  0.993 0.137  0.984 0.080  0.969 0.128
    small digits ResNet, 3    0.993 0.017  0.993 0.023  0.998 0.012  0.998 0.012
    stories LM, 2                137          52         7115         5626
    stories LM, 3               12.2        11.9         25.4         25.7
    stories LM, 4               5.58        5.47         5.80         5.78
    ========================  ===========  ===========  ===========  ===========

The least squared error shrinks each channel, which adds up over layers; at 3 bits on ResNet-20 `affine` gives 0.850
with `gain` and 0.796 with `mse`. From 6 bits on the rules are equal. The language model is better off with `mse`: name
it there. An embedding is looked up, not summed over: on MiniLM at 4 bits (rank correlation, float 0.867) `mse` for it
and `gain` for the weights give 0.855, `mse` for both 0.850, `gain` for both 0.837; at 3 bits they are equal (0.70).

The penalty is a compromise. With 3, 5, 10, 30, 100 ResNet-20 keeps 0.41, 0.63, 0.68, 0.70, 0.69 at 2 bits; the
perplexity of the language model at 3 bits is 11.7, 12.0, 12.2, 12.7 with the first four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.binary import BinaryGrid
from mpsearch.quant.calibrate import entropy, mean_span, percentile, span, thinned
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.latest import Latest
from mpsearch.quant.options import GRAIN, Options, refuse, short
from mpsearch.quant.search import Codes, covering, least_loss, two_means
from mpsearch.quant.stochastic import StochasticGrid

_BITS = (*range(1, 9), 16)
_OPTIONS = Options(
    (
        *("affine", "sym", "tensor", "channel", "gate", "g64"),
        *("max", "p99.99", "entropy", "mse", "gain", "rows", "nearest", "stochastic"),
    ),
    map="affine|sym",
    grain=GRAIN,
    range=r"max|entropy|mse|gain|rows|p[0-9]+(\.[0-9]+)?",
    rounding="nearest|stochastic",
)
_ON_GRAPHS = (Role.FEATURE, Role.MESSAGE, Role.ATTENTION, Role.AGGREGATE)
_PENALTY = 10.0  # of `gain`
_DEAD = 2.0**-100  # a row of magnitudes below this is zero: the reciprocal of its scale would not be safe


@dataclass(frozen=True)
class _Plan:
    """The options of a format, none left out."""

    map: str
    grain: str
    range: str
    rounding: str = "nearest"

    @classmethod
    def default(cls, bits: float, role: Role) -> _Plan:
        if not role.is_parameter:
            return cls("affine", "tensor", "mse")
        return cls("sym", "channel", "gain" if role is Role.WEIGHT and 2 <= bits <= 8 else "mse")

    @classmethod
    def read(cls, fmt: Format, role: Role) -> _Plan:
        """Raises `BadInput` on a word that is unknown or comes twice."""
        words = _OPTIONS.read(fmt, vars(cls.default(fmt.bits, role)))
        if words["range"].startswith("p"):
            words["range"] = f"p{float(words['range'][1:]):g}"
        return cls(**words)

    @property
    def percent(self) -> float | None:
        """Of the values that the range holds, where the range is a percentile."""
        return float(self.range[1:]) if self.range.startswith("p") else None

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
        if self.range == "gain" and not 2 <= bits <= 8:
            return f"gain needs 2 to 8 bits, not {bits:g}; drop it."
        if self.range == "rows" and role not in _ON_GRAPHS:
            return f"rows are nodes or edges of a graph, which no {role} has; drop it."
        if self.range == "rows" and (self.map, self.grain) != ("affine", "tensor"):
            return "rows is the range of one affine scale per tensor; drop sym and channel."
        if self.rounding == "stochastic" and not 2 <= bits <= 8:
            return f"stochastic rounding needs 2 to 8 bits, not {bits:g}; drop it."
        return None


class Integer(Quantizer):
    """Uniform integers of 1 to 8 and 16 bits: `int4`, `int8:affine`, `int4:g32`, `int8:tensor:p99.99`."""

    scheme = "int"
    menu = tuple(f"int{bits}" for bits in range(1, 9))

    def __init__(self) -> None:
        self._rows: Latest[list[Tensor]] = Latest()

    def canonical(self, fmt: Format, role: Role) -> Format:
        plan, default = _Plan.read(fmt, role), _Plan.default(fmt.bits, role)
        refuse(fmt, plan.refusal(fmt.bits, role))
        return short(fmt, vars(plan), vars(default))

    def width(self, fmt: Format) -> Width:
        return Width(int(fmt.bits))

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> Grid:
        plan = _Plan.read(self.canonical(fmt, role), role)
        grain = Grain.named(plan.grain, axis)

        def rows() -> list[Tensor]:
            return [thinned(block) for block in grain.rows(finite(sample).cpu())]  # on the CPU: equal grids everywhere

        # values are large, and all their formats are fitted one after the other
        blocks = rows() if role.is_parameter else self._rows.get(sample, grain, rows)
        ends = mean_span(sample.detach().cpu()) if plan.range == "rows" else None
        fit = _fit_one_bit if fmt.bits == 1 else _fit_codes
        return fit(blocks, sample.shape, int(fmt.bits), plan, grain, ends).to(sample.device)


Ends = tuple[Tensor, Tensor]
"""Lowest and highest value to represent."""


def _fit_codes(
    blocks: Sequence[Tensor], shape: tuple[int, ...], bits: int, plan: _Plan, grain: Grain, ends: Ends | None
) -> AffineGrid:
    """`ends` is the range where it does not follow from the blocks."""
    affine = plan.map == "affine"
    half = 2 ** (bits - 1)
    lowest, highest = (0, 2 * half - 1) if affine else (-half if bits == 2 else 1 - half, half - 1)
    codes = Codes(lowest, highest, affine, _PENALTY if plan.range == "gain" else 0.0)
    scales, zeros = [], []
    for rows in blocks:
        largest = rows.abs().amax(dim=1).double()
        dead = largest < _DEAD
        unit = (rows / largest.masked_fill(dead, torch.inf)[:, None]).float()
        if plan.range in ("mse", "gain") and bits <= 8:  # wider codes lose nothing at full range
            scale, zero = least_loss(unit, codes)
        else:
            low, high = _ends(unit, bits, plan) if ends is None else (e / largest.masked_fill(dead, 1) for e in ends)
            scale, zero = covering(unit, low.float(), high.float(), codes)
        scales.append((scale.double() * largest).masked_fill(dead, 1.0).float())
        zeros.append(zero.to(torch.int32))
    scale, zero = (grain.gather(numbers, shape) for numbers in (scales, zeros))
    kind = StochasticGrid if plan.rounding == "stochastic" else AffineGrid
    return kind(bits, codes.qmin, codes.qmax, scale, zero if affine else None, grain)


def _fit_one_bit(
    blocks: Sequence[Tensor], shape: tuple[int, ...], bits: int, plan: _Plan, grain: Grain, given: Ends | None
) -> BinaryGrid:
    del bits
    if plan.map == "sym":
        spans = [2 * rows.abs().mean(dim=1, dtype=torch.float64).float() for rows in blocks]
        return BinaryGrid(grain.gather(spans, shape), None, grain)
    ends = [given or (two_means(rows) if plan.range == "mse" else _ends(rows, 1, plan)) for rows in blocks]
    span, low = (grain.gather(numbers, shape) for numbers in zip(*((h - w, w) for w, h in ends), strict=True))
    return BinaryGrid(span.float(), low.float(), grain)


def _ends(rows: Tensor, bits: int, plan: _Plan) -> Ends:
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
