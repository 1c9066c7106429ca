"""A model as a graph with its sites, and the batches of every split made ready for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput, ObjectiveFailed
from mpsearch.graph.bins import add_degrees, split
from mpsearch.graph.export import Example, Lowered, export
from mpsearch.graph.fold import fold_batch_norm
from mpsearch.graph.measure import measure
from mpsearch.graph.notes import counted
from mpsearch.graph.sites import Discovery, discover
from mpsearch.graph.sparse import is_sparse, is_weighted, taken_by_layers
from mpsearch.problem.inputs import Inputs, check_lists, with_lists
from mpsearch.problem.rules import binned
from mpsearch.spec.schema import Spec

T = TypeVar("T")


@dataclass
class Graphed:
    """The parts that programs are compiled of.

    Args:
        lowered: BatchNorm folded, values split into the bins that the spec asks for.
        flat: inputs of each batch, by split.
        rows: of each batch, by split, where batches are padded to the size that the export fixed; else None.
        times: how often `notes_bytes` counts the numbers of a value, by its site before it was split.
    """

    lowered: Lowered
    discovery: Discovery
    inputs: Inputs
    flat: dict[str, list[list[Any]]]
    rows: dict[str, list[int]] | None
    times: dict[str, Fraction]


def graphed(
    spec: Spec, model: nn.Module, examples: Mapping[str, Sequence[Example]], keep_dropout: bool = False
) -> Graphed:
    """Export `model` for the `examples` of all splits.

    A sparse adjacency is exported as edges, and what the graph gives compared with what the model gives on the matrix.

    Raises `ExportError`; `BadInput` on edges and degrees that fit no batch; and `ObjectiveFailed` where the graph does
    not give what the model gives.
    """
    _of_each(examples, lambda example: check_lists(model, example))
    weighted = any(is_weighted((e.args, dict(e.kwargs))) for found in examples.values() for e in found)
    listed = _of_each(examples, lambda example: with_lists(example, weighted))
    with taken_by_layers(model):
        lowered = export(model, [example for found in listed.values() for example in found], keep_dropout)
    fold_batch_norm(lowered)
    inputs = Inputs.of_graph(lowered, listed["validation"][0], weighted)
    made = _of_each(examples, inputs.of)
    given = examples["validation"][0]
    with torch.no_grad():
        _agree(measure(lowered, made["validation"][0][0]), model(*given.args, **given.kwargs), given)
    discovery = discover(lowered)
    times = counted(discovery)
    if bins := binned(spec, discovery.sites):
        if any(example.degrees is not None for found in examples.values() for example in found):
            inputs = replace(inputs, takes_degrees=True)
            made = _of_each(examples, inputs.of)
            add_degrees(lowered, made["validation"][0][0][-1])
        calibration = [leaves for leaves, _ in made["calibration"]]
        discovery = split(lowered, discovery, bins, made["validation"][0][0], calibration)
    flat = {split: [leaves for leaves, _ in found] for split, found in made.items()}
    rows = None if lowered.padded is None else {split: [n for _, n in found] for split, found in made.items()}
    return Graphed(lowered, discovery, inputs, flat, rows, times)


def _of_each(examples: Mapping[str, Sequence[Example]], function: Callable[[Example], T]) -> dict[str, list[T]]:
    """What `function` gives for each batch; what it refuses is told with the number of the batch."""
    found: dict[str, list[T]] = {}
    for name, batches in examples.items():
        found[name] = []
        for number, example in enumerate(batches):
            try:
                found[name].append(function(example))
            except BadInput as error:
                raise BadInput(*(f"batch {number} of {name}: {text}" for text in error.errors)) from error
    return found


def _agree(flat: Sequence[Any], output: Any, given: Example) -> None:
    """The graph must give what the model gives for the inputs as they are `given`, up to the rounding that BatchNorm
    folding causes."""
    for ours, theirs in zip(flat, pytree.tree_leaves(output), strict=True):
        if not isinstance(theirs, Tensor) or not theirs.is_floating_point():
            continue
        ours = ours[: theirs.shape[0]] if theirs.ndim else ours
        finite = theirs.isfinite()
        if not torch.equal(finite, ours.isfinite()):
            difference = math.inf
        elif finite.any():
            scale = theirs[finite].abs().max().clamp_min(1e-6)
            difference = ((ours - theirs)[finite].abs().max() / scale).item()
        else:
            difference = 0.0  # not a number: for the metric to judge
        if not difference < 1e-3:
            hint = "is the model's forward deterministic in eval mode?"
            if any(map(is_sparse, given.leaves())):
                hint = (
                    "a layer does otherwise with a sparse adjacency than with a list of edges (a GCN adds a loop to "
                    "one that is there already): give edge_index, and edge weights, as inputs of the model."
                )
            raise ObjectiveFailed(
                f"the exported graph differs from the model by {difference:.2g} of its largest output; {hint}"
            )
