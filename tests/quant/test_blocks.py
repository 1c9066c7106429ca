"""Block-scaled floats by the words of their specifications, element by element, and against torch's scale type."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.block import BlockGrid
from mpsearch.quant.grid import Quantizer
from mpsearch.quant.microscaling import Microscaling, MicroscalingGrid
from mpsearch.quant.nvfp import Nvfp

WEIGHT, VALUE = Role.WEIGHT, Role.ACTIVATION
LARGEST = {"e2m1": (2, 6.0), "e2m3": (2, 7.5), "e3m2": (4, 28.0), "e4m3": (8, 448.0), "e5m2": (15, 57344.0)}
TEXTS = {"mx4:max": "e2m1", "mx6:max": "e2m3", "mx6:e3m2:max": "e3m2", "mx8:max": "e4m3", "mx8:e5m2:max": "e5m2"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(-3, 3, x.numel()).reshape(shape)


def fit(x: Tensor, text: str, role: Role = WEIGHT, axis: int = 0) -> BlockGrid:
    fmt = Format.parse(text)
    quantizer: Quantizer = Nvfp() if fmt.scheme == "nvfp" else Microscaling()
    grid = quantizer.fit(x, quantizer.canonical(fmt, role), role, axis)
    assert isinstance(grid, BlockGrid)
    return grid


def by_the_book(values: list[float], kind: str) -> list[float]:
    """One microscaling block, number by number."""
    most = max(map(abs, values))
    emax, top = LARGEST[kind]
    bits, lowest = int(kind[3]), {"e2m1": 0, "e2m3": 0, "e3m2": -2, "e4m3": -6, "e5m2": -14}[kind]
    scale = 2.0 ** (math.floor(math.log2(most)) - emax) if most else 2.0**-127
    found = []
    for value in values:
        y = value / scale
        binade = max(math.floor(math.log2(abs(y))), lowest) if y else lowest
        step = 2.0 ** (binade - bits)
        found.append(max(-top, min(top, round(y / step) * step)) * scale)  # Python rounds ties to even
    return found


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("role", [WEIGHT, VALUE])
def test_microscaling_is_what_the_specification_says(text: str, role: Role) -> None:
    x = normal(9, 70)
    x[3] = 0.0
    got = fit(x, text, role, 0 if role is WEIGHT else 1).round_trip(x)
    for row, found in zip(x.tolist(), got.tolist(), strict=True):
        expected = [v for start in (0, 32, 64) for v in by_the_book(row[start : start + 32], TEXTS[text])]
        assert found == expected


def test_scale_codes_are_those_of_torch() -> None:
    codes = torch.arange(255, dtype=torch.uint8)
    scales = MicroscalingGrid.scales(fit(torch.ones(1, 1), "mx4"), codes)
    assert torch.equal(scales, codes.view(torch.float8_e8m0fnu).float())


def test_nvfp_is_what_the_specification_says() -> None:
    x = normal(4, 40)
    grid = fit(x, "nvfp4", VALUE, 1)
    got, whole = grid.round_trip(x), x.abs().max() / (6 * 448)
    for row, found in zip(x, got, strict=True):
        for start in range(0, 40, 16):
            block = row[start : start + 16]
            scale = (block.abs().max() / whole / 6).clamp(2.0**-6, 448).to(torch.float8_e4m3fn).float() * whole
            levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
            levels = torch.cat((levels, -levels)) * scale
            assert torch.equal((found[start : start + 16] - block).abs(), (levels - block[:, None]).abs().amin(dim=1))
            assert torch.isin(found[start : start + 16], levels).all()


@given(text=st.sampled_from([*TEXTS, "mx8:int:max"]), k=st.integers(-30, 30), seed=st.integers(0, 99))
def test_a_power_of_two_moves_through(text: str, k: int, seed: int) -> None:
    x = normal(3, 40, seed=seed)
    assert torch.equal(fit(x * 2.0**k, text).round_trip(x * 2.0**k), fit(x, text).round_trip(x) * 2.0**k)


@given(text=st.sampled_from(["mx4", "mx6", "mx8", "nvfp4"]), seed=st.integers(0, 99))
def test_searched_scales_lose_no_more_than_the_rule_in_any_block(text: str, seed: int) -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    searched, ruled = ((fit(x, t).round_trip(x) - x).square() for t in (text, f"{text}:max"))
    size = 16 if text == "nvfp4" else 32
    assert (searched.reshape(-1, size).sum(1) <= ruled.reshape(-1, size).sum(1)).all()
    assert text != "nvfp4" or searched.sum() < ruled.sum()


@pytest.mark.parametrize("text", ["mx4", "mx6", "mx6:e3m2", "mx8", "mx8:e5m2"])
def test_up_is_the_smallest_power_of_two_that_cuts_nothing(text: str) -> None:
    x = normal(40, 96)
    grid = fit(x, f"{text}:up")
    assert grid.codes is not None
    reach = grid.scales(grid.codes) * grid.kind.most
    largest = x.reshape(40, 3, 32).abs().amax(dim=2)
    assert (largest <= reach).all()
    assert (largest > reach / 2).all()


@given(text=st.sampled_from(["mx4", "mx4:up", "mx6:e3m2", "mx8", "mx8:int", "nvfp4"]), seed=st.integers(0, 99))
def test_values_read_back_choose_the_same_scales(text: str, seed: int) -> None:
    x = normal(6, 50, seed=seed) ** 3  # magnitudes over a hundred binades, far from what was fitted
    grid = fit(normal(6, 50, seed=seed + 1), text, VALUE, 1)
    once = grid.round_trip(x)
    assert torch.equal(grid.round_trip(once), once)


@pytest.mark.parametrize("shape", [(8, 64), (3, 64), (5, 7, 64)])
def test_values_need_no_calibration(shape: tuple[int, ...]) -> None:
    """Another batch, 1000 times as large: each number is off by at most an eighth of the largest of its block."""
    x = 1000 * normal(*shape)
    off = (fit(normal(8, 64), "mx8", VALUE, len(shape) - 1).round_trip(x) - x).reshape(-1, 32).abs()
    assert (off.amax(dim=1) <= x.reshape(-1, 32).abs().amax(dim=1) / 8).all()


def test_blocks_run_along_what_is_added_up() -> None:
    weight, value = normal(4, 16, 3, 3), normal(2, 64, 5, 5)
    got = fit(weight, "mx4").round_trip(weight)
    assert torch.equal(got.reshape(4, -1), fit(weight.reshape(4, -1), "mx4").round_trip(weight.reshape(4, -1)))
    rows = value.movedim(1, -1).reshape(-1, 64)
    expected = fit(rows, "mx4", VALUE, 1).round_trip(rows).reshape(2, 5, 5, 64).movedim(-1, 1)
    assert torch.equal(fit(value, "mx4", VALUE, 1).round_trip(value), expected)


def test_bits_by_hand() -> None:
    x = normal(10, 64)
    assert fit(x, "mx4").nbits((10, 64)) == 640 * 4 + 20 * 8  # 4.25 per number
    assert fit(x, "mx4").code_bits((10, 64)) == 640 * 4
    assert fit(x, "nvfp4").nbits((10, 64)) == 640 * 4 + 40 * 8 + 32  # 4.5 per number, and one float
    of_values = fit(x, "nvfp4", VALUE, 1)
    assert of_values.code_bits((10, 64)) == 640 * 4 + 40 * 8
    assert of_values.nbits((10, 64)) - of_values.code_bits((10, 64)) == 32, "the scale of the tensor is static"
    assert fit(x, "mx6").nbits((3, 33)) == 8 * (75 + 6)  # 99 codes of 6 bits; each row has a second block, of 1


def test_a_value_beyond_the_calibrated_range_takes_the_largest() -> None:
    x = normal(2, 16)
    grid = fit(x, "nvfp4", VALUE, 1)
    assert float(grid.round_trip(1e6 * x).max()) == pytest.approx(float(x.abs().max()))


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("mx5", WEIGHT, "Allowed: mx4, mx6, mx8"),
        ("mx4:e2m3", WEIGHT, "no e2m3 of 4 bits. Allowed: e2m1"),
        ("mx6:int", WEIGHT, "Allowed: e2m3, e3m2"),
        ("mx4:mse", VALUE, "while the model runs"),
        ("nvfp4:mse", VALUE, "while the model runs"),
        ("nvfp8", WEIGHT, "Allowed: nvfp4"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    fmt = Format.parse(text)
    with pytest.raises(BadInput, match=words):
        (Nvfp() if fmt.scheme == "nvfp" else Microscaling()).canonical(fmt, role)
