"""Elastic significant bits: its levels by formula, its uniform end, lambdas by integration, integer arithmetic; pow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.esb import LAMBDA, Esb, elastic
from mpsearch.quant.grain import Grain
from mpsearch.quant.grid import Quantizer
from mpsearch.quant.minifloat import MiniFloatGrid
from mpsearch.quant.power import PowerOfTwo

WEIGHT, VALUE = Role.WEIGHT, Role.ACTIVATION
NORMAL = torch.randn(200_000, generator=torch.Generator().manual_seed(0))


def fit(x: Tensor, text: str, role: Role = WEIGHT, axis: int = 0) -> MiniFloatGrid:
    fmt = Format.parse(text)
    quantizer: Quantizer = PowerOfTwo() if fmt.scheme == "pow" else Esb()
    grid = quantizer.fit(x, quantizer.canonical(fmt, role), role, axis)
    assert isinstance(grid, MiniFloatGrid)
    return grid


def by_formula(bits: int, k: int) -> list[float]:
    most = 2 ** (bits - k - 1) - 2
    positive = [i / 2**k for i in range(2**k)]
    positive += [2**n * (1 + i / 2**k) for n in range(most + 1) for i in range(2**k)]
    return sorted({sign * level for sign in (1, -1) for level in positive})


@pytest.mark.parametrize(("bits", "k"), LAMBDA)
def test_levels_are_those_of_the_formula(bits: int, k: int) -> None:
    numbers = elastic(bits, k).magnitudes
    levels = torch.cat((-numbers.flip(0), numbers[1:])).tolist()
    assert levels == by_formula(bits, k)
    assert len(levels) == 2**bits - 1
    most = 2 ** (bits - k - 1) - 2
    assert levels[-1] == 2 ** (most + 1) - 2 ** (most - k)


@given(bits=st.integers(2, 8), seed=st.integers(0, 99), factor=st.floats(1e-6, 1e6))
def test_all_bits_significant_is_the_uniform_grid_exactly(bits: int, seed: int, factor: float) -> None:
    x = factor * torch.randn(500, generator=torch.Generator().manual_seed(seed))
    grid, top = fit(x, f"esb{bits}:k{bits - 2}:tensor:align"), 2 ** (bits - 1) - 1
    step = grid.scale * 2.0 ** (2 - bits)
    uniform = AffineGrid(bits, -top, top, step, None, Grain())
    ties = step * (torch.arange(-3 * top, 3 * top) / 2)
    for values in (x, ties):
        assert torch.equal(grid.round_trip(values), uniform.round_trip(values))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_fraction_is_powers_of_two(bits: int) -> None:
    levels = fit(NORMAL, f"esb{bits}:k0:tensor:max").round_trip(NORMAL).unique()
    exponents = torch.log2(levels[levels > 0] / levels.max())
    assert torch.equal(exponents, exponents.round())
    assert torch.equal(levels, fit(NORMAL, f"pow{bits}:tensor:max").round_trip(NORMAL).unique())


def expected_error(scale: float, levels: list[float]) -> float:
    """Of standard normal numbers, integrated exactly."""
    q = scale * np.array(levels)
    edges = np.r_[-np.inf, (q[1:] + q[:-1]) / 2, np.inf]
    density = norm.pdf(edges)
    return float(1 + (2 * q * np.diff(density) + q**2 * np.diff(norm.cdf(edges))).sum())


@pytest.mark.parametrize(("bits", "k"), LAMBDA)
def test_lambdas_lose_least_of_normal_numbers(bits: int, k: int) -> None:
    levels, found = by_formula(bits, k), LAMBDA[bits, k]
    scales = np.logspace(-3, 0.5, 400)
    start = int(np.argmin([expected_error(scale, levels) for scale in scales]))
    best = minimize_scalar(
        expected_error, bounds=(scales[start - 1], scales[start + 1]), args=(levels,), method="bounded"
    )
    assert expected_error(found, levels) == pytest.approx(best.fun, rel=1e-5)
    assert found == pytest.approx(best.x, rel=2e-3)


@pytest.mark.parametrize(
    ("text", "error"),
    [("esb4:k2", 0.012889), ("esb4:k1", 0.012685), ("esb5:k3", 0.003693), ("esb5:k2", 0.003256), ("esb6:k3", 0.000829)],
)
def test_errors_of_normal_numbers_are_the_published_ones(text: str, error: float) -> None:
    for rule in ("align", "mse"):
        miss = fit(NORMAL, f"{text}:tensor:{rule}").round_trip(NORMAL) - NORMAL
        assert float(miss.square().mean()) == pytest.approx(error, rel=0.02)


def test_normal_numbers_after_a_relu_are_as_good_with_a_bit_less() -> None:
    x = NORMAL.relu()
    grid = fit(x, "esb4", VALUE)
    assert grid.absorbs_relu
    assert torch.equal(grid.round_trip(NORMAL), grid.round_trip(x))
    unsigned, signed = (float((fit(x, text, role).round_trip(x) - x).square().mean()) for text, role in
                        (("esb4:align", VALUE), ("esb5:k2:tensor:mse", WEIGHT)))  # fmt: skip
    assert unsigned == pytest.approx(signed, rel=0.05)
    assert not fit(NORMAL, "esb4", VALUE).absorbs_relu


@given(bits=st.integers(2, 8), power=st.floats(-20, 20))
def test_the_aligner_moves_with_the_scale(bits: int, power: float) -> None:
    x, factor = NORMAL[:1000], 2.0**power
    one, other = (fit(t, f"esb{bits}:tensor:align") for t in (x, factor * x))
    torch.testing.assert_close(other.scale, factor * one.scale)


def test_rows_far_from_zero_are_covered() -> None:
    x = torch.stack((5 + 0.1 * NORMAL[:64], NORMAL[:64]))
    grid = fit(x, "esb4:align")
    assert float(grid.scale[0]) == pytest.approx(float(x[0].max()) / 6)
    assert float(grid.scale[1]) == pytest.approx(LAMBDA[4, 1] * float(x[1].std(correction=0)))


@pytest.mark.parametrize(("bits", "k"), [(4, 1), (5, 2), (6, 2), (8, 5)])
def test_products_of_significands_and_shifts_are_the_dot_product(bits: int, k: int) -> None:
    """(sign, significand of k + 1 bits, shift) of both operands, multiplied and added up in integers."""
    kind, (x, y) = elastic(bits, k), (NORMAL[:256], NORMAL[256:512])
    grids = [fit(t, f"esb{bits}:k{k}:tensor") for t in (x, y)]
    total, operands = 0, []
    for values, grid in zip((x, y), grids, strict=True):
        numbers = kind.nearest_(grid.round_trip(values) / grid.scale).double()
        shift = torch.frexp(numbers.abs().clamp(min=1)).exponent - 1
        significand = numbers * 2.0**k / (1 << shift)
        assert torch.equal(significand, significand.round())
        assert significand.abs().max() < 2 ** (k + 1)
        assert shift.max() <= 2**kind.exponent - 2
        operands.append((significand.long().tolist(), shift.tolist()))
    for (a, m), (b, n) in zip(*(zip(*operand, strict=True) for operand in operands), strict=True):
        total += (a * b) << (m + n)
    product = float(grids[0].round_trip(x).double() @ grids[1].round_trip(y).double())
    scale = float(grids[0].scale.double() * grids[1].scale.double())
    assert total * scale / 4.0**k == pytest.approx(product, rel=1e-5)


def test_bits_by_hand() -> None:
    x = NORMAL[:650].reshape(10, 65)
    assert fit(x, "esb4").nbits((10, 65)) == 8 * (325 + 40)
    assert fit(x, "esb3:tensor").nbits((10, 65)) == 8 * (math.ceil(650 * 3 / 8) + 4)
    assert fit(x, "pow3:g32").nbits((10, 65)) == 8 * (math.ceil(650 * 3 / 8) + 4 * 30)


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("esb4:k3", WEIGHT, "Allowed: k0, k1, k2"),
        ("esb8:k1", WEIGHT, "Allowed: k4, k5, k6"),
        ("esb9", WEIGHT, "Allowed: 2 to 8"),
        ("esb4:g8", VALUE, "only parameters"),
        ("pow5", WEIGHT, "Allowed: pow2, pow3, pow4"),
        ("pow3:k1", WEIGHT, "unknown option 'k1'"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    fmt = Format.parse(text)
    with pytest.raises(BadInput, match=words):
        (PowerOfTwo() if fmt.scheme == "pow" else Esb()).canonical(fmt, role)


def test_defaults_are_left_out() -> None:
    assert str(Esb().canonical(Format.parse("esb4:gain:k1:channel"), WEIGHT)) == "esb4"
    assert str(Esb().canonical(Format.parse("esb3:k1:align"), VALUE)) == "esb3:align"
