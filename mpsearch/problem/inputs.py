"""Batches made ready for an exported graph: flat, and of the size that the export fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput
from mpsearch.graph.export import Example, Lowered
from mpsearch.graph.runner import pad
from mpsearch.graph.sparse import is_sparse, passes_messages, with_edges
from mpsearch.graph.structure import EdgeEnd, edge_ends
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


@dataclass(frozen=True)
class Inputs:
    """Makes batches ready for one graph.

    Args:
        padded: rows of a batch where the export fixed them, else None.
        batched: places of the inputs that have such rows.
        keywords: names of keyword inputs, in the order of the graph.
        weighted: whether a sparse adjacency is taken with its values.
        ends: what is looked up by the ends of edges.
        takes_degrees: whether degrees are the last of the inputs.
    """

    padded: int | None
    batched: tuple[int, ...]
    keywords: tuple[str, ...]
    weighted: bool = False
    ends: tuple[EdgeEnd, ...] = ()
    takes_degrees: bool = False

    @classmethod
    def of_graph(cls, lowered: Lowered, first: Example, weighted: bool = False) -> Inputs:
        """Those of `lowered`, which was exported with `first`."""
        return cls(lowered.padded, lowered.batched, tuple(first.kwargs), weighted, tuple(edge_ends(lowered)))

    def of(self, given: Example) -> tuple[list[Any], int]:
        """Flat inputs, and how many rows are the batch's own where it was padded, else 0.

        Raises `BadInput` on an edge that begins or ends at a node that is not there, and on degrees that fit no batch.
        """
        found = with_lists(given, self.weighted)
        leaves = Example(found.args, {name: found.kwargs[name] for name in self.keywords}).leaves()
        self._check_edges(leaves)
        degrees = [self._degrees(given.degrees, leaves)] if self.takes_degrees else []
        if self.padded is None:
            return [*leaves, *degrees], 0
        rows = len(leaves[self.batched[0]])
        return [*pad(leaves, self.batched, self.padded), *degrees], rows

    def _check_edges(self, leaves: list[Any]) -> None:
        for end in self.ends:
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
        nodes = max((end.nodes(leaves) for end in self.ends), default=len(degrees))
        if degrees.shape != (nodes,) or degrees.is_floating_point() or bool((degrees < 0).any()):
            raise BadInput(
                f"degrees are {degrees.dtype} of shape {tuple(degrees.shape)}; give the in-degree of each of the "
                f"{nodes} nodes in the whole graph, as whole numbers of at least 0."
            )
        return degrees
