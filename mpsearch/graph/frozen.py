"""A program at one assignment as plain data: steps that name operators, ready for JSON, and the tensors they read.

Operators are those of ATen that change nothing they are given, arithmetic on sizes, and the functions of this package
that stand in a graph. Whoever reads steps gets them by name out of these, so that a file can ask for nothing else.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Site
from mpsearch.graph import attention, recurrent, rows, spmm
from mpsearch.graph.dropout import dropout
from mpsearch.graph.program import Kind, Program, Ref, Step
from mpsearch.graph.training import TRAINABLE
from mpsearch.quant.grid import Grid

_FUNCTIONS: tuple[Any, ...] = (
    *(attention.scores, attention.masked, attention.softmax, attention.mixed, attention.heads),
    *(rows.in_degrees, rows.bins_of, rows.rows_in, rows.take_rows, rows.put_rows),
    *(spmm.adjacency, spmm.product, dropout, *recurrent.WRITTEN, *TRAINABLE.values()),
)
_OWN: dict[str, Callable[..., Any]] = {
    f"{function.__module__.removeprefix('mpsearch.graph.')}.{function.__name__}": function for function in _FUNCTIONS
}
_SIZES = {name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow")}
_OUTSIDE: dict[str, Callable[..., Any]] = {
    "operator.getitem": operator.getitem,
    **{f"operator.{name}": function for name, function in _SIZES.items()},
    **{f"operator.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    **{f"torch.{n}": getattr(torch, n) for n in ("sym_float", "sym_int", "sym_max", "sym_min", "sym_not", "sym_sum")},
    "functional.linear": F.linear,
}
_NAMED = _OWN | _OUTSIDE
_NAME_OF = {id(function): name for name, function in _NAMED.items()}
_KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


@dataclass(frozen=True)
class Frozen:
    """A program at one assignment.

    Args:
        steps: in order, each a dict: `{"input": place}`, `{"tensor": name}`, `{"call": operator, "args": [...],
            "kwargs": {...}}`, `{"site": name, "of": step, "relu": bool}`, and last `{"output": [...]}`.
        sites: those that are not float, with their formats.
        tensors: what is read in float, by name; at sites not yet quantized. Biases are corrected.
        grids: by name of the site.
    """

    steps: list[dict[str, Any]]
    sites: Mapping[str, tuple[Site, Format]]
    tensors: Mapping[str, Tensor]
    grids: Mapping[str, Grid]


def freeze(
    program: Program,
    formats: Sequence[Format],
    grid: Callable[[int, Format], Grid | None],
    tensors: Mapping[str, Tensor],
    corrections: Mapping[int, Tensor],
    called: Callable[[Step], Any] = lambda step: step.call,
) -> Frozen:
    """`program` at `formats`, one per site.

    Args:
        grid: of a site, by its index.
        tensors: in place of those of the program, by name.
        corrections: what is added to the bias of layers, by index of the step.
        called: what a step runs.

    Raises `BadInput` where a bias to correct is not that of one layer alone, or an operator has no name.
    """
    held = {**program.tensors, **tensors}
    biases = _corrected(program, held, corrections)
    chosen = {i: fmt for i, fmt in enumerate(formats) if fmt != FP32}
    grids = {program.sites[i].name: found for i, fmt in chosen.items() if (found := grid(i, fmt)) is not None}
    steps = [_written(step, program, biases, called) for step in program.steps]
    places = (i for i, step in enumerate(steps) if "input" in step)
    for number, i in enumerate(places):
        steps[i] = {"input": number}
    sites = {program.sites[i].name: (program.sites[i], fmt) for i, fmt in chosen.items()}
    return Frozen(steps, sites, held, grids)


def _corrected(program: Program, held: dict[str, Tensor], corrections: Mapping[int, Tensor]) -> dict[int, str]:
    """Put corrected biases into `held`; the name of the bias of each step that has one."""
    readers: dict[int, int] = {}
    for step in program.steps:
        for source in step.inputs:
            readers[source] = readers.get(source, 0) + 1
    found = {}
    for index, correction in corrections.items():
        step = program.steps[index]
        bias = step.arguments[2] if len(step.arguments) > 2 else None
        assert step.corrected is not None
        weight = program.sites[step.corrected].name
        if bias is None:
            name = f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}.bias"
            name = name if name not in held else f"{weight}.bias"
            held[name] = correction
        else:
            source = program.steps[bias.step]
            if source.kind is not Kind.TENSOR or readers[source.index] > 1:
                raise BadInput(
                    f"the bias of {weight} is {'computed' if source.kind is not Kind.TENSOR else 'shared'}, so that "
                    "its correction cannot be stored with it; search with quantization.bias_correction: none."
                )
            name = source.name
            held[name] = held[name] + correction
        found[index] = name
    return found


def _written(step: Step, program: Program, biases: Mapping[int, str], called: Callable[[Step], Any]) -> dict[str, Any]:
    match step.kind:
        case Kind.INPUT:
            return {"input": 0}
        case Kind.TENSOR | Kind.PARAMETER:
            return {"tensor": step.name}
        case Kind.VALUE:
            assert step.site is not None
            return {"site": program.sites[step.site].name, "of": step.inputs[0], "relu": step.after_relu}
        case Kind.OUTPUT:
            return {"output": [_plain(a) for a in step.arguments]}
    arguments = [_plain(a) for a in step.arguments]
    if step.index in biases:
        arguments[2:3] = [{"tensor": biases[step.index]}]
    named = {key: _plain(a) for key, a in step.keywords.items()}
    return {"call": name_of(called(step)), "args": arguments, "kwargs": named}


def name_of(call: Callable[..., Any]) -> str:
    """The name of an operator. Raises `BadInput` where it has none."""
    if isinstance(call, OpOverload):
        name = str(call)
        if is_known(name):
            return name
    elif id(call) in _NAME_OF:
        return _NAME_OF[id(call)]
    raise BadInput(f"the operator {call} cannot be written to a file; only ATen operators without side effects can.")


def is_known(name: str) -> bool:
    """Whether an operator of this name may stand in a file."""
    try:
        by_name(name)
    except ValueError:
        return False
    return True


def by_name(name: str) -> Callable[..., Any]:
    """The operator of a name. Raises `ValueError` on any that may not stand in a file."""
    if name in _NAMED:
        return _NAMED[name]
    room, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    if room == "aten":
        found = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if isinstance(found, OpOverload) and not found._schema.is_mutable and packet != "from_file":
            return found
    raise ValueError(f"there is no operator {name!r}")


def _plain(value: Any) -> Any:
    """An argument, ready for JSON."""
    if isinstance(value, Ref):
        return {"step": value.step}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, slice):
        return {"slice": [_plain(end) for end in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": "own"}
    for word, kind in _KINDS.items():
        if isinstance(value, kind):
            return {word: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise BadInput(f"an operator is called with {value!r:.60}, which cannot be written to a file.")


def read_argument(value: Any, step: Callable[[int], Any], tensor: Callable[[str], Any], device: torch.device) -> Any:
    """An argument as `freeze` wrote it; `step` and `tensor` give what stands for values and tensors.

    Raises `ValueError` on anything else.
    """
    if isinstance(value, list):
        return [read_argument(item, step, tensor, device) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("step", int(index))]:
            return step(index)
        case [("tensor", str(name))]:
            return tensor(name)
        case [("float", "inf" | "-inf" | "nan" as text)]:
            return float(text)
        case [("slice", [_, _, _] as ends)]:
            return slice(*(read_argument(end, step, tensor, device) for end in ends))
        case [("device", "own")]:
            return device
        case [(word, str(name))] if word in _KINDS and isinstance(getattr(torch, name, None), _KINDS[word]):
            return cast(Any, getattr(torch, name))
    raise ValueError(f"{value!r:.60} is no argument")
