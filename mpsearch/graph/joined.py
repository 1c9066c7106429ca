"""Values of several batches as the one that a grid is fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """`parts` one after the other along axis 0.

    Where they differ in more than that, as sequences do that are as long as the longest of each batch, all but the
    channel axis is laid along axis 0 first; where they differ in channels too, these as well. The number of axes stays.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(tuple(parts))
    keeps_channels = len({part.shape[axis] for part in parts}) == 1
    return torch.cat([_tall(part, axis if keeps_channels else None) for part in parts])


def _tall(part: Tensor, axis: int | None) -> Tensor:
    if axis is None or axis % part.ndim == 0:
        return part.reshape(-1, *[1] * (part.ndim - 1))
    shape = [part.shape[i] if i == axis % part.ndim else 1 for i in range(1, part.ndim)]
    return part.movedim(axis, -1).reshape(-1, *shape)
