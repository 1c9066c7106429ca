"""Groups of channels of similar range: the cut against brute force, both ends of the scale, the specification's run."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.integer import Integer
from mpsearch.quant.subtensor import Subtensor, SubtensorGrid, partition

WEIGHT = Role.WEIGHT


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uneven(channels: int, seed: int = 0) -> Tensor:
    """A depthwise weight whose channels differ widely in range."""
    return normal(channels, 1, 3, 3, seed=seed) * normal(channels, 1, 1, 1, seed=seed + 1).exp()


def fit(x: Tensor, text: str, axis: int = 0) -> SubtensorGrid:
    quantizer = Subtensor()
    return quantizer.fit(x, quantizer.canonical(Format.parse(text), WEIGHT), WEIGHT, axis)


def noise(largest: Tensor, member: Tensor) -> float:
    return sum(
        float((part.max() / part[part > 1e-6 * largest.max()]).double().square().sum())
        for g in range(int(member.max()) + 1)
        for part in [largest[member == g]]
    )


@settings(max_examples=40)
@given(channels=st.integers(1, 8), groups=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_cut_is_the_best_of_all(channels: int, groups: int, seed: int) -> None:
    largest, groups = normal(channels, seed=seed).exp(), min(channels, groups)
    member = partition(largest, groups)
    assert sorted(set(member.tolist())) == list(range(groups)), "no group is empty"
    order = largest.argsort()
    best = float("inf")
    for cuts in combinations(range(1, channels), groups - 1):
        other = torch.zeros(channels, dtype=torch.int64)
        for cut in cuts:
            other[order[cut:]] += 1
        best = min(best, noise(largest, other))
    assert noise(largest, member) == pytest.approx(best)


def test_more_groups_are_never_worse() -> None:
    largest = normal(200).exp()
    sums = [noise(largest, partition(largest, groups)) for groups in (1, 2, 3, 4, 8, 16, 64, 200)]
    assert sums == sorted(sums, reverse=True)
    assert sums[-1] == pytest.approx(200)


def test_many_channels_are_cut_well_too() -> None:
    """Beyond 2048 the places are coarser: compared with the exact cut of two thousand of them."""
    largest = normal(8000).exp()
    part = largest[:2000]
    exact = 4 * noise(part, partition(part, 8))
    member = partition(largest, 8)
    assert noise(largest, member) < 1.1 * exact
    assert len(member.unique()) == 8


def test_channels_that_are_dead_decide_nothing() -> None:
    largest = torch.tensor([1.0, 1e-12, 2.0, 0.0, 1.5, 40.0])
    member = partition(largest, 2)
    assert member.tolist() == [0, 0, 0, 0, 0, 1]
    assert partition(torch.zeros(5), 2).unique().tolist() == [0, 1]


@pytest.mark.parametrize("options", ["sym:max", "affine:max", "sym:mse", "affine:gain"])
@pytest.mark.parametrize("order", ["sorted", "blocks"])
def test_one_group_is_one_scale_per_tensor(options: str, order: str) -> None:
    x = uneven(12)
    expected = Integer().fit(x, Format("int", 4, (*options.split(":")[:1], "tensor", options.split(":")[1])), WEIGHT, 0)
    grid = fit(x, f"sub4:n1:{order}:{options}")
    assert torch.equal(grid.round_trip(x), expected.round_trip(x))
    assert grid.nbits(x.shape) == expected.nbits(x.shape)


@pytest.mark.parametrize("axis", [0, 1])
def test_as_many_groups_as_channels_equal_torch(axis: int) -> None:
    x = uneven(12).transpose(0, axis).contiguous()
    grid = fit(x, "sub8:n12:affine:max", axis)
    assert grid.zero_point is not None
    expected = torch.fake_quantize_per_channel_affine(x, grid.scale, grid.zero_point, axis, 0, 255)
    assert torch.equal(grid.round_trip(x), expected)
    channels = x.movedim(axis, 0).flatten(1)
    step = (channels.amax(dim=1).clamp(min=0) - channels.amin(dim=1).clamp(max=0)) / 255
    torch.testing.assert_close(grid.scale, step)


def relative_noise(x: Tensor, text: str) -> float:
    miss = (fit(x, text).round_trip(x) - x).flatten(1).square().mean(dim=1)
    return float((miss / x.flatten(1).square().mean(dim=1)).mean())


def test_groups_of_one_element_lose_nothing() -> None:
    """But the rounding of a float32 scale."""
    x = torch.randn(9, 1, generator=torch.Generator().manual_seed(0))
    for text in ("sub4:n9:max", "sub2:n9", "sub8:n20:mse", "sub8:n9:blocks:affine:max"):
        grid = fit(x, text)
        torch.testing.assert_close(grid.round_trip(x), x, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("bits", [4, 8])
def test_sorted_groups_come_close_to_channels_and_blocks_do_not(bits: int) -> None:
    """96 channels of 3 x 3, log-normal scales, symmetric: mean over channels of noise relative to the channel."""
    runs = [uneven(96, seed=2 * s) for s in range(5)]
    mean = {
        text: sum(relative_noise(x, f"sub{bits}:{text}:max") for x in runs) / len(runs)
        for text in ("n1", "n4:blocks", "n4", "n8", "n96")
    }
    assert mean["n4"] < 0.1 * mean["n4:blocks"]
    assert mean["n8"] < 3 * mean["n96"] < mean["n1"]
    assert mean["n96"] < mean["n8"] < mean["n4"] < mean["n1"]


def test_bits_by_hand() -> None:
    x = uneven(10)
    assert fit(x, "sub4:n4").nbits(x.shape) == 8 * (45 + 16 + 3)  # 90 codes, 4 scales, 10 members of 2 bits
    assert fit(x, "sub4:n4:blocks").nbits(x.shape) == 8 * (45 + 16)
    assert fit(x, "sub4:n3:affine").nbits(x.shape) == 8 * (45 + 12 + 2 + 3)
    assert fit(x, "sub4:n1").nbits(x.shape) == 8 * (45 + 4)
    assert fit(x, "sub4:n64").nbits(x.shape) == 8 * (45 + 40 + 5), "no more groups than channels"


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("sub9", WEIGHT, "Allowed: 2 to 8"),
        ("sub1", WEIGHT, "Allowed: 2 to 8"),
        ("sub8", Role.ACTIVATION, "for parameters, not for a value"),
        ("sub8:n0", WEIGHT, "unknown option 'n0'"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Subtensor().canonical(Format.parse(text), role)


def test_defaults_are_left_out() -> None:
    assert str(Subtensor().canonical(Format.parse("sub8:gain:sym:sorted:n4"), WEIGHT)) == "sub8"
    assert str(Subtensor().canonical(Format.parse("sub8:max:affine:n8"), WEIGHT)) == "sub8:n8:affine:max"
