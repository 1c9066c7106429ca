"""Binary planes: decomposition, products by XOR and popcount, convolutions and affine layers, bit for bit."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, linear

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.grid import Grid
from mpsearch.quant.integer import Integer
from mpsearch.quant.packing import packed_bytes
from mpsearch.quant.planes import OddGrid, Planes, join, pack_planes, split, unpack_planes

WEIGHT, VALUE = Role.WEIGHT, Role.ACTIVATION


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fit(x: Tensor, text: str, role: Role = WEIGHT, axis: int = 0) -> Grid:
    quantizer = Planes()
    return quantizer.fit(x, quantizer.canonical(Format.parse(text), role), role, axis)


def odd(bits: int, *shape: int, seed: int = 0) -> Tensor:
    """Odd integers of `bits` bits."""
    codes = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(seed))
    return 2 * codes - (2**bits - 1)


def planes(x: Tensor, bits: int) -> Tensor:
    """x_m in {-1, +1} of odd integers."""
    return 2 * split((x + 2**bits - 1) // 2, bits) - 1


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_odd_integer_is_a_sum_of_signs_in_one_way(bits: int) -> None:
    x = torch.arange(-(2**bits - 1), 2**bits, 2)
    signs = planes(x, bits)
    assert set(signs.unique().tolist()) == {-1, 1}
    assert torch.equal((signs * 2 ** torch.arange(bits)[:, None]).sum(dim=0), x)
    assert len({tuple(column) for column in signs.T.tolist()}) == 2**bits
    assert torch.equal(2 * join(split((x + 2**bits - 1) // 2, bits)) - (2**bits - 1), x)
    for m in range(1, bits):  # the encoders of the paper are waves
        assert signs[m - 1].tolist() == [-math.copysign(1, math.sin(math.pi * int(v) / 2**m)) for v in x]
    assert signs[bits - 1].tolist() == [math.copysign(1, math.sin(math.pi * int(v) / 2**bits)) for v in x]


def by_popcount(x: Tensor, w: Tensor, bits: tuple[int, int]) -> int:
    """x . w of odd integers: digits packed into words, XOR, popcount, shifts."""
    n = len(x)
    a, b = (
        np.packbits((planes(v, k).numpy() > 0).astype(np.uint8), axis=1, bitorder="little")
        for v, k in zip((x, w), bits, strict=True)
    )
    total = 0
    for m, k in product(range(bits[0]), range(bits[1])):
        total += (n - 2 * int(np.bitwise_count(a[m] ^ b[k]).sum())) << (m + k)
    return total


@pytest.mark.parametrize(("value", "weight"), [*product(range(1, 9), repeat=2)])
def test_products_by_popcount_are_exact(value: int, weight: int) -> None:
    x, w = odd(value, 257), odd(weight, 257, seed=1)
    assert by_popcount(x, w, (value, weight)) == int(x @ w)


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 1, 1), (1, 1, 2)])
def test_convolutions_of_planes_are_exact(stride: int, padding: int, groups: int) -> None:
    """Padding is outside the grid, which has no zero: each plane is padded, as a zero that counts for nothing."""
    x, w = odd(3, 2, 4, 6, 6).double(), odd(2, 6, 4 // groups, 3, 3, seed=1).double()
    given = {"stride": stride, "padding": padding, "groups": groups}
    total = torch.zeros(())
    for m, k in product(range(3), range(2)):
        total = total + 2 ** (m + k) * conv2d(planes(x.long(), 3)[m].double(), planes(w.long(), 2)[k].double(), **given)
    assert torch.equal(total, conv2d(x, w, **given))


@pytest.mark.parametrize(("value", "weight"), [(1, 2), (3, 4), (8, 8)])
def test_affine_layers_are_planes_and_a_correction_of_rank_one(value: int, weight: int) -> None:
    """sum (a X + c)(a' W + c') = a a' X.W + a c' sum X + c a' sum W + n c c', with X and W made of planes."""
    x, w = normal(5, 40).relu(), normal(7, 40, seed=1)
    grids = fit(x, f"planes{value}", VALUE, 1), fit(w, f"planes{weight}:affine:tensor")
    expected = linear(*(grid.round_trip(t).double() for grid, t in zip(grids, (x, w), strict=True)))
    parts = []
    for t, grid, bits in zip((x, w), grids, (value, weight), strict=True):
        codes = unpack_planes(grid.pack(t)["codes"], bits, t.numel()).reshape(t.shape)
        if isinstance(grid, AffineGrid):
            assert grid.zero_point is not None
            half, least = grid.scale.double() / 2, -grid.zero_point * grid.scale.double()
        else:
            least, high = grid.round_trip(t).double().aminmax()
            half = (high - least) / 2
        signs = 2 * split(codes, bits) - 1
        parts.append((half, least + half * (2**bits - 1), signs))
    (a, c, xs), (b, d, ws) = parts
    products = sum(2 ** (m + k) * (xs[m] @ ws[k].T) for m, k in product(range(value), range(weight)))
    sums = [sum(2**m * s[m].sum(dim=1) for m in range(len(s))) for s in (xs, ws)]
    got = a * b * products + a * d * sums[0][:, None] + c * b * sums[1] + 40 * c * d
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_one_bit_is_the_sign_network() -> None:
    x = normal(6, 50)
    torch.testing.assert_close(fit(x, "planes1").round_trip(x), x.sign() * x.abs().mean(dim=1, keepdim=True))


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_symmetric_grid_is_that_of_the_paper(bits: int) -> None:
    """2 round((2^M - 1) (clip(x, -1, 1) + 1) / 2) - (2^M - 1), over 2^M - 1."""
    top = 2**bits - 1
    grid = OddGrid(bits, torch.tensor(1 / top), fit(normal(2, 2), "planes1:tensor").grain)  # type: ignore[attr-defined]
    x = normal(2000)
    expected = (2 * torch.round(top * (x.clamp(-1, 1) + 1) / 2) - top) / top
    torch.testing.assert_close(grid.round_trip(x), expected)
    assert len(grid.round_trip(torch.linspace(-2, 2, 5000)).unique()) == 2**bits
    assert torch.equal(grid.round_trip(-x), -grid.round_trip(x))
    assert grid.round_trip(torch.zeros(1)) == grid.scale


@settings(deadline=None, max_examples=30)
@given(bits=st.integers(2, 8), seed=st.integers(0, 99), affine=st.booleans())
def test_what_is_stored_is_integers_plane_by_plane(bits: int, seed: int, affine: bool) -> None:
    x = normal(6, 30, seed=seed)
    grid = fit(x, f"planes{bits}:affine:channel:max" if affine else f"planes{bits}")
    stored = grid.pack(x)["codes"]
    assert len(stored) == packed_bytes(180, bits)
    codes = unpack_planes(stored, bits, 180)
    assert torch.equal(pack_planes(codes, bits), stored)
    first = np.unpackbits(stored.numpy(), bitorder="little")[:180]
    assert first.tolist() == (codes & 1).tolist(), "all lowest digits first"
    if affine:
        other = Integer().fit(x, Format("int", bits, ("affine", "channel", "max")), WEIGHT, 0)
        assert isinstance(other, AffineGrid)
        assert torch.equal(other.codes(x).flatten(), codes)
        assert torch.equal(other.round_trip(x), grid.round_trip(x))
        assert other.nbits(x.shape) == grid.nbits(x.shape)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154), (5, 0.003495)])
def test_errors_of_normal_numbers_are_those_of_the_best_uniform_grid(bits: int, error: float) -> None:
    """Max, "Quantizing for minimum distortion" (1960), table II."""
    x = normal(300_000)
    miss = fit(x, f"planes{bits}:tensor:mse").round_trip(x) - x
    assert float(miss.square().mean()) == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("planes9", WEIGHT, "Allowed: 1 to 8"),
        ("planes1:gain", WEIGHT, "needs 2 to 8"),
        ("planes2:g4", VALUE, "only parameters"),
        ("planes2:entropy", VALUE, "unknown option"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Planes().canonical(Format.parse(text), role)
