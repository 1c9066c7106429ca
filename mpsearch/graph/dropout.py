"""Dropout in a graph that was exported in eval mode.

The export is made once and in eval mode, where dropout does nothing and is decomposed away. A training graph keeps the
places: before the graph is decomposed, every dropout becomes an operator of our own that nothing else knows, and after
it a call of `dropout`. Fused attention and recurrent layers drop inside; how much stands in `meta["dropout"]`.

A dropout that a model calls in Python only while it trains (`if self.training: ...`) leaves no trace in the export.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

aten = torch.ops.aten


@torch.library.custom_op("mpsearch::dropout", mutates_args=())
def _held(x: Tensor, p: float, by_channel: bool) -> Tensor:
    """Stands for a dropout while the graph is decomposed."""
    return x.clone()


@_held.register_fake
def _(x: Tensor, p: float, by_channel: bool) -> Tensor:
    return torch.empty_like(x)


HELD = torch.ops.mpsearch.dropout.default
_BY_CHANNEL = {aten.feature_dropout.default, aten.feature_dropout_.default}
_DROPOUTS = _BY_CHANNEL | {aten.dropout.default, aten.dropout_.default}


def dropout(x: Tensor, p: float, by_channel: bool, training: bool = False) -> Tensor:
    """`x` with a share `p` of its elements (or channels) set to zero and the others scaled up, while training."""
    if not training:
        return x
    if not by_channel and x.count_nonzero() <= x.numel() // 10:  # bags of words: to draw for zeros takes most of a step
        given = x.nonzero(as_tuple=True)
        return torch.zeros_like(x).index_put(given, F.dropout(x[given], p))
    return (F.dropout1d if by_channel and x.ndim == 3 else F.dropout2d if by_channel else F.dropout)(x, p)


def hold(graph: fx.Graph) -> None:
    """Make every dropout of an export that drops anything one that a decomposition leaves alone."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _DROPOUTS and node.args[1] > 0:
            node.args = (*node.args[:2], node.target in _BY_CHANNEL)
            node.target, node.kwargs = HELD, {}


def inside(node: fx.Node, owner: nn.Module | None) -> float:
    """What a fused attention or a recurrent layer drops inside while its module trains.

    Args:
        owner: the innermost module that the node was traced in.
    """
    if node.target is aten.scaled_dot_product_attention.default:
        return float(owner.dropout) if isinstance(owner, nn.MultiheadAttention) else 0.0
    if node.target in (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input):
        return float(node.args[5])
    return 0.0
