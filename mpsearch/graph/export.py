"""One `torch.export` of the model, and a plain graph made of it.

The exported evaluation graph is the substrate of everything that touches a model: sites, workload, evaluation.
`run_decompositions({})` makes in-place operators functional (in place they would corrupt the activation cache) and
keeps conv, linear, attention and lstm whole. From it a `Lowered` graph is built: parameters, buffers and constants
become `get_attr` nodes by name (one node per tensor, however many names it has), assertions and copies disappear.
"""

from __future__ import annotations

import inspect
import io
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils import _pytree as pytree

from mpsearch.graph import dropout

aten = torch.ops.aten


class ExportError(Exception):
    """The model cannot be exported. The message names the module and the reason."""


@dataclass(frozen=True)
class Example:
    """Inputs of one batch, any nest of tensors; and, no input of the model, in-degrees of nodes in a larger graph."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    degrees: Tensor | None = None

    def leaves(self) -> list[Any]:
        """Tensors and other leaves, in the order of the exported placeholders."""
        return pytree.tree_leaves((self.args, dict(self.kwargs)))


@dataclass
class Lowered:
    """A model as a plain graph over named tensors.

    Args:
        graph: placeholders are the user's inputs, `get_attr` targets keys of `tensors`; operators are functional.
        tensors: parameters, buffers and constants by name; tied ones appear once, under their first name.
        parameters: names in `tensors` that are parameters.
        out_spec: how to rebuild the model's own output from the flat outputs of the graph.
        padded: rows of a batch when the export fixed the batch size, else None.
        batched: positions of the inputs that have such rows; smaller batches are padded there.
        frozen: those of `parameters` that the model does not train.
    """

    graph: fx.Graph
    tensors: dict[str, Tensor]
    parameters: set[str]
    out_spec: pytree.TreeSpec
    padded: int | None = None
    batched: tuple[int, ...] = ()
    frozen: set[str] = field(default_factory=set)


def export(model: nn.Module, examples: Sequence[Example], keep_dropout: bool = False) -> Lowered:
    """Export `model` for inputs shaped like `examples`; axes that differ between them stay dynamic.

    Where the export cannot keep the leading axis dynamic, it is fixed to the largest batch (`Lowered.padded`).
    With `keep_dropout` the graph calls `dropout`, which does nothing unless it is told to train.
    Raises `ExportError`.
    """
    torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder path hides its linear layers
    model = model.eval()
    first = max(examples, key=_elements)
    varying = _varying_axes(first, examples)
    try:
        program = _export(model, first, varying)
        fixed = _specialised(program, varying)
        if fixed:
            program = _export(model, first, [frozenset()] * len(varying))
    except Exception as error:  # whatever the tracer raises is about the model, and is reported as such
        raise ExportError(_explain(model, error)) from error
    if fixed and any(axes - {0} for axes in varying):
        raise ExportError(
            "an axis other than the batch axis differs between batches, but the export fixes it (an LSTM fixes its "
            "sequence length): pad all batches to one length in the objective."
        )
    lowered = _lower(program, model, keep_dropout)
    if fixed:
        lowered.batched = tuple(i for i, axes in enumerate(varying) if axes)
        lowered.padded = first.leaves()[lowered.batched[0]].shape[0]
    return lowered


def _elements(example: Example) -> int:
    return sum(leaf.numel() for leaf in example.leaves() if isinstance(leaf, Tensor))


def _varying_axes(first: Example, examples: Sequence[Example]) -> list[frozenset[int]]:
    """Per input leaf, the axes whose size is not the same in all examples."""
    reference = first.leaves()
    varying: list[set[int]] = [set() for _ in reference]
    for example in examples:
        leaves = example.leaves()
        if len(leaves) != len(reference):
            raise ExportError(f"batches have different numbers of inputs: {len(reference)} and {len(leaves)}.")
        for axes, a, b in zip(varying, reference, leaves, strict=True):
            if isinstance(a, Tensor) and a.ndim == b.ndim:
                axes |= {i for i in range(a.ndim) if a.shape[i] != b.shape[i]}
    return [frozenset(axes) for axes in varying]


def _export(model: nn.Module, example: Example, varying: Sequence[frozenset[int]]) -> torch.export.ExportedProgram:
    leaves, spec = pytree.tree_flatten((example.args, dict(example.kwargs)))
    dims = [
        dict.fromkeys(axes, Dim.AUTO) if isinstance(leaf, Tensor) else None
        for leaf, axes in zip(leaves, varying, strict=True)
    ]
    args_dims, kwargs_dims = pytree.tree_unflatten(dims, spec)
    dynamic = dict(inspect.signature(model.forward).bind(*args_dims, **kwargs_dims).arguments) if any(varying) else None
    # torch warns of every LSTM, and prints the graph that it could not finish: what fails is said by `_explain`
    with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
        return torch.export.export(model, example.args, dict(example.kwargs), dynamic_shapes=dynamic, strict=False)


def _specialised(program: torch.export.ExportedProgram, varying: Sequence[frozenset[int]]) -> bool:
    users = [s.arg.name for s in program.graph_signature.input_specs if s.kind == InputKind.USER_INPUT]
    nodes = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    for name, axes in zip(users, varying, strict=True):
        value = nodes[name].meta.get("val")
        if isinstance(value, Tensor) and any(is_concrete_int(value.shape[a]) for a in axes):
            return True
    return False


def _explain(model: nn.Module, error: Exception) -> str:
    """The module in whose forward the trace stopped, and why, in one line each."""
    text = str(error).strip()
    frames = []
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            frames.append(owner)
        trace = trace.tb_next
    names = {id(m): name for name, m in model.named_modules()}
    inner = [names[id(m)] for m in frames if names.get(id(m))]
    where = f"module {inner[-1]!r} ({type(model.get_submodule(inner[-1])).__name__})" if inner else type(model).__name__
    if "item()" in text or "data-dependent" in text.lower() or "data dependent" in text.lower():
        reason = "its computation depends on values of tensors (an `.item()` or a data-dependent branch or size)"
    else:
        reason = re.sub(r"\s+", " ", text)[:300] or type(error).__name__
    return f"{where} cannot be exported: {reason}."


_IDENTITIES = {aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default}
_VIEWS = {aten.view.default, aten._unsafe_view.default}
"""Traced for the strides that an operator happens to give. Quantized, or written out as several operators, a value may
lie otherwise: a reshape gives the same numbers whatever the strides."""
_ASSERTIONS = {
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
}


def _lower(program: torch.export.ExportedProgram, model: nn.Module, keep_dropout: bool) -> Lowered:
    if keep_dropout:
        dropout.hold(program.graph)
        program.graph_module.recompile()
    with warnings.catch_warnings(action="ignore"):  # torch warns of how it copies its own trees
        evaluation = program.run_decompositions({})
    signature, old = evaluation.graph_signature, evaluation.graph
    specs = {spec.arg.name: spec for spec in signature.input_specs}
    known = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    tensors: dict[str, Tensor] = {}
    parameters: set[str] = set()
    trained: set[str] = set()
    by_identity: dict[tuple[Any, ...], str] = {}
    graph = fx.Graph()
    new: dict[fx.Node, Any] = {}

    def attribute(name: str, tensor: Tensor, old_node: fx.Node) -> fx.Node:
        identity = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
        )
        first = by_identity.setdefault(identity, name) if tensor.numel() else name
        if first not in tensors:
            tensors[first] = tensor.detach()
            node = graph.get_attr(first)
            node.meta = dict(old_node.meta)
            attribute_nodes[first] = node
        return attribute_nodes[first]

    attribute_nodes: dict[str, fx.Node] = {}
    for node in old.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                new[node] = graph.placeholder(node.name)
                new[node].meta = dict(node.meta)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                tensor = known.get(spec.target)
                if tensor is None:
                    tensor = evaluation.constants.get(spec.target, evaluation.state_dict.get(spec.target))
                new[node] = attribute(spec.target, tensor, node)
                if spec.kind == InputKind.PARAMETER:
                    parameters.add(new[node].target)
                    if tensor.requires_grad:
                        trained.add(new[node].target)
            else:
                raise ExportError(f"input {node.name!r} of kind {spec.kind.name} is not supported.")
        elif node.op == "call_function":
            if node.target in _ASSERTIONS:
                continue
            if node.target in _IDENTITIES or (node.target is aten.clone.default and not node.kwargs):
                new[node] = new[node.args[0]]
                continue
            new[node] = graph.node_copy(node, new.__getitem__)
            if node.target in _VIEWS:
                new[node].target = aten.reshape.default
            if keep_dropout:
                _train(new[node], model)
        elif node.op == "output":
            kinds = [spec.kind for spec in signature.output_specs]
            outputs = [value for value, kind in zip(node.args[0], kinds, strict=True) if kind == OutputKind.USER_OUTPUT]
            graph.output(tuple(new[value] if isinstance(value, fx.Node) else value for value in outputs))
        else:
            raise ExportError(f"node {node.name!r} of kind {node.op!r} (control flow) is not supported.")
    _free_shapes(graph)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return Lowered(graph, _used(graph, tensors), parameters, evaluation.call_spec.out_spec, frozen=parameters - trained)


def _train(node: fx.Node, model: nn.Module) -> None:
    """Let a node of a training graph drop what its module drops."""
    if node.target is dropout.HELD:
        node.target = dropout.dropout
    path = module_path(node)
    share = dropout.inside(node, model.get_submodule(path) if path else None)
    if share:
        node.meta["dropout"] = share


_LIKE = {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default}


def _free_shapes(graph: fx.Graph) -> None:
    """Let `new_zeros(x, size)` and its kin take dtype and device from the earliest value that has them.

    They read nothing else of `x`; this way counts and masks depend on no site, and nothing is made for its type alone.
    """
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in _LIKE:
            continue
        source = node.args[0]
        while source.op == "call_function" and source.args and isinstance(source.args[0], fx.Node):
            above = source.args[0].meta.get("val")
            if not isinstance(above, Tensor) or above.dtype != source.meta["val"].dtype:
                break
            source = source.args[0]
        node.args = (source, *node.args[1:])


def _used(graph: fx.Graph, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {node.target for node in graph.nodes if node.op == "get_attr"}
    return {name: tensor for name, tensor in tensors.items() if name in names}


def module_path(node: fx.Node) -> str:
    """Dotted name of the innermost module the node was traced in; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path and not path.startswith("_")]
    return str(paths[-1]) if paths else ""


def replace(old: fx.Node, new: fx.Node, keep: Collection[object]) -> None:
    """Let every user of `old` read `new` instead, except `new` itself and calls of what is in `keep`."""
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new and user.target not in keep)
