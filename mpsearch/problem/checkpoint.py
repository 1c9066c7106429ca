"""Where a training stands after an epoch, as a file: what is interrupted goes on from it, to the same result."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.problem.trained import Epoch

_SCHEMA = "mpsearch.checkpoint/1"


@dataclass(frozen=True)
class Checkpoint:
    """After an epoch.

    Args:
        subject: what is trained, how and from which seed; a file of another subject is not gone on from.
        parameters: of the model, by name.
        learned: parameters of the learner, in their order.
        extra: what else the learner knows.
        optimizer: its state.
        history: one entry before training, then one per epoch.
        best: the entry that `kept` is of.
        kept: the tensors of the best epoch.
        generators: states of torch's random generators: of the CPU, then of each GPU.
    """

    subject: str
    parameters: Mapping[str, Tensor]
    learned: list[Tensor]
    extra: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    history: Sequence[Epoch]
    best: int
    kept: Mapping[str, Tensor]
    generators: list[Tensor]

    def save(self, path: Path) -> None:
        """Write it, durably, in place of the file of an earlier epoch."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".tmp")
        facts = {**vars(self), "history": [asdict(epoch) for epoch in self.history], "schema": _SCHEMA}
        with fresh.open("wb") as file:
            torch.save(facts, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path, subject: str) -> Checkpoint | None:
        """What `path` holds of `subject`; None where there is no such file. Raises `BadInput` on a damaged one."""
        if not path.is_file():
            return None
        try:
            facts = torch.load(path, weights_only=True)
            if facts.pop("schema") != _SCHEMA:
                raise ValueError("another version")
            found = cls(**{**facts, "history": [Epoch(**epoch) for epoch in facts["history"]]})
        except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            raise BadInput(f"{path}: not the checkpoint of a training ({error}); delete it.") from error
        return found if found.subject == subject else None


def generators() -> list[Tensor]:
    """States of torch's random generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def set_generators(states: list[Tensor]) -> None:
    """Inverse of `generators`."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
