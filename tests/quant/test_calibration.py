"""Ranges and scales against oracles: torch.quantile, textbook optima, brute force, the divergence by its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.calibrate import BINS, entropy, entropy_clip, percentile
from mpsearch.quant.grid import Grid
from mpsearch.quant.integer import Integer
from mpsearch.quant.search import two_means

WEIGHT, VALUE = Role.WEIGHT, Role.ACTIVATION


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laplace(*shape: int, seed: int = 0) -> Tensor:
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.4999999))


def fit(x: Tensor, text: str, role: Role, axis: int = 0) -> Grid:
    quantizer = Integer()
    return quantizer.fit(x, quantizer.canonical(Format.parse(text), role), role, axis)


def error(x: Tensor, text: str, role: Role = WEIGHT, axis: int = 0) -> float:
    return float((fit(x, text, role, axis).round_trip(x) - x).double().square().mean())


def clip(grid: Grid) -> float:
    """The highest value of a per-tensor grid."""
    assert isinstance(grid, AffineGrid)
    return float(grid.scale) * (grid.qmax - (0 if grid.zero_point is None else int(grid.zero_point)))


@given(seed=st.integers(0, 50), n=st.integers(2, 500), percent=st.sampled_from([90.0, 99.0, 99.9, 100.0]))
def test_percentile_equals_torch_quantile(seed: int, n: int, percent: float) -> None:
    x = normal(3, n, seed=seed)
    magnitudes = x.abs()
    _, high = percentile(magnitudes, percent)
    position = torch.tensor(percent / 100)
    lower, upper = (torch.quantile(magnitudes, position, dim=1, interpolation=i) for i in ("lower", "higher"))
    assert ((high == lower) | (high == upper)).all()


def test_percentile_leaves_out_what_it_says() -> None:
    x = torch.arange(-5000, 5000).float()[None]
    low, high = percentile(x, 99.0)
    assert (float(low), float(high)) == (-4950.0, 4949.0)
    low, high = percentile(x.abs(), 99.0)
    assert float(high) == 4950.0
    assert float(low) == 0.0


@pytest.mark.parametrize(("bits", "sigmas"), [(8, 3.95), (4, 2.55), (3, 2.05)])
def test_mse_clips_a_gaussian_where_the_textbook_does(bits: int, sigmas: float) -> None:
    """8 and 4 bits: symmetric optimum of Wu et al. and Banner et al.; 3 bits: 7 levels by direct minimization."""
    assert clip(fit(normal(400_000), f"int{bits}:sym", VALUE)) == pytest.approx(sigmas, rel=0.08)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("draw", [normal, laplace])
def test_mse_is_as_good_as_a_fine_scan_of_scales(bits: int, draw: object) -> None:
    x = draw(5, 300)  # type: ignore[operator]
    grid = fit(x, f"int{bits}:mse", WEIGHT)
    assert isinstance(grid, AffineGrid)
    best = torch.full((5,), torch.inf)
    for ratio in torch.linspace(0.05, 1.2, 400):
        for sign in (1, -1):
            scale = sign * x.abs().amax(1) * ratio / grid.qmax
            miss = AffineGrid(bits, grid.qmin, grid.qmax, scale, None, grid.grain).round_trip(x) - x
            best = torch.minimum(best, miss.square().sum(1))
    assert ((grid.round_trip(x) - x).square().sum(1) <= 1.005 * best).all()


def gain_error(x: Tensor, y: Tensor) -> Tensor:
    """1 - <w, w^> / <w, w> of each row."""
    return 1 - (x * y).sum(1) / x.square().sum(1)


def gain_loss(x: Tensor, y: Tensor) -> Tensor:
    """What `gain` charges each row, by its definition."""
    return (y - x).square().sum(1) / x.square().sum(1) + 10 * gain_error(x, y).square()


@pytest.mark.parametrize(("bits", "words", "n"), [(b, "", 300) for b in (2, 3, 4, 6)] + [(3, ":tensor", 20_000)])
@pytest.mark.parametrize("draw", [normal, laplace])
def test_gain_is_as_good_as_a_fine_scan_of_scales(bits: int, words: str, n: int, draw: object) -> None:
    """Long rows are searched by their histogram."""
    x = draw(1 if words else 20, n)  # type: ignore[operator]
    grid = fit(x, f"int{bits}{words}", WEIGHT)
    assert isinstance(grid, AffineGrid)
    best = torch.full((len(x),), torch.inf)
    for ratio in torch.linspace(0.05, 1.2, 800):
        for sign in (1, -1) if bits == 2 else (1,):
            scale = sign * x.abs().amax(1, keepdim=True) * ratio / grid.qmax
            codes = (x / scale).round().clamp(grid.qmin, grid.qmax)
            best = torch.minimum(best, gain_loss(x, codes * scale))
    worse = gain_loss(x, grid.round_trip(x)) / best
    assert worse.mean() <= 1.02
    assert worse.max() <= 1.15


@pytest.mark.parametrize("text", ["int2", "int3", "int4", "int3:affine", "int3:g32", "int2:tensor"])
def test_gain_keeps_what_mse_shrinks(text: str) -> None:
    x = normal(16, 256)

    def total(words: str) -> tuple[float, float]:
        y = fit(x, text + words, WEIGHT).round_trip(x)
        return float(gain_error(x, y).mean()), float((y - x).square().sum())

    (shrunk, least), (kept, more) = total(":mse"), total(":gain")
    assert shrunk > 0.005
    assert abs(kept) < 0.5 * shrunk
    assert least <= more < 1.35 * least


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_affine_mse_on_a_histogram_is_as_good_as_a_scan_of_both_ends(bits: int) -> None:
    x = torch.nn.functional.gelu(2 * normal(20_000))
    levels = 2**bits - 1
    best = math.inf
    for low in torch.linspace(0, 1, 15) * x.min():
        for high in torch.linspace(0.15, 1, 60) * x.max():
            scale = float((high - low) / levels)
            y = torch.fake_quantize_per_tensor_affine(x, scale, round(float(-low) / scale), 0, levels)
            best = min(best, float((y - x).square().mean()))
    assert error(x, f"int{bits}", VALUE) <= 1.01 * best


@pytest.mark.parametrize("draw", [normal, laplace])
@pytest.mark.parametrize("n", [64, 1024])
def test_four_levels_of_either_sign_beat_three(draw: object, n: int) -> None:
    """The gain of `int2` over -1, 0, 1 at the best scale for those, on weights of usual distributions."""
    x = draw(32, n)  # type: ignore[operator]
    three = torch.full((32,), torch.inf)
    for ratio in torch.linspace(0.05, 1, 400):
        scale = x.abs().amax(1, keepdim=True) * ratio
        three = torch.minimum(three, ((x / scale).round().clamp(-1, 1) * scale - x).square().sum(1))
    grid = fit(x, "int2:mse", WEIGHT)
    assert isinstance(grid, AffineGrid)
    four = (grid.round_trip(x) - x).square().sum(1)
    assert (four <= 1.0001 * three).all()
    assert four.sum() < 0.8 * three.sum()
    assert set(grid.scale.sign().tolist()) == {1.0, -1.0}, "both signs are of use"


@pytest.mark.parametrize("rule", ["mse", "gain"])
def test_a_skewed_channel_takes_the_sign_of_its_long_side(rule: str) -> None:
    x = torch.stack((laplace(4000).abs() ** 1.3, -(laplace(4000).abs() ** 1.3))) + 0.1 * normal(2, 4000)
    grid = fit(x, f"int2:{rule}", WEIGHT)
    assert isinstance(grid, AffineGrid)
    assert grid.scale.sign().tolist() == [-1.0, 1.0]  # code -2 reaches farthest


@pytest.mark.parametrize("role", [WEIGHT, VALUE])
def test_one_outlier_ruins_max_and_not_mse_or_percentile(role: Role) -> None:
    x = normal(1, 60_000)
    x[0, 7] = 50.0
    bulk = torch.arange(60_000) != 7

    def miss(text: str) -> float:
        grid = fit(x, text, role)
        return float((grid.round_trip(x) - x)[0, bulk].square().mean())

    assert miss("int6:p99.99") < 0.1 * miss("int6:max")
    assert miss("int6:mse") < 0.25 * miss("int6:max")


def test_the_far_outlier_and_the_bulk_are_both_tried() -> None:
    """Two good ranges, one of 500 and one of 3; the way from the first to the second leads uphill."""
    x = normal(1 << 21).relu()
    x[5] = 500.0
    assert error(x, "int2", VALUE) < 0.3 * error(x, "int2:max", VALUE)
    assert error(x, "int2", VALUE) < 0.8 * error(x, "int2:p99.99", VALUE)


def divergence(counts: list[float], keep: int, levels: int) -> float:
    """KL(P || Q) by its definition, bin by bin."""
    p = counts[:keep]
    p[-1] += sum(counts[keep:])
    q = [0.0] * keep
    for g in range(levels):
        filled = [j for j in range(-(-g * keep // levels), -(-(g + 1) * keep // levels)) if counts[j] > 0]
        for j in filled:
            q[j] = sum(counts[i] for i in filled) / len(filled)
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return math.inf
    p_sum, q_sum = sum(p), sum(q)
    return sum(a / p_sum * math.log(a * q_sum / (b * p_sum)) for a, b in zip(p, q, strict=True) if a > 0)


@settings(max_examples=5)
@given(seed=st.integers(0, 99), levels=st.sampled_from([8, 128]))
def test_entropy_is_the_last_least_divergence(seed: int, levels: int) -> None:
    x = laplace(3000, seed=seed).abs()
    counts = torch.histc(x, BINS, 0, float(x.max()))
    found = entropy_clip(counts.clone(), levels)
    counts[0] = counts[1]
    tried = {keep: divergence(counts.tolist(), keep, levels) for keep in (*range(128, BINS + 1, 60), found)}
    assert tried[found] == pytest.approx(min(tried.values()), abs=1e-9)


def test_entropy_clips_laplace_and_keeps_uniform() -> None:
    tail, flat = laplace(1, 200_000), torch.rand(1, 200_000) * 2 - 1
    for x, below, above in ((tail, 0.2, 0.9), (flat, 0.95, 1.0)):
        low, high = entropy(x, 8)
        assert below <= float(high) / float(x.abs().max()) <= above
        assert below <= -float(low) / float(x.abs().max()) <= above
    low, high = entropy(tail.abs(), 8)
    assert float(low) >= 0.0
    assert float(high) < 0.95 * float(tail.abs().max())
    assert [float(end) for end in entropy(torch.zeros(1, 9), 8)] == [0.0, 0.0]


@given(seed=st.integers(0, 99), n=st.integers(2, 9))
def test_two_means_equal_brute_force(seed: int, n: int) -> None:
    x = normal(1, n, seed=seed).double()
    ordered = x[0].sort().values
    splits = (torch.split(ordered, [k, n - k]) for k in range(1, n))
    best = min(sum(float((part - part.mean()).square().sum()) for part in pair) for pair in splits)
    low, high = two_means(x)
    assert float(torch.minimum((x - low).square(), (x - high).square()).sum()) == pytest.approx(best, abs=1e-12)


def test_one_bit_is_the_mean_magnitude_or_the_ends() -> None:
    w = normal(4, 9)
    expected = torch.where(w >= 0, 1.0, -1.0) * w.abs().mean(1, keepdim=True)
    torch.testing.assert_close(fit(w, "int1", WEIGHT).round_trip(w), expected)
    x = normal(50)
    ends = fit(x, "int1:max", VALUE).round_trip(x).unique().tolist()
    assert ends == pytest.approx([float(x.min()), float(x.max())])
    words = torch.randint(0, 2, (100_000,)).float()  # a bag of words loses nothing
    assert torch.equal(fit(words, "int1", VALUE).round_trip(words), words)


@pytest.mark.parametrize(
    "text", ["int2", "int2:mse", "int4", "int4:affine", "int4:max", "int8:p99.9", "int4:g8", "int1"]
)
def test_permuting_channels_permutes_the_grid(text: str) -> None:
    x = normal(6, 40)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    y = fit(x, text, WEIGHT).round_trip(x)
    assert torch.equal(fit(x[order], text, WEIGHT).round_trip(x[order]), y[order])
    turned = x.T.contiguous()
    assert torch.equal(fit(turned, text, WEIGHT, axis=1).round_trip(turned), y.T)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_finer_grain_and_searched_range_lose_less(bits: int) -> None:
    x = normal(16, 256) * torch.linspace(0.1, 3, 16)[:, None]
    channel = error(x, f"int{bits}:mse")
    assert channel < error(x, f"int{bits}:tensor:mse")
    assert error(x, f"int{bits}:g32:mse") < channel
    assert channel <= error(x, f"int{bits}:max")


@settings(max_examples=80)
@given(
    shape=st.lists(st.integers(1, 6), min_size=0, max_size=4),
    axis=st.integers(-4, 3),
    bits=st.sampled_from([1, 2, 3, 4, 5, 8]),
    words=st.sampled_from(["", ":affine", ":tensor", ":g3", ":affine:g4", ":max", ":p99", ":tensor:p90", ":mse"]),
    exponent=st.integers(-60, 60),
    seed=st.integers(0, 999),
)
def test_any_shape_axis_and_size(shape: list[int], axis: int, bits: int, words: str, exponent: int, seed: int) -> None:
    if bits == 1 and words.endswith((":max", ":p99", ":p90")):
        words = ":affine" + words
    axis = axis % len(shape) if shape else 0
    x = normal(*shape, seed=seed) * 2.0**exponent
    x[x.abs() < 0.2 * 2.0**exponent] = 0.0
    grid = fit(x, f"int{bits}{words}", WEIGHT, axis)
    y = grid.round_trip(x)
    assert torch.isfinite(y).all()
    assert y.abs().max() <= 2.5 * x.abs().max()  # int2 may step beyond one side to be near on the other
    assert torch.equal(grid.round_trip(y), y)
    assert torch.equal(grid.unpack(grid.pack(x), x.shape), y)
    assert 8 * sum(t.nbytes for t in grid.pack(x).values()) == grid.nbits(tuple(x.shape))


def test_dead_channels_have_scale_one() -> None:
    x = torch.stack((torch.zeros(9), normal(9), torch.full((9,), 1e-38)))
    for text in ("int2", "int4", "int8:affine", "int4:max"):
        grid = fit(x, text, WEIGHT)
        assert isinstance(grid, AffineGrid)
        assert grid.scale[[0, 2]].tolist() == [1.0, 1.0]
        assert torch.equal(
            grid.codes(x)[[0, 2]] - (0 if grid.zero_point is None else grid.zero_point[0]), 0 * grid.codes(x)[:2]
        )


def test_a_percentile_of_mostly_zeros_is_the_full_range() -> None:
    x = torch.zeros(1000)
    x[3] = 2.0
    for text in ("int4:sym:p90", "int4:p90"):
        assert fit(x, text, VALUE).round_trip(x)[3] == pytest.approx(2.0)


def test_rows_is_the_mean_range_of_rows() -> None:
    x = normal(40, 3, 5) * torch.linspace(0.1, 4, 40)[:, None, None]
    low, high = x.flatten(1).amin(1).mean(), x.flatten(1).amax(1).mean()
    one = fit(x, "int1:rows", Role.FEATURE)
    torch.testing.assert_close(one.round_trip(x).unique(), torch.stack([low, high]))
    for bits in (2, 4, 8):
        grid = fit(x, f"int{bits}:rows", Role.FEATURE)
        assert isinstance(grid, AffineGrid)
        assert float(grid.scale) == pytest.approx(float(high - low) / (2**bits - 1))
        assert abs(float(grid.round_trip(x).amax() - high)) <= float(grid.scale) / 2, "moved to hold zero"


def test_rows_of_numbers_without_another_axis_is_their_range() -> None:
    x = normal(50)
    torch.testing.assert_close(fit(x, "int1:rows", Role.ATTENTION).round_trip(x).unique(), torch.stack(x.aminmax()))


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_rows_that_are_constant_are_kept(bits: int, value: float) -> None:
    """All-zero features among them: nothing is divided by a range of nothing."""
    x = torch.full((6, 4), value)
    torch.testing.assert_close(fit(x, f"int{bits}:rows", Role.FEATURE).round_trip(x), x)


def test_rows_keeps_sparse_features_that_max_wipes_out() -> None:
    """Bags of words whose rows add up to one: a single short row stretches the full range."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(300, 200, generator=generator) < 0.1).float()
    x[0] = torch.eye(200)[0]
    x = x / x.sum(1, keepdim=True).clamp(min=1)
    assert fit(x, "int2:max", Role.FEATURE).round_trip(x)[1:].count_nonzero() == 0
    kept = fit(x, "int2:rows", Role.FEATURE).round_trip(x)
    assert ((kept > 0) == (x > 0)).all()
