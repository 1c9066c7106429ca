"""A graph compiled to steps, with everything the interpreter asks about a step worked out beforehand.

Which sites are upstream of a step, whether its value is worth keeping, whether it may overwrite its input: all of it
follows from the graph and from the sites that have a choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from mpsearch.core.site import Site
from mpsearch.graph import attention, recurrent, spmm
from mpsearch.graph.export import Lowered, replace
from mpsearch.graph.ops import LINEAR, RECURRENT, SHAPE_ONLY, WEIGHTED, aten, is_call, root
from mpsearch.graph.rows import put_rows, take_rows
from mpsearch.graph.sites import Discovery


class Kind(Enum):
    """What a step does."""

    INPUT = "input"  # reads a leaf of the batch
    TENSOR = "tensor"  # a parameter, buffer or constant in float
    PARAMETER = "parameter"  # a parameter at a site
    VALUE = "value"  # quantizes the value of another step
    CALL = "call"  # calls an operator
    OUTPUT = "output"  # the flat outputs


def at_site(value: Tensor, site: int, after_relu: bool = False) -> Tensor:
    """Marks in the graph where the value of a site is quantized; never called."""
    raise AssertionError("a marker is not called")


def _add_to_second(a: Tensor, b: Tensor) -> Tensor:
    return b.add_(a)


_OVERWRITERS: dict[Any, tuple[Callable[..., Any], ...]] = {
    aten.relu.default: (aten.relu_.default,),
    aten.hardtanh.default: (aten.hardtanh_.default,),
    aten.relu6.default: (aten.relu6_.default,),
    aten.leaky_relu.default: (aten.leaky_relu_.default,),
    aten.add.Tensor: (aten.add_.Tensor, _add_to_second),
}
"""In-place forms of an operator, by the operand that they overwrite."""
_CLIPS: dict[Any, Callable[..., tuple[float, float]]] = {
    aten.relu6.default: lambda value: (0.0, 6.0),
    aten.hardtanh.default: lambda value, low=-1.0, high=1.0: (low, high),
}
"""Ranges of operators that clip, by their arguments."""
_PRODUCTS = {aten.mul.Tensor, aten.matmul.default, aten.layer_norm.default}
_FRESH = WEIGHTED | set(_OVERWRITERS) | _PRODUCTS | {take_rows, put_rows}


@dataclass
class Step:
    """One node, compiled.

    Args:
        index: position in the program; inputs have smaller ones.
        kind: what it does.
        inputs: steps it reads.
        site: own site, as an index into `Program.sites`, or None.
        upstream: bit mask of the sites that influence the value, own one included.
        call: the operator.
        arguments: its arguments, steps replaced by `Ref`.
        keep: whether a reader has sites upstream that this step has not: then an unchanged value may be read again.
        overwrites: in-place forms of the operator with the step they overwrite, for inputs that nobody else reads.
        after_relu: whether a ReLU comes before the quantization of a `VALUE` step; most grids do it on the way.
        hesitates: whether keeping the value forces the one reader, a quantization, to make a copy of it: such a value
            is kept only once it was asked for a second time.
        sample: for a `VALUE` step, the step whose value its grid is fitted on: what it quantizes, or all rows of that.
        exclusive: whether nobody else reads the value that a `VALUE` step quantizes.
        fresh: whether the value is a new tensor, not a view of another.
        corrected: for a layer whose bias can be corrected, the site of its weight, else None.
        clipped: for such a layer that a clipping (ReLU6) alone reads, the range of the latter, else None.
        macs: multiply-accumulates on the measured batch.
    """

    index: int
    kind: Kind
    name: str
    inputs: tuple[int, ...] = ()
    site: int | None = None
    upstream: int = 0
    call: Callable[..., Any] | None = None
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    keep: bool = False
    overwrites: tuple[tuple[int, Callable[..., Any]], ...] = ()
    after_relu: bool = False
    hesitates: bool = False
    sample: int = -1
    exclusive: bool = False
    fresh: bool = False
    corrected: int | None = None
    clipped: tuple[float, float] | None = None
    channel_axis: int = 1
    macs: int = 0
    node: fx.Node | None = None


@dataclass(frozen=True)
class Ref:
    """Stands for the value of a step among arguments."""

    step: int


@dataclass
class Program:
    """Steps in order, the last one being the output.

    Args:
        sites: those that have a choice, in order of computation.
        downstream: per site, the steps it influences, in order.
        corrected: steps of the layers whose weight has a choice: conv and linear.
        tensors: parameters, buffers and constants by name.
    """

    steps: list[Step]
    sites: tuple[Site, ...]
    downstream: list[list[int]]
    corrected: list[int]
    tensors: dict[str, Tensor]
    out_spec: pytree.TreeSpec
    padded: int | None

    @property
    def macs(self) -> int:
        """Of one forward pass on the measured batch."""
        return sum(step.macs for step in self.steps)


def compile_program(lowered: Lowered, discovery: Discovery, active: Iterable[str]) -> Program:
    """Insert the sites named in `active` into the graph and compile it. The graph is used up."""
    names = set(active)
    found = [f for f in discovery.found if f.site.name in names]
    sites = tuple(f.site for f in found)
    parameter_site: dict[fx.Node, int] = {}
    written_out: dict[fx.Node, dict[str, list[fx.Node]]] = {}
    for index, f in enumerate(found):
        if f.site.role.is_parameter:
            parameter_site[f.node] = index
            continue
        node = f.node
        if f.part is not None and node not in written_out:
            written_out[node] = _written_out(lowered.graph, node)
        # a site on the attention's own output sits on what replaced it; a state is quantized at every step
        for value in written_out[node][f.part or "out"] if node in written_out else [node]:
            with lowered.graph.inserting_after(value):
                marker = lowered.graph.call_function(at_site, (value, index))
            marker.meta = {**value.meta, "macs": 0}
            # of an input that is quantized, what reads the shape alone still reads the input, and depends on no site
            replace(value, marker, keep=SHAPE_ONLY if value.op == "placeholder" else set())
    spmm.fuse(lowered.graph)
    _absorb_relu(lowered.graph)
    steps = _steps(lowered, sites, parameter_site)
    _analyse(steps)
    downstream = [[s.index for s in steps if s.upstream >> i & 1] for i in range(len(sites))]
    corrected = [s.index for s in steps if s.corrected is not None]
    return Program(steps, sites, downstream, corrected, lowered.tensors, lowered.out_spec, lowered.padded)


def _written_out(graph: fx.Graph, node: fx.Node) -> dict[str, list[fx.Node]]:
    """Replace a fused operator by what it does. Returns the nodes of its parts."""
    if is_call(node, RECURRENT):
        return recurrent.write_out(graph, node)
    return {part: [made] for part, made in attention.write_out(graph, node).items()}


def _absorb_relu(graph: fx.Graph) -> None:
    """Let a site take over the ReLU before it, where nobody else reads the ReLU: one pass over the memory less."""
    for node in list(graph.nodes):
        if node.target is at_site and is_call(node.args[0], {aten.relu.default}) and len(node.args[0].users) == 1:
            relu = node.args[0]
            node.args = (relu.args[0], node.args[1], True)
            graph.erase_node(relu)


def _steps(lowered: Lowered, sites: Sequence[Site], parameter_site: dict[fx.Node, int]) -> list[Step]:
    steps: list[Step] = []
    index_of: dict[fx.Node, int] = {}
    layers = Counter(root(n.args[1]) for n in lowered.graph.nodes if is_call(n, WEIGHTED))
    for node in lowered.graph.nodes:
        step = Step(len(steps), Kind.CALL, node.name, node=node, macs=node.meta.get("macs", 0))
        if node.op == "placeholder":
            step.kind = Kind.INPUT
        elif node.op == "get_attr":
            step.name = str(node.target)
            step.kind, step.site = Kind.TENSOR, parameter_site.get(node)
            if step.site is not None:
                step.kind = Kind.PARAMETER
        elif node.op == "output":
            step.kind = Kind.OUTPUT
            step.arguments = fx.map_arg(tuple(node.args[0]), lambda n: Ref(index_of[n]))
        elif node.target is at_site:
            step.kind, step.site, step.fresh = Kind.VALUE, node.args[1], True
            step.after_relu = len(node.args) > 2
            of_bin = sites[node.args[1]].bin
            shares = of_bin is not None and of_bin.shares
            step.sample = index_of[node.args[0].args[0] if shares else node.args[0]]
        else:
            step.call = node.target
            step.arguments = tuple(fx.map_arg(node.args, lambda n: Ref(index_of[n])))
            step.keywords = dict(fx.map_arg(node.kwargs, lambda n: Ref(index_of[n])))
            step.fresh = node.target in _FRESH
            if is_call(node, WEIGHTED) and layers[root(node.args[1])] == 1:  # a shared layer has one bias for all
                step.corrected = parameter_site.get(root(node.args[1]))
                step.channel_axis = len(node.meta["shape"]) - 1 if is_call(node, LINEAR) else 1
        step.inputs = tuple(dict.fromkeys(index_of[n] for n in node.all_input_nodes))
        index_of[node] = step.index
        steps.append(step)
    return steps


def _analyse(steps: Sequence[Step]) -> None:
    readers: list[list[Step]] = [[] for _ in steps]
    for step in steps:
        step.upstream = 0 if step.site is None else 1 << step.site
        for source in step.inputs:
            step.upstream |= steps[source].upstream
            readers[source].append(step)
    for step in steps:
        step.keep = any(reader.upstream & ~step.upstream for reader in readers[step.index])
    for step in steps:
        alone = [len(readers[i]) == 1 and steps[i].fresh for i in step.inputs]
        step.exclusive = step.kind is Kind.VALUE and alone[0]
        if step.call in _CLIPS and alone[0] and steps[step.inputs[0]].corrected is not None:
            steps[step.inputs[0]].clipped = _CLIPS[step.call](*step.arguments)
        if step.exclusive:
            steps[step.inputs[0]].hesitates = True
        if step.call in _OVERWRITERS and not step.keywords:
            forms = zip(step.arguments, _OVERWRITERS[step.call], strict=False)
            sole = {i for i, lone in zip(step.inputs, alone, strict=True) if lone and _same_form(steps[i], step)}
            step.overwrites = tuple((a.step, form) for a, form in forms if isinstance(a, Ref) and a.step in sole)


def _same_form(source: Step, step: Step) -> bool:
    assert source.node is not None
    assert step.node is not None
    one, other = source.node.meta, step.node.meta
    same_type = getattr(one.get("val"), "dtype", None) == getattr(other.get("val"), "dtype", None)
    return bool(same_type and one.get("shape") == other.get("shape"))
