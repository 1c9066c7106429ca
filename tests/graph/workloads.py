"""The workload of a model in a test, and what the tests ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rigs import lower
from tiny_models import randn
from torch import Tensor, nn

from mpsearch.cost.workload import Kind, Operation, Workload
from mpsearch.graph.operations import operations
from mpsearch.graph.sites import discover


class Call(nn.Module):
    """A function of the inputs and of parameters `w0`, `w1`, ..."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function, self.count = function, len(shapes)
        for i, shape in enumerate(shapes):
            self.register_parameter(f"w{i}", nn.Parameter(randn(*shape, seed=i)))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *(getattr(self, f"w{i}") for i in range(self.count)))


def listed(model: nn.Module, *inputs: Tensor, active: Iterable[str] | None = None, samples: int = 1) -> Workload:
    lowered = lower(model.eval(), inputs)
    found = discover(lowered)
    names = [site.name for site in found.sites] if active is None else active
    return operations(lowered, found, names, samples)


def only(found: Workload, *kinds: Kind) -> list[Operation]:
    return [operation for operation in found.operations if operation.kind in kinds]


def sites(found: Workload, operation: Operation) -> tuple[str | None, str | None]:
    """Of the weight and the value."""
    held = [found.operand(operation, place) for place in (operation.weight, operation.value)]
    return tuple(None if h is None else h.site for h in held)  # type: ignore[return-value]


def moved(found: Workload, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
    """Elements read and written by the name of the tensor."""
    return tuple(
        {found.tensors[a.tensor].name: a.elements for a in accesses} for accesses in (operation.reads, operation.writes)
    )  # type: ignore[return-value]
