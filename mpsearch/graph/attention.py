"""Attention in a graph: fused (one node) or written out (matmul, softmax, matmul), and how to write a fused one out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from mpsearch.graph.dropout import dropout
from mpsearch.graph.export import module_path
from mpsearch.graph.ops import (
    ATTENTION,
    COMPUTE,
    EMBEDDINGS,
    PRODUCTS,
    RESHAPES,
    SOFTMAX,
    WEIGHTED,
    aten,
    is_call,
    root,
    unreshaped,
)

_SCALING = {
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.add.Tensor,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.where.self,
}

_HIDDEN = -1e4
"""Masks that are added hide with less than this: -inf, or the lowest number of a floating-point type."""


@dataclass(frozen=True)
class Block:
    """One attention: the nodes of its parts. `fused` is the single node that holds scores and probs, or None."""

    name: str
    query: fx.Node
    key: fx.Node
    value: fx.Node
    scores: fx.Node
    probs: fx.Node
    fused: fx.Node | None


def find(nodes: Iterable[fx.Node], live: set[fx.Node]) -> list[Block]:
    """Every attention whose query, key and value depend on the input."""
    blocks = []
    for node in nodes:
        if is_call(node, ATTENTION) and node in live:
            query, key, value = node.args[:3]
            blocks.append(Block(module_path(node) or "attention", query, key, value, node, node, node))
        elif is_call(node, SOFTMAX) and node in live:
            block = _written_out(node)
            if block is not None:
                blocks.append(block)
    return blocks


def _written_out(softmax: fx.Node) -> Block | None:
    """matmul, softmax, matmul around `softmax`, or None if it is not an attention's."""
    readers = [softmax]
    while len(readers[-1].users) == 1 and is_call(next(iter(readers[-1].users)), RESHAPES):
        readers.append(next(iter(readers[-1].users)))
    after = next((u for u in readers[-1].users if is_call(u, PRODUCTS) and unreshaped(u.args[0]) is softmax), None)
    before = _through_scaling(softmax.args[0], PRODUCTS)
    if after is None or before is None:
        return None
    query, key = before.args[:2]
    name = module_path(softmax) or "attention"
    return Block(name, unscaled(query), unscaled(key), after.args[1], _unmasked(softmax.args[0]), softmax, None)


def _unmasked(node: fx.Node) -> fx.Node:
    """The scores before a mask is added or filled in: a mask's huge numbers have no place on a grid."""
    node = unreshaped(node)
    if is_call(node, {aten.add.Tensor, aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.where.self}):
        inner = next((a for a in node.args if isinstance(a, fx.Node) and _reaches(a, PRODUCTS)), None)
        return node if inner is None else _unmasked(inner)
    return node


def _through_scaling(node: object, targets: set[object]) -> fx.Node | None:
    while True:
        node = unreshaped(node)
        if is_call(node, targets):
            return node
        if not is_call(node, _SCALING):
            return None
        operands = [a for a in node.args if isinstance(a, fx.Node)]
        if is_call(node, {aten.where.self}):
            operands = operands[1:]
        node = next((a for a in operands if _reaches(a, targets)), None)


def _reaches(node: fx.Node, targets: set[object]) -> bool:
    node = unreshaped(node)
    if is_call(node, targets):
        return True
    return is_call(node, _SCALING) and any(_reaches(a, targets) for a in node.args if isinstance(a, fx.Node))


def unscaled(node: fx.Node) -> fx.Node:
    """The operand before a multiplication by a constant (the 1/sqrt(d) that some models apply to q and k)."""
    plain = unreshaped(node)
    if is_call(plain, {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor}) and not isinstance(plain.args[1], fx.Node):
        return unscaled(plain.args[0])
    return node


def own_value(node: fx.Node) -> fx.Node:
    """The value of one of q, k, v when all three are slices of one tensor: before reshapes, after the slice."""
    return unreshaped(node)


def owners(block: Block) -> dict[str, fx.Node]:
    """The values of query, key and value that a site sits on: their roots, or slices of one packed projection."""
    operands = {"q": block.query, "k": block.key, "v": block.value}
    whole = {name: root(node) for name, node in operands.items()}
    return whole if len(set(whole.values())) == 3 else {name: own_value(node) for name, node in operands.items()}


