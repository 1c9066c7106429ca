"""What a user writes: the model, its data and how to score its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

Split = Literal["calibration", "validation", "test"]
Scores = Mapping[str, "float | Tensor"]


@dataclass(frozen=True)
class Batch:
    """One batch of data.

    Args:
        args: positional inputs of the model: tensors, or nests of lists, tuples and dicts of tensors.
        target: anything `metric` and `loss` need; never given to the model.
        n: samples in the batch (rows, graphs, scored nodes).
        kwargs: keyword inputs of the model.
        degrees: in-degree of each node [nodes] in the whole graph, for bins by degree where the batch is a part of it;
            None where degrees are those of the batch. Never given to the model.
    """

    args: tuple[Any, ...]
    target: Any
    n: int
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    degrees: Tensor | None = None


class Objective(ABC):
    """A trained model with its data. The engine calls each method only on the CPU copy of things.

    Subclasses take their options (whatever the space file gives under `objective.options`) as keyword arguments of
    `__init__` and do no heavy work there. Calibration, validation and test data must be disjoint.
    """

    trains: ClassVar[bool] = False
    """Whether `model` trains on first use. Its weights are then kept with the run, so that a resume finds the same."""

    @abstractmethod
    def model(self) -> nn.Module:
        """The trained float model. The same weights whenever it is called."""

    @abstractmethod
    def batches(self, split: Split) -> Iterable[Batch]:
        """The batches of a split: always the same, in the same order; at least 2 rows each where rows are batched."""

    @abstractmethod
    def metric(self, outputs: Sequence[Any], targets: Sequence[Any]) -> Scores:
        """Measures of the outputs of all batches of a split, by name.

        A number is taken as it is. A one-dimensional tensor holds one score per sample: the measure is its mean, and
        its standard error is recorded.

        Args:
            outputs: what the model returned, one per batch.
            targets: `Batch.target`, one per batch.
        """

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Training loss of one batch (a scalar), for methods that need gradients."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss; methods that train need one.")

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        """The batches of one pass over the training data, for methods that train; the same for the same `epoch`.

        A batch is one step. Shuffle and augment by a generator seeded with `epoch`; share no sample with validation and
        test.
        """
        del epoch
        raise NotImplementedError(
            f"{type(self).__name__} has no training data; write its method training_batches(epoch)."
        )
