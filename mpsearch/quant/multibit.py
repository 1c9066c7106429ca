"""Multi-bit binary bases: a group of weights is a sum of few vectors of plus and minus one, each times a coordinate.

Text: `multibit BITS[:channel|:pixel|:kernel|:gN][:even|:adaptive][:a32|:a16][:mse|:gain]`, up to 8 bits, for
parameters only.

* `channel`, `gN`: groups are an output channel, or N consecutive elements of one (a partial last group counts as one).
  `pixel`: the input channels at one position of a convolution kernel; `kernel`: the positions of one input channel.
  Without a kernel those two are `channel`.
* `even`: every group has BITS bases. `adaptive`: groups have as many as they are worth, also none, and BITS on average
  at most, over all weights; up to 2 more than BITS, rounded up, and 8. A fraction such as `multibit0.7:g64` is always
  adaptive.
* `a32`, `a16`: bits of a coordinate. Small groups make coordinates dear: with groups of n a basis takes 1 + a / n bits
  per weight.

* `mse`, `gain`: the coordinates of least squared error, or those stretched by a factor per group that also counts what
  the group loses of its length, as for integers (`mpsearch.quant.integer`).

Defaults: `channel:even:a32`, and `gain` for weights from 2 bits on, else `mse`. With one basis a group takes plus or
minus its mean magnitude.

The bases are found greedily, each the signs of what the others leave, with the coordinates of least squared error for
all so far; then nearest sums and best coordinates in turn. From 3 bases on equally spaced levels are another start (our
own): greedy ones end far from the best. Bases go first to groups whose squared error they lower
most; the source asks the training loss instead, which a tensor alone does not tell.

Source: Qu et al., "Adaptive Loss-aware Quantization for Multi-bit Networks" (CVPR 2020, arXiv 1912.08883), its grid
and storage, from the code in zqu1992/ALQ; there every group stores how many bases it has, here only `adaptive` ones do.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.bases import Bases, BasesGrid, Groups
from mpsearch.quant.grid import Quantizer, finite
from mpsearch.quant.options import Options, refuse, short
from mpsearch.quant.scale import DEAD, stretch

_OPTIONS = Options(
    ("channel", "pixel", "kernel", "g64", "even", "adaptive", "a32", "a16", "mse", "gain"),
    group="channel|pixel|kernel|g[1-9][0-9]*",
    share="even|adaptive",
    coordinate="a32|a16",
    range="mse|gain",
)
_MOST = 8  # bases of a group
_SPARE = 2  # bases that a group may have above the average
_ROUNDS = 8  # of nearest sums and best coordinates
_REACHES = (1.0, 0.85, 0.7, 0.55, 0.4)
_BLOCK = 1 << 18  # elements fitted at a time
_RIDGE = 1e-9  # of the Gram matrix: bases that coincide share their coordinate
_NOTHING = 2.0**-18  # of the largest coordinate of a group: adds no level


class Multibit(Quantizer):
    """Sums of binary vectors: `multibit2`, `multibit1.5:g64`, `multibit3:pixel:a16`."""

    scheme = "multibit"
    menu = ("multibit1.5", "multibit2", "multibit3", "multibit4")

    def canonical(self, fmt: Format, role: Role) -> Format:
        words, defaults = _read(fmt, role)
        if words["share"] == "even" and fmt.bits != int(fmt.bits):
            refuse(fmt, "a fraction of a bit is an average; drop even.")
        return short(fmt, words, defaults)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> BasesGrid:
        words, _ = _read(self.canonical(fmt, role), role)
        groups = Groups.named(words["group"], axis, sample.shape)
        adaptive, most = is_adaptive(fmt), most_bases(fmt)
        rows = groups.of(finite(sample).cpu())  # on the CPU: equal grids everywhere
        sizes = groups.sizes()
        half = words["coordinate"] == "a16"
        parts = [
            _fit(part, size, most, half, every=adaptive)
            for part, size in zip(
                *(torch.split(t, max(1, _BLOCK // rows.shape[1])) for t in (rows, sizes)), strict=True
            )
        ]
        coordinates, errors = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        counts = allocate(errors, sizes, fmt.bits) if adaptive else torch.full((len(rows),), most)
        chosen = coordinates[torch.arange(len(rows)), counts - (0 if adaptive else most)]
        if words["range"] == "gain":
            held = torch.arange(rows.shape[1]) < sizes[:, None]
            factor = stretch(rows, lambda factor: Bases(chosen * factor[:, None]).nearest(rows)[1].mul_(held))
            chosen = _stored(chosen * factor[:, None], half)
        tensors = chosen.to(sample.device), counts.to(sample.device)
        return BasesGrid(*tensors, groups, 16 if half else 32, most if adaptive else None)

    def width(self, fmt: Format) -> Width:
        """As many binary vectors as bases, on average; without units for those, float32 sums of coordinates."""
        return Width(32, "fp", significant=fmt.bits, is_binary=True, code=f"{fmt.scheme}{fmt.bits:g}")


def is_adaptive(fmt: Format) -> bool:
    """Whether groups in the canonical `fmt` have different numbers of bases."""
    return "adaptive" in fmt.options or fmt.bits != int(fmt.bits)


def most_bases(fmt: Format) -> int:
    """How many bases a group in the canonical `fmt` has at most."""
    return min(_MOST, ceil(fmt.bits) + _SPARE) if is_adaptive(fmt) else int(fmt.bits)


def allocate(errors: Tensor, sizes: Tensor, bits: float) -> Tensor:
    """How many bases each group gets, int64 [groups].

    A basis costs as many bits as its group has elements. The best ratios of error lowered to bits go first, those of
    one group in order; the average number of bases, over elements, is at most `bits`.

    Args:
        errors: squared error of each group with 0, 1, ... bases, [groups, most + 1].
        sizes: elements of each group, int64 [groups].
    """
    gains = (errors[:, :-1] - errors[:, 1:]).double() / sizes[:, None]
    gains = gains.cummin(dim=1).values  # a basis is worth no more than those before it
    order = gains.flatten().argsort(descending=True, stable=True)
    cost = sizes[:, None].expand_as(gains).flatten()[order].cumsum(0)
    taken = torch.zeros(gains.numel(), dtype=torch.bool)
    taken[order] = (cost <= bits * int(sizes.sum())) & (gains.flatten()[order] > 0)
    return taken.reshape(gains.shape).sum(dim=1)


def _fit(rows: Tensor, sizes: Tensor, most: int, half: bool, every: bool) -> tuple[Tensor, Tensor]:
    """Coordinates [groups, numbers, most] and squared errors [groups, numbers] of groups [groups, n].

    `numbers` are 0 to `most` bases if `every`, else `most` alone. Coordinates beyond a number are 0.
    """
    held = (torch.arange(rows.shape[1]) < sizes[:, None]).float()
    largest = rows.abs().amax(dim=1).double()
    target = (rows / largest.clamp(min=DEAD)[:, None]).float()
    left, signs = target, target.new_zeros(len(rows), 0, rows.shape[1])
    found = [(torch.zeros(len(rows), most), target.double().square().sum(dim=1))]
    for number in range(1, most + 1):
        fresh = (left >= 0).float().mul_(2).sub_(1).mul_(held)
        signs, coordinates = _solve(torch.cat((signs, fresh[:, None]), dim=1), target)
        left = target - (coordinates[:, None] @ signs)[:, 0]
        if every or number == most:
            found.append(_polished(target, held, coordinates, most))
    found = found if every else found[-1:]
    coordinates, errors = (torch.stack(tensors, dim=1) for tensors in zip(*found, strict=True))
    return _stored(coordinates.double() * largest[:, None, None], half), errors * largest.square()[:, None]


def _solve(signs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates [groups, bases] of least squared error, none negative: the bases of those that were are flipped."""
    gram = (signs @ signs.transpose(1, 2)).double()
    gram.diagonal(dim1=1, dim2=2).add_(_RIDGE * signs.shape[2])
    along = (signs @ target[..., None]).double()
    coordinates = torch.linalg.solve(gram, along)[..., 0].float()
    flip = torch.where(coordinates < 0, -1.0, 1.0)
    return signs * flip[..., None], coordinates * flip


