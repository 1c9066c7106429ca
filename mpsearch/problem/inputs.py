"""Batches made ready for an exported graph: flat, and of the size that the export fixed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mpsearch.graph.export import Example, Lowered
from mpsearch.graph.runner import pad
from mpsearch.graph.sparse import with_edges
from mpsearch.problem.objective import Batch


def example(batch: Batch, device: torch.device) -> Example:
    """The inputs of `batch` on `device`, a sparse adjacency as edges."""

    def move(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    args, kwargs = with_edges((tuple(batch.args), dict(batch.kwargs)))
    return Example(pytree.tree_map(move, args), pytree.tree_map(move, kwargs))


class Inputs:
    """Makes batches ready for one graph.

    Args:
        lowered: the graph.
        first: what it was exported with; keywords come in the order of its own.
    """

    def __init__(self, lowered: Lowered, first: Example) -> None:
        self._padded, self._batched, self._keywords = lowered.padded, lowered.batched, tuple(first.kwargs)

    def of(self, found: Example) -> tuple[list[Any], int]:
        """Flat inputs, and how many rows are the batch's own where it was padded, else 0."""
        leaves = Example(found.args, {name: found.kwargs[name] for name in self._keywords}).leaves()
        if self._padded is None:
            return leaves, 0
        rows = len(leaves[self._batched[0]])
        return pad(leaves, self._batched, self._padded), rows
