"""Which calls of a program can run on integers at an assignment: what integer kernels of runtimes need.

A kernel reads codes of 8 bits. A convolution, sum or softmax also writes codes: where its result stays in floating
point, so does the whole call. A product of matrices may write floating point, unless a ReLU follows: runtimes join the
two on floats, sooner than they look for integers.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from mpsearch.core.format import FP32, Format
from mpsearch.deploy.onnx_call import value_fits, weight_fits
from mpsearch.graph import attention
from mpsearch.graph.interpret import Grids
from mpsearch.graph.ops import CONVOLUTIONS, LINEAR, PARTS, PRODUCTS, RESHAPES, SHAPE_ONLY, SOFTMAX, aten
from mpsearch.graph.program import Kind, Program, Ref, Step
from mpsearch.quant.grid import Grid

MOVES = (
    RESHAPES
    | PARTS
    | {
        operator.getitem,
        attention.heads,
        aten.index_select.default,
        aten.index.Tensor,
        aten.gather.default,
        aten.max_pool2d.default,
    }
)
"""Operators whose result is on the grid of their first operand."""
_WEIGHTED = CONVOLUTIONS | LINEAR
_PRODUCTS = PRODUCTS | {attention.scores, attention.mixed}
_JOINS = {aten.add.Tensor, aten.mul.Tensor}
_MAPS = SOFTMAX | {attention.softmax, aten.sigmoid.default, aten.leaky_relu.default, aten.avg_pool2d.default}
_WRITE_CODES = CONVOLUTIONS | _JOINS | _MAPS
_JOINED = {aten.relu.default, aten.leaky_relu.default, aten.elu.default, aten.tanh.default}
"""Activation functions that runtimes join with the linear layer before them."""


def integer_steps(program: Program, grids: Grids, formats: Sequence[Format]) -> frozenset[int]:
    """Indices of the calls that can run on integers.

    Args:
        formats: one per site of the program.
    """
    steps, readers = program.steps, _readers(program)
    at = [None if fmt == FP32 else grids.grid(site, fmt) for site, fmt in enumerate(formats)]
    coded = {step.index for step in steps if step.site is not None and _is_coded(step, at[step.site])}
    """Steps whose value is codes."""
    found: set[int] = set()
    for step in steps:
        if step.call in MOVES:
            moved = steps[step.inputs[0]]
            if moved.index in coded and moved.kind is not Kind.PARAMETER:
                coded.add(step.index)
        elif _reads_codes(step, coded):
            free = not writes_codes(step, readers[step.index]) and not _is_joined(readers[step.index])
            if free or _is_written_as_codes(readers[step.index], at):
                found.add(step.index)
    return frozenset(found)


def code_writers(program: Program) -> frozenset[int]:
    """Indices of the calls whose integer kernels write codes: with a float result they run on floats."""
    readers = _readers(program)
    return frozenset(step.index for step in program.steps if writes_codes(step, readers[step.index]))


def writes_codes(step: Step, readers: Sequence[Step]) -> bool:
    """Whether the integer kernel of `step` writes codes."""
    if step.call in LINEAR:
        return len(readers) == 1 and readers[0].kind is Kind.VALUE and readers[0].after_relu
    return step.call in _WRITE_CODES


def _readers(program: Program) -> list[list[Step]]:
    """By step, those that read its numbers."""
    found: list[list[Step]] = [[] for _ in program.steps]
    for step in program.steps:
        for source in step.inputs if step.call not in SHAPE_ONLY else ():
            found[source].append(step)
    return found


def _is_coded(step: Step, grid: Grid | None) -> bool:
    return weight_fits(grid) if step.kind is Kind.PARAMETER else value_fits(grid)


def _reads_codes(step: Step, coded: set[int]) -> bool:
    if step.call in _WEIGHTED or step.call in _PRODUCTS or step.call in _JOINS:
        operands = step.arguments[:2]
    elif step.call in _MAPS:
        operands = step.arguments[:1]
    else:
        return False
    return all(isinstance(a, Ref) and a.step in coded for a in operands)


def _is_joined(readers: Sequence[Step]) -> bool:
    """Whether an activation function that nobody quantizes follows."""
    return len(readers) == 1 and readers[0].call in _JOINED


def _is_written_as_codes(readers: Sequence[Step], at: Sequence[Grid | None]) -> bool:
    """Whether a quantization alone reads the result, with no ReLU in between that would have to be computed."""
    if len(readers) != 1 or readers[0].kind is not Kind.VALUE or readers[0].site is None:
        return False
    grid = at[readers[0].site]
    return value_fits(grid) and (not readers[0].after_relu or (grid is not None and grid.absorbs_relu))