def _polished(target: Tensor, held: Tensor, coordinates: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Nearest sums and best coordinates in turn, from `coordinates` [groups, bases]; the best met, and its error."""
    number = coordinates.shape[1]

    def judged(coordinates: Tensor) -> tuple[Tensor, Tensor]:
        places, near = Bases(coordinates).nearest(target)
        return places, (near - target).mul_(held).square_().sum(dim=1, dtype=torch.float64)

    best = coordinates
    places, least = judged(best)
    for reach in _REACHES if number > 2 else ():  # equally spaced, up to a part of the largest magnitude
        even = (reach / (2**number - 1) * 2.0 ** torch.arange(number)).expand_as(best)
        found, error = judged(even)
        less = error < least
        best, least = torch.where(less[:, None], even, best), torch.where(less, error, least)
        places = torch.where(less[:, None], found, places)
    for _ in range(_ROUNDS if number > 1 else 0):
        digits = (places[:, None] >> torch.arange(number)[:, None] & 1).float().mul_(2).sub_(1).mul_(held[:, None])
        _, moved = _solve(digits, target)
        places, error = judged(moved)
        less = error < least
        if not less.any():
            break
        best, least = torch.where(less[:, None], moved, best), torch.where(less, error, least)
    return pad(best, (0, most - number)), least


def _stored(coordinates: Tensor, half: bool) -> Tensor:
    """As they are stored, those that add no level left out."""
    found = coordinates.clamp(max=torch.finfo(torch.float16).max).half().float() if half else coordinates.float()
    return torch.where(found > _NOTHING * found.amax(dim=-1, keepdim=True), found, 0.0)


def _read(fmt: Format, role: Role) -> tuple[dict[str, str], dict[str, str]]:
    if not role.is_parameter:
        refuse(fmt, f"binary bases are for parameters, not for a value ({role}). Use int or esb.")
    if not 0 < fmt.bits <= _MOST:
        refuse(fmt, f"there are no {fmt.bits:g} bits. Allowed: up to {_MOST}, also fractions.")
    whole = fmt.bits == int(fmt.bits)
    gain = "gain" if role is Role.WEIGHT and fmt.bits >= 2 else "mse"
    defaults = {"group": "channel", "share": "even" if whole else "adaptive", "coordinate": "a32", "range": gain}
    return _OPTIONS.read(fmt, defaults), defaults
