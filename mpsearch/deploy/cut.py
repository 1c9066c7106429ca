"""A part of an ONNX model as a model of its own: one operation, to be measured alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from mpsearch.deploy.integers import MOVES
from mpsearch.deploy.onnx_model import OnnxModel
from mpsearch.deploy.onnx_writer import OPSET, Value
from mpsearch.graph.ops import UNARY
from mpsearch.graph.program import Kind, Program, Step

if TYPE_CHECKING:
    import onnx


def operation_model(program: Program, model: OnnxModel, step: Step) -> tuple[onnx.ModelProto, dict[str, int]]:
    """What `step` computes in `model`, from values in floating point to its result in floating point.

    Where the step runs on integers the model quantizes what it reads and dequantizes its result, as an operation
    between floating-point neighbours would. The activation function that follows is part of it.

    Returns the model and, for each input, the step whose value it takes.
    """
    given: dict[str, int] = {}
    names: dict[str, Value] = {}
    for index in step.inputs:
        source = program.steps[index]
        while source.call in MOVES:
            source = program.steps[source.inputs[0]]
        value = model.values.get(source.index)
        if value is not None and source.kind in (Kind.INPUT, Kind.VALUE, Kind.CALL):
            name = value.codes.source if value.codes is not None else value.name
            given[name], names[name] = source.index, value
    result = model.values[_last(program, step).index]
    return _between(model.proto, names, result), given


def _last(program: Program, step: Step) -> Step:
    """The step after the activation function and the quantization that alone read `step`."""
    readers: dict[int, list[Step]] = {}
    for other in program.steps:
        for source in other.inputs:
            readers.setdefault(source, []).append(other)
    while True:
        mine = readers.get(step.index, [])
        if len(mine) != 1 or not (mine[0].kind is Kind.VALUE or mine[0].call in UNARY):
            return step
        step = mine[0]
        if step.kind is Kind.VALUE:
            return step


def _between(proto: onnx.ModelProto, given: Mapping[str, Value], result: Value) -> onnx.ModelProto:
    """The nodes of `proto` that lead from `given` to `result`."""
    import onnx

    made = {name: node for node in proto.graph.node for name in node.output}
    needed: set[str] = set()
    queue = [result.name]
    while queue:
        name = queue.pop()
        if name in needed or name in given:
            continue
        needed.add(name)
        queue += [one for one in made[name].input if one] if name in made else []
    nodes = [node for node in proto.graph.node if needed.intersection(node.output)]
    stored = [tensor for tensor in proto.graph.initializer if tensor.name in needed]
    graph = onnx.helper.make_graph(
        nodes,
        "operation",
        [_info(name, value) for name, value in given.items()],
        [_info(result.name, result)],
        stored,
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=proto.ir_version
    )


def _info(name: str, value: Value) -> onnx.ValueInfoProto:
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(_numpy(value.dtype))
    return onnx.helper.make_tensor_value_info(name, kind, list(value.shape))


def _numpy(dtype: torch.dtype) -> np.dtype[np.generic]:
    return np.dtype(torch.empty(0, dtype=dtype).numpy().dtype)
