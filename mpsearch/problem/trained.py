"""What a training makes of an assignment, in memory and as a file."""

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

_HEADER = "mpsearch.finetuned/1"


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
    """An assignment after its training.

    Args:
        assignment: at which the training ended.
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
        """As safetensors, the rest as JSON in its header: one text, for several would come in any order."""
        facts = {
            "assignment": self.assignment.texts(),
            "recipe": self.recipe.model_dump(),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
        }
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.tensors.items()}
        save_file(tensors, path, {_HEADER: json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Inverse of `save`, tensors on the CPU. Raises `BadInput` on another file."""
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})[_HEADER])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return cls(
                Assignment.parse(facts["assignment"]),
                Recipe.model_validate(facts["recipe"]),
                tensors,
                tuple(Epoch(**epoch) for epoch in facts["history"]),
                facts["best"],
            )
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise BadInput(f"{path}: not the weights of a finetuned member ({error}); restore or delete it.") from error
