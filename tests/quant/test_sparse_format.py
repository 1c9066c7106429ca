"""Sparse and two-valued rows: lossless where they promise it, on batches never seen too, and what they take."""

import math

import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.grid import Grid, Quantizer
from mpsearch.quant.integer import Integer
from mpsearch.quant.packing import unpack_codes
from mpsearch.quant.rowscale import RowScale
from mpsearch.quant.sparse import Sparse

FEATURE, WEIGHT = Role.FEATURE, Role.WEIGHT


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words(rows: int = 60, columns: int = 1433, share: float = 0.013, seed: int = 0, divide: bool = True) -> Tensor:
    """A bag of words: each row has some ones, divided by their number."""
    x = (torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < share).float()
    return x / x.sum(dim=1, keepdim=True).clamp(min=1) if divide else x


def fit(x: Tensor, text: str, role: Role = FEATURE, axis: int = 1) -> Grid:
    fmt = Format.parse(text)
    quantizer: Quantizer = RowScale() if fmt.scheme == "rowscale" else Sparse()
    return quantizer.fit(x, quantizer.canonical(fmt, role), role, axis)


LOSSLESS = ["rowscale1", "sparse1:row", "sparse32"]


@pytest.mark.parametrize("text", LOSSLESS)
@pytest.mark.parametrize("divide", [True, False])
def test_a_bag_of_words_is_stored_without_loss(text: str, divide: bool) -> None:
    x = words(divide=divide)
    x[7] = 0.0  # a document without words
    grid = fit(x, text)
    assert torch.equal(grid.round_trip(x), x)
    assert torch.equal(grid.unpack(grid.pack(x), x.shape), x)


@pytest.mark.parametrize("text", LOSSLESS)
def test_so_is_a_batch_it_has_never_seen(text: str) -> None:
    grid, other = fit(words(), text), 37 * words(rows=25, share=0.05, seed=1)
    assert torch.equal(grid.round_trip(other), other)
    assert torch.equal(grid.unpack(grid.pack(other), other.shape), other)


@pytest.mark.parametrize("text", ["rowscale1", "sparse1:row", "sparse1", "sparse4", "sparse8", "sparse16", "sparse32"])
def test_features_that_are_all_zero_stay_so(text: str) -> None:
    x = torch.zeros(4, 9)
    grid = fit(x, text)
    assert torch.equal(grid.round_trip(x), x)
    assert torch.equal(grid.unpack(grid.pack(x), x.shape), x)
    assert 8 * sum(t.nbytes for t in grid.pack(x).values()) == grid.nbits(x.shape)


def test_bits_by_hand() -> None:
    """2 bytes of indices hold 2^11 columns here; the shares of two thousand columns are what counts."""
    x = words(rows=100)
    n = int(x.count_nonzero())
    pointers, indices = 32 * 101, math.ceil(n * 11 / 8) * 8
    assert fit(x, "sparse8").nbits(x.shape) == pointers + indices + 8 * n + 40  # a scale and a zero point
    assert fit(x, "sparse8").code_bits(x.shape) == pointers + 11 * n + 8 * n
    assert fit(x, "sparse32").nbits(x.shape) == pointers + indices + 32 * n
    assert fit(x, "sparse1:row").nbits(x.shape) == pointers + indices + 32 * 100
    assert fit(x, "rowscale1").nbits(x.shape) == 100 * 1433 + 4 + 32 * 100  # filled up to bytes
    assert fit(x, "rowscale1").code_bits(x.shape) == 100 * 1433 + 32 * 100
    for text in ("sparse8", "sparse1:row"):
        assert fit(x, text).nbits(x.shape) < x.numel() / 2, "less than a bit for each element"


def test_what_is_expected_of_another_size_goes_with_the_share() -> None:
    x = words(rows=200)
    grid, half = fit(x, "sparse8"), (100, 1433)
    expected = grid.code_bits(half)
    counted = fit(x[:100], "sparse8").code_bits(half)
    assert expected == pytest.approx(counted, rel=0.1)
    assert fit(x, "rowscale1").code_bits(half) == fit(x[:100], "rowscale1").code_bits(half)


