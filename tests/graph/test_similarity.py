"""Centred kernel alignment: the identities it must satisfy, its estimators, and what OMPQ computes from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mpsearch.core.errors import BadInput
from mpsearch.graph import similarity as module
from mpsearch.graph.similarity import constant, orthogonality, redundancy, similarity, suffix_mean

ESTIMATORS = pytest.mark.parametrize("debiased", [False, True], ids=["biased", "debiased"])
seeds = st.integers(0, 10_000)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def layers(seed: int, n: int = 24, widths: tuple[int, ...] = (3, 40, 7)) -> list[NDArray[Any]]:
    """Features that depend on each other a little."""
    draw = rng(seed)
    common = draw.normal(size=(n, 2))
    return [common @ draw.normal(size=(2, d)) + draw.normal(size=(n, d)) for d in widths]


def by_definition(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The debiased estimator of Song et al., word for word: Gram matrices with zeroed diagonals."""

    def hsic(x: NDArray[Any], y: NDArray[Any]) -> float:
        n = len(x)
        a, b = x @ x.T, y @ y.T
        np.fill_diagonal(a, 0)
        np.fill_diagonal(b, 0)
        one = np.ones(n)
        middle = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ a @ b @ one
        return float(((a * b).sum() + middle) / (n * (n - 3)))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@given(seeds, st.sampled_from(["gram", "feature"]))
def test_it_is_the_published_formula(seed: int, form: module.Form) -> None:
    x, y, _ = layers(seed)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert similarity([x, y], debiased=False, form=form)[0, 1] == pytest.approx(expected, abs=1e-10)
    assert similarity([x, y], debiased=True, form=form)[0, 1] == pytest.approx(by_definition(x, y), abs=1e-10)


@ESTIMATORS
@given(seeds)
def test_identities(debiased: bool, seed: int) -> None:
    features = layers(seed)
    found = similarity(features, debiased)
    np.testing.assert_array_equal(np.diag(found), 1.0)
    np.testing.assert_array_equal(found, found.T)
    if not debiased:
        assert (found >= 0).all()
        assert (found <= 1 + 1e-10).all()
        assert np.linalg.eigvalsh(found).min() > -1e-10
    np.testing.assert_allclose(
        similarity(features, debiased, "feature"), similarity(features, debiased, "gram"), atol=1e-10
    )
    rows = rng(seed).permutation(len(features[0]))
    np.testing.assert_allclose(similarity([f[rows] for f in features], debiased), found, atol=1e-10)
    one_only = similarity([features[0][rows], *features[1:]], debiased)
    assert abs(one_only - found).max() > 1e-4
    rotation, _ = np.linalg.qr(rng(seed).normal(size=(40, 40)))
    moved = [features[0], -3.7 * features[1] @ rotation + 11.0, features[2]]
    np.testing.assert_allclose(similarity(moved, debiased), found, atol=1e-10)


@ESTIMATORS
def test_a_linear_map_changes_it(debiased: bool) -> None:
    x = rng().normal(size=(24, 2))
    y, stretched = x[:, :1], x * [1.0, 20.0]
    assert similarity([x, y], debiased)[0, 1] > 0.5
    assert similarity([stretched, y], debiased)[0, 1] < 0.3


def test_orthogonal_features_share_nothing() -> None:
    basis, _ = np.linalg.qr(np.column_stack([np.ones(30), rng().normal(size=(30, 8))]))
    assert similarity([basis[:, 1:5], basis[:, 5:]], debiased=False)[0, 1] == pytest.approx(0, abs=1e-10)


def test_independent_features() -> None:
    """The published estimator takes wide independent features for nearly equal ones, the debiased one does not."""
    features = [rng(seed).normal(size=(64, 4096)) for seed in range(3)]
    off = ~np.eye(3, dtype=bool)
    assert similarity(features, debiased=False)[off].min() > 0.95
    assert abs(similarity(features, debiased=True)[off]).max() < 0.1


@pytest.mark.parametrize("form", ["gram", "feature"])
def test_batches_estimate_the_whole(form: module.Form) -> None:
    """Averages of the debiased HSIC over batches estimate the same number; those of the biased one do not."""
    features = [f + 3 * rng(9).normal(size=f.shape) for f in layers(1, n=4096, widths=(3, 60, 12))]
    whole = similarity(features, form="feature")
    np.testing.assert_allclose(similarity(features, form=form, batches=128), whole, atol=0.03)
    assert abs(similarity(features, False, form, batches=128) - whole).max() > 0.1


def test_the_ratio_of_averages_and_not_the_average_of_ratios() -> None:
    features = layers(2, n=40)
    halves = [similarity([f[part] for f in features]) for part in (slice(20), slice(20, 40))]
    together = similarity(features, batches=2)
    assert abs(together - np.mean(halves, 0)).max() > 1e-4


