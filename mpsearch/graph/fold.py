"""BatchNorm folded into the convolution or linear layer before it, where that is exact."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from mpsearch.graph.export import Lowered
from mpsearch.graph.ops import CONVOLUTIONS, LINEAR, TRANSPOSED, aten, is_call, shape

_BATCH_NORM = {aten._native_batch_norm_legit_no_training.default}


def fold_batch_norm(lowered: Lowered) -> list[str]:
    """Fold in place; names of the weights that took one in.

    W' = W * gamma / sqrt(var + eps) per output channel, b' = (b - mean) * gamma / sqrt(var + eps) + beta, computed in
    double. A BatchNorm stays where the value before it has another user or the weight is shared: folding would change
    what the other reader sees.
    """
    folded = []
    for node in list(lowered.graph.nodes):
        if is_call(node, _BATCH_NORM) and _is_exact(node):
            folded.append(_fold(lowered, node))
    lowered.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    used = {node.target for node in lowered.graph.nodes if node.op == "get_attr"}
    lowered.tensors = {name: tensor for name, tensor in lowered.tensors.items() if name in used}
    lowered.parameters &= used
    return folded


def _is_exact(norm: fx.Node) -> bool:
    layer = norm.args[0]
    if not is_call(layer, CONVOLUTIONS | TRANSPOSED | LINEAR) or len(layer.users) != 1:
        return False
    if is_call(layer, LINEAR) and len(shape(layer)) != 2:
        return False  # BatchNorm runs along axis 1, which is not the linear layer's output axis
    if is_call(layer, TRANSPOSED) and _argument(layer, 6, 1) != 1:
        return False
    tensors = [a for a in (*layer.args[1:3], *norm.args[1:5]) if isinstance(a, fx.Node)]
    if any(a.op != "get_attr" for a in tensors) or any(user is not norm for user in norm.users if user.op == "output"):
        return False
    own = [a for a in layer.args[1:3] if isinstance(a, fx.Node)]
    reads_first = all(is_call(user, {operator.getitem}) and user.args[1] == 0 for user in norm.users)
    return reads_first and all(len(a.users) == 1 for a in own)


def _argument(node: fx.Node, index: int, default: object) -> object:
    return node.args[index] if len(node.args) > index else default


def _fold(lowered: Lowered, norm: fx.Node) -> str:
    layer, gamma, beta, mean, variance = norm.args[:5]
    epsilon = norm.args[6]
    weight_node = layer.args[1]
    bias_node = layer.args[2] if len(layer.args) > 2 else None

    def get(node: fx.Node | None, default: float) -> Tensor:
        reference = lowered.tensors[mean.target].double()
        return torch.full_like(reference, default) if node is None else lowered.tensors[node.target].double()

    weight = lowered.tensors[weight_node.target]
    factor = get(gamma, 1.0) / torch.sqrt(get(variance, 1.0) + epsilon)
    axis = 1 if is_call(layer, TRANSPOSED) else 0
    along = [-1 if i == axis else 1 for i in range(weight.ndim)]
    lowered.tensors[weight_node.target] = (weight.double() * factor.view(along)).to(weight.dtype)
    bias = (get(bias_node, 0.0) - get(mean, 0.0)) * factor + get(beta, 0.0)
    name = bias_node.target if bias_node is not None else _free_name(lowered, weight_node.target)
    lowered.tensors[name] = bias.to(weight.dtype)
    lowered.parameters.add(name)
    if bias_node is None:
        with lowered.graph.inserting_before(layer):
            bias_node = lowered.graph.get_attr(name)
        bias_node.meta = dict(gamma.meta if isinstance(gamma, fx.Node) else mean.meta)
        layer.args = (*layer.args[:2], bias_node, *layer.args[3:])
    for user in list(norm.users):
        user.replace_all_uses_with(layer)
        lowered.graph.erase_node(user)
    lowered.graph.erase_node(norm)
    return str(weight_node.target)


def _free_name(lowered: Lowered, weight: str) -> str:
    name = weight.removesuffix("weight") + "bias"
    return name if name not in lowered.tensors else f"{weight}.folded_bias"
