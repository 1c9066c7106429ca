"""Stochastic rounding: right on average, to a neighbour, the same for the same numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.grain import Grain
from mpsearch.quant.integer import Integer
from mpsearch.quant.stochastic import StochasticGrid


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid(scale: float, bits: int = 8) -> StochasticGrid:
    half = 2 ** (bits - 1)
    return StochasticGrid(bits, -half, half - 1, torch.tensor(scale), None, Grain())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_a_number_goes_up_as_often_as_it_is_far_from_the_lower_level(share: float) -> None:
    x = torch.full((200_000,), 0.3 * (4 + share))
    up = grid(0.3).round_trip(x) > 0.3 * 4.5
    assert float(up.float().mean()) == pytest.approx(share, abs=0.005)


@given(bits=st.integers(2, 8), seed=st.integers(0, 99))
def test_levels_are_one_of_the_two_neighbours(bits: int, seed: int) -> None:
    x = normal(500, seed=seed)
    chance = grid(0.11, bits)
    steps, exact = chance.round_trip(x) / 0.11, (x / 0.11).clamp(chance.qmin, chance.qmax)
    assert (steps - exact).abs().max() < 1 + 1e-4
    assert steps.min() >= chance.qmin - 1e-4
    assert steps.max() <= chance.qmax + 1e-4


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_level_stays_where_it_is(bits: int) -> None:
    for scale in (0.1, 1 / 3, 7e-5, 1234.5):
        levels = (torch.arange(2**bits) - 2 ** (bits - 1)) * torch.tensor(scale)
        for seed in range(20):
            x = levels[torch.randint(len(levels), (999,), generator=torch.Generator().manual_seed(seed))]
            assert torch.equal(grid(scale, bits).round_trip(x), x)


def test_the_same_numbers_are_rounded_alike_and_others_are_not() -> None:
    x = normal(4, 16, 5, 5)
    chance = grid(0.5)
    first = chance.round_trip(x)
    assert torch.equal(chance.round_trip(x.clone(memory_format=torch.channels_last)), first)
    torch.manual_seed(1)
    assert torch.equal(chance.round_trip(x), first), "the global seed has no part in it"
    state = torch.get_rng_state()
    chance.round_trip(x)
    assert torch.equal(torch.get_rng_state(), state)
    moved = x.clone()
    moved[0, 0, 0, 0] += 1e-3
    assert (chance.round_trip(moved) != first).float().mean() > 0.1


def test_sums_are_not_biased_and_errors_are_twice_as_large() -> None:
    """A third of a step is lost by nearest rounding, always."""
    x = torch.full((100_000,), 0.3) + 1e-3 * normal(100_000)
    nearest = AffineGrid(4, -8, 7, torch.tensor(1.0), None, Grain())
    assert float(nearest.round_trip(x).sum()) == 0.0
    assert float(grid(1.0, 4).round_trip(x).mean()) == pytest.approx(0.3, abs=0.01)
    x = 5 * torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    errors = [float((g.round_trip(x) - x).square().mean()) for g in (nearest, grid(1.0, 4))]
    assert errors[0] == pytest.approx(1 / 12, rel=0.02)
    assert errors[1] == pytest.approx(1 / 6, rel=0.02)


def test_it_is_an_option_of_integers() -> None:
    x, quantizer = normal(6, 40), Integer()
    plain, chance = (
        quantizer.fit(x, quantizer.canonical(Format.parse(text), Role.WEIGHT), Role.WEIGHT, 0)
        for text in ("int4", "int4:stochastic")
    )
    assert isinstance(chance, StochasticGrid)
    assert isinstance(plain, AffineGrid)
    assert torch.equal(plain.scale, chance.scale)
    assert plain.nbits(x.shape) == chance.nbits(x.shape)
    assert not chance.absorbs_relu
