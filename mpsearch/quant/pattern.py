"""Where the zeros of a pruned tensor lie: anywhere, or so many in each few consecutive numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Pattern:
    """How much is zero.

    Args:
        share: of zeros.
        kept, of: how many of so many consecutive numbers of a sum are kept; 0 of 0 where zeros lie anywhere.
    """

    share: float
    kept: int = 0
    of: int = 0

    @classmethod
    def named(cls, word: str) -> Pattern:
        """That of the word `sP`, P percent, or `NofM`."""
        if word.startswith("s"):
            return cls(float(word[1:]) / 100)
        kept, of = map(int, word.split("of"))
        return cls(1 - kept / of, kept, of)

    @property
    def word(self) -> str:
        """Inverse of `named`."""
        return f"{self.kept}of{self.of}" if self.of else f"s{100 * self.share:.10g}"

    def count(self, rows: int, n: int) -> int:
        """How many numbers are kept in `rows` rows of `n`: at least one."""
        if self.of:
            return rows * (n // self.of * self.kept + min(self.kept, n % self.of))
        return max(1, rows * n - round(rows * n * self.share))

    def mask(self, x: Tensor, axis: int) -> Tensor:
        """Which numbers of a parameter `x` are kept: bool, of its shape. The largest are; of equals the first."""
        order = order_of(x.shape, axis).to(x.device)
        size = x.detach().abs().flatten()[order]
        if self.of:
            filled = pad(size, (0, -size.shape[1] % self.of), value=-1.0).unflatten(1, (-1, self.of))
            best = filled.argsort(dim=2, descending=True, stable=True)[..., : self.kept]
            kept = torch.zeros_like(filled, dtype=torch.bool).scatter_(2, best, True).flatten(1)[:, : size.shape[1]]
        else:
            kept = torch.zeros(size.shape, dtype=torch.bool, device=x.device)
            best = size.flatten().argsort(descending=True, stable=True)[: self.count(*size.shape)]
            kept.view(-1)[best] = True
        return torch.zeros(x.numel(), dtype=torch.bool, device=x.device).index_put_((order,), kept).reshape(x.shape)


def order_of(shape: tuple[int, ...], axis: int) -> Tensor:
    """Places of a parameter's numbers as rows [rows, n], int64: one row per output channel, along which the channels of
    the input run first, then the places of a kernel. A tensor of fewer than two axes is one row."""
    places = torch.arange(prod(shape)).reshape(shape)
    if len(shape) < 2:
        return places.reshape(1, -1)
    rows = places.movedim(axis, 0)
    return rows.movedim(1, -1).reshape(len(rows), -1)


def joint_shares(weights: Mapping[str, Tensor], share: float) -> dict[str, float]:
    """Share of zeros of each tensor, where the smallest `share` of all their numbers together are zero.

    Global magnitude pruning (Hawks et al., arXiv 2102.11289), as formats have it: a share for each tensor, by which its
    size and its operations are known.
    """
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    least = sizes.argsort(stable=True)[: round(len(sizes) * share)]
    of = torch.repeat_interleave(torch.tensor([weight.numel() for weight in weights.values()]))
    zeros = torch.bincount(of[least.cpu()], minlength=len(weights)).tolist()
    return {name: zero / weight.numel() for (name, weight), zero in zip(weights.items(), zeros, strict=True)}
