"""Binary bases against their definition, least squares, brute force, and the sizes that the source publishes."""

from itertools import product
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.bases import Bases, BasesGrid, Groups, stored_bits
from mpsearch.quant.integer import Integer
from mpsearch.quant.multibit import Multibit, allocate

WEIGHT = Role.WEIGHT


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fit(x: Tensor, text: str, axis: int = 0) -> BasesGrid:
    quantizer = Multibit()
    return quantizer.fit(x, quantizer.canonical(Format.parse(text), WEIGHT), WEIGHT, axis)


def error(x: Tensor, text: str) -> float:
    return float((fit(x, text).round_trip(x) - x).double().square().mean())


def test_one_basis_is_plus_or_minus_the_mean_magnitude() -> None:
    x = normal(6, 4, 3, 3)
    got = fit(x, "multibit1").round_trip(x)
    torch.testing.assert_close(got, Integer().fit(x, Format("int", 1), WEIGHT, 0).round_trip(x))
    alpha = x.reshape(6, -1).abs().mean(dim=1)
    torch.testing.assert_close(got, x.sign() * alpha[:, None, None, None])


@given(bases=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_weight_takes_the_nearest_of_all_sums(bases: int, seed: int) -> None:
    x = normal(3, 20, seed=seed)
    grid = fit(x, f"multibit{bases}")
    patterns = torch.tensor(list(product((-1.0, 1.0), repeat=bases)))
    sums = grid.coordinates @ patterns.T
    nearest = (x[..., None] - sums[:, None]).abs().amin(dim=2)
    torch.testing.assert_close((grid.round_trip(x) - x).abs(), nearest, rtol=1e-5, atol=1e-6)


@given(bases=st.integers(1, 4), seed=st.integers(0, 99))
def test_coordinates_are_those_of_least_squares(bases: int, seed: int) -> None:
    """No other coordinates are better for the signs that were chosen."""
    x = normal(1, 200, seed=seed)
    grid = fit(x, f"multibit{bases}:mse")
    places, near = Bases(grid.coordinates).nearest(x)
    signs = torch.stack([(places[0] >> i & 1) * 2.0 - 1 for i in range(bases)], dim=1).double()
    best = torch.linalg.lstsq(signs, x[0, :, None].double()).solution[:, 0]
    left, found = x[0].double() - signs @ best, x[0].double() - near[0]
    assert found.square().sum() <= left.square().sum() * 1.02


def test_error_falls_with_bases_and_vanishes() -> None:
    x = normal(8, 128)
    errors = [error(x, f"multibit{bits}:mse") for bits in range(1, 9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4
    for bits in range(2, 9):  # 2^bits levels that need not be equally spaced, against 2^bits - 1 that are
        assert errors[bits - 1] < error_of_int(x, f"int{bits}:mse")


def error_of_int(x: Tensor, text: str) -> float:
    return float((Integer().fit(x, Format.parse(text), WEIGHT, 0).round_trip(x) - x).double().square().mean())


@pytest.mark.parametrize("text", ["multibit2", "multibit3:g16", "multibit2:g50:a16"])
def test_gain_gives_groups_their_length_back(text: str) -> None:
    """The loss of `gain` (squared error, and ten times the squared loss of length) is lower, length nearer to all."""
    x = normal(6, 120)
    losses, lengths = [], []
    for rule in ("gain", "mse"):
        grid = fit(x, f"{text}:{rule}")
        rows, near = grid.groups.of(x), grid.groups.of(grid.round_trip(x))
        power, length = rows.square().sum(dim=1), (rows * near).sum(dim=1)
        losses.append((near - rows).square().sum(dim=1) / power + 10 * (1 - length / power).square())
        lengths.append(float((length / power).mean()))
    assert (losses[0] <= losses[1] + 1e-3).all()
    assert losses[0].mean() < 0.9 * losses[1].mean()
    assert lengths[1] < lengths[0] < 1.01


def test_what_lies_in_the_span_is_met() -> None:
    signs = normal(3, 64, 3).sign()
    coordinates = torch.tensor([[4.0, 1.9, 0.9], [1.0, 0.4, 0.1], [8.0, 3.0, 1.0]])
    x = (signs @ coordinates[..., None])[..., 0]
    miss = fit(x, "multibit3").round_trip(x) - x
    assert (miss.square().sum(dim=1) / x.square().sum(dim=1)).max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (4, 2), (3, 2, 1, 1)])
def test_more_bases_than_weights_are_no_trouble(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    torch.testing.assert_close(fit(x, "multibit4").round_trip(x), x, rtol=1e-4, atol=1e-5)


def test_bases_go_where_they_lower_the_error_most() -> None:
    x = torch.cat((10 * normal(8, 64), 0.1 * normal(8, 64, seed=1)))
    grid = fit(x, "multibit1.5")
    assert grid.counts[:8].sum() == 24
    assert grid.counts[8:].sum() == 0, "groups of little weight go without"
    assert torch.equal(grid.round_trip(x)[8:], torch.zeros(8, 64))
    assert error(x, "multibit1.5") < 0.5 * error(x, "multibit2")


@given(bits=st.floats(0.05, 4), seed=st.integers(0, 99))
def test_the_average_is_kept(bits: float, seed: int) -> None:
    x = normal(6, 50, seed=seed) * torch.logspace(-1, 1, 6)[:, None]
    text = f"multibit{round(bits, 2):g}:g16:adaptive"
    grid = fit(x, text)
    budget = round(bits, 2) * x.numel()
    assert budget - 16 < grid.code_bits(x.shape) <= budget + 1e-6


def test_allocation_is_the_best_of_all() -> None:
    errors = normal(4, 4).abs().cumsum(dim=1).flip(1)
    errors[:, :] = errors.sort(dim=1, descending=True).values
    errors = torch.stack([row[0] - torch.cat((torch.zeros(1), row.diff().neg().sort(descending=True).values.cumsum(0)))
                          for row in errors])  # fmt: skip
    sizes = torch.full((4,), 8)
    counts = allocate(errors, sizes, 1.5)
    best = min(
        sum(float(errors[g, i]) for g, i in enumerate(option))
        for option in product(range(4), repeat=4)
        if 8 * sum(option) <= 1.5 * 32
    )
    assert float(errors[torch.arange(4), counts].sum()) == pytest.approx(best)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("word", ["channel", "pixel", "kernel", "g5"])
@pytest.mark.parametrize("shape", [(4, 6, 3, 3), (4, 6), (7, 3, 5)])
def test_groups_go_there_and_back(word: str, shape: tuple[int, ...], axis: int) -> None:
    x = torch.arange(prod(shape)).float().reshape(shape)
    groups = Groups.named(word, axis, shape)
    rows = groups.of(x)
    assert torch.equal(groups.back(rows), x)
    assert rows.shape[0] == len(groups.sizes())
    assert int(groups.sizes().sum()) == x.numel()
    if len(shape) == 4 and axis == 0:
        expected = {"pixel": x[1, :, 0, 2], "kernel": x[1, 2].flatten(), "channel": x[1].flatten()}
        assert word not in expected or any(torch.equal(row, expected[word]) for row in rows)


def test_bits_by_hand() -> None:
    x = normal(4, 10)
    assert fit(x, "multibit2").nbits((4, 10)) == 8 * 10 + 4 * 2 * 32  # 80 digits, 8 coordinates
    assert fit(x, "multibit2:g4:a16").nbits((4, 10)) == 8 * 10 + 12 * 2 * 16
    grid = fit(x, "multibit0.5:g5")
    counts = grid.counts.tolist()
    digits = 5 * sum(counts)
    assert digits <= 20
    assert grid.nbits((4, 10)) == 8 * (-(-digits // 8) + 2) + 32 * sum(counts)  # 8 counts of 2 bits: up to 3 bases
    with pytest.raises(ValueError, match="shape"):
        grid.nbits((10, 4))


def resnet18() -> list[tuple[tuple[int, ...], str]]:
    """Convolutions and classifier with their groups: channels first, positions then, rows in halves at the end."""
    layers: list[tuple[tuple[int, ...], str]] = [((64, 3, 7, 7), "channel")]
    before = 64
    for width in (64, 128, 256, 512):
        layers += [((width, before, 3, 3), "pixel"), *[((width, width, 3, 3), "pixel")] * 3]
        layers += [((width, before, 1, 1), "pixel")] if width != before else []
        before = width
    return [*layers, ((1000, 512), "g256")]


def test_the_formula_gives_the_published_size_of_resnet18() -> None:
    """2 bits on average, 32-bit coordinates; the rest float: four vectors per BatchNorm, bias of the classifier."""
    groups = [Groups.named(word, 0, shape) for shape, word in resnet18()]
    sizes = torch.cat([group.sizes() for group in groups])
    assert (len(sizes), int(sizes.sum())) == (37_520, 11_678_912)
    stored = stored_bits([2] * len(sizes), sizes.tolist())
    channels = sum(shape[0] for shape, _ in resnet18()[:-1])
    other = 32 * (4 * channels + 1000)
    assert (stored + other) / 8 / 1e6 == pytest.approx(3.30, abs=0.005)  # megabytes of a million
    assert stored == 2 * (11_678_912 + 32 * 37_520)
    assert stored_bits([2] * len(sizes), sizes.tolist(), most=8) - stored == 4 * 37_520


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("multibit2", Role.ACTIVATION, "for parameters, not for a value"),
        ("multibit9", WEIGHT, "Allowed: up to 8"),
        ("multibit1.5:even", WEIGHT, "an average; drop even"),
        ("multibit2:k3", WEIGHT, "unknown option 'k3'"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Multibit().canonical(Format.parse(text), role)


def test_defaults_are_left_out() -> None:
    def canonical(text: str) -> str:
        return str(Multibit().canonical(Format.parse(text), WEIGHT))

    assert canonical("multibit1.5:adaptive:g64") == "multibit1.5:g64"
    assert canonical("multibit2:gain:a32:even:channel") == "multibit2"
    assert canonical("multibit1:mse") == "multibit1"
    assert canonical("multibit2:adaptive:a16") == "multibit2:adaptive:a16"
