"""How scales run over a tensor: one for all of it, one per channel, or one per group of a channel's elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PIECE = 1 << 16
"""Floats of a piece: source and target together fill half a megabyte of cache."""


@dataclass(frozen=True)
class Grain:
    """Which elements share a scale.

    Args:
        axis: the channel axis; None for one scale per tensor.
        group: consecutive elements, of each channel's flattened other axes, that share a scale; a partial
            last group counts as one. None for one scale per channel.
        blocks: the channels lie in so many blocks of equal size that share a scale each: the gates of a recurrent
            matrix. None for one scale per channel.
    """

    axis: int | None = None
    group: int | None = None
    blocks: int | None = None

    @classmethod
    def named(cls, word: str, axis: int) -> Grain:
        """The grain that the option `tensor`, `channel`, `gateN` or `gN` of a format names, for this channel axis."""
        if word == "tensor":
            return cls()
        if word.startswith("gate"):
            return cls(axis, blocks=int(word.removeprefix("gate")))
        return cls(axis, int(word[1:]) if word.startswith("g") else None)

    def rows(self, x: Tensor) -> list[Tensor]:
        """Elements that share a scale as rows: float32 [rows, n] blocks, the last one of partial groups if any.

        Raises `ValueError` where the channels are no blocks of equal size.
        """
        if self.axis is None or x.dim() == 0:
            return [x.reshape(1, -1).float().contiguous()]
        channels = x.movedim(self.axis, 0).reshape(x.shape[self.axis], -1).float().contiguous()
        if self.blocks is not None:
            if len(channels) % self.blocks:
                raise ValueError(f"{len(channels)} channels are not {self.blocks} gates of equal size.")
            return [channels.reshape(self.blocks, -1)]
        if self.group is None:
            return [channels]
        whole = channels.shape[1] // self.group * self.group
        blocks = (channels[:, :whole].reshape(-1, self.group), channels[:, whole:])
        return [block for block in blocks if block.numel()]

    def gather(self, blocks: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Numbers per row of `rows` as one tensor: [] per tensor, [channels], [blocks] or [channels, groups]."""
        if self.axis is None or len(shape) == 0:
            return blocks[0].reshape(())
        if self.group is None:
            return blocks[0]
        return torch.cat([block.reshape(shape[self.axis], -1) for block in blocks], dim=1)

    def spread(self, numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`numbers`, as `gather` gives them, ready to broadcast against a tensor of `shape`."""
        if numbers.dim() == 0 or self.axis is None:
            return numbers
        channels, *others = shape[self.axis], *(n for i, n in enumerate(shape) if i != self.axis % len(shape))
        if self.blocks is not None:
            numbers = numbers.repeat_interleave(channels // self.blocks)
        if self.group is None:
            return numbers.reshape(channels, *(1 for _ in others)).movedim(0, self.axis)
        size = torch.Size(others).numel()
        each = numbers.repeat_interleave(self.group, dim=1)[:, :size]
        return each.reshape(channels, *others).movedim(0, self.axis)


def chunks(x: Tensor, out: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Matching pieces of `x` and `out` that fit the processor's cache: views, whatever the dense memory
    format.

    Several passes over a piece cost little more than one. Tensors that are not dense, or lie on a device, are
    one piece.
    """
    source, target = flattened(x), flattened(out)
    if source is None or target is None or x.stride() != out.stride():
        yield x, out
        return
    size = PIECE * torch.get_num_threads()
    yield from zip(torch.split(source, size), torch.split(target, size), strict=True)


def flattened(x: Tensor) -> Tensor | None:
    """`x` as one dimension in the order it lies in memory, or None if it is not dense (or not on the CPU)."""
    in_memory = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))
    return in_memory.view(-1) if x.device.type == "cpu" and in_memory.is_contiguous() else None


@torch.no_grad()
def scaled_round_trip(
    x: Tensor, out: Tensor | None, grain: Grain, inverse: Tensor, step: Tensor, nearest_: Callable[[Tensor], Tensor]
) -> Tensor:
    """`x` times `inverse`, moved to the nearest numbers by `nearest_`, in place, and times `step`; -0.0 becomes 0.0.

    Args:
        inverse, step: per tensor [], [channels] or [channels, groups], as `grain` has it.
        out: the tensor the result is written to; None for a new one. 16-bit floats are worked on in float32.
    """
    out = torch.empty_like(x) if out is None else out
    if x.dtype != torch.float32:
        return out.copy_(scaled_round_trip(x.float(), None, grain, inverse, step, nearest_))
    less, more = (grain.spread(t, x.shape) for t in (inverse, step))
    for source, target in ((x, out),) if step.dim() else chunks(x, out):
        torch.mul(source, less, out=target)
        nearest_(target).mul_(more).add_(0.0)
    return out