@settings(max_examples=30)
@given(rows=st.integers(1, 9), columns=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_pointers_and_indices_are_those_of_scipy(rows: int, columns: int, share: float, seed: int) -> None:
    x = normal(rows, columns, seed=seed)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) > share] = 0.0
    stored = fit(x, "sparse32").pack(x)
    expected = scipy.sparse.csr_matrix(x.numpy())
    assert stored["pointers"].tolist() == expected.indptr.tolist()
    bits = max(1, math.ceil(math.log2(columns)))
    assert unpack_codes(stored["indices"], bits, expected.nnz).tolist() == expected.indices.tolist()
    assert torch.equal(stored["codes"], torch.from_numpy(expected.data))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scales_are_fitted_to_what_is_not_zero(bits: int) -> None:
    x = words() * (1 + 0.3 * normal(60, 1433).clamp(-2, 2))
    grid, dense = fit(x, f"sparse{bits}"), Integer().fit(x, Format("int", bits), FEATURE, 1)
    kept = x != 0
    assert torch.equal(grid.round_trip(x) != 0, kept & (grid.round_trip(x) != 0)), "zeros stay zero"
    errors = [float((g.round_trip(x) - x)[kept].square().mean()) for g in (grid, dense)]
    assert errors[0] <= 1.01 * errors[1]


def test_indices_of_many_columns() -> None:
    x = torch.zeros(2, 70_000)
    x[0, 69_999], x[1, 3] = 2.0, -1.0
    grid = fit(x, "sparse32")
    assert grid.nbits(x.shape) == 32 * 3 + 2 * 32 + 2 * 32
    assert torch.equal(grid.unpack(grid.pack(x), x.shape), x)


def test_a_parameter_is_counted_as_it_is() -> None:
    x = normal(8, 4, 3, 3)
    x[x.abs() < 1] = 0.0
    grid = fit(x, "sparse4", WEIGHT, 0)
    entries = int(grid.round_trip(x).count_nonzero())
    assert entries <= int(x.count_nonzero())
    assert 8 * sum(t.nbytes for t in grid.pack(x).values()) == grid.nbits(x.shape)
    assert grid.code_bits(x.shape) == 32 * 9 + entries * (6 + 4)


@given(seed=st.integers(0, 99))
def test_the_value_of_a_row_is_better_than_its_largest_magnitude(seed: int) -> None:
    x = normal(5, 40, seed=seed)
    got = fit(x, "rowscale1").round_trip(x)
    for row, near in zip(x, got, strict=True):
        value, peak = near[near != 0], row[row.abs().argmax()]
        assert len(value.unique()) == 1
        assert value[0] * peak > 0
        assert (row[near != 0] * peak > 0).all(), "what has the other sign is zero"
        naive = torch.where(row / peak >= 0.5, peak, 0.0)
        assert (near - row).square().sum() <= (naive - row).square().sum() * (1 + 1e-6)


def test_rows_run_along_the_channel_axis() -> None:
    x = normal(2, 7, 3, 3).relu()
    got = fit(x, "rowscale1", Role.ACTIVATION, 1).round_trip(x)
    rows = x.movedim(1, -1).reshape(-1, 7)
    assert torch.equal(got.movedim(1, -1).reshape(-1, 7), fit(rows, "rowscale1").round_trip(rows))


@pytest.mark.parametrize(
    ("text", "role", "words_"),
    [
        ("rowscale2", FEATURE, "Allowed: rowscale1"),
        ("rowscale1", WEIGHT, "not for a parameter"),
        ("sparse9", FEATURE, "Allowed: 1 to 8, 16, 32"),
        ("sparse2:row", FEATURE, "Allowed: sparse1:row"),
        ("sparse1:row", WEIGHT, "Allowed: sparse1:row"),
        ("sparse32:max", FEATURE, "floats have no options"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words_: str) -> None:
    fmt = Format.parse(text)
    with pytest.raises(BadInput, match=words_):
        (RowScale() if fmt.scheme == "rowscale" else Sparse()).canonical(fmt, role)
