"""The steps on binary bases against brute force, least squares and differences of the model that they descend."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.learn.binary import Moments, Quadratic, Sums, importance, prune

SEEDS = st.integers(0, 999)
BASES = st.integers(1, 4)


def drawn(seed: int, most: int, groups: int = 5, n: int = 12) -> tuple[Sums, Quadratic]:
    """Sums that have lost some coordinates, the last group a weight, and a model of the loss around them."""
    generator = torch.Generator().manual_seed(seed)
    coordinates = torch.rand(groups, most, generator=generator) + 0.05
    coordinates *= torch.rand(groups, most, generator=generator) < 0.8
    held = torch.ones(groups, n, dtype=torch.bool)
    held[-1, -1] = False
    sums = Sums.of(coordinates, torch.randint(2**most, (groups, n), generator=generator), held)
    gradient = torch.randn(groups, n, generator=generator) * held
    curvature = torch.rand(groups, n, generator=generator) * 3 + 1e-3
    return sums, Quadratic(sums.rows, gradient, curvature)


@given(SEEDS, BASES)
@settings(max_examples=20)
def test_signs_are_the_best_of_all_patterns(seed: int, most: int) -> None:
    sums, model = drawn(seed, most)
    found = model.assign(sums)
    assert torch.equal(found.coordinates, sums.coordinates)
    patterns = torch.tensor(list(product((-1.0, 1.0), repeat=most)))
    levels = sums.coordinates @ patterns.T
    distance = model.curvature[..., None] * (levels[:, None] - model.target[..., None]).square()
    ours = model.curvature * (found.rows - model.target).square()
    held = (sums.signs != 0).any(dim=1)
    torch.testing.assert_close(ours[held], distance.amin(dim=2)[held], rtol=1e-4, atol=1e-5)
    assert (found.signs[-1, :, -1] == 0).all(), "there is no weight"


@given(SEEDS, BASES)
@settings(max_examples=20)
def test_coordinates_are_weighted_least_squares_and_the_model_never_rises(seed: int, most: int) -> None:
    sums, model = drawn(seed, most)
    found = model.solve(sums)
    assert (found.coordinates >= 0).all()
    held = (sums.signs != 0).any(dim=1)
    for g in range(len(sums.signs)):
        there = sums.coordinates[g] > 0
        roots = (model.curvature[g] * held[g]).sqrt().double()
        signs = sums.signs[g, there].double().T
        best = torch.linalg.lstsq(roots[:, None] * signs, roots * model.target[g].double(), driver="gelsd").solution
        torch.testing.assert_close(found.rows[g].double(), signs @ best, rtol=1e-4, atol=1e-4)
    assert (model(found.rows * held) <= model(sums.rows) + 1e-5).all()


def test_bases_that_coincide_are_no_trouble() -> None:
    sums = Sums(torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[1.0, -1, 1], [1, -1, 1], [0, 0, 0]])[None])
    model = Quadratic(sums.rows, torch.tensor([[0.3, -0.3, 0.3]]), torch.full((1, 3), 1e-7))
    found = model.solve(sums)
    torch.testing.assert_close(found.rows, model.target, rtol=1e-4, atol=0.0)


@given(SEEDS, BASES)
@settings(max_examples=20)
def test_turning_negative_coordinates_leaves_the_weights(seed: int, most: int) -> None:
    sums, _ = drawn(seed, most)
    signed = sums.coordinates * torch.randn(sums.coordinates.shape, generator=torch.Generator().manual_seed(seed))
    turned = sums.moved(signed)
    assert (turned.coordinates >= 0).all()
    torch.testing.assert_close(turned.rows, (signed[:, None] @ sums.signs)[:, 0])
    for same in (turned.compact(), Sums.of(turned.coordinates, turned.places, (turned.signs != 0).any(dim=1))):
        torch.testing.assert_close(same.rows, turned.rows)


@given(SEEDS, BASES)
@settings(max_examples=20)
def test_importance_is_what_the_model_rises_by(seed: int, most: int) -> None:
    """Under the diagonal curvature of the coordinates: the change when one of them becomes zero."""
    sums, model = drawn(seed, most)
    curvature = Moments(model.gradient, model.curvature, model.curvature).by_coordinates(sums).largest
    slope = sums.along(model.gradient)
    values = importance(sums.coordinates, slope, curvature)
    for i in range(most):
        step = -sums.coordinates[:, i]
        rise = slope[:, i] * step + curvature[:, i] * step.square() / 2
        torch.testing.assert_close(values[:, i], rise)
    alone = Quadratic(sums.rows, model.gradient, model.curvature * (sums.signs != 0).any(dim=1))
    removed = sums.without(torch.arange(most) == torch.zeros(len(sums.signs), 1))
    torch.testing.assert_close(values[:, 0].double(), alone(removed.rows) - alone(sums.rows), rtol=1e-4, atol=1e-4)


def test_moments_are_those_of_amsgrad() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam([weight], lr=0.01, amsgrad=True)
    moments = Moments(*(torch.zeros(4, 6) for _ in range(3)))
    for step in range(1, 30):
        weight.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)) / step
        before = weight.detach().clone()
        moments.add(weight.grad)
        optimizer.step()
        torch.testing.assert_close(Quadratic(before, *moments.at(step, 0.01)).target, weight.detach())


def layers(seed: int) -> list[tuple[Sums, Tensor, Tensor]]:
    """Two layers of unlike groups; every importance differs from every other."""
    pool = []
    for k, n in enumerate((12, 5)):
        sums, _ = drawn(seed + k, 4, groups=30, n=n)
        values = torch.rand(sums.coordinates.shape, generator=torch.Generator().manual_seed(seed + k))
        pool.append((sums, torch.full((30,), n), values))
    return pool


@given(SEEDS, st.floats(0.05, 0.95))
@settings(max_examples=20)
def test_the_least_important_of_all_layers_go(seed: int, share: float) -> None:
    pool = layers(seed)
    digits = sum(int((sums.counts * sizes).sum()) for sums, sizes, _ in pool)
    left = prune(pool, (digits * share, 1e9), merged=1e-9)
    kept = sum(int((sums.counts * sizes).sum()) for sums, (_, sizes, _) in zip(left, pool, strict=True))
    assert digits * share - 12 < kept <= digits * share
    gone = [(a.coordinates > 0) & (b.coordinates == 0) for (a, _, _), b in zip(pool, left, strict=True)]
    worst = max(float(v[g].max()) for (_, _, v), g in zip(pool, gone, strict=True) if g.any())
    assert all((v[b.coordinates > 0] > worst).all() for (_, _, v), b in zip(pool, left, strict=True))


def test_layers_offer_their_least_and_few_are_removed_at_a_time() -> None:
    pool = layers(3)
    pool[1] = (*pool[1][:2], pool[1][2] / 1000)  # without that, all would be of this layer
    before = [int(sums.counts.sum()) for sums, _, _ in pool]
    left = prune(pool, (1e9, sum(before) * 0.9), merged=0.8)
    removed = [n - int(sums.counts.sum()) for n, sums in zip(before, left, strict=True)]
    assert removed[1] == math.ceil(before[1] / 8)
    assert removed[0] == math.ceil(sum(before) / 10) - removed[1] > 0


@pytest.mark.parametrize("steps", [5, 20])
def test_as_many_go_as_predicted(steps: int) -> None:
    """Each of n steps removes the share p / n of what is left: in all 1 - (1 - p / n)^n."""
    pool = layers(5)
    began = now = sum(int(sums.counts.sum()) for sums, _, _ in pool)
    for _ in range(steps):
        left = prune(pool, (1e9, now * (1 - 0.8 / steps)), merged=0.4)
        pool = [(sums, sizes, values) for sums, (_, sizes, values) in zip(left, pool, strict=True)]
        before, now = now, sum(int(sums.counts.sum()) for sums, _, _ in pool)
        assert now < before
    assert now == pytest.approx(began * (1 - 0.8 / steps) ** steps, abs=steps)
