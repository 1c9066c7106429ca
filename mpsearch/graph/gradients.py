"""Derivatives of a loss through the exported graph: the float program replayed so that gradients can flow, twice.

Nothing is overwritten and nothing cached, a fused attention takes its mathematical form (the fused kernels have no
second derivative), sparse products become gather and scatter, and recurrent layers run without oneDNN.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel

from mpsearch.graph import attention, spmm
from mpsearch.graph.ops import RECURRENT, is_call
from mpsearch.graph.program import Kind, Program, Ref

K = TypeVar("K", bound=Hashable)


@contextmanager
def differentiable(program: Program) -> Iterator[None]:
    """While entered, operators of `program` that come in several kernels use one that has two derivatives."""
    recurrent = any(step.node is not None and is_call(step.node, RECURRENT) for step in program.steps)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(warnings.catch_warnings(action="ignore"))  # torch tells of Intel GPUs here
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def leaves(program: Program) -> dict[int, Tensor]:
    """The float parameter of each parameter site, by site index, as a variable to differentiate by."""
    tensors = {s.site: program.tensors[s.name] for s in program.steps if s.kind is Kind.PARAMETER}
    return {site: tensor.detach().clone().requires_grad_() for site, tensor in tensors.items() if site is not None}


def replay(
    program: Program, inputs: Sequence[Any], parameters: Mapping[int, Tensor]
) -> tuple[list[Any], dict[int, list[Tensor]]]:
    """Run the float program on flat `inputs` with `parameters` by site index.

    Returns its flat outputs, and by site index the activation values that the sites would quantize, of a state one per
    step of its recurrence; gradients flow to and through both.
    """
    found: dict[int, list[Tensor]] = {}
    values: list[Any] = []
    given = iter(inputs)

    def fill(arguments: Any) -> Any:
        return map_aggregate(arguments, lambda a: values[a.step] if isinstance(a, Ref) else a)

    for step in program.steps:
        if step.kind is Kind.INPUT:
            value = next(given)
        elif step.kind is Kind.TENSOR:
            value = program.tensors[step.name]
        elif step.kind is Kind.PARAMETER:
            assert step.site is not None
            value = parameters[step.site]
        elif step.kind is Kind.VALUE:
            assert step.site is not None
            value = values[step.inputs[0]]
            value = torch.relu(value) if step.after_relu else value.view_as(value)
            value = value.requires_grad_() if torch.is_grad_enabled() else value
            found.setdefault(step.site, []).append(value)
        elif step.kind is Kind.CALL:
            assert step.call is not None
            value = DIFFERENTIABLE.get(step.call, step.call)(*fill(step.arguments), **fill(step.keywords))
        else:
            return list(fill(step.arguments)), found
        values.append(value)
    raise AssertionError("a program without output")


def block_traces(
    gradient: Sequence[Tensor], variables: Sequence[Tensor], draws: Iterable[Sequence[Tensor]]
) -> Iterator[list[float]]:
    """v_i^T (H v)_i of every variable i, for each draw of v: one Hessian-vector product serves them all.

    With v of random signs, E[v_i v_j^T] = 0 between blocks, so that the mean over draws is the trace of each block
    (Hutchinson 1990).

    Args:
        gradient: of the loss by each of `variables`, made with `create_graph=True`.
        draws: one tensor per variable, of its shape.
    """
    for v in draws:
        product = torch.autograd.grad(gradient, variables, list(v), retain_graph=True, allow_unused=True)
        yield [0.0 if p is None else float((p * x).sum(dtype=torch.float64)) for p, x in zip(product, v, strict=True)]


def squared_gradients(losses: Iterable[Tensor], variables: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """Mean over `losses` of the squared gradient by each variable: not the square of the mean gradient."""
    total = {key: torch.zeros_like(variable) for key, variable in variables.items()}
    count = 0
    for loss in losses:
        found = torch.autograd.grad(loss, list(variables.values()), retain_graph=True, allow_unused=True)
        for key, gradient in zip(total, found, strict=True):
            if gradient is not None:
                total[key] += gradient.square()
        count += 1
    return {key: square / count for key, square in total.items()}


def signs(variables: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A tensor of random signs, Rademacher distributed, for each of `variables`."""
    draws = [torch.randint(0, 2, v.shape, generator=generator) * 2 - 1 for v in variables]
    return [draw.to(v) for draw, v in zip(draws, variables, strict=True)]


def _edges(source: Tensor, target: Tensor, weight: Tensor | None, rows: int, columns: int) -> tuple[Any, ...]:
    del columns
    return source, target, weight, rows


def _sum_over_edges(edges: tuple[Any, ...], values: Tensor) -> Tensor:
    source, target, weight, rows = edges
    messages = values[source] if weight is None else values[source] * weight.reshape(-1, 1)
    return values.new_zeros(rows, values.shape[1]).index_add(0, target, messages)


def _softmax(values: Tensor) -> Tensor:
    return torch.nan_to_num(torch.softmax(values, -1))


DIFFERENTIABLE = {spmm.adjacency: _edges, spmm.product: _sum_over_edges, attention.softmax: _softmax}
