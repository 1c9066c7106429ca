"""Finetuning one assignment: epochs over the training data with fake quantization, the best one kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import Diverged
from mpsearch.graph.straight import FakeQuantization
from mpsearch.problem.base import Step, Watch
from mpsearch.problem.objective import Scores
from mpsearch.problem.trained import Epoch, Trained
from mpsearch.problem.trainer import Trainer
from mpsearch.spec.schema import Recipe

LAST_RATE = 0.01
"""Learning rate of the last epoch over that of the first (Wu et al., "Integer Quantization for Deep Learning
Inference", 2020, end their cosine there)."""


def unwatched(step: Step) -> None:
    """Watches nothing."""
    del step


def finetune(
    trainer: Trainer,
    assignment: Assignment,
    recipe: Recipe,
    seed: int,
    score: Callable[[Mapping[str, float]], float] | None = None,
    watch: Watch = unwatched,
    start: Mapping[str, Tensor] = MappingProxyType({}),
) -> Trained:
    """Train `assignment` by `recipe`; the same seed gives the same weights.

    Args:
        score: of the objective's measures on the validation split, less is better; None for the validation loss.
            Among epochs of equal score the least validation loss decides.
        watch: is told of each step.
        start: tensors that training starts from instead of the model's own, by name.

    Raises:
        Diverged: the loss is not finite; the message has the epoch and the step.
    """
    trainable = trainer.trainable
    trainable.load({**trainer.program.tensors, **start})
    with _seeded(f"{seed} {assignment.key} {recipe.digest}"):
        quantization = trainer.quantization(assignment, recipe.steps == "learned")
        refit(trainer, quantization)
        optimizer = _optimizer(recipe, list(trainable.parameters.values()), quantization.parameters())
        history = [_epoch(trainer, quantization, score, None)]
        best, kept = 0, trainable.tensors() | quantization.state()
        for epoch in range(recipe.epochs):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _cosine(epoch, recipe.epochs)
            losses = _train(trainer, quantization, optimizer, recipe, epoch, watch)
            refit(trainer, quantization)
            history.append(_epoch(trainer, quantization, score, losses))
            if (history[-1].score, history[-1].validation_loss) < (history[best].score, history[best].validation_loss):
                best, kept = len(history) - 1, trainable.tensors() | quantization.state()
            elif recipe.patience is not None and len(history) - 1 - best >= recipe.patience:
                break
    return Trained(assignment, recipe, kept, tuple(history), best)


def restored(trainer: Trainer, trained: Trained) -> FakeQuantization:
    """Load `trained` into the trainer: its parameters, and what stands at the sites."""
    trainer.trainable.load(trained.tensors)
    quantization = trainer.quantization(trained.assignment, trained.recipe.steps == "learned")
    refit(trainer, quantization)
    if quantization.parameters():
        quantization.restore(trained.tensors)
        refit(trainer, quantization)  # on what the learned steps leave
    return quantization


def refit(trainer: Trainer, quantization: FakeQuantization) -> None:
    """Fit the grids whose steps are not learned, on the parameters and the calibration batches."""
    quantization.fit(lambda look: trainer.calibrate(look, quantization))


def _train(
    trainer: Trainer,
    quantization: FakeQuantization,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    epoch: int,
    watch: Watch,
) -> float:
    """One epoch; the mean loss of its steps."""
    total, step = 0.0, 0
    for step, batch in enumerate(trainer.training_batches(epoch), start=1):
        loss = trainer.loss(batch, quantization, recipe.distill)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"finetuning diverged: the loss was {value} at step {step} of epoch {epoch + 1}.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += value
        watch(Step(epoch + 1, recipe.epochs, step, value))
    return total / max(1, step)


def means(scores: Scores) -> dict[str, float]:
    """Measures of an objective as numbers: of scores per sample the mean."""
    return {name: float(s.double().mean()) if isinstance(s, Tensor) else float(s) for name, s in scores.items()}


def _epoch(
    trainer: Trainer,
    quantization: FakeQuantization,
    score: Callable[[Mapping[str, float]], float] | None,
    training_loss: float | None,
) -> Epoch:
    outputs, batches = list(trainer.outputs("validation", quantization)), trainer.batches["validation"]
    samples = sum(batch.n for batch in batches)
    pairs = zip(outputs, batches, strict=True)
    loss = sum(float(trainer.loss_of(output, batch)) * batch.n / samples for output, batch in pairs)
    measures = means(trainer.objective.metric(outputs, [batch.target for batch in batches]))
    for name, value in {"loss": loss, **measures}.items():
        if not math.isfinite(value):
            raise Diverged(f"finetuning diverged: {name} on the validation split is {value}.")
    return Epoch(training_loss, loss, loss if score is None else score(measures))


def _optimizer(recipe: Recipe, weights: Sequence[Tensor], steps: Sequence[Tensor]) -> torch.optim.Optimizer:
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": steps, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, recipe.learning_rate)


def _cosine(epoch: int, epochs: int) -> float:
    """Share of the first epoch's learning rate that `epoch` has, counted from 0: it ends at `LAST_RATE`."""
    done = epoch / max(1, epochs - 1)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2


@contextmanager
def _seeded(text: str) -> Iterator[None]:
    """Torch's generators at a seed made of `text`; as they were afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(int(hashlib.sha256(text.encode()).hexdigest()[:15], 16))
        yield
