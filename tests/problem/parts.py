"""A problem made of a small model and random data, without files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.problem.build import assemble
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.spec.schema import Spec

Data = Mapping[str, Sequence[Batch]]


class Given(Objective):
    """Outputs and all: what the model gives is what is measured."""

    def __init__(self, model: nn.Module, data: Data, metric: Callable[..., Scores] | None = None) -> None:
        self._model, self._data, self._metric = model, data, metric
        self.outputs: list[Any] = []

    def model(self) -> nn.Module:
        return self._model

    def batches(self, split: Split) -> Iterable[Batch]:
        return self._data[split]

    def metric(self, outputs: Sequence[Any], targets: Sequence[Any]) -> Scores:
        self.outputs.append(outputs)
        if self._metric is not None:
            return self._metric(outputs, targets)
        flat = torch.cat([o.flatten(1) for o in outputs])
        return {"checksum": flat.double().sum().item(), "score": flat.double().mean(1)}


class Net(nn.Module):
    """A chain of three convolutions, one of them depthwise, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.third = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third):
            x = F.relu(layer(x))
        return self.head(x.mean((2, 3)))


class Mlp(nn.Module):
    """Three linear layers in a chain."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images(*sizes: int, seed: int = 0) -> list[Batch]:
    return [Batch((randn(n, 3, 6, 6, seed=seed + i),), None, n) for i, n in enumerate(sizes)]


def rows(*sizes: int, seed: int = 0) -> list[Batch]:
    return [Batch((randn(n, 6, seed=seed + i),), None, n) for i, n in enumerate(sizes)]


def splits(make: Callable[..., list[Batch]], *sizes: int) -> Data:
    """Validation and test batches of these sizes, and two calibration batches."""
    return {
        "calibration": make(4, 3, seed=100),
        "validation": make(*sizes),
        "test": make(*sizes, seed=200),
    }


def make_spec(formats: Sequence[str] = ("int2", "int8", "fp32"), **more: Any) -> Spec:
    fields: dict[str, Any] = {
        "name": "tests",
        "objective": {"use": "given"},
        "sites": [{"match": "*", "formats": list(formats)}],
        "goals": [{"name": "score", "maximise": True}, {"name": "memory_bytes"}],
    }
    return Spec.model_validate(fields | more)


def make_problem(
    model: nn.Module, data: Data, spec: Spec | None = None, metric: Callable[..., Scores] | None = None
) -> ModelProblem:
    objective = Given(model.eval(), data, metric)
    return assemble(spec or make_spec(), objective, model.eval(), data, torch.device("cpu"))
