"""Training recipes of the zoo: short, seeded, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Recipe:
    """Adam with decoupled weight decay, a one-cycle learning rate, and random affine maps of the images.

    Args:
        epochs: passes over the training data.
        learning_rate: peak of the cycle.
        batch_size: samples in a step.
        weight_decay: decoupled, on all parameters.
        smoothing: label smoothing.
        jitter: strength of random affine maps of images; 0 for other data.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 64
    weight_decay: float = 0.01
    smoothing: float = 0.0
    jitter: float = 0.0


def fit_batches(
    model: nn.Module, sample: Callable[[Tensor], tuple[Tensor, ...]], labels: Tensor, recipe: Recipe
) -> None:
    """Train a classifier in place.

    Args:
        model: gives logits [rows, classes].
        sample: the model's inputs for some row numbers.
        labels: [n].
        recipe: how; rows that do not fill a batch wait for the next epoch's order.
    """
    steps = len(labels) // recipe.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps * recipe.epochs)
    model.train()
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(labels))[: steps * recipe.batch_size].split(recipe.batch_size):
            loss = cross_entropy(model(*sample(rows)), labels[rows], label_smoothing=recipe.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def jittered(images: Tensor, by: float) -> Tensor:
    """Each image of [n, c, h, w] under a random affine map, entries up to `by` away from the identity."""
    maps = torch.eye(2, 3) + by * (2 * torch.rand(len(images), 2, 3) - 1)
    grid = nn.functional.affine_grid(maps, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def fit_whole(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    score: Callable[[nn.Module], tuple[float, ...]] | None = None,
) -> None:
    """Train with the whole data set in each step (a graph); `loss(model)` is a scalar.

    With `score`, numbers of which the first counts most, the model keeps the weights of the epoch that scores best in
    evaluation mode; of equal ones the first.
    """
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, weight_decay=weight_decay)
    best: tuple[float, ...] = ()
    kept: dict[str, Tensor] = {}
    model.train()
    for _ in range(epochs):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        if score is not None:
            model.eval()
            with torch.no_grad():
                found = score(model)
            model.train()
            if found > best:
                best, kept = found, {name: value.clone() for name, value in model.state_dict().items()}
    if score is not None:
        model.load_state_dict(kept)
    model.eval()
