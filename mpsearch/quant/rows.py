"""Tensors as rows, for formats whose blocks or scales run along what a product adds up over."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor
from torch.nn.functional import pad

from mpsearch.core.site import Role


@dataclass(frozen=True)
class Rows:
    """How a tensor is read as a matrix.

    Args:
        axis: the channel axis.
        along: whether rows run along the channel axis (of a value: a node, a position), or hold one channel each (of
            a parameter: all that an output channel multiplies).
    """

    axis: int
    along: bool

    @classmethod
    def of_role(cls, role: Role, axis: int) -> Rows:
        """The rows over which a layer adds up, by what the tensor is."""
        return cls(axis, not role.is_parameter)

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many rows, and how long. A tensor of fewer than two axes is one row."""
        if len(shape) < 2:
            return 1, prod(shape)
        channels = shape[self.axis]
        others = prod(shape[i] for i in range(len(shape)) if i != self.axis % len(shape))
        return (others, channels) if self.along else (channels, others)

    def of(self, x: Tensor) -> Tensor:
        """`x` as float32 [rows, n]; shares memory where it can."""
        if x.dim() > 1:
            x = x.movedim(self.axis, -1 if self.along else 0)
        return x.reshape(self.size(x.shape) if x.dim() < 2 else self._flat(x)).float()

    def back(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Inverse of `of`: a view of `rows` with this shape."""
        if len(shape) < 2:
            return rows.reshape(shape)
        others = [n for i, n in enumerate(shape) if i != self.axis % len(shape)]
        channels = shape[self.axis]
        moved = (*others, channels) if self.along else (channels, *others)
        return rows.reshape(moved).movedim(-1 if self.along else 0, self.axis)

    def _flat(self, moved: Tensor) -> tuple[int, int]:
        return (-1, moved.shape[-1]) if self.along else (moved.shape[0], -1)


def blocks_of(rows: Tensor, size: int) -> Tensor:
    """Rows [rows, n] as blocks [rows, blocks, size], the last of each row filled up with zeros."""
    return pad(rows, (0, -rows.shape[1] % size)).unflatten(1, (-1, size))


def unblocked(blocks: Tensor, n: int) -> Tensor:
    """Inverse of `blocks_of` for rows of `n` elements."""
    return blocks.flatten(1)[:, :n]
