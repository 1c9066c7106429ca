"""Small problems, and their ONNX models run in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import FP32, Format
from mpsearch.deploy.kernels import Kernels, kernels
from mpsearch.deploy.onnx_model import OnnxModel, to_onnx
from mpsearch.deploy.timing import DISABLED
from mpsearch.problem.build import assemble
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.spec.schema import Spec

INT8 = Format("int", 8)


class Given(Objective):
    """A model and its batches."""

    def __init__(self, model: nn.Module, batch: tuple[Any, ...]) -> None:
        self._model, self._batch = model, Batch(batch, None, len(batch[0]))

    def model(self) -> nn.Module:
        return self._model

    def batches(self, split: Split) -> Iterable[Batch]:
        return [self._batch]

    def metric(self, outputs: Sequence[Any], targets: Sequence[Any]) -> Scores:
        return {"score": outputs[0].double().flatten(1).mean(1)}


def problem(model: nn.Module, *batch: Any, formats: Sequence[str] = ("int4", "int8", "fp32")) -> ModelProblem:
    """Every site of `model` may take every one of `formats`."""
    fields = {
        "name": "tests",
        "objective": {"use": "given"},
        "sites": [{"match": "*", "formats": list(formats)}],
        "goals": [{"name": "score", "maximise": True}, {"name": "memory_bytes"}],
        "quantization": {"bias_correction": "none"},
    }
    objective = Given(model.eval(), batch)
    data = {split: list(objective.batches(split)) for split in ("calibration", "validation", "test")}
    return assemble(Spec.model_validate(fields), objective, model, data, torch.device("cpu"))


def sites(made: ModelProblem) -> list[str]:
    return [site for choice in made.space.choices for site in choice.sites]


def everywhere(made: ModelProblem, fmt: Format = INT8) -> Assignment:
    return Assignment(dict.fromkeys(sites(made), fmt))


def exported(made: ModelProblem, assignment: Assignment = Assignment()) -> OnnxModel:  # noqa: B008 - immutable
    return to_onnx(made.runner.interpreter.program, made.runner.interpreter.grids, assignment)


def session(model: OnnxModel, path: Path, disabled: Sequence[str] = DISABLED) -> tuple[Any, Kernels]:
    """Ready to run, and what it was optimised to."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    made = onnxruntime.InferenceSession(
        model.proto.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    return made, kernels(path)


def run(model: OnnxModel, batch: Sequence[Any], path: Path) -> tuple[list[np.ndarray], Kernels]:
    made, ran = session(model, path)
    feed = {given.name: leaf.numpy() for given, leaf in zip(made.get_inputs(), batch, strict=True)}
    return made.run(None, feed), ran


def evaluated(made: ModelProblem, assignment: Assignment = Assignment()) -> list[np.ndarray]:  # noqa: B008
    """What the evaluator gives, biases not corrected."""
    interpreter = made.runner.interpreter
    interpreter.assign([assignment.get(site.name, FP32) for site in interpreter.program.sites])
    return [out.numpy() for out in interpreter.run(made.runner.streams["validation"][0])]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Two blocks of convolutions with a sum each, and a linear head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.three, self.four = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.two(F.relu(self.one(x))))
        x = F.relu(x + self.four(F.relu(self.three(x))))
        return self.head(x.mean((2, 3)))


class Chain(nn.Module):
    """Three convolutions, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b, self.c):
            x = F.relu(layer(x))
        return self.d(x)


class Attention(nn.Module):
    """Self-attention with its projections, a norm and a perceptron."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm(x))))
