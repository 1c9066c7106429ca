"""What ran: the operations of an optimised model, found again by the names of the nodes that they were made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SUFFIX = re.compile(r"(_nchwc|_token_\d+)+$")
"""What onnxruntime adds to the name of a node whose layout it changes."""
_INTEGER = re.compile(r"^(QLinear\w+|QGemm|QAttention|MatMulInteger(ToFloat)?|ConvInteger|DynamicQuantize\w+)$")


@dataclass(frozen=True)
class Kernels:
    """The nodes of an optimised model.

    Args:
        operators: operator by node name, as the node was called before the optimisation.
        count: how often each operator occurs.
    """

    operators: Mapping[str, str]
    count: Counter[str]

    @property
    def integer(self) -> frozenset[str]:
        """Names of the nodes that run on integers."""
        return frozenset(name for name, operator in self.operators.items() if _INTEGER.match(operator))


def kernels(path: Path) -> Kernels:
    """The nodes of the optimised model in the file `path`."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return Kernels({_SUFFIX.sub("", n.name): n.op_type for n in nodes}, Counter(n.op_type for n in nodes))
