"""The interface of a learner: what stands at the sites of a program while its parameters are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from mpsearch.core.format import Format
from mpsearch.core.site import Site
from mpsearch.core.space import Space
from mpsearch.cost.terms import Cost
from mpsearch.graph.training import Look
from mpsearch.quant.grid import Grid

Observe = Callable[[Look], object]
"""Runs the model on the calibration batches with the learner at its sites."""


class Learner(ABC):
    """One way of training at quantization; a plug-in, constructed with the options of a recipe.

    It is a function of (index of a site, value) that gradients flow through, to the value and to parameters of its own.
    A training calls `offer`, `place` and `fit`; then before each epoch `advance`; in each step, after the model ran,
    `penalty`, and after the gradients are known and the optimizer has moved the parameters, `stepped`; and after each
    epoch `fit`. While `training` is false it gives what the finished model computes, bit for bit the same every time.

    What it holds after all that follows from the formats, the parameters of the model, its own `parameters` and its
    `extra`: a training that was interrupted goes on from these.
    """

    scores_as: ClassVar[str | None] = None
    """The learner that scores what this one trained, by name; None for itself."""

    training: bool = False
    """Whether a step is trained: noise may be drawn, and parts left as they are."""

    @property
    def settled(self) -> bool:
        """Whether it is past what leads to a finished model: an epoch before that is not kept, however it scores."""
        return True

    def offer(self, space: Space, cost: Callable[[str], Cost | None]) -> None:  # noqa: B027 - most keep the formats
        """For a learner that chooses: what each site may become, and what that costs by name of the measure.

        `cost` gives None for what is no cost. Sites of one choice decide together.
        """

    @abstractmethod
    def place(self, sites: Sequence[Site], formats: Sequence[Format], weights: Mapping[int, Tensor]) -> None:
        """Take the sites of a program, one format each, and its parameters by index of their site.

        The parameters are those in training: they change in place.
        """

    @abstractmethod
    def __call__(self, site: int, value: Tensor) -> Tensor:
        """What becomes of `value` at the site of that index: the same shape."""

    @abstractmethod
    def fit(self, observe: Observe) -> None:
        """Fit what is fitted and not learned. Raises `ObjectiveFailed` on NaN and infinity."""

    def parameters(self) -> list[nn.Parameter]:
        """Numbers of its own that are trained with the model, known once it was fitted."""
        return []

    def penalty(self) -> Tensor | None:
        """What is added to the loss of a step, with its gradient; called after the model ran."""
        return None

    def changed(self) -> Mapping[int, Format]:
        """Formats other than those it was placed with, by index of the site: the training ends at these."""
        return {}

    def advance(self, epoch: int, epochs: int) -> None:  # noqa: B027 - most have no stages
        """Epoch number `epoch`, counted from 0, of `epochs` is about to begin."""

    def stepped(self) -> None:  # noqa: B027 - most have nothing to add
        """Gradients are known, and the optimizer has moved the parameters."""

    def grid(self, site: int) -> Grid | None:
        """What the finished model has at a site that is not float; None where it is no grid that can be stored."""
        del site
        return None

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """With the parameters of the model, all that `fit` cannot find: by a name that ends with that of the site."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave, among other tensors; after `fit` on the parameters of the model as they were then."""

    def extra(self) -> dict[str, Tensor]:
        """What it knows besides its parameters, for a training that is interrupted."""
        return {}

    def take_extra(self, extra: Mapping[str, Tensor]) -> None:  # noqa: B027 - most have none
        """Inverse of `extra`."""
