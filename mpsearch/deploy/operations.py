"""Which step of a program does the work of an operation of the workload."""

from __future__ import annotations

import math

from mpsearch.cost.workload import Kind, Operation, Workload
from mpsearch.graph import attention, kinds
from mpsearch.graph.program import Kind as StepKind
from mpsearch.graph.program import Program, Step

_WRITTEN_OUT = {
    attention.scores: Kind.MATMUL,
    attention.softmax: Kind.SOFTMAX,
    attention.mixed: Kind.MATMUL,
}


def steps_of(workload: Workload, program: Program) -> dict[str, Step]:
    """The step by the name of the operation. Both lists are in the order of the graph; what has no step of its own (an
    operation that is written out as several, or several that are one) is left out."""
    found: dict[str, Step] = {}
    at = 0
    for operation in workload.operations:
        for i in range(at, len(program.steps)):
            if _is(program.steps[i], operation):
                found[operation.name] = program.steps[i]
                at = i + 1
                break
    return found


def _is(step: Step, operation: Operation) -> bool:
    if step.kind is not StepKind.CALL or step.node is None or len(step.inputs) < len(operation.reads):
        return False
    if step.call in _WRITTEN_OUT:
        return _WRITTEN_OUT[step.call] is operation.kind
    if kinds.kind_of(step.node, step.node) is not operation.kind:
        return False
    if operation.macs:
        return step.macs == operation.macs
    return operation.write is not None and math.prod(step.node.meta["shape"]) == operation.write.elements
