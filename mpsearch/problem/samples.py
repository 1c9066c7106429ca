"""The losses of single samples, from an objective that gives the mean loss of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput
from mpsearch.graph import gradients
from mpsearch.graph.runner import GraphRunner, on_cpu
from mpsearch.problem.objective import Batch, Objective

MOST = 512
"""Samples looked at; of larger calibration sets so many, evenly spaced."""
_ALIKE = 1e-3


@dataclass(frozen=True)
class Part:
    """Samples that were run together.

    Args:
        batch: of the calibration split.
        values: activation values by site index; of a state, one per step of its recurrence.
        losses: one scalar per sample looked at; gradients flow.
        share: samples that were run, over all of the calibration set.
    """

    batch: int
    values: Mapping[int, Sequence[Tensor]]
    losses: Iterator[Tensor]
    share: float


def single_samples(
    objective: Objective, runner: GraphRunner, batches: Sequence[Batch], parameters: Mapping[int, Tensor]
) -> Iterator[Part]:
    """Run the calibration batches so that each sample has a loss of its own.

    Where a row of the inputs gives the same output alone as in its batch, rows are run one by one. Elsewhere (graphs,
    whose nodes read each other; exports of a fixed batch size) the batch is run whole, and every sample's loss is taken
    from its own row of the outputs, or by its own entry of the target where outputs are not one row per sample.

    Raises `BadInput` where the loss cannot be split: another sample's output moves it.
    """
    total = sum(batch.n for batch in batches)
    step = -(-total // MOST)
    program = runner.interpreter.program

    def run(inputs: Sequence[Any]) -> tuple[Any, dict[int, list[Tensor]]]:
        flat, values = gradients.replay(program, inputs, parameters)
        return pytree.tree_unflatten([on_cpu(leaf) for leaf in flat], program.out_spec), values

    for i, batch in enumerate(batches):
        inputs = runner.streams["calibration"][i].batches[0]
        flat, values = gradients.replay(program, inputs, parameters)
        output = runner.output(flat, "calibration", i)
        if _rows_are_alone(run, inputs, output, batch.n):
            for j in range(0, batch.n, step):
                alone, values = run(_row(inputs, j, batch.n))
                yield Part(i, values, iter([_loss(objective, alone, batch, j)]), 1 / total)
        else:
            _refuse_if_joint(objective, output, batch)
            losses = (_loss(objective, _row(output, j, batch.n), batch, j) for j in range(0, batch.n, step))
            yield Part(i, values, losses, batch.n / total)


def _loss(objective: Objective, output: Any, batch: Batch, j: int) -> Tensor:
    return objective.loss(output, replace(batch, target=_row(batch.target, j, batch.n), n=1))


def _row(tree: Any, j: int, n: int) -> Any:
    """`tree` with every tensor of `n` rows cut to row `j`."""

    def cut(leaf: Any) -> Any:
        return leaf[j : j + 1] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == n else leaf

    return pytree.tree_map(cut, tree)


def _rows_are_alone(run: Callable[..., Any], inputs: Sequence[Any], output: Any, n: int) -> bool:
    """Whether the first and last row give, run alone, what they give in the batch."""
    tensors = [*inputs, *pytree.tree_leaves(output)]
    if n < 2 or not all(isinstance(t, Tensor) and t.ndim and len(t) == n for t in tensors):
        return False
    try:
        with torch.no_grad():
            pairs = [(run(_row(inputs, j, n))[0], _row(output, j, n)) for j in (0, n - 1)]
    except (IndexError, RuntimeError, ValueError):  # a size is written into the graph
        return False
    for alone, together in pairs:
        for a, b in zip(pytree.tree_leaves(alone), pytree.tree_leaves(together), strict=True):
            if a.shape != b.shape or not torch.allclose(a, b.detach(), _ALIKE, 1e-6):
                return False
    return True


def _refuse_if_joint(objective: Objective, output: Any, batch: Batch) -> None:
    if batch.n < 2:
        return
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    joint = True
    try:
        first, last = (
            torch.autograd.grad(
                _loss(objective, _row(output, j, batch.n), batch, j), leaves, retain_graph=True, materialize_grads=True
            )
            for j in (0, batch.n - 1)
        )
        joint = any(bool(((a != 0) & (b != 0)).any()) for a, b in zip(first, last, strict=True))
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = f" ({' '.join(str(error).split())[:120]})"
    else:
        reason = ""
    if joint:
        raise BadInput(
            f"objective {type(objective).__name__}: the loss of a single sample cannot be told from its batch{reason}; "
            "search with driver sensitivity, or with hessian where only weights have a choice."
        )
