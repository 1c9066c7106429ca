"""Quantization-aware pruning: zeros rise to those of the format, stay, and nothing revives them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.learn.prune import Prune, part_of
from mpsearch.quant.pattern import Pattern


def placed(text: str, weight: Tensor, **options: float) -> Prune:
    learner = Prune(**options)
    learner.place([Site("w", Role.WEIGHT, tuple(weight.shape))], [Format.parse(text)], {0: weight})
    learner.fit(lambda look: None)
    return learner


@pytest.mark.parametrize(
    ("text", "zeros"),
    [("pruned4:s80", [40, 80, 80, 80]), ("pruned1:s60", [30, 60, 60, 60]), ("pruned4:1of4", [50, 75, 75, 75])],
)
def test_zeros_rise_stay_and_are_not_revived_by_momentum(text: str, zeros: list[int]) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(10, 10))
    if "of" in text:
        weight, zeros = nn.Parameter(torch.randn(10, 20)), [2 * n for n in zeros]
    learner, target = placed(text, weight), torch.randn(weight.shape)
    optimizer = torch.optim.Adam([weight], 0.05)
    gone = torch.zeros(weight.shape, dtype=torch.bool)
    for epoch, expected in enumerate(zeros):
        learner.advance(epoch, len(zeros))
        learner.training = True
        for _ in range(5):
            optimizer.zero_grad()
            seen = learner(0, weight)
            assert int((weight == 0).sum()) == expected, "zeros are there before the first pass"
            assert not seen[weight == 0].any()
            (seen - target).square().sum().backward()
            assert weight.grad is not None
            assert not weight.grad[weight == 0].any()
            optimizer.step()
            learner.stepped()
        learner.training = False
        assert not weight[gone].any(), "what is zero stays zero"
        gone = weight.detach() == 0
        learner.fit(lambda look: None)
        assert int((learner(0, weight) != 0).sum()) <= weight.numel() - zeros[-1], "scored as it would be finished"


def test_what_goes_in_an_epoch_is_the_smallest_that_is_left() -> None:
    weight = nn.Parameter(torch.arange(1.0, 11.0).reshape(1, 10))
    learner = placed("pruned8:s40", weight)
    learner.advance(0, 4)
    assert weight[0, :2].tolist() == [0, 0]
    with torch.no_grad():
        weight[0, 9] = 0.5
    learner.advance(1, 4)
    assert (weight[0] == 0).nonzero().flatten().tolist() == [0, 1, 2, 9]


@pytest.mark.parametrize(("done", "kept"), [(0.01, 7), (0.5, 5), (1.0, 2)])
def test_of_groups_whole_numbers_go(done: float, kept: int) -> None:
    assert part_of(Pattern.named("2of8"), done).kept == kept


def test_bad_options_are_refused() -> None:
    for bad in (0, 1.5, "half", True):
        with pytest.raises(BadInput, match="Allowed: above 0, at most 1"):
            Prune(rise=bad)  # type: ignore[arg-type]
