"""Which calls of a program can run on integers at an assignment: what integer kernels of runtimes need.

A kernel reads codes of 8 bits. A convolution, sum or softmax also writes codes: where its result stays in floating
point, so does the whole call. A product of matrices may write floating point.
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
WEIGHTED = CONVOLUTIONS | LINEAR
PRODUCES = PRODUCTS | {attention.scores, attention.mixed}
JOINS = {aten.add.Tensor, aten.mul.Tensor}
MAPS = SOFTMAX | {attention.softmax, aten.sigmoid.default, aten.leaky_relu.default, aten.avg_pool2d.default}
FUSED = {aten.relu.default, aten.leaky_relu.default, aten.elu.default, aten.tanh.default}
"""Activation functions that runtimes fuse with a linear layer on floats, sooner than they look for integers."""
NEEDS_CODES = CONVOLUTIONS | JOINS | MAPS
"""Operators whose integer kernels write codes."""


def integer_steps(program: Program, grids: Grids, formats: Sequence[Format]) -> frozenset[int]:
    """Indices of the calls that can run on integers.

    Args:
        formats: one per site of the program.
    """
    steps = program.steps
    pairs = enumerate(zip(program.sites, formats, strict=True))
    fits = [_fits(grids, i, site.role.is_parameter, fmt) for i, (site, fmt) in pairs]
    readers: list[list[Step]] = [[] for _ in steps]
    for step in steps:
        for source in step.inputs if step.call not in SHAPE_ONLY else ():
            readers[source].append(step)
    coded: set[int] = set()
    """Steps whose value is codes."""
    found: set[int] = set()
    for step in steps:
        if step.kind is Kind.VALUE:
            assert step.site is not None
            if fits[step.site]:
                coded.add(step.index)
        elif step.kind is Kind.PARAMETER and step.site is not None and fits[step.site]:
            coded.add(step.index)
        elif step.call in MOVES:
            moved = steps[step.inputs[0]]
            if moved.index in coded and moved.kind is not Kind.PARAMETER:
                coded.add(step.index)
        elif _reads_codes(step, coded) and _is_free(step, readers[step.index], fits):
            found.add(step.index)
    return frozenset(found)


def _fits(grids: Grids, site: int, is_parameter: bool, fmt: Format) -> bool:
    if fmt == FP32:
        return False
    grid = grids.grid(site, fmt)
    return weight_fits(grid) if is_parameter else value_fits(grid)


def _reads_codes(step: Step, coded: set[int]) -> bool:
    if step.call in WEIGHTED or step.call in PRODUCES or step.call in JOINS:
        operands = step.arguments[:2]
    elif step.call in MAPS:
        operands = step.arguments[:1]
    else:
        return False
    return all(isinstance(a, Ref) and a.step in coded for a in operands)


def _is_free(step: Step, readers: list[Step], fits: list[bool]) -> bool:
    """Whether what becomes of the result of `step` lets it run on integers."""
    if len(readers) != 1:
        return step.call not in NEEDS_CODES
    (reader,) = readers
    if step.call in NEEDS_CODES:
        return reader.kind is Kind.VALUE and fits[reader.site or 0]
    return step.call not in LINEAR or reader.call not in FUSED
