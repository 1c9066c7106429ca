"""What the layers of the float model make of the same rows of data, for comparing layers with each other.

A site stands for a *tap*: the value after its layer and the activation function (`branch`), or after the residual
addition that the layer's result enters (`post_residual`); a site on a value is its own tap. Several sites may share
one. A row is an image of a convolutional network, a token of a transformer, a node or an edge of a graph network; taps
with the same rows form a block, and only these can be compared.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.core.format import FP32
from mpsearch.graph import attention, spmm
from mpsearch.graph.interpret import Interpreter, Stream
from mpsearch.graph.ops import (
    ATTENTION,
    CONVOLUTIONS,
    PARTS,
    RECURRENT,
    RESHAPES,
    SCATTERS,
    SOFTMAX,
    TRANSPOSED,
    UNARY,
    aten,
)
from mpsearch.graph.program import Kind, Program, Step

Where = Literal["branch", "post_residual"]
Rows = Literal["sample", "token", "node"]
POOLED = 7
"""Larger maps are averaged down to so many pixels along an edge: it saves memory, and changes similarities a little."""

_POOLS = {aten.max_pool2d.default, aten.max_pool2d_with_indices.default, aten.avg_pool2d.default}
_FOLLOWS = UNARY - _POOLS
_Layout = Literal["first", "last", "pixels"]
"""Where the rows of a value are: the first axis, all but the last, or the first and the two of a map."""


@dataclass(frozen=True)
class Block:
    """Taps with the same rows.

    Args:
        rows: what a row is; `node` for the edges of a graph too.
        matrices: by tap, in the order of computation: float32 [n, d].
    """

    rows: Rows
    matrices: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Features:
    """What `features` found.

    Args:
        order: taps in the order of computation; a tap is named after the first of its sites.
        tap_of: by site.
        where: which value stands for a layer.
    """

    order: tuple[str, ...]
    tap_of: Mapping[str, str]
    blocks: tuple[Block, ...]
    where: Where


@dataclass
class _Plan:
    """Taps with the same rows, while they are collected: steps of the program with their layouts."""

    rows: Rows
    layouts: dict[int, _Layout] = field(default_factory=dict)
    parts: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)

    @property
    def taken(self) -> int:
        """Rows collected so far."""
        return sum(map(len, next(iter(self.parts.values()), [])))


def features(
    interpreter: Interpreter,
    streams: Sequence[Stream],
    lengths: Sequence[int],
    sites: Iterable[str],
    limits: Mapping[Rows, int],
    seed: int,
    where: Where | None = None,
) -> Features:
    """One float pass over as many of `streams` as it takes to see `limits["sample"]` samples.

    Rows are drawn at random, evenly from those streams, the same for all taps of a block. Tokens that an input called
    `..mask..` masks are left out, and so are those in the first place: class tokens, and in a causal model the one that
    draws attention whatever it is.

    Args:
        streams: of one batch each.
        lengths: samples (nodes, for one large graph) of each stream, without those it is padded with.
        sites: which have a tap.
        limits: the most rows of each kind.
        seed: of the rows that are drawn.
        where: None for `branch` where there is attention (the sums along its residuals are alike everywhere), and
            `post_residual`, as published for convolutional networks, elsewhere.
    """
    program = interpreter.program
    if where is None:
        where = "branch" if _calls(program, ATTENTION | SOFTMAX | {attention.softmax}) else "post_residual"
    taps, plans = _plan(program, set(sites), where)
    enough = next((i for i, n in enumerate(np.cumsum(lengths), 1) if n >= limits["sample"]), len(lengths))
    draw = torch.Generator().manual_seed(seed)
    interpreter.assign([FP32] * len(program.sites))
    for i, (stream, length) in enumerate(zip(streams[:enough], lengths, strict=False)):
        quotas = [-(-(limits[plan.rows] - plan.taken) // (enough - i)) for plan in plans]
        _collect(interpreter, stream, length, plans, quotas, draw)
    names: dict[int, str] = {}
    for site, step in taps.items():
        names.setdefault(step, program.sites[site].name)
    blocks = [Block(p.rows, {names[s]: np.concatenate(found) for s, found in p.parts.items()}) for p in plans]
    tap_of = {program.sites[site].name: names[step] for site, step in taps.items()}
    return Features(tuple(names[step] for step in sorted(names)), tap_of, tuple(blocks), where)


def _plan(program: Program, sites: set[str], where: Where) -> tuple[dict[int, int], list[_Plan]]:
    """The tapped step of each site, and the steps grouped by how many rows they have."""
    walk = _Walk(program)
    taps, maps = {}, set()
    for step in program.steps:
        if step.site is None or program.sites[step.site].name not in sites:
            continue
        if step.kind is Kind.VALUE:
            after, is_map = step, program.sites[step.site].axis == 1 and len(_shape(step)) > 2
        else:
            layer = walk.reader(step)
            after, is_map = walk.after(layer, where), layer.call in CONVOLUTIONS | TRANSPOSED
        taps[step.site] = after.index
        if is_map:
            maps.add(after.index)
    shapes = {i: _shape(program.steps[i]) for i in sorted(set(taps.values()))}
    graph = _calls(program, SCATTERS | {spmm.product})
    tokens = {_rows("last", s) for i, s in shapes.items() if not graph and i not in maps and len(s) > 2}
    plans: dict[int, _Plan] = {}
    for i, shape in shapes.items():
        layout: _Layout = "first" if graph or i in maps else "last"
        if i in maps and _rows("pixels", shape) in tokens:
            layout = "pixels"  # of a patch embedding, whose pixels are the tokens
        count = _rows(layout, shape)
        rows: Rows = "node" if graph else "token" if count in tokens else "sample"
        plans.setdefault(count, _Plan(rows)).layouts[i] = layout
    return taps, list(plans.values())


class _Walk:
    """Goes through a program in the direction of the data."""

    def __init__(self, program: Program) -> None:
        self.steps = program.steps
        self.readers: list[list[Step]] = [[] for _ in self.steps]
        self.above = [0] * len(self.steps)
        for step in self.steps:
            for i in step.inputs:
                self.readers[i].append(step)
                self.above[step.index] |= self.above[i] | 1 << i

    def reader(self, parameter: Step) -> Step:
        """The first layer that reads a parameter, whatever reshapes and slices it passes on its way."""
        queue: list[Step] = [parameter]
        found: list[Step] = []
        while queue:
            for step in self.readers[queue.pop().index]:
                passes = step.call in RESHAPES | PARTS | {operator.getitem}
                (queue if passes else found).append(step)
        return min(found, key=lambda step: step.index)

    def after(self, layer: Step, where: Where) -> Step:
        """The value after a layer: what its one reader makes of it while that is an activation function or a site, and
        with `post_residual` the first sum that it enters as well."""
        step, summed = layer, where == "branch"
        while True:
            following = self.readers[step.index]
            if step.call in RECURRENT:  # gives its outputs and its last state
                step = next(r for r in following if r.arguments[1] == 0)
                continue
            if len(following) == 1 and (following[0].kind is Kind.VALUE or following[0].call in _FOLLOWS):
                step = following[0]
                continue
            entered = next((r for r in following if not summed and self._joins(step, r)), None)
            if entered is None:
                return step
            step, summed = entered, True

    def _joins(self, step: Step, addition: Step) -> bool:
        """Whether `addition` adds to the value of `step` another of its shape, in which `step` had no part (as it has
        in that of the branch that it is the shortcut of)."""
        others = [i for i in addition.inputs if i != step.index]
        if addition.call is not aten.add.Tensor or len(others) != 1:
            return False
        return _shape(self.steps[others[0]]) == _shape(step) and not self.above[others[0]] >> step.index & 1


def _collect(
    interpreter: Interpreter,
    stream: Stream,
    length: int,
    plans: Sequence[_Plan],
    quotas: Sequence[int],
    draw: torch.Generator,
) -> None:
    """Run one batch and keep at most `quotas` rows of it for each plan."""
    plan_of = {step: i for i, plan in enumerate(plans) for step in plan.layouts}
    chosen: dict[int, Tensor] = {}
    inputs = stream.batches[0]
    named = zip((s.name for s in interpreter.program.steps if s.kind is Kind.INPUT), inputs, strict=True)
    masks = [x.flatten().cpu() != 0 for name, x in named if "mask" in name and isinstance(x, Tensor)]
    batch = len(next(x for x in inputs if isinstance(x, Tensor) and x.ndim))

    def choose(i: int, n: int) -> Tensor:
        row, each = torch.arange(n), n // batch
        real = row < length * each if length < batch else row >= 0
        if plans[i].rows == "token":
            real &= row % each > 0
            for mask in masks:
                real &= mask if len(mask) == n else True
        row = row[real]
        return row[torch.randperm(len(row), generator=draw)[: quotas[i]].sort().values]

    def visit(step: Step, value: Tensor) -> None:
        if step.index in plan_of:
            i = plan_of[step.index]
            value = _arranged(plans[i].layouts[step.index], value)
            if i not in chosen:
                chosen[i] = choose(i, len(value))
            found = _matrix(value[chosen[i].to(value.device)])
            plans[i].parts.setdefault(step.index, []).append(found)

    interpreter.pull(stream, list(plan_of), visit)


def _arranged(layout: _Layout, value: Tensor) -> Tensor:
    """`value` with its rows along the first axis."""
    if layout == "pixels":
        return value.flatten(2).transpose(1, 2).flatten(0, 1)
    if layout == "first" or value.ndim <= 2:
        return value
    tokens = value.transpose(1, 2).flatten(2) if value.ndim == 4 else value  # [n, heads, tokens, size]
    return tokens.flatten(0, -2)


def _matrix(value: Tensor) -> NDArray[np.float32]:
    """[n, d] of values with their rows along the first axis."""
    value = value.float()
    if value.ndim == 4:
        value = F.adaptive_avg_pool2d(value, (min(POOLED, value.shape[2]), min(POOLED, value.shape[3])))
    return value.reshape(len(value), -1).cpu().numpy()


def _rows(layout: _Layout, shape: Sequence[int]) -> int:
    return len(_arranged(layout, torch.empty(shape, device="meta")))


def _shape(step: Step) -> tuple[int, ...]:
    assert step.node is not None
    return tuple(step.node.meta["shape"])


def _calls(program: Program, targets: set[Any]) -> bool:
    return any(step.call in targets for step in program.steps)
