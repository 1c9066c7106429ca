"""What finetuning makes of an assignment, in memory and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.spec.schema import Recipe


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Args:
        training_loss: mean over its steps; None before training.
        validation_loss: mean over samples, without dropout.
        score: what epochs are compared by, less is better: the loss of a goal, or `validation_loss`.
    """

    training_loss: float | None
    validation_loss: float
    score: float


@dataclass(frozen=True)
class Trained:
    """An assignment after its finetuning.

    Args:
        assignment: of formats.
        recipe: by which it was trained.
        tensors: parameters by name, and learned steps of grids (`step/SITE`, `zero_point/SITE`).
        history: one entry before training, then one per epoch.
        best: the entry that `tensors` are of.
    """

    assignment: Assignment
    recipe: Recipe
    tensors: Mapping[str, Tensor]
    history: tuple[Epoch, ...] = ()
    best: int = 0

    def save(self, path: Path) -> None:
        """As safetensors, the rest as text in its header."""
        header = {
            "assignment": json.dumps(self.assignment.texts()),
            "recipe": self.recipe.model_dump_json(),
            "history": json.dumps([asdict(epoch) for epoch in self.history]),
            "best": str(self.best),
        }
        save_file({name: tensor.contiguous().cpu() for name, tensor in self.tensors.items()}, path, header)

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Inverse of `save`, tensors on the CPU. Raises `BadInput` on another file."""
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return cls(
                Assignment.parse(json.loads(header["assignment"])),
                Recipe.model_validate_json(header["recipe"]),
                tensors,
                tuple(Epoch(**epoch) for epoch in json.loads(header["history"])),
                int(header["best"]),
            )
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise BadInput(f"{path}: not the weights of a finetuned member ({error}); restore or delete it.") from error
