"""Pruned weights: which are kept, what is stored, and that layers share zeros as torch's global pruning does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.pattern import Pattern, joint_shares
from mpsearch.quant.pruned import Pruned, PrunedGrid
from mpsearch.testing.quantizers import squared_error

SHAPES = st.sampled_from([(8, 12), (3, 5), (4, 6, 3, 3), (5, 3, 2, 2), (7,)])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fit(x: Tensor, text: str, axis: int = 0) -> PrunedGrid:
    return Pruned().fit(x, Format.parse(text), Role.WEIGHT, axis)


@given(shape=SHAPES, percent=st.integers(1, 99), seed=st.integers(0, 99))
@settings(max_examples=12)
def test_the_smallest_are_zero_as_torch_prunes(shape: tuple[int, ...], percent: int, seed: int) -> None:
    x = normal(*shape, seed=seed)
    grid = fit(x, f"pruned8:s{percent}")
    zeros = min(round(x.numel() * percent / 100), x.numel() - 1)
    module = nn.Module()
    module.weight = nn.Parameter(x.clone())
    prune.l1_unstructured(module, "weight", zeros)
    assert torch.equal(grid.kept, module.weight_mask.bool())
    assert not grid.round_trip(x)[~grid.kept].any()


@given(kept=st.integers(1, 4), more=st.integers(1, 4), shape=SHAPES, seed=st.integers(0, 99))
@settings(max_examples=12)
def test_of_each_group_the_largest_are_kept(kept: int, more: int, shape: tuple[int, ...], seed: int) -> None:
    x, of = normal(*shape, seed=seed), kept + more
    mask = fit(x, f"pruned8:{kept}of{of}").kept
    rows = [(r.flatten(), m.flatten()) for r, m in zip(x, mask, strict=True)] if len(shape) == 2 else []
    if len(shape) == 4:  # channels of the input run first
        rows = [(r.permute(1, 2, 0).flatten(), m.permute(1, 2, 0).flatten()) for r, m in zip(x, mask, strict=True)]
    for row, kept_here in rows or [(x, mask)]:
        for values, chosen in zip(row.abs().split(of), kept_here.split(of), strict=True):
            assert sorted(values[chosen].tolist()) == sorted(values.tolist())[-min(kept, len(values)) :]


@given(st.integers(5, 95), st.integers(0, 99))
@settings(max_examples=8)
def test_joint_shares_are_those_of_global_pruning(percent: int, seed: int) -> None:
    layers = {str(i): nn.Linear(n, 6 + i, bias=False) for i, n in enumerate((4, 9, 30))}
    for i, layer in enumerate(layers.values()):
        layer.weight.data = (1 + i) * normal(*layer.weight.shape, seed=seed + i)
    weights = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    shares = joint_shares(weights, percent / 100)
    total = sum(w.numel() for w in weights.values())
    pairs = [(layer, "weight") for layer in layers.values()]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=round(total * percent / 100))
    for name, layer in layers.items():
        if 0 < shares[name] < 1:
            kept = fit(weights[name], f"pruned8:{Pattern(shares[name]).word}").kept
            assert torch.equal(kept, layer.weight_mask.bool())


@pytest.mark.parametrize(
    ("text", "form", "bits"),
    [
        ("pruned4:s20", {"codes"}, 4),
        ("pruned4:s30", {"codes", "kept"}, 0.7 * 4 + 1),
        ("pruned2:s45", {"codes"}, 2),
        ("pruned2:s55", {"codes", "kept"}, 0.45 * 2 + 1),
        ("pruned4:s98", {"codes", "indices", "pointers"}, 0.02 * (4 + 10) + 32 * 65 / (64 * 1000)),
        ("pruned4:2of4", {"codes", "kept"}, 3),
        ("pruned4:1of4", {"codes", "places"}, 1.5),
    ],
)
def test_the_least_is_stored(text: str, form: set[str], bits: float) -> None:
    """A bit for each number pays from a share of 1 / bits on: a quarter at 4 bits, half at 2."""
    x = normal(64, 1000)
    grid = fit(x, text)
    assert set(grid.pack(x)) == form | {"scale"}
    assert grid.code_bits(x.shape) == pytest.approx(bits * x.numel(), rel=1e-3)
    assert grid.nbits(x.shape) == 8 * sum(t.nbytes for t in grid.pack(x).values())


@given(st.sampled_from(["pruned2", "pruned4:s80", "pruned4:1of4", "pruned1:s60"]), st.integers(0, 9))
@settings(max_examples=12)
def test_a_grid_of_what_training_leaves_takes_as_much(text: str, seed: int) -> None:
    """Whatever the weights become: zeros among what is kept, or less than that."""
    x = normal(6, 5, 3, 3, seed=seed)
    before = fit(x, text).nbits(x.shape)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.9] = 0.0
    grid = fit(x, text)
    assert grid.nbits(x.shape) == before == 8 * sum(t.nbytes for t in grid.pack(x).values())
    assert torch.equal(grid.unpack(grid.pack(x), x.shape), grid.round_trip(x))


def test_transposed_weights_have_their_channels_elsewhere() -> None:
    x = normal(6, 4, 3, 3)
    grid, turned = fit(x, "pruned4:1of4", 1), fit(x.transpose(0, 1).contiguous(), "pruned4:1of4")
    assert torch.equal(grid.round_trip(x).transpose(0, 1), turned.round_trip(x.transpose(0, 1)))
    assert torch.equal(grid.unpack(grid.pack(x), x.shape), grid.round_trip(x))


def test_ternary_levels_are_means_of_what_is_kept() -> None:
    x = normal(4, 100)
    grid = fit(x, "pruned1:s40")
    got = grid.round_trip(x)
    for row, near, kept in zip(x, got, grid.kept, strict=True):
        assert near[kept].abs().unique().item() == pytest.approx(float(row[kept].abs().mean()))
        assert torch.equal(near[kept].sign(), row[kept].sign())
    assert int((got == 0).sum()) == 160
    assert squared_error(grid, x) < squared_error(fit(x, "pruned1:s95"), x)


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("pruned4", Role.ACTIVATION, "Use sparse or int"),
        ("pruned9", Role.WEIGHT, "Allowed: 1 to 8"),
        ("pruned4:s0", Role.WEIGHT, "above 0 and below 100"),
        ("pruned4:s100", Role.WEIGHT, "above 0 and below 100"),
        ("pruned4:4of4", Role.WEIGHT, "0 < N < M"),
        ("pruned4:0of4", Role.WEIGHT, "0 < N < M"),
        ("pruned4:s50:2of4", Role.WEIGHT, "second zeros"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Pruned().canonical(Format.parse(text), role)
