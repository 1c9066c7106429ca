"""A model as a graph with its sites, and the batches of every split made ready for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mpsearch.core.errors import ObjectiveFailed
from mpsearch.graph.bins import split
from mpsearch.graph.export import Example, Lowered, export
from mpsearch.graph.fold import fold_batch_norm
from mpsearch.graph.measure import measure
from mpsearch.graph.sites import Discovery, discover
from mpsearch.problem.inputs import Inputs
from mpsearch.problem.rules import binned
from mpsearch.spec.schema import Spec


@dataclass
class Graphed:
    """The parts that programs are compiled of.

    Args:
        lowered: BatchNorm folded, values split into the bins that the spec asks for.
        flat: inputs of each batch, by split.
        rows: of each batch, by split, where batches are padded to the size that the export fixed; else None.
    """

    lowered: Lowered
    discovery: Discovery
    inputs: Inputs
    flat: dict[str, list[list[Any]]]
    rows: dict[str, list[int]] | None


def graphed(
    spec: Spec, model: nn.Module, examples: Mapping[str, Sequence[Example]], keep_dropout: bool = False
) -> Graphed:
    """Export `model` for the `examples` of all splits.

    Raises `ExportError`, and `ObjectiveFailed` where the graph does not give what the model gives.
    """
    lowered = export(model, [example for found in examples.values() for example in found], keep_dropout)
    fold_batch_norm(lowered)
    first = examples["validation"][0]
    inputs = Inputs(lowered, first)
    made = {split: [inputs.of(example) for example in found] for split, found in examples.items()}
    flat = {split: [leaves for leaves, _ in found] for split, found in made.items()}
    rows = None if lowered.padded is None else {split: [n for _, n in found] for split, found in made.items()}
    with torch.no_grad():
        _agree(measure(lowered, flat["validation"][0]), model(*first.args, **first.kwargs))
    discovery = discover(lowered)
    discovery = split(lowered, discovery, binned(spec, discovery.sites), flat["validation"][0], flat["calibration"])
    return Graphed(lowered, discovery, inputs, flat, rows)


def _agree(flat: Sequence[Any], output: Any) -> None:
    """The graph must give what the model gives, up to the rounding that BatchNorm folding causes."""
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
            raise ObjectiveFailed(
                f"the exported graph differs from the model by {difference:.2g} of its largest output; "
                "is the model's forward deterministic in eval mode?"
            )
