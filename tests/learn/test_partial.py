"""Stochastic quantization: how many rows stay, which, and that all or none is plain or no quantization."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.learn.lsq import Lsq
from mpsearch.learn.partial import Sq, kept_rows

SITES = [Site("w", Role.WEIGHT, (8, 10)), Site("v", Role.ACTIVATION, (6, 10), axis=1)]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def placed(learner: Lsq, weight: Tensor, text: str = "int2") -> Lsq:
    values = randn(6, 10, seed=9)
    learner.place(SITES, [Format.parse(text), Format.parse("int4")], {0: weight.detach()})
    learner.fit(lambda look: look(1, values))
    learner.training = True
    return learner


@pytest.mark.parametrize("text", ["int1", "int2", "multibit2"])
def test_all_rows_are_plain_quantization_and_no_rows_are_none(text: str) -> None:
    x, g = randn(8, 10).requires_grad_(), randn(8, 10, seed=1)
    plain, whole, none = (placed(learner, x, text) for learner in (Lsq(), Sq([1.0]), Sq([0.0])))
    assert torch.equal(whole(0, x), plain(0, x))
    assert torch.equal(none(0, x), x)
    one, two = (torch.autograd.grad(of(0, x), [x, *of.parameters()[:-1]], g) for of in (plain, whole))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    (straight,) = torch.autograd.grad(none(0, x), x, g)
    assert torch.equal(straight, g)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.875])
def test_in_training_rows_are_quantized_or_real_and_values_quantized(ratio: float) -> None:
    x = randn(8, 10).requires_grad_()
    plain, learner = placed(Lsq(), x), placed(Sq([ratio]), x)
    torch.manual_seed(0)
    drawn = [learner(0, x) for _ in range(20)]
    quantized = plain(0, x)
    for mixed in drawn:
        real = (mixed == x).all(1)
        assert int(real.sum()) == int((1 - ratio) * 8)
        assert torch.equal(mixed[~real], quantized[~real])
        assert torch.equal(torch.autograd.grad(mixed.sum(), x, retain_graph=True)[0][real], torch.ones_like(x)[real])
    assert len({tuple(mixed.flatten().tolist()) for mixed in drawn}) > 1
    v = randn(6, 10, seed=9)
    assert torch.equal(learner(1, v), plain(1, v))
    learner.training = False
    assert torch.equal(learner(0, x), quantized)


@given(
    st.lists(st.floats(0, 10, width=32), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.875, 0.9, 1.0]),
)
def test_as_many_rows_stay_as_asked_for_and_those_without_error_last(errors: list[float], ratio: float) -> None:
    kept = kept_rows(torch.tensor(errors), ratio)
    n = int(round((1 - ratio) * len(errors), 6))
    assert int(kept.sum()) == n
    positive = torch.tensor(errors) > 0
    assert int((kept & positive).sum()) == min(n, int(positive.sum()))


def test_rows_stay_as_often_as_their_errors_are_large() -> None:
    errors = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4])
    torch.manual_seed(0)
    counts = sum(kept_rows(errors, 0.8).int() for _ in range(2000)).tolist()  # type: ignore[union-attr]
    assert counts.pop(2) == 0
    assert stats.chisquare(counts, [200, 400, 600, 800]).pvalue > 1e-3


def test_of_pairs_the_first_is_drawn_before_the_second() -> None:
    """Two of three without replacement: b and c stay with the probability b c / (1 - b) + c b / (1 - c)."""
    a, b, c = 0.2, 0.3, 0.5
    torch.manual_seed(1)
    left_out = [int((~kept_rows(torch.tensor([a, b, c]), 0.3)).nonzero()) for _ in range(2000)]
    pairs = [b * c / (1 - b) + c * b / (1 - c), a * c / (1 - a) + c * a / (1 - c), a * b / (1 - a) + b * a / (1 - b)]
    assert stats.chisquare([left_out.count(i) for i in range(3)], [2000 * p for p in pairs]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("epochs", "found"), [(1, [1]), (4, [0.5, 0.75, 0.875, 1]), (6, [0.5, 0.75, 0.75, 0.875, 1, 1])]
)
def test_stages_share_the_epochs_and_the_last_quantizes_all(epochs: int, found: list[float]) -> None:
    learner, seen = Sq(), []
    for epoch in range(epochs):
        learner.advance(epoch, epochs)
        seen.append(learner._ratio)
    assert seen == found


@pytest.mark.parametrize("ratios", [[], [1.5], "all", [0.5, "1"], 3])
def test_ratios_that_mean_nothing_are_refused(ratios: object) -> None:
    with pytest.raises(BadInput, match="is not a list of numbers from 0 to 1"):
        Sq(ratios)  # type: ignore[arg-type]
