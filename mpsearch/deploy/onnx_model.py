"""An ONNX model of an assignment: quantized values and weights as QuantizeLinear and DequantizeLinear, the rest float.

The numbers are those of the evaluator: weights on their grids, values on their static grids. A layer whose operands
are quantized to what integer kernels read has its weight stored as int8 codes, per channel, and its bias as int32, so
that a runtime can run it on integers; any other layer reads the same numbers in floating point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32
from mpsearch.deploy.integers import integer_steps
from mpsearch.deploy.onnx_call import Call, Converter, Stored, value_fits
from mpsearch.deploy.onnx_elementwise import ELEMENTWISE
from mpsearch.deploy.onnx_layers import ATTENTION, LAYERS
from mpsearch.deploy.onnx_shapes import INDICES, SHAPES
from mpsearch.deploy.onnx_writer import OPSET, Codes, Value, Writer, require_onnx
from mpsearch.graph.export import module_path
from mpsearch.graph.interpret import Grids
from mpsearch.graph.program import Kind, Program, Ref, Step
from mpsearch.quant.affine import AffineGrid

if TYPE_CHECKING:
    import onnx

CONVERTERS: dict[object, Converter] = {**LAYERS, **ATTENTION, **ELEMENTWISE, **SHAPES, **INDICES}
"""What writes down a call, by its operator."""


@dataclass(frozen=True)
class OnnxModel:
    """A model and what is expected of it.

    Args:
        proto: the model; inputs are called as in the exported graph, outputs `output`, `output_1`, ...
        integer: names of the nodes that a runtime can run on integers; a node that does the work of a step has its
            name.
        values: the tensors by the step of the program that makes them.
    """

    proto: onnx.ModelProto
    integer: frozenset[str]
    values: Mapping[int, Value]


def to_onnx(program: Program, grids: Grids, assignment: Assignment) -> OnnxModel:
    """The model of `program` at `assignment`, for batches of the size that was measured.

    Raises:
        BadInput: an operator that has no converter, or a format that has no form in ONNX.
    """
    require_onnx()
    return _Model(program, grids, assignment).build()


class _Model:
    def __init__(self, program: Program, grids: Grids, assignment: Assignment) -> None:
        self.program, self.grids = program, grids
        self.formats = [assignment.at(site.name) for site in program.sites]
        self.integer = integer_steps(program, grids, self.formats)
        self.writer = Writer()
        self.values: dict[int, Any] = {}
        self.floats: dict[str, Value] = {}
        self.inputs: list[Value] = []

    def build(self) -> OnnxModel:
        import onnx

        for step in self.program.steps:
            self.values[step.index] = self._value(step)
        outputs = self.values[len(self.program.steps) - 1]
        graph = onnx.helper.make_graph(
            self.writer.nodes,
            "model",
            [_described(value, value.shape) for value in self.inputs],
            [_described(value, value.shape) for value in outputs],
            self.writer.constants,
        )
        proto = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], producer_name="mpsearch", ir_version=10
        )
        values = {index: value for index, value in self.values.items() if isinstance(value, Value)}
        return OnnxModel(proto, frozenset(self.program.steps[i].name for i in self.integer), values)

    def _value(self, step: Step) -> Any:
        if step.kind is Kind.INPUT:
            value = Value(self.writer.name(step.name), _dtype(step), _shape(step))
            self.inputs.append(value)
            return value
        if step.kind is Kind.TENSOR:
            return Stored(step.name, self.program.tensors[step.name])
        if step.kind is Kind.PARAMETER:
            assert step.site is not None
            fmt = self.formats[step.site]
            grid = None if fmt == FP32 else self.grids.grid(step.site, fmt)
            return Stored(step.name, self.grids.parameter(step.site, fmt), grid)
        if step.kind is Kind.VALUE:
            return self._quantized(step)
        if step.kind is Kind.OUTPUT:
            return [self._output(self._resolved(a, stored=False), i) for i, a in enumerate(step.arguments)]
        return self._called(step)

    def _called(self, step: Step) -> Any:
        converter = CONVERTERS.get(step.call)
        if converter is None:
            raise BadInput(_no_converter(step))
        call = Call(self.writer, step, _dtype(step), _shape(step), step.index in self.integer)
        arguments = [self._resolved(a, step.call in LAYERS) for a in step.arguments]
        keywords = {name: self._resolved(a, step.call in LAYERS) for name, a in step.keywords.items()}
        try:
            made = converter(call, *arguments, **keywords)
        except NotImplementedError as error:
            raise BadInput(f"{_no_converter(step)} It has {error}.") from None
        return Value(made, call.dtype, call.shape) if isinstance(made, str) else made

    def _resolved(self, argument: Any, stored: bool) -> Any:
        if isinstance(argument, (list, tuple)):
            return [self._resolved(one, stored) for one in argument]
        if not isinstance(argument, Ref):
            return argument
        value = self.values[argument.step]
        return self._float(value) if isinstance(value, Stored) and not stored else value

    def _float(self, stored: Stored) -> Value:
        """A stored tensor as numbers; written once."""
        if stored.name not in self.floats:
            name = self.writer.tensor(stored.tensor, stored.name)
            self.floats[stored.name] = Value(name, stored.tensor.dtype, tuple(stored.tensor.shape))
        return self.floats[stored.name]

    def _quantized(self, step: Step) -> Value:
        assert step.site is not None
        x = self._resolved(Ref(step.inputs[0]), stored=False)
        site, fmt, writer = self.program.sites[step.site], self.formats[step.site], self.writer
        grid = None if fmt == FP32 else self.grids.grid(step.site, fmt)
        name = x.name
        if step.after_relu and not (grid is not None and grid.absorbs_relu):
            name = writer.call("Relu", name, wish=f"{step.name}.relu")
        if grid is None:
            return Value(name, x.dtype, x.shape, None if step.after_relu else x.codes)
        if not value_fits(grid):
            raise BadInput(
                f"site {site.name!r}: values in {fmt} have no form in ONNX here; use int8, or leave it fp32."
            )
        assert isinstance(grid, AffineGrid)
        zero = 0 if grid.zero_point is None else int(grid.zero_point)
        kind = torch.int8 if grid.zero_point is None else torch.uint8
        codes = Codes(
            "",
            writer.tensor(grid.scale, f"{step.name}.scale"),
            writer.tensor(torch.tensor(zero, dtype=kind), f"{step.name}.zero"),
            None,
            float(grid.scale),
        )
        codes = replace(codes, name=writer.quantize(name, codes, f"{step.name}.codes"), source=name)
        return Value(writer.dequantize(codes, step.name), x.dtype, x.shape, codes)

    def _output(self, value: Value, number: int) -> Value:
        name = self.writer.call("Identity", value.name, wish=f"output_{number}" if number else "output")
        return replace(value, name=name, codes=None)


def _dtype(step: Step) -> torch.dtype:
    """Of the (first) result; sizes are int64."""
    value = step.node.meta.get("val") if step.node is not None else None
    if isinstance(value, (list, tuple)):
        value = next((v for v in value if isinstance(v, Tensor)), None)
    if isinstance(value, Tensor):
        return value.dtype
    return torch.float32 if step.call in ATTENTION else torch.int64


def _shape(step: Step) -> tuple[int, ...]:
    return tuple(step.node.meta.get("shape", ())) if step.node is not None else ()


def _described(value: Value, shape: Sequence[int]) -> onnx.ValueInfoProto:
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=value.dtype).numpy().dtype)
    return onnx.helper.make_tensor_value_info(value.name, kind, list(shape))


def _no_converter(step: Step) -> str:
    assert step.node is not None
    where = module_path(step.node)
    place = f"module {where!r}" if where else "the model"
    return f"{place} calls {getattr(step.call, '__name__', None) or step.call}, which has no form in ONNX here."
