"""Relaxed quantization against its formulas, finite differences and plain rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.learn.lsq import step_of, with_step
from mpsearch.learn.relaxed import LEAST_NOISE, Relaxed, Rq, Srq, nearest_levels, probabilities
from mpsearch.quant.bank import Bank
from mpsearch.quant.grid import Grid

FORMATS = ("int1", "int2", "int2:affine", "int3:tensor", "int4", "int4:affine", "int4:g4", "int8")
SITE = Site("w", Role.WEIGHT, (6, 10))


def randn(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape or SITE.shape, generator=torch.Generator().manual_seed(seed))


def grid_of(sample: Tensor, text: str) -> Grid:
    return Bank(lambda _: sample, 0).grid(SITE, Format.parse(text))


def placed(learner: Relaxed, weight: Tensor, text: str, fitted_on: Tensor | None = None) -> Relaxed:
    """In training, fitted on another tensor than it will see, if one is given."""
    seen = weight.clone() if fitted_on is None else fitted_on
    learner.place([SITE], [Format.parse(text)], {0: seen})
    learner.fit(lambda look: None)
    learner.training = True
    return learner


def spread(grid: Grid) -> Tensor:
    return grid.grain.spread(step_of(grid), SITE.shape)  # type: ignore[attr-defined]


@given(st.sampled_from(FORMATS), st.integers(0, 99), st.floats(-3, 0))
@settings(max_examples=15)
def test_the_most_probable_point_is_the_nearest(text: str, seed: int, log_noise: float) -> None:
    x = randn(seed)
    grid = grid_of(x * 0.6, text)  # some values lie beyond its ends
    t = x / spread(grid)
    levels = nearest_levels(t, grid, 3)
    p = probabilities(t, torch.tensor(log_noise), levels)
    assert torch.isfinite(p).all()
    torch.testing.assert_close(p.sum(0), torch.ones_like(x))
    likeliest = levels.gather(0, p.argmax(0, keepdim=True))[0] * spread(grid)
    torch.testing.assert_close(likeliest, grid.round_trip(x), rtol=1e-6, atol=1e-7)


@given(st.integers(0, 99), st.floats(-1, 0))
@settings(max_examples=10)
def test_probabilities_are_differences_of_sigmoids_where_these_can_be_had(seed: int, log_noise: float) -> None:
    t, levels = randn(seed).double(), torch.arange(-3.0, 4).double()[:, None, None].expand(-1, 6, 10)
    s = math.exp(log_noise)
    mass = torch.sigmoid((levels + 0.5 - t) / s) - torch.sigmoid((levels - 0.5 - t) / s)
    torch.testing.assert_close(probabilities(t, torch.tensor(log_noise).double(), levels), mass / mass.sum(0))


@pytest.mark.parametrize("kind", [Srq, Rq])
@pytest.mark.parametrize("text", FORMATS)
def test_once_trained_it_is_the_plain_grid(kind: type[Relaxed], text: str) -> None:
    x = randn()
    learner = placed(kind(), x, text)
    plain = grid_of(x, text)
    learner.training = kind is Srq  # whose forward is that of the grid in training too
    assert torch.equal(learner(0, x), plain.round_trip(x))
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.3)
    state = learner.state()
    learner.training = False
    wanted = learner(0, x)
    assert torch.equal(wanted, with_step(plain, step_of(plain) * torch.tensor(0.3).exp()).round_trip(x))
    again = placed(kind(), x, text)
    again.training = False
    again.restore(state)
    assert torch.equal(again(0, x), wanted)


def mean_point(x: Tensor, step: Tensor, log_noise: Tensor, grid: Grid) -> Tensor:
    levels = nearest_levels(x / step, grid, 100)
    return (probabilities(x / step, log_noise, levels) * levels).sum(0) * step


@pytest.mark.parametrize("text", FORMATS)
def test_soft_gradients_are_finite_differences_of_the_mean_point(text: str) -> None:
    x, g = randn(1).double(), randn(2).double()
    grid = grid_of(x * 0.6, text)
    learner = placed(Srq(window=100), x, text, fitted_on=x * 0.6)
    x.requires_grad_()
    step, noise = learner.parameters()
    found = torch.autograd.grad(learner(0, x), [x, step, noise], g)
    with torch.no_grad():
        a, log_s, h = spread(grid).double(), torch.tensor(-math.log(3)).double(), 1e-5

        def slope(by_x: float, by_step: float, by_noise: float) -> Tensor:
            up, down = (
                mean_point(x + sign * by_x * h, a * math.exp(sign * by_step * h), log_s + sign * by_noise * h, grid)
                for sign in (1, -1)
            )
            return g * (up - down) / (2 * h)

        torch.testing.assert_close(found[0], slope(1, 0, 0), rtol=1e-4, atol=1e-5)
        mean = mean_point(x, a, log_s, grid)
        direct = g * (grid.round_trip(x) - mean)  # the step that the nearest point is multiplied with
        for ours, wanted in ((found[1], slope(0, 1, 0) + direct), (found[2], slope(0, 0, 1))):
            rows = torch.zeros_like(ours, dtype=torch.float64)
            grouped = grid.grain.spread(torch.arange(rows.numel()).reshape(rows.shape), SITE.shape)  # type: ignore[attr-defined]
            rows.view(-1).index_add_(0, grouped.expand(SITE.shape).reshape(-1), wanted.reshape(-1))
            torch.testing.assert_close(ours.double(), rows, rtol=1e-3, atol=1e-4)


def test_the_winner_alone_moves_no_weight_off_zero() -> None:
    x = randn(3)
    x.requires_grad_()
    outcome = {kind: placed(Srq(estimator=kind), x.detach(), "int3") for kind in ("soft", "winner")}
    slopes = {kind: torch.autograd.grad(learner(0, x).sum(), x)[0] for kind, learner in outcome.items()}
    zero = outcome["soft"](0, x) == 0
    assert zero.any()
    assert not slopes["winner"][zero].any()
    assert slopes["soft"][zero].all()
    assert slopes["winner"][~zero].any()


def test_slopes_are_those_of_a_smooth_clipped_estimator() -> None:
    """0.86 to 1.04 inside the ends at noise of a third of a step; next to nothing 2 steps beyond them."""
    sample = torch.linspace(-1, 1, 60).reshape(6, 10)
    grid = grid_of(sample, "int4:tensor:max")
    learner = placed(Srq(), sample, "int4:tensor:max")
    step = float(step_of(grid))
    x = (torch.linspace(-10, 10, 60).reshape(6, 10) * step).requires_grad_()
    (slope,) = torch.autograd.grad(learner(0, x).sum(), x)
    inside, outside = x.abs() < 6.5 * step, x.abs() > 9 * step
    assert 0.85 < slope[inside].min() < slope[inside].max() < 1.05
    assert slope[outside].abs().max() < 1e-3


def test_at_little_noise_and_no_temperature_a_sample_is_the_rounded_value() -> None:
    x = randn(4)
    grid = grid_of(x, "int3")
    apart = ((x / spread(grid)).frac().abs() - 0.5).abs() > 0.1  # of the edge of a bin
    learner = placed(Rq(temperature=1e-6, last_temperature=1e-6), x, "int3")
    torch.manual_seed(0)
    with torch.no_grad():
        learner.parameters()[1].fill_(math.log(1e-3))
    assert (apart.sum() > 40).all()
    torch.testing.assert_close(learner(0, x)[apart], grid.round_trip(x)[apart])


def test_at_no_temperature_points_come_as_often_as_they_are_probable() -> None:
    x = torch.full(SITE.shape, 0.3)
    learner = placed(Rq(temperature=1e-6, last_temperature=1e-6, noise=0.8), x, "int4:tensor:max", randn(5))
    grid = grid_of(randn(5), "int4:tensor:max")
    torch.manual_seed(0)
    drawn = torch.cat([learner(0, x).detach().flatten() for _ in range(100)]) / float(step_of(grid))
    levels = nearest_levels(x / step_of(grid), grid, 3)[:, 0, 0]
    p = probabilities(torch.tensor(0.3) / step_of(grid), torch.tensor(math.log(0.8)), levels)
    counts = [int((drawn.round() == level).sum()) for level in levels]
    assert sum(counts) == len(drawn)
    assert stats.chisquare(counts, len(drawn) * p.numpy() / p.numpy().sum()).pvalue > 1e-3


def test_the_temperature_falls_and_gradients_reach_everything() -> None:
    x = randn(6).requires_grad_()
    learner = placed(Rq(temperature=1.0, last_temperature=0.25), x.detach(), "int4")
    spreads = []
    for epoch in range(3):
        learner.advance(epoch, 3)
        torch.manual_seed(0)
        steps = learner(0, x).detach() / spread(grid_of(x.detach(), "int4"))
        spreads.append(float((steps - steps.round()).abs().mean()))
    assert spreads[0] > spreads[1] > spreads[2] > 0
    gradients = torch.autograd.grad(learner(0, x).square().sum(), [x, *learner.parameters()])
    assert all(torch.isfinite(g).all() and g.any() for g in gradients)


def test_noise_stays_within_its_bounds_and_what_lies_far_off_is_finite() -> None:
    x = torch.tensor(np.geomspace(1e-30, 1e30, 60)).float().reshape(6, 10).requires_grad_()
    for learner in (placed(Srq(noise=LEAST_NOISE), x, "int4", randn()), placed(Rq(), x, "int4", randn())):
        out = learner(0, x)
        gradients = torch.autograd.grad(out.sum(), [x, *learner.parameters()])
        assert all(torch.isfinite(t).all() for t in (out, *gradients))
        with torch.no_grad():
            learner.parameters()[1].fill_(-9)
        learner.stepped()
        assert float(learner.parameters()[1].detach().max()) == pytest.approx(-3)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Srq, {"estimator": "loser"}, "'loser' is not known. Allowed: soft, winner"),
        (Srq, {"noise": 2}, "2 is not a number of steps from 0.05 to 1"),
        (Rq, {"window": 0}, "0 is not a whole number"),
        (Rq, {"temperature": 0.5, "last_temperature": 0.6}, "0.6 is not above 0 and at most 0.5"),
    ],
)
def test_options_that_mean_nothing_are_refused(kind: type, options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        kind(**options)
