"""Product quantization: lossless where it can be, k-means against its definition and scikit-learn, published sizes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant import kmeans
from mpsearch.quant.product import CodebookGrid, Product, stored_bits

WEIGHT = Role.WEIGHT


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fit(x: Tensor, text: str, axis: int = 0, importance: Tensor | None = None) -> CodebookGrid:
    quantizer = Product()
    fmt = quantizer.canonical(Format.parse(text), WEIGHT)
    if importance is None:
        return quantizer.fit(x, fmt, WEIGHT, axis)
    return quantizer.fit_to_inputs(x, fmt, WEIGHT, axis, importance)


@pytest.mark.parametrize(("shape", "axis"), [((16, 8, 3, 3), 0), ((8, 16, 3, 3), 1), ((32, 60), 0), ((40, 2, 5, 1), 0)])
def test_as_many_centroids_as_blocks_lose_nothing(shape: tuple[int, ...], axis: int) -> None:
    x = normal(*shape)
    assert torch.equal(fit(x, "pq3:d4:c32", axis).round_trip(x), x)
    assert torch.equal(fit(x, "pq3:d4", axis).round_trip(x), x.half().float())


def test_repeated_blocks_are_stored_once() -> None:
    x = normal(3, 8).repeat(50, 20)
    grid = fit(x, "pq1:d4:c32")
    assert len(grid.codebook) == 6
    assert torch.equal(grid.round_trip(x), x)
    assert grid.nbits(x.shape) == 6000 * 4 + 32 * 24  # indices keep their 4 bits


def test_a_tensor_smaller_than_its_codebook_is_stored_exactly_and_tells_its_price() -> None:
    x = normal(10, 9)  # 10 blocks of 9, codebooks of up to 256
    grid = fit(x, "pq0.889:d9:c32")
    assert torch.equal(grid.round_trip(x), x)
    assert grid.nbits(x.shape) == 10 * 8 + 32 * 90 > 32 * x.numel()


def test_blocks_of_one_are_scalar_means() -> None:
    x = normal(100, 1000)
    grid = fit(x, "pq3:d1:c32:mse")
    got = grid.round_trip(x)
    assert len(got.unique()) == 8
    assert grid.code_bits(x.shape) == 3 * x.numel()
    centres = grid.codebook[:, 0].sort().values
    edges = (centres[1:] + centres[:-1]) / 2
    place = torch.bucketize(x.flatten(), edges)
    for k in range(8):  # Lloyd's conditions
        assert float(centres[k]) == pytest.approx(float(x.flatten()[place == k].mean()), abs=0.03)
    assert float((got - x).square().mean()) == pytest.approx(0.03454, rel=0.02), "Max (1960): 8 levels, normal numbers"


@settings(max_examples=15)
@given(seed=st.integers(0, 99), number=st.integers(2, 40), d=st.integers(1, 6))
def test_steps_never_raise_the_distance(seed: int, number: int, d: int) -> None:
    points = normal(400, d, seed=seed)
    centres, before = points[:number], math.inf
    for _ in range(6):
        after = float((points - centres[kmeans.nearest(points, centres)]).square().sum())
        assert after <= before * (1 + 1e-6)
        before, centres = after, kmeans._step(points, centres, torch.Generator())[0]


@pytest.mark.parametrize(("number", "d"), [(16, 2), (64, 4), (128, 9)])
def test_as_good_as_scikit_learn(number: int, d: int) -> None:
    points = torch.cat([normal(700, d, seed=s) + 4 * normal(1, d, seed=9 * s) for s in range(6)])
    centres = kmeans.centroids(points, number)
    ours = float((points - centres[kmeans.nearest(points, centres)]).square().sum())
    theirs = KMeans(number, n_init=1, random_state=0).fit(points.numpy()).inertia_
    assert ours < 1.03 * theirs


@given(seed=st.integers(0, 99), d=st.integers(1, 9))
def test_nearest_is_nearest(seed: int, d: int) -> None:
    points, centres = normal(200, d, seed=seed), normal(30, d, seed=seed + 1)
    distances = (points[:, None] - centres).square().sum(dim=2)
    got = distances[torch.arange(200), kmeans.nearest(points, centres)]
    torch.testing.assert_close(got, distances.amin(dim=1))
    assert torch.equal(kmeans.nearest(centres, centres), torch.arange(30))


def test_equal_importance_is_plain() -> None:
    x = normal(64, 64)
    plain, equal = fit(x, "pq1:d4"), fit(x, "pq1:d4", importance=7 * torch.eye(4))
    assert float((equal.round_trip(x) - x).square().mean()) == pytest.approx(
        float((plain.round_trip(x) - x).square().mean()), rel=0.02
    )


def test_importance_is_the_distance_of_outputs() -> None:
    """Who is nearest equals brute force over |X (c - v)|, and outputs change less than without it."""
    x, inputs = normal(64, 64), normal(300, 4, seed=1) @ torch.diag(torch.tensor([5.0, 1.0, 0.3, 0.05]))
    inputs = inputs @ torch.linalg.qr(normal(4, 4, seed=2)).Q
    aware, plain = fit(x, "pq1:d4:c32", importance=inputs.T @ inputs), fit(x, "pq1:d4:c32")
    blocks = x.reshape(-1, 4)
    outputs = (blocks[:, None] - aware.codebook) @ inputs.T
    brute = outputs.double().square().sum(dim=2)
    got = aware.round_trip(x).reshape(-1, 4)
    mine = ((got - blocks) @ inputs.T).double().square().sum(dim=1)
    torch.testing.assert_close(mine, brute.amin(dim=1), rtol=1e-3, atol=1e-6)
    others = ((plain.round_trip(x).reshape(-1, 4) - blocks) @ inputs.T).double().square().sum(dim=1)
    assert mine.sum() < 0.7 * others.sum()
    assert torch.equal(aware.round_trip(got.reshape(x.shape)), got.reshape(x.shape))


def test_gain_gives_the_tensor_its_length_back() -> None:
    x = normal(128, 64)
    (short, _), (full, grid) = (
        (float((x * g.round_trip(x)).sum() / x.square().sum()), g) for g in (fit(x, "pq2:mse"), fit(x, "pq2"))
    )
    assert short < 0.95 < full < 1.01
    assert torch.equal(grid.codebook, grid.codebook.half().float())


def test_directions_never_seen_are_no_trouble() -> None:
    x = normal(64, 64)
    seen = torch.zeros(4, 4)
    seen[0, 0] = 100.0
    got = fit(x, "pq0.5:d4:c32", importance=seen).round_trip(x)
    assert float((got - x).reshape(-1, 4)[:, 0].square().mean()) < 0.13  # 4 levels, 0.1175 at best
    assert torch.isfinite(fit(x, "pq0.5:d4", importance=torch.zeros(4, 4)).round_trip(x)).all()
    with pytest.raises(ValueError, match=r"need \(4, 4\)"):
        fit(x, "pq2", importance=torch.eye(5))


def test_blocks_that_do_not_divide_a_channel() -> None:
    x = normal(700, 11)  # two blocks of 4 and one of 3 per channel
    grid = fit(x, "pq2:d4")
    assert grid.nbits(x.shape) == 8 * 2100 + 16 * 256 * 4
    got = grid.round_trip(x)
    tails, centres = x[:, 8:], grid.codebook[:, :3]
    best = (tails[:, None] - centres).square().sum(dim=2).amin(dim=1)
    torch.testing.assert_close((got[:, 8:] - tails).square().sum(dim=1), best)


Layers = list[tuple[int, int, int]]  # output channels, input channels, kernel


def resnet(depth: int) -> tuple[Layers, int]:
    """Convolutions but the first of a ResNet on ImageNet, and the width of its last features."""
    layers: Layers = []
    before = 64
    for width, blocks in zip((64, 128, 256, 512), (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3), strict=True):
        for _ in range(blocks):
            out = width if depth == 18 else 4 * width
            bottleneck = [(width, before, 1), (width, width, 3), (out, width, 1)]
            layers += [(width, before, 3), (width, width, 3)] if depth == 18 else bottleneck
            layers += [(out, before, 1)] if before != out else []
            before = out
    return layers, before


@pytest.mark.parametrize(
    ("depth", "kernels", "points", "classifier_bits", "published"),
    [(18, 9, 4, 11, 1.54), (18, 18, 4, 11, 1.03), (50, 9, 4, 10, 5.09), (50, 18, 8, 10, 3.19)],
)
def test_the_formula_gives_the_published_sizes(
    depth: int, kernels: int, points: int, classifier_bits: int, published: float
) -> None:
    """MiB. Never more centroids than the largest power of two below a quarter of the blocks; the rest is float32."""
    layers, features = resnet(depth)

    def taken(elements: int, block: int, bits: int) -> int:
        below = math.ceil(math.log2(elements / block / 4)) - 1
        return stored_bits(elements, block, min(bits, below))

    total = sum(taken(o * i * k * k, kernels if k == 3 else points, 8) for o, i, k in layers)
    total += taken(1000 * features, 4, classifier_bits)
    total += 32 * (64 * 3 * 49 + 2 * (64 + sum(o for o, _, _ in layers)) + 1000)
    assert total / 8 / 2**20 == pytest.approx(published, abs=0.01)


def test_the_grid_stores_what_the_formula_says() -> None:
    x = normal(64, 64, 3, 3)
    assert fit(x, "pq0.889:d9").nbits(x.shape) == stored_bits(x.numel(), 9, 8)
    assert fit(x, "pq1:d8:c32").nbits(x.shape) == stored_bits(x.numel(), 8, 8, 32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("pq2:d4:c16", "pq2"), ("pq0.8889:d9", "pq0.889:d9"), ("pq0.89:d9", "pq0.889:d9"), ("pq2.75", "pq2.75"),
     ("pq1:c32:d8", "pq1:d8:c32")],
)  # fmt: skip
def test_canonical_texts(text: str, expected: str) -> None:
    assert str(Product().canonical(Format.parse(text), WEIGHT)) == expected
    assert str(Product().canonical(Format.parse(expected), WEIGHT)) == expected


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("pq8:d4", WEIGHT, "indices of 32 bits. Allowed: 1 to 12; 8-bit indices over such blocks are pq2:d4"),
        ("pq8:d9", WEIGHT, "are pq0.889:d9"),
        ("pq2.1", WEIGHT, "whole bits. Allowed near it: pq2, pq2.25"),
        ("pq2", Role.ACTIVATION, "for parameters, not for a value"),
        ("pq2:d0", WEIGHT, "unknown option 'd0'"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Product().canonical(Format.parse(text), role)
