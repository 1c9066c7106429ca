"""Training one assignment: epochs over the training data with a learner at the sites, the best one kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import Diverged
from mpsearch.learn.base import Learner
from mpsearch.problem.base import Step, Watch
from mpsearch.problem.checkpoint import Checkpoint, generators, set_generators
from mpsearch.problem.objective import Scores
from mpsearch.problem.trained import Epoch, Trained
from mpsearch.problem.trainer import Trainer
from mpsearch.spec import registry
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
    checkpoint: Path | None = None,
) -> Trained:
    """Train from `assignment` by `recipe`; the same seed gives the same weights.

    A learner that chooses formats may end at another assignment, that of the result. Of the epochs that are compared,
    those before the learner is settled are none.

    Args:
        score: of the objective's measures on the validation split, less is better; None for the validation loss.
            Among epochs of equal score the least validation loss decides.
        watch: is told of each step.
        start: tensors that training starts from instead of the model's own, by name.
        checkpoint: file that is written after each epoch; where it exists, training goes on from it.

    Raises:
        Diverged: the loss is not finite; the message has the epoch and the step.
    """
    trainable = trainer.trainable
    trainable.load({**trainer.program.tensors, **start})
    subject = f"{seed} {assignment.key} {recipe.digest}"
    with _seeded(subject):
        learner = placed(trainer, assignment, recipe.method, recipe.options)
        refit(trainer, learner)
        optimizer = _optimizer(recipe, list(trainable.parameters.values()), learner.parameters())
        past = None if checkpoint is None else Checkpoint.load(checkpoint, subject)
        if past is None:
            history = [_epoch(trainer, learner, score, None)]
            best, kept = 0, trainable.tensors() | learner.state()
        else:
            history, best, kept = list(past.history), past.best, dict(past.kept)
            _go_on(trainer, learner, optimizer, past)
        settled = learner.settled
        for epoch in range(len(history) - 1, recipe.epochs):
            if recipe.patience is not None and epoch - best >= recipe.patience:
                break
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _cosine(epoch, recipe.epochs)
            losses = _train(trainer, learner, optimizer, recipe, epoch, watch)
            refit(trainer, learner)
            history.append(_epoch(trainer, learner, score, losses))
            last, held = history[-1], history[best]
            if not settled or (last.score, last.validation_loss) < (held.score, held.validation_loss):
                best, kept = len(history) - 1, trainable.tensors() | learner.state()
            settled = learner.settled
            if checkpoint is not None:
                learned = [p.detach().clone() for p in learner.parameters()]
                state, drawn = optimizer.state_dict(), generators()
                facts = trainable.tensors(), learned, learner.extra(), state, history, best, kept, drawn
                Checkpoint(subject, *facts).save(checkpoint)
    changed = {trainer.program.sites[i].name: fmt for i, fmt in learner.changed().items()}
    return Trained(Assignment({**assignment, **changed}), recipe, kept, tuple(history), best)


def placed(trainer: Trainer, assignment: Assignment, method: str, options: Mapping[str, Any]) -> Learner:
    """A learner at the sites of the trainer's model, not yet fitted."""
    learner: Learner = registry.load("learners", method)(**options)
    trainer.place(learner, assignment)
    return learner


def restored(trainer: Trainer, trained: Trained) -> Learner:
    """Load `trained` into the trainer: its parameters, and what stands at the sites."""
    trainer.trainable.load(trained.tensors)
    recipe = trained.recipe
    scores_as = cast("type[Learner]", registry.load("learners", recipe.method)).scores_as
    learner = placed(trainer, trained.assignment, scores_as or recipe.method, {} if scores_as else recipe.options)
    refit(trainer, learner)
    if learner.state():
        learner.restore(trained.tensors)
        refit(trainer, learner)  # on what was learned
    return learner


def refit(trainer: Trainer, learner: Learner) -> None:
    """Fit what is fitted, on the parameters and the calibration batches."""
    learner.fit(lambda look: trainer.calibrate(look, learner))


def _go_on(trainer: Trainer, learner: Learner, optimizer: torch.optim.Optimizer, past: Checkpoint) -> None:
    trainer.trainable.load(past.parameters)
    with torch.no_grad():
        for parameter, value in zip(learner.parameters(), past.learned, strict=True):
            parameter.copy_(value)
    learner.take_extra(past.extra)
    optimizer.load_state_dict(past.optimizer)
    refit(trainer, learner)
    set_generators(past.generators)


def _train(
    trainer: Trainer, learner: Learner, optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int, watch: Watch
) -> float:
    """One epoch; the mean loss of its steps."""
    total, step = 0.0, 0
    learner.advance(epoch, recipe.epochs)
    learner.training = True
    for step, batch in enumerate(trainer.training_batches(epoch), start=1):
        loss = trainer.loss(batch, learner, recipe.distill, recipe.temperature)
        penalty = learner.penalty()
        loss = loss if penalty is None else loss + penalty
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"finetuning diverged: the loss was {value} at step {step} of epoch {epoch + 1}.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learner.stepped()
        total += value
        watch(Step(epoch + 1, recipe.epochs, step, value))
    learner.training = False
    return total / max(1, step)


def means(scores: Scores) -> dict[str, float]:
    """Measures of an objective as numbers: of scores per sample the mean."""
    return {name: float(s.double().mean()) if isinstance(s, Tensor) else float(s) for name, s in scores.items()}


def _epoch(
    trainer: Trainer,
    learner: Learner,
    score: Callable[[Mapping[str, float]], float] | None,
    training_loss: float | None,
) -> Epoch:
    outputs, batches = list(trainer.outputs("validation", learner)), trainer.batches["validation"]
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
