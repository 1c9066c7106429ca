"""A sparse adjacency as an edge list: message-passing layers export with the one, and not with the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput

_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)


def with_edges(tree: Any) -> Any:
    """`tree` with every sparse adjacency in it replaced by its `edge_index`."""
    return pytree.tree_map(lambda leaf: edge_index(leaf) if _is_sparse(leaf) else leaf, tree)


def edge_index(adjacency: Tensor) -> Tensor:
    """Sources and targets [2, edges] of a sparse [targets, sources] matrix of ones, sorted by target.

    Rows are targets, as torch-geometric takes a sparse adjacency (`adj_t`). Raises `BadInput` on other values: an edge
    list has no place for them.
    """
    matrix = adjacency.to_sparse_coo().coalesce()
    if not bool((matrix.values() == 1).all()):
        raise BadInput(
            "a sparse adjacency with values other than 1 cannot be exported: "
            "give edge_index and the edge weights as two inputs of the model instead."
        )
    target, source = matrix.indices()
    return torch.stack([source, target])


def refuse_held(model: nn.Module) -> None:
    """Raise `BadInput`, with what to do, where the model itself holds a sparse matrix: no exported graph has one.

    Whether it stands for edges or for a matrix that multiplies, its layers alone know.
    """
    held = []
    for path, module in model.named_modules():
        own = {**vars(module), **dict(module.named_buffers(recurse=False)), **dict(module.named_parameters("", False))}
        held += [f"{path}.{name}" if path else name for name, value in own.items() if _is_sparse(value)]
    if held:
        raise BadInput(
            f"the model holds {', '.join(held)} as a sparse matrix, which cannot be exported: for message passing "
            "hold the edges, edge_index [2, edges] (mpsearch.graph.sparse.edge_index(matrix)), or give the matrix as "
            "an input of the model; where it multiplies, hold matrix.to_dense()."
        )


def _is_sparse(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout in _LAYOUTS
