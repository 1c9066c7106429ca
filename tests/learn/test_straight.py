"""Straight-through gradients against autograd on the formulas written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.learn.lsq import Lsq, on_learned_grid
from mpsearch.learn.straight import Straight, straight
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.bank import Bank


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SITES = {
    "weight": Site("w", Role.WEIGHT, (6, 10)),
    "value": Site("v", Role.ACTIVATION, (6, 10), axis=1),
    "feature": Site("f", Role.FEATURE, (6, 10), axis=1),
}


def grid_of(sample: Tensor, text: str, kind: str = "weight") -> AffineGrid:
    grid = Bank(lambda _: sample, 0).grid(SITES[kind], Format.parse(text))
    assert isinstance(grid, AffineGrid)
    return grid


def written_out(x: Tensor, grid: AffineGrid, scale: Tensor) -> Tensor:
    """LSQ as its paper has it, every rounding a constant for autograd."""
    spread = grid.grain.spread(scale, x.shape)
    low, high = (grid.grain.spread(end, x.shape) for end in (grid.lowest, grid.highest))
    steps = torch.minimum(torch.maximum(x / spread, low), high)
    return (steps + (steps.round() - steps).detach()) * spread


@given(
    st.sampled_from(["int2", "int3", "int4:tensor", "int8", "int4:g4", "int4:affine", "int3:tensor:max"]),
    st.sampled_from(["weight", "value"]),
    st.integers(0, 99),
)
@settings(max_examples=15)
def test_learned_steps_have_the_gradients_of_lsq(text: str, kind: str, seed: int) -> None:
    if kind == "value" and ":g" in text:
        text = "int4:channel"
    x = randn(6, 10, seed=seed).requires_grad_()
    grid = grid_of(x.detach() * 0.8, text, kind)  # some values lie beyond its ends
    upstream = randn(6, 10, seed=seed + 1)
    one, two = grid.scale.clone().requires_grad_(), grid.scale.clone().requires_grad_()
    ours = on_learned_grid(x, grid, one)
    assert torch.equal(ours, grid.round_trip(x))
    found = torch.autograd.grad(ours, [x, one], upstream)
    wanted = torch.autograd.grad(written_out(x, grid, two), [x, two], upstream)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["rowscale1", "int1", "int2:rows", "int2:channel"])
def test_gradients_pass_straight_beyond_the_ends_too(text: str) -> None:
    x = (5 * randn(6, 10)).requires_grad_()
    grid = Bank(lambda _: x.detach() / 5, 0).grid(SITES["feature"], Format.parse(text))
    upstream = randn(6, 10, seed=3)
    quantized = straight(x, grid)
    assert torch.equal(quantized, grid.round_trip(x))
    (found,) = torch.autograd.grad(quantized, x, upstream)
    assert torch.equal(found, upstream)


def test_only_steps_of_uniform_grids_are_learned_and_rows_are_fitted() -> None:
    sites = [SITES["weight"], SITES["feature"], SITES["feature"], SITES["value"]]
    formats = [Format.parse(text) for text in ("int4", "int2:rows", "rowscale1", "fp32")]
    weight = randn(6, 10)
    values = [randn(6, 10, seed=i) for i in range(4)]

    def observe(look: object) -> None:
        for site in (1, 2, 3):
            look(site, values[site])  # type: ignore[operator]

    learned, fitted = Lsq(), Straight()
    learned.place(sites, formats, {0: weight})
    learned.fit(observe)
    assert [p.shape for p in learned.parameters()] == [(6,)]
    assert torch.equal(learned(3, values[3]), values[3])
    fitted.place(sites, formats, {0: weight})
    fitted.fit(observe)
    assert not fitted.parameters()
    for site in range(3):
        assert torch.equal(learned(site, values[site]), fitted(site, values[site]))
    before = fitted(1, values[1])
    values[1] = 3 * values[1]
    for quantization in (learned, fitted):
        quantization.fit(observe)
        assert not torch.equal(quantization(1, values[1] / 3), before)