def test_what_does_not_fit_goes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    features = layers(3, n=60)
    whole = {parts: similarity(features, batches=parts) for parts in (1, 3)}
    np.testing.assert_array_equal(similarity(features), whole[1])
    monkeypatch.setattr(module, "GRAM_ROWS", 20)
    np.testing.assert_allclose(similarity(features), whole[1], atol=1e-10)  # the d x d form takes all rows
    monkeypatch.setattr(module, "FEATURE_COLUMNS", 20)
    np.testing.assert_array_equal(similarity(features), whole[3])
    monkeypatch.setattr(module, "GRAM_ROWS", 60)
    monkeypatch.setattr(module, "GRAM_BYTES", 3 * 8 * 20**2)
    np.testing.assert_array_equal(similarity(features), whole[3])


@ESTIMATORS
def test_a_large_mean_in_float32(debiased: bool) -> None:
    """Centring comes before the products: the Gram matrix of such features has lost what varies."""
    x, y, _ = layers(4, n=64)
    exact = similarity([x, y], debiased)
    shifted = similarity([(x + 1000).astype(np.float32), (y - 1000).astype(np.float32)], debiased)
    np.testing.assert_allclose(shifted, exact, atol=1e-4)


@ESTIMATORS
@pytest.mark.parametrize("size", [1e-160, 1e160], ids=["tiny", "huge"])
def test_any_scale(debiased: bool, size: float) -> None:
    x, y, _ = layers(5)
    np.testing.assert_allclose(similarity([size * x, y], debiased), similarity([x, y], debiased), atol=1e-10)


@ESTIMATORS
@pytest.mark.parametrize("value", [0.0, 1234.5], ids=["zero", "constant"])
def test_a_dead_layer(debiased: bool, value: float) -> None:
    x, y, _ = layers(6)
    dead = np.full((24, 5), value, dtype=np.float32)
    if value:
        dead[3, 2] += np.spacing(dead[3, 2])  # rounding is not life
    found = similarity([x, dead, y], debiased)
    np.testing.assert_array_equal(found[1], [0, 1, 0])
    assert constant(dead)
    assert not constant(x)
    assert found[0, 2] == similarity([x, y], debiased)[0, 1]


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ([np.ones((3, 2))], {}, "at least 4"),
        ([np.ones((1, 2))], {"debiased": False}, "at least 2"),
        ([np.ones((20, 2))], {"batches": 6}, "20 rows in 6 batches"),
        ([np.ones((5, 2)), np.ones((6, 2))], {}, r"\(6, 2\)"),
        ([np.ones(5)], {}, "each is"),
        ([np.array([[1.0], [np.nan], [2.0], [3.0]])], {}, "NaN"),
    ],
)
def test_what_is_refused(features: list[NDArray[Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        similarity(features, **options)


def test_redundancy() -> None:
    similar = np.array([[1.0, 0.5, -0.1], [0.5, 1.0, 0.25], [-0.1, 0.25, 1.0]])
    np.testing.assert_allclose(redundancy(similar), [0.5, 0.75, 0.25])
    np.testing.assert_allclose(redundancy(similar, mean=True), [0.25, 0.375, 0.125])
    np.testing.assert_array_equal(redundancy(np.eye(1), mean=True), [0.0])


@ESTIMATORS
def test_a_twin_makes_redundant(debiased: bool) -> None:
    """A layer that is there twice shares more with the others, and is worth less next to the rest."""
    features = layers(7, n=128)
    before, after = (redundancy(similarity(f, debiased)) for f in (features, [features[0], *features]))
    assert after[0] == pytest.approx(after[1])
    assert after[1] > before[0] + 0.99
    assert (after[1] - after[2:] > before[0] - before[1:]).all()
    worth = orthogonality(before, 1), orthogonality(after, 1)
    assert (worth[1][1] / worth[1][2:] < worth[0][0] / worth[0][1:]).all()


@given(st.lists(st.floats(0, 50), min_size=1, max_size=9), st.floats(-100, 100), st.floats(0, 1000))
def test_importance(gamma: list[float], shift: float, beta: float) -> None:
    theta = orthogonality(gamma, beta)
    np.testing.assert_allclose(orthogonality(np.add(gamma, shift), beta), theta, atol=1e-10, rtol=1e-9)
    assert theta.max() == 1.0
    assert ((theta >= 0) & (theta <= 1)).all()
    ranks = np.argsort(gamma)
    assert (np.diff(theta[ranks]) <= 0).all()
    np.testing.assert_array_equal(orthogonality(gamma, 0.0), 1.0)


def test_the_exponential_of_a_deep_network_is_not_zero() -> None:
    assert orthogonality([8.0, 8.1], 100).max() == 1.0


def test_suffix_mean() -> None:
    np.testing.assert_allclose(suffix_mean([1, 2, 3]), [2, 2.5, 3])


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=20))
def test_a_suffix_mean_can_hardly_rise(theta: list[float]) -> None:
    found = suffix_mean(theta)
    remaining = np.arange(len(theta), 0, -1)
    assert (found[1:] <= found[:-1] * remaining[:-1] / remaining[1:] * (1 + 1e-12)).all()
