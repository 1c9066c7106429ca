"""What weights are multiplied with: second moments of the inputs of layers, for formats that are fitted to outputs.

A block of d consecutive weights of an output channel adds v . x to an output, where x are the d inputs that it meets.
So (v - c)^T E[x x^T] (v - c) is the mean squared change of what it adds when c takes its place (Stock et al., arXiv
1907.05686). One matrix serves all blocks of a layer, as there: the mean over blocks, positions and samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mpsearch.core.format import FP32
from mpsearch.graph.interpret import Interpreter, Stream
from mpsearch.graph.ops import CONVOLUTIONS, LINEAR
from mpsearch.graph.program import Kind, Program, Ref, Step
from mpsearch.quant.rows import blocks_of

_MOST = 1 << 22  # inputs looked at, of each layer and batch

Moments = dict[tuple[str, int], Tensor]
"""By the name of a weight and d: float64 [d, d]."""


@torch.no_grad()
def second_moments(interpreter: Interpreter, stream: Stream, wanted: Mapping[int, Iterable[int]]) -> Moments:
    """E[x x^T] for blocks of the lengths `wanted`, by site index, in one float pass over `stream`.

    Weights of convolutions and linear layers have them; embeddings, recurrent layers and the rest are left out.
    """
    program = interpreter.program
    layers = {step.index: step for step in program.steps if _reads(program, step) in wanted}
    by_input: dict[int, list[Step]] = {}
    for step in layers.values():
        by_input.setdefault(_input(step), []).append(step)
    total: Moments = {}
    counts: dict[tuple[str, int], int] = {}

    def add(source: int, value: Any) -> None:
        for step in by_input.get(source, ()):
            site = _reads(program, step)
            assert site is not None
            name = program.sites[site].name
            for x in pytree.tree_leaves(value):
                rows = _inputs(step, x, program.tensors[name])
                for length in wanted[site]:
                    size = min(length, rows.shape[1])
                    blocks = blocks_of(rows, size).reshape(-1, size)
                    key = name, length
                    total[key] = total.get(key, 0) + (blocks.T @ blocks).double()
                    counts[key] = counts.get(key, 0) + len(blocks)

    before = interpreter.formats
    interpreter.assign([FP32] * len(program.sites))
    constants = interpreter.constants(stream)
    for source in by_input:
        if not program.steps[source].upstream:
            add(source, constants[source])
    interpreter.pull(stream, list(by_input), lambda step, value: add(step.index, value))
    interpreter.assign(before)
    return {key: moments / counts[key] for key, moments in total.items()}


def _reads(program: Program, step: Step) -> int | None:
    """The site of the weight that a convolution or linear layer reads."""
    if step.kind is not Kind.CALL or step.call not in CONVOLUTIONS | LINEAR:
        return None
    weight = step.arguments[1]
    read = program.steps[weight.step] if isinstance(weight, Ref) else None
    return read.site if read is not None and read.kind is Kind.PARAMETER else None


def _input(step: Step) -> int:
    assert isinstance(step.arguments[0], Ref)
    return step.arguments[0].step


def _inputs(step: Step, x: Tensor, weight: Tensor) -> Tensor:
    """What one output channel multiplies, float32 [positions, inputs]: of large inputs an even part."""
    if step.call in LINEAR:
        rows = x.reshape(-1, x.shape[-1])
        return rows[:: -(-rows.numel() // _MOST)].float()
    assert step.call is not None
    kernel = weight.shape[2:]
    places = kernel.numel()
    groups = x.shape[1] // weight.shape[1]
    x = x[:: -(-x.numel() * places // _MOST)]
    single = torch.eye(places, dtype=x.dtype, device=x.device).reshape(places, 1, *kernel)
    how: Sequence[Any] = step.arguments[3:6]
    seen = step.call(x.reshape(-1, 1, *x.shape[2:]), single, None, *how)  # one channel at a time: no product is real
    seen = seen.reshape(len(x), groups, weight.shape[1] * places, -1)
    return seen.movedim(2, 3).reshape(-1, weight.shape[1] * places).float()
