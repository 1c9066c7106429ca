"""A sparse adjacency as an edge list, sorted by target: layers export with the one, and not with the other.

Values other than one become an input beside the edges. What a layer of torch-geometric does with them is kept: a layer
whose `forward` takes `edge_weight` gets them there; one that would run as a sparse product (SAGE, GIN) has its messages
multiplied with them; one that passes `edge_weight` on to its messages gets them there; others (GAT, AGNN,
TransformerConv) take no notice of them, of an adjacency either.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput

_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)


class Edges(NamedTuple):
    """What stands for a sparse adjacency whose values are not all one.

    Args:
        index: sources and targets [2, edges], sorted by target.
        weight: value of each edge [edges].
    """

    index: Tensor
    weight: Tensor


def is_weighted(tree: Any) -> bool:
    """Whether a sparse adjacency in `tree` has a value other than one."""
    found = [_entries(leaf)[2] for leaf in pytree.tree_leaves(tree) if is_sparse(leaf)]
    return any(bool((values != 1).any()) for values in found)


def edge_index(adjacency: Any) -> Tensor:
    """Sources and targets [2, edges] of a sparse [targets, sources] matrix, sorted by target, whatever its values.

    Rows are targets, as torch-geometric takes a sparse adjacency (`adj_t`). Raises `BadInput` where a value is not one
    number.
    """
    target, source, _ = _entries(adjacency)
    return torch.stack([source, target])


def refuse_held(model: nn.Module) -> None:
    """Raise `BadInput`, with what to do, where the model itself holds a sparse matrix: no exported graph has one.

    Whether it stands for edges or for a matrix that multiplies, its layers alone know.
    """
    held = []
    for path, module in model.named_modules():
        own = {**vars(module), **dict(module.named_buffers(recurse=False)), **dict(module.named_parameters("", False))}
        held += [f"{path}.{name}" if path else name for name, value in own.items() if is_sparse(value)]
    if held:
        raise BadInput(
            f"the model holds {', '.join(held)} as a sparse matrix, which cannot be exported: for message passing "
            "hold the edges, edge_index [2, edges] (mpsearch.graph.sparse.edge_index(matrix)), or give the matrix as "
            "an input of the model; where it multiplies, hold matrix.to_dense()."
        )


def with_edges(tree: Any, weighted: bool = False) -> Any:
    """`tree` with every sparse adjacency in it replaced by its `edge_index`, or, `weighted`, by `Edges`.

    Raises `BadInput` where values that are no ones would be lost.
    """
    if not weighted and is_weighted(tree):
        raise BadInput(
            "a sparse adjacency has values other than 1, which no batch had when the model was exported: give weighted "
            "adjacencies from the first batch on, or none."
        )

    def listed(leaf: Any) -> Any:
        if not is_sparse(leaf):
            return leaf
        # no view of a sparse tensor, which has no export
        return Edges(edge_index(leaf), _entries(leaf)[2].clone()) if weighted else edge_index(leaf)

    return pytree.tree_map(listed, tree)


def is_sparse(leaf: Any) -> bool:
    """Whether `leaf` is a sparse matrix of torch or of torch-sparse."""
    return (isinstance(leaf, Tensor) and leaf.layout in _LAYOUTS) or type(leaf).__name__ == "SparseTensor"


def _entries(adjacency: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of what is stored, sorted by row; ones where there are no values."""
    if not isinstance(adjacency, Tensor):
        row, column, values = adjacency.coo()
        values = torch.ones(len(row)) if values is None else values
    else:
        matrix = adjacency.to_sparse_coo().coalesce()
        (row, column), values = matrix.indices(), matrix.values()
    if values.ndim != 1:
        raise BadInput(
            f"a sparse adjacency holds {tuple(values.shape[1:])} numbers per edge; one can be taken: "
            "give edge_index and the edge features as two inputs of the model."
        )
    return row, column, values


@contextmanager
def taken_by_layers(model: nn.Module) -> Iterator[None]:
    """Within, message-passing layers of `model` take `Edges` where they would take the sparse adjacency."""
    with ExitStack() as stack:
        for module in model.modules():
            if passes_messages(module):
                taker = _Taker(module)
                for handle in (
                    module.register_forward_pre_hook(taker.before, with_kwargs=True),
                    module.register_forward_hook(taker.after, always_call=True),
                ):
                    stack.callback(handle.remove)
        yield


def passes_messages(module: nn.Module) -> bool:
    """Whether this is a layer of torch-geometric, or of a user's own, that gathers and scatters along edges."""
    # by name: torch-geometric is not imported for models that have no graph
    return any(kind.__name__ == "MessagePassing" for kind in type(module).__mro__)


class _Taker:
    """Hands `Edges` to one layer, for the length of a call."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.names = list(inspect.signature(layer.forward).parameters)
        self.replaced: list[str] = []

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        del module
        given = dict(zip(self.names, args, strict=False)) | kwargs
        found = [name for name, value in given.items() if isinstance(value, Edges)]
        if not found:
            return None
        edges = given[found[0]]
        given |= {name: given[name].index for name in found}
        if "edge_weight" in self.names:
            if given.get("edge_weight") is None:
                given["edge_weight"] = edges.weight
        elif self.layer.fuse:
            self._replace("message", self._weighed(edges))
        else:
            self._replace("propagate", self._told(edges))
        return (), given

    def after(self, *_: Any) -> None:
        while self.replaced:
            delattr(self.layer, self.replaced.pop())

    def _replace(self, name: str, function: Callable[..., Any]) -> None:
        setattr(self.layer, name, function)
        self.replaced.append(name)

    def _weighed(self, edges: Edges) -> Callable[..., Tensor]:
        """The layer's messages times the values of their edges, as its product with the adjacency would have it."""
        plain, axis = self.layer.message, self.layer.node_dim

        def message(**named: Any) -> Tensor:
            sent: Tensor = plain(**named)
            shape = [1] * sent.ndim
            shape[axis] = -1
            return sent * edges.weight.reshape(shape)

        return message

    def _told(self, edges: Edges) -> Callable[..., Any]:
        """The layer's `propagate`, with the values for an `edge_weight` that is left open."""
        plain = self.layer.propagate

        def propagate(*args: Any, **named: Any) -> Any:
            if "edge_weight" in named and named["edge_weight"] is None:
                named["edge_weight"] = edges.weight
            return plain(*args, **named)

        return propagate