def is_causal(node: fx.Node, arguments: Sequence[Any], keywords: Mapping[str, Any], result: Tensor) -> bool:
    """Whether no query of an attention sees a key after it, on this batch. A single token tells nothing.

    Args:
        node: a fused attention, or the softmax of one that is written out, called with the rest.
        result: what it gave.
    """
    if not is_call(node, ATTENTION):
        hidden = result == 0
    else:
        given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), arguments, strict=False))
        given |= keywords
        mask = given.get("attn_mask")
        if mask is None:
            return bool(given.get("is_causal", False))
        hidden = ~mask if mask.dtype == torch.bool else mask < _HIDDEN
    if hidden.ndim < 2 or hidden.shape[-1] != hidden.shape[-2] or hidden.shape[-1] < 2:
        return False
    later = torch.ones(hidden.shape[-2:], dtype=torch.bool, device=hidden.device).triu(1)
    return bool(hidden[..., later].all()) and not bool(hidden.all())


def projection(node: fx.Node, live: set[fx.Node]) -> fx.Node | None:
    """The weight parameter of the one layer that makes `node`; None if none does, or more than one.

    Between the two its output may be cut, joined, scaled, turned (rotary positions) or normalized.
    """
    makers, seen, queue = [], set(), [node]
    while queue:
        above = queue.pop()
        if above in seen or above not in live:
            continue
        seen.add(above)
        if above.op == "placeholder" or is_call(above, COMPUTE | EMBEDDINGS):
            makers.append(above)
        else:
            queue.extend(above.all_input_nodes)
    if len(makers) != 1 or not is_call(makers[0], WEIGHTED):
        return None
    weight = root(makers[0].args[1])
    return weight if isinstance(weight, fx.Node) and weight.op == "get_attr" else None


def part_shapes(arguments: tuple[Tensor, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of scores and probabilities of a fused attention called with (query, key, ...)."""
    query, key = arguments[:2]
    full = (*query.shape[:-1], key.shape[-2])
    return {"scores": full, "probs": full}


def scores(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    """Scores [..., Tq, Tk] of `scaled_dot_product_attention`, before mask and softmax."""
    return query @ key.transpose(-2, -1) * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)


def masked(values: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Scores with the attention mask applied: boolean (False is masked) or added."""
    if is_causal:
        mask = torch.ones(values.shape[-2:], dtype=torch.bool, device=values.device).tril()
    if mask is None:
        return values
    return values.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else values + mask


def softmax(values: Tensor) -> Tensor:
    """Probabilities along the last axis; a row that is masked out entirely gives zeros, as the fused kernel does."""
    probabilities = torch.softmax(values, -1)
    return torch.nan_to_num_(probabilities)


def mixed(probabilities: Tensor, value: Tensor) -> Tensor:
    """Values [..., Tq, d] weighted by probabilities, laid out as by the fused kernel: a view can join the heads."""
    out = probabilities @ value
    return out if out.ndim < 4 else out.transpose(-3, -2).contiguous().transpose(-3, -2)


def heads(tensor: Tensor, query: Tensor) -> Tensor:
    """Grouped-query attention: repeat key or value heads [B, Hkv, T, d] to the query's [B, H, T, d]."""
    return tensor.repeat_interleave(query.shape[-3] // tensor.shape[-3], dim=-3)


def write_out(graph: fx.Graph, node: fx.Node) -> dict[str, fx.Node]:
    """Replace a fused attention by matmul, mask, softmax, matmul. Returns the nodes of `scores`, `probs`, `out`."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    query, key, value = given["query"], given["key"], given["value"]
    mask, is_causal = given.get("attn_mask"), given.get("is_causal", False)

    def call(function: Callable[..., Tensor], arguments: tuple[object, ...], part: str | None = None) -> fx.Node:
        new = graph.call_function(function, arguments)
        new.meta = {
            **node.meta,
            "shape": node.meta["shapes"][part] if part else node.meta["shape"],
            "macs": 0,
        }
        return new

    with graph.inserting_before(node):
        if given.get("enable_gqa", False):
            key, value = call(heads, (key, query)), call(heads, (value, query))
        score = call(scores, (query, key, given.get("scale")), "scores")
        score.meta["macs"] = node.meta["macs"]
        unmasked = mask is None and not is_causal
        prob = call(softmax, (score if unmasked else call(masked, (score, mask, is_causal), "scores"),), "probs")
        share = node.meta.get("dropout")
        out = call(mixed, (call(dropout, (prob, share, False), "probs") if share else prob, value))
    node.replace_all_uses_with(out)
    graph.erase_node(node)
    return {"scores": score, "probs": prob, "out": out}
