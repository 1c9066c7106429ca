"""The model of a problem as something to train: its batches, its losses, its outputs at fake quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, MpsearchError, ObjectiveFailed
from mpsearch.core.space import Space
from mpsearch.cost.terms import Cost
from mpsearch.graph.export import ExportError
from mpsearch.graph.program import Kind, compile_program
from mpsearch.graph.runner import layout, on_cpu
from mpsearch.graph.training import AtSite, Look, Trainable, as_it_is
from mpsearch.learn.base import Learner
from mpsearch.problem.graphed import graphed
from mpsearch.problem.inputs import example
from mpsearch.problem.objective import Batch, Objective
from mpsearch.spec.schema import Spec

Ready = tuple[list[Any], int]
"""Flat inputs, and how many of their rows are the batch's own where it was padded, else 0."""


def refuse_to_train(objective: Objective) -> None:
    """Raise `BadInput` where the objective has no loss or no training data."""
    wanted = {"loss": "loss(output, batch)", "training_batches": "training_batches(epoch)"}
    missing = [text for name, text in wanted.items() if getattr(type(objective), name) is getattr(Objective, name)]
    if missing:
        raise BadInput(
            f"objective {type(objective).__name__} cannot be trained: it does not define {' and '.join(missing)}; "
            "write that, or leave out what trains."
        )


