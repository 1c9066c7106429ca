"""Batches made ready for an exported graph: flat, and of the size that the export fixed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput
from mpsearch.graph.export import Example, Lowered
from mpsearch.graph.runner import pad
from mpsearch.graph.sparse import is_sparse, passes_messages, with_edges
from mpsearch.graph.structure import edge_ends
from mpsearch.problem.objective import Batch


def example(batch: Batch, device: torch.device) -> Example:
    """The inputs of `batch` on `device`, as they are given: a sparse adjacency is one."""

    def move(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) or is_sparse(leaf) else leaf

    args, kwargs, degrees = pytree.tree_map(move, (tuple(batch.args), dict(batch.kwargs), batch.degrees))
    return Example(args, kwargs, degrees)


def with_lists(given: Example, weighted: bool) -> Example:
    """`given` with edges in place of every sparse adjacency, and with their values where they are `weighted`."""
    args, kwargs = with_edges((given.args, dict(given.kwargs)), weighted)
    return Example(args, kwargs, given.degrees)


def check_lists(model: nn.Module, given: Example) -> None:
    """Raise `BadInput` where a model that passes messages gets no list of edges, but what may be meant for one."""
    if not any(map(passes_messages, model.modules())) or any(map(is_sparse, given.leaves())):
        return
    tables = [leaf for leaf in given.leaves() if isinstance(leaf, Tensor) and leaf.ndim == 2]
    if any(len(leaf) == 2 and not leaf.is_floating_point() for leaf in tables):
        return
    for leaf in tables:
        if leaf.is_floating_point() and len(leaf) == 2:
            advice = "edge_index holds whole numbers: give edge_index.long()"
        elif not leaf.is_floating_point() and leaf.shape[1] == 2:
            advice = "edge_index has sources above targets: give edge_index.t()"
        else:
            continue
        raise BadInput(
            f"no edge_index [2, edges] of whole numbers is among its inputs, but {leaf.dtype} of shape "
            f"{tuple(leaf.shape)}. {advice}."
        )


class Inputs:
    """Makes batches ready for one graph.

    Args:
        lowered: the graph.
        first: what it was exported with; keywords come in the order of its own.
        weighted: whether a sparse adjacency was taken with its values.
    """

    def __init__(self, lowered: Lowered, first: Example, weighted: bool = False) -> None:
        self._padded, self._batched, self._keywords = lowered.padded, lowered.batched, tuple(first.kwargs)
        self._weighted = weighted
        self._ends = edge_ends(lowered)
        self._takes_degrees = False

    def of(self, given: Example) -> tuple[list[Any], int]:
        """Flat inputs, and how many rows are the batch's own where it was padded, else 0.

        Raises `BadInput` on an edge that begins or ends at a node that is not there, and on degrees that fit no batch.
        """
        found = with_lists(given, self._weighted)
        leaves = Example(found.args, {name: found.kwargs[name] for name in self._keywords}).leaves()
        self._check_edges(leaves)
        degrees = [self._degrees(given.degrees, leaves)] if self._takes_degrees else []
        if self._padded is None:
            return [*leaves, *degrees], 0
        rows = len(leaves[self._batched[0]])
        return [*pad(leaves, self._batched, self._padded), *degrees], rows

    def take_degrees(self) -> None:
        """From now on give degrees as the last of the inputs."""
        self._takes_degrees = True

    def _check_edges(self, leaves: list[Any]) -> None:
        for end in self._ends:
            nodes, index = end.nodes(leaves), leaves[end.edges][end.row]
            wrong = index[(index < 0) | (index >= nodes)]
            if len(wrong):
                raise BadInput(
                    f"row {end.row} of edge_index names node {int(wrong[0])}, and there are {nodes} nodes; allowed are "
                    f"0 to {nodes - 1}. Number the nodes of each batch from 0."
                )

    def _degrees(self, degrees: Tensor | None, leaves: list[Any]) -> Tensor:
        if degrees is None:
            raise BadInput("it has no degrees, and others have: give every Batch degrees=..., or none.")
        nodes = max((end.nodes(leaves) for end in self._ends), default=len(degrees))
        if degrees.shape != (nodes,) or degrees.is_floating_point() or bool((degrees < 0).any()):
            raise BadInput(
                f"degrees are {degrees.dtype} of shape {tuple(degrees.shape)}; give the in-degree of each of the "
                f"{nodes} nodes in the whole graph, as whole numbers of at least 0."
            )
        return degrees
