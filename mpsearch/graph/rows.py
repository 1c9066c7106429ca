"""Operators on rows of a value that lie in one bin: which they are, taking them out, putting them together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def in_degrees(edge_index: Tensor, nodes: int) -> Tensor:
    """Edges into each node [nodes], counted in `edge_index` [2, e] as it is given, targets below: without self loops
    that a layer adds."""
    return torch.bincount(edge_index[1], minlength=nodes)


def bins_of(degrees: Tensor, edges: Sequence[int]) -> Tensor:
    """Bin of each node [nodes]: how many of the rising `edges` are at most its in-degree."""
    return torch.bucketize(degrees, torch.tensor(edges, device=degrees.device), right=True)


def rows_in(bins: Tensor, number: int) -> Tensor:
    """Numbers of the rows whose bin is `number`, rising."""
    return (bins == number).nonzero().squeeze(1)


def take_rows(value: Tensor, rows: Tensor) -> Tensor:
    """The rows of `value` with these numbers, as a new tensor."""
    return value.index_select(0, rows)


def put_rows(value: Tensor, parts: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """A tensor shaped like `value` made of `parts`, each of which goes to its `rows`; together they are all."""
    whole = torch.empty_like(value, requires_grad=False)
    for part, where in zip(parts, rows, strict=True):
        whole.index_copy_(0, where, part)
    return whole
