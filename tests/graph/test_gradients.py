"""Derivatives through the exported graph, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs import Rig, rig
from tiny_models import Attention, Mlp, OneConv, ResidualNet, Transformer, TwoLayerGcn, graph, randn
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.graph.gradients import block_traces, differentiable, leaves, replay, signs, squared_gradients

SEEDS = st.integers(0, 1000)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(matrix: Tensor, scale: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
    """Gradient and variable of w^T A w / 2."""
    w = torch.ones(len(matrix), dtype=matrix.dtype, requires_grad=True)
    return list(torch.autograd.grad(scale * w @ matrix @ w / 2, [w], create_graph=True)), [w]


@given(SEEDS)
@settings(max_examples=25)
def test_the_mean_over_draws_is_the_trace(seed: int) -> None:
    root = torch.randn(6, 6, dtype=torch.float64, generator=generator(seed))
    matrix = root @ root.T
    gradient, variables = quadratic(matrix)
    draws = [signs(variables, generator(seed + 1 + k)) for k in range(200)]
    found = torch.tensor(list(block_traces(gradient, variables, draws)))[:, 0]
    assert abs(found.mean() - matrix.trace()) < 4.5 * found.std() / 200**0.5 + 1e-9


@given(SEEDS)
@settings(max_examples=25)
def test_one_draw_is_exact_for_a_diagonal_matrix(seed: int) -> None:
    diagonal = torch.randn(9, dtype=torch.float64, generator=generator(seed))
    gradient, variables = quadratic(torch.diag(diagonal))
    (found,) = block_traces(gradient, variables, [signs(variables, generator(seed))])
    assert found[0] == pytest.approx(float(diagonal.sum()))


def test_a_trace_scales_with_the_loss() -> None:
    root = torch.randn(5, 5, dtype=torch.float64, generator=generator(0))
    draws = [signs([root[0]], generator(1))]
    one, three = (next(block_traces(*quadratic(root @ root.T, c), draws))[0] for c in (1.0, 3.0))
    assert three == pytest.approx(3 * one)


def mlp() -> tuple[Rig, Tensor, Tensor]:
    inputs = randn(7, 6)
    return rig(Mlp, (inputs,)), inputs, torch.arange(7) % 3


def test_joint_draws_give_the_trace_of_each_block() -> None:
    found, inputs, labels = mlp()
    variables = leaves(found.program)
    names = [found.program.sites[site].name for site in variables]
    with differentiable(found.program):
        flat, _ = replay(found.program, [inputs], variables)
        gradient = torch.autograd.grad(F.cross_entropy(flat[0], labels), list(variables.values()), create_graph=True)
        draws = [signs(list(variables.values()), generator(k)) for k in range(400)]
        traces = torch.tensor(list(block_traces(gradient, list(variables.values()), draws)))
    parameters = dict(found.model.named_parameters())
    for i, name in enumerate(names):

        def loss(weight: Tensor, name: str = name) -> Tensor:
            output = torch.func.functional_call(found.model, {**parameters, name: weight}, (inputs,))
            return F.cross_entropy(output, labels)

        n = parameters[name].numel()
        hessian = torch.autograd.functional.hessian(loss, parameters[name].detach()).reshape(n, n)
        assert abs(traces[:, i].mean() - hessian.trace()) < 4.5 * traces[:, i].std() / 400**0.5


def test_squares_are_of_single_samples_and_not_of_their_mean() -> None:
    found, inputs, labels = mlp()
    variables = leaves(found.program)
    flat, _ = replay(found.program, [inputs], variables)
    losses = F.cross_entropy(flat[0], labels, reduction="none")
    squares = squared_gradients(iter(losses), variables)
    of_mean = squared_gradients([losses.mean()], variables)
    for site, square in squares.items():
        expected = torch.zeros_like(square)
        weight = dict(found.model.named_parameters())[found.program.sites[site].name]
        for j in range(7):
            loss = F.cross_entropy(found.model(inputs[j : j + 1]), labels[j : j + 1])
            expected += torch.autograd.grad(loss, weight)[0] ** 2 / 7
        torch.testing.assert_close(square, expected, rtol=1e-4, atol=1e-7)
        assert (of_mean[site].sum() < square.sum()).item()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


MODELS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "residual": (ResidualNet, (randn(3, 3, 6, 6),)),
    "fused attention": (Transformer, (randn(2, 5, 8),)),
    "written-out attention": (lambda: Attention(written_out=True), (randn(2, 5, 8),)),
    "gcn": (TwoLayerGcn, graph()),
    "gat": (lambda: OneConv(pyg.GATConv(8, 4, heads=2)).eval(), graph()),
    "lstm": (Recurrent, (randn(3, 6, 4),)),
}


@pytest.mark.parametrize("active", [None, "weights"])
@pytest.mark.parametrize("name", MODELS)
def test_both_derivatives_of_a_replay_are_torch_own(name: str, active: str | None) -> None:
    """All sites active writes fused attention out; only weights active keeps it, and fuses sparse products."""
    build, batch = MODELS[name]
    whole = rig(build, batch)
    weights = [site.name for site in whole.discovery.sites if site.role.is_parameter]
    found = rig(build, batch, active=weights if active else None)
    variables = leaves(found.program)
    names = [found.program.sites[site].name for site in variables]

    def loss_of(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(whole.model, parameters, batch).square().mean()

    with differentiable(found.program):
        flat, values = replay(found.program, found.flat[0], variables)
        ours = _derivatives(flat[0].square().mean(), list(variables.values()))
        assert all(value.requires_grad for found_values in values.values() for value in found_values)
        if name == "residual":  # its BatchNorm is folded: gradients belong to other weights than the model's
            assert all(torch.isfinite(g).all() for g in ours)
            return
        own = {n: dict(whole.model.named_parameters())[n].detach().requires_grad_() for n in names}
        theirs = _derivatives(loss_of(own), list(own.values()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def _derivatives(loss: Tensor, variables: list[Tensor]) -> list[Tensor]:
    """The gradient, and the Hessian times a fixed vector."""
    first = torch.autograd.grad(loss, variables, create_graph=True)
    second = torch.autograd.grad(first, variables, signs(variables, generator(0)), allow_unused=True)
    return [g.detach() for g in first] + [torch.zeros(1) if g is None else g for g in second]


def test_a_float_replay_is_the_float_run() -> None:
    for build, batch in MODELS.values():
        found = rig(build, batch)
        with torch.no_grad():
            flat, values = replay(found.program, found.flat[0], leaves(found.program))
        torch.testing.assert_close(flat[0], found.replay[0][0], rtol=1e-4, atol=1e-5)
        assert {found.program.sites[site].name for site in values} == {
            site.name for site in found.program.sites if not site.role.is_parameter
        }
