"""An ONNX graph that grows node by node: names, constants and the tensors that operators pass on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.spec.registry import missing

if TYPE_CHECKING:
    import onnx

OPSET = 21
"""The first in which QuantizeLinear and DequantizeLinear know 4 bits and blocks."""


def require_onnx() -> None:
    """Raises `BadInput` with the command that installs it where the package onnx is missing."""
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput(f"an ONNX model {missing(error)}.") from None


@dataclass(frozen=True)
class Codes:
    """Integer codes that stand for a tensor: value = (code - zero) * scale, all three by name.

    Args:
        axis: along which scale and zero run; None for one of each.
        step: the scale as a number, where there is one; 0.0 otherwise.
        source: the tensor that was quantized to these codes; empty for what is stored as codes.
    """

    name: str
    scale: str
    zero: str
    axis: int | None = None
    step: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Args:
        name: of the floating-point (or integer, or boolean) tensor.
        codes: where it is quantized; then `name` is what they dequantize to.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    codes: Codes | None = None


class Writer:
    """Collects nodes and constants; every name is used once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._taken: dict[str, int] = {}
        self._shared: dict[tuple[Any, ...], str] = {}

    def name(self, wish: str) -> str:
        """`wish`, with a number where it is taken."""
        seen = self._taken[wish] = self._taken.get(wish, 0) + 1
        return wish if seen == 1 else self.name(f"{wish}_{seen}")

    def call(self, operator: str, *inputs: str | None, wish: str | None = None, **attributes: Any) -> str:
        """Add a node of one result; its name is the node's name too. Attributes that are None are left out."""
        return self.calls(operator, inputs, 1, wish, **attributes)[0]

    def calls(
        self, operator: str, inputs: Sequence[str | None], results: int, wish: str | None = None, **attributes: Any
    ) -> list[str]:
        """Add a node of several results."""
        import onnx

        name = self.name(wish or operator.lower())
        made = [name] if results == 1 else [self.name(f"{name}.{i}") for i in range(results)]
        given = {key: value for key, value in attributes.items() if value is not None}
        read = [one or "" for one in inputs]
        while read and not read[-1]:  # onnxruntime 1.31 crashes on a last input that is named but not there
            read.pop()
        self.nodes.append(onnx.helper.make_node(operator, read, made, name=name, **given))
        return made

    def tensor(self, tensor: Tensor | np.ndarray[Any, Any], wish: str = "constant") -> str:
        """Store a tensor with the model."""
        import onnx

        array = tensor.detach().cpu().contiguous().numpy() if isinstance(tensor, Tensor) else tensor
        name = self.name(wish)
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def number(self, value: float, dtype: torch.dtype) -> str:
        """A scalar; equal ones are stored once."""
        key = ("number", value, dtype)
        if key not in self._shared:
            self._shared[key] = self.tensor(torch.tensor(value, dtype=dtype), "number")
        return self._shared[key]

    def integers(self, values: Sequence[int]) -> str:
        """A vector of int64: axes, sizes, bounds; equal ones are stored once."""
        key = ("integers", *values)
        if key not in self._shared:
            self._shared[key] = self.tensor(np.array(values, dtype=np.int64), "integers")
        return self._shared[key]

    def sizes(self, values: Sequence[int | Value]) -> str:
        """A vector of sizes, some of which are known only while the model runs."""
        if all(isinstance(value, int) for value in values):
            return self.integers([value for value in values if isinstance(value, int)])
        parts = [
            self.integers([v]) if isinstance(v, int) else self.call("Unsqueeze", v.name, self.integers([0]))
            for v in values
        ]
        return self.call("Concat", *parts, axis=0)

    def operand(self, value: Value | float, dtype: torch.dtype) -> str:
        """A tensor or number as an operand of `dtype`."""
        if not isinstance(value, Value):
            return self.number(value, dtype)
        return value.name if value.dtype == dtype else self.cast(value.name, dtype)

    def cast(self, name: str, dtype: torch.dtype) -> str:
        """`name` as another type."""
        import onnx

        kind = onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype)
        return self.call("Cast", name, to=kind)

    def quantize(self, name: str, codes: Codes, wish: str) -> str:
        """QuantizeLinear of `name` to the grid of `codes`."""
        return self.call("QuantizeLinear", name, codes.scale, codes.zero, wish=wish, axis=codes.axis)

    def dequantize(self, codes: Codes, wish: str) -> str:
        """DequantizeLinear of `codes`."""
        return self.call("DequantizeLinear", codes.name, codes.scale, codes.zero, wish=wish, axis=codes.axis)