class Trainer:
    """Exports the model once more, dropout included, and holds it ready for any number of trainings.

    Args:
        spec: bins and device are its own.
        objective: gives training data and the loss.
        model: the float model.
        batches: by split: `calibration`, `validation`, `test`.
        space: the choices.
        cost: tables of a cost over the space, by its name; None for what is no cost.

    Raises:
        BadInput: the objective has no loss or no training data.
        ObjectiveFailed: what it gives cannot be used.
    """

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        model: nn.Module,
        batches: Mapping[str, Sequence[Batch]],
        space: Space,
        cost: Callable[[str], Cost | None],
    ) -> None:
        refuse_to_train(objective)
        self.objective = objective
        self.batches = batches
        self._space, self._cost = space, cost
        self._device = torch.device(spec.engine.device)
        examples = {split: [example(batch, self._device) for batch in found] for split, found in batches.items()}
        examples["training"] = [example(batch, self._device) for batch in self._of_all_sizes()]
        try:
            found = graphed(spec, model, examples, keep_dropout=True)
        except ExportError as error:
            raise ObjectiveFailed(f"the model cannot be exported for its training batches. {error}") from error
        self.inputs = found.inputs
        trained = found.lowered.parameters - found.lowered.frozen or found.lowered.parameters
        self.program = compile_program(found.lowered, found.discovery, list(space.choice_of))
        self.program.tensors = {name: layout(t, self._device) for name, t in self.program.tensors.items()}
        self.trainable = Trainable(self.program, trained)
        self._ready = {split: [self._lay_out(*self.inputs.of(e)) for e in examples[split]] for split in batches}
        self._last: tuple[list[Any], Ready] | None = None

    def _of_all_sizes(self) -> Iterator[Batch]:
        """Of the first epoch, one batch of each size that its inputs have."""
        known = set()
        for batch in self.training_batches(0):
            leaves = pytree.tree_leaves((batch.args, dict(batch.kwargs)))
            sizes = tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor))
            if sizes not in known:
                known.add(sizes)
                yield batch
        if not known:
            raise ObjectiveFailed("the objective's training_batches(0) gave no Batch; an epoch needs at least one.")

    def training_batches(self, epoch: int) -> Iterator[Batch]:
        """Of one pass over the training data."""
        try:
            for batch in self.objective.training_batches(epoch):
                if not isinstance(batch, Batch):
                    raise TypeError(f"a {type(batch).__name__} is no Batch")
                yield batch
        except MpsearchError:
            raise
        except Exception as error:
            raise ObjectiveFailed(
                f"the objective's training_batches({epoch}) raised {type(error).__name__}: {error}"
            ) from error

    def place(self, learner: Learner, assignment: Assignment) -> None:
        """Give `learner` the sites of the program, in the formats of `assignment`."""
        weights = {
            step.site: self.trainable.parameters.get(step.name, self.program.tensors[step.name])
            for step in self.program.steps
            if step.kind is Kind.PARAMETER and step.site is not None
        }
        learner.offer(self._space, self._cost)
        learner.place(self.program.sites, [assignment.at(site.name) for site in self.program.sites], weights)

    def calibrate(self, look: Look, at_site: AtSite) -> None:
        """Run the calibration batches, for what is fitted on them."""
        for inputs, _ in self._ready["calibration"]:
            self.trainable.run(inputs, at_site, look=look)

    def loss(self, batch: Batch, at_site: AtSite, distill: float = 0.0, temperature: float = 1.0) -> Tensor:
        """Of one training batch; a share `distill` of it is the divergence from the float model.

        With dropout, unless all of it is: what is taught every output of the float model does not overfit labels.
        """
        inputs, rows = self._prepared(batch)
        flat = self._own(self.trainable.run(inputs, at_site, training=distill < 1), rows)
        loss = self.loss_of(self._whole(flat), batch)
        if not distill:
            return loss
        with torch.no_grad():
            teacher = self._own(self.trainable.run(inputs, as_it_is, original=True), rows)
        return (1 - distill) * loss + distill * divergence(flat, teacher, temperature)

    def loss_of(self, output: Any, batch: Batch) -> Tensor:
        """The objective's own loss. Raises `ObjectiveFailed` where it raises, or gives no scalar."""
        try:
            loss = self.objective.loss(output, batch)
        except MpsearchError:
            raise
        except Exception as error:
            raise ObjectiveFailed(f"the objective's loss raised {type(error).__name__}: {error}") from error
        if not isinstance(loss, Tensor) or loss.ndim:
            raise ObjectiveFailed(f"the objective's loss gave {str(loss)[:60]}; it must be a tensor without axes.")
        return loss

    @torch.no_grad()
    def outputs(self, split: str, at_site: AtSite) -> Iterator[Any]:
        """The model's own output on each batch of a split, without dropout."""
        for inputs, rows in self._ready[split]:
            yield self._whole(self._own(self.trainable.run(inputs, at_site), rows))

    def _prepared(self, batch: Batch) -> Ready:
        """The inputs of a batch; those of the last one again where they are the same tensors (a graph, as a whole)."""
        source = pytree.tree_leaves((batch.args, dict(batch.kwargs)))
        if self._last is None or len(source) != len(self._last[0]) or any(map(_differ, source, self._last[0])):
            self._last = source, self._lay_out(*self.inputs.of(example(batch, self._device)))
        return self._last[1]

    def _lay_out(self, flat: list[Any], rows: int) -> Ready:
        return [layout(leaf, self._device) for leaf in flat], rows

    def _own(self, flat: Sequence[Any], rows: int) -> list[Any]:
        """Flat outputs on the CPU, without the rows that a batch was padded with."""

        def cut(leaf: Any) -> Any:
            padded = rows and isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == self.program.padded
            return leaf[:rows] if padded else leaf

        return [cut(on_cpu(leaf)) for leaf in flat]

    def _whole(self, flat: Sequence[Any]) -> Any:
        return pytree.tree_unflatten(list(flat), self.program.out_spec)


def divergence(flat: Sequence[Any], teacher: Sequence[Any], temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of `flat` outputs, as logits along their last axis, from those of the teacher; mean
    over rows.

    Logits are divided by the temperature, and the divergence multiplied with its square, so that gradients keep their
    size (Hinton et al., "Distilling the knowledge in a neural network", arXiv 1503.02531).
    """
    parts = [
        F.kl_div(
            ours.div(temperature).log_softmax(-1),
            theirs.div(temperature).log_softmax(-1),
            reduction="none",
            log_target=True,
        )
        .sum(-1)
        .mean()
        for ours, theirs in zip(flat, teacher, strict=True)
        if isinstance(ours, Tensor) and ours.is_floating_point() and ours.ndim
    ]
    return temperature**2 * torch.stack(parts).sum()


def _differ(one: Any, other: Any) -> bool:
    return one is not other
