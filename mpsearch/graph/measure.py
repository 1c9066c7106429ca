"""One float run on a real batch: shapes, sizes and multiply-accumulates of every node, symbols resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mpsearch.graph import attention, recurrent
from mpsearch.graph.export import Lowered
from mpsearch.graph.ops import ATTENTION, RECURRENT, SOFTMAX, is_call
from mpsearch.graph.products import macs


@torch.no_grad()
def measure(lowered: Lowered, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Run the graph on flat `inputs` and write `shape` and `macs` into each node's meta. Returns the flat outputs.

    A sparse matrix has `nnz` too, how many numbers it holds; an attention `is_causal`.
    """
    values: dict[fx.Node, Any] = {}
    readers = {node: len(node.users) for node in lowered.graph.nodes}
    given = iter(inputs)
    for node in lowered.graph.nodes:
        if node.op == "output":
            return tuple(fx.map_arg(node.args[0], values.__getitem__))
        if node.op == "placeholder":
            result = next(given)
        elif node.op == "get_attr":
            result = lowered.tensors[node.target]
        else:
            arguments = fx.map_arg(node.args, values.__getitem__)
            keywords: Mapping[str, Any] = fx.map_arg(node.kwargs, values.__getitem__)
            result = node.target(*arguments, **keywords)
            if is_call(node, ATTENTION):
                node.meta["shapes"] = attention.part_shapes(arguments)
            if is_call(node, RECURRENT):
                node.meta["shapes"] = recurrent.state_shapes(node)
            if is_call(node, ATTENTION | SOFTMAX):
                node.meta["is_causal"] = attention.is_causal(node, arguments, keywords, result)
        values[node] = result
        node.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else ()
        if isinstance(result, Tensor) and result.layout in (torch.sparse_coo, torch.sparse_csr):
            node.meta["nnz"] = result._nnz()
        node.meta["macs"] = macs(node)
        for source in node.all_input_nodes:
            readers[source] -= 1
            if readers[source] == 0:
                values.pop(source)
    raise AssertionError("a graph without output")
