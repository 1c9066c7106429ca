"""Small floats against torch's and ml_dtypes' types, their tables, and brute force."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.floating import E2M1, E2M3, E3M2, E4M3, E5M2, Float
from mpsearch.quant.grain import Grain
from mpsearch.quant.minifloat import MiniFloat, MiniFloatGrid

TORCH = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
OTHER = {
    E2M1: "float4_e2m1fn",
    E2M3: "float6_e2m3fn",
    E3M2: "float6_e3m2fn",
    E4M3: "float8_e4m3fn",
    E5M2: "float8_e5m2",
}


def values(kind: MiniFloat, seed: int = 0) -> Tensor:
    """Every number of `kind`, every middle of two, and random numbers of all magnitudes."""
    numbers = kind.magnitudes.double()
    middles = ((numbers[1:] + numbers[:-1]) / 2).float()
    spread = torch.randn(20_000, generator=torch.Generator().manual_seed(seed))
    spread = spread * torch.logspace(-6, 6, len(spread)).float()
    positive = torch.cat((kind.magnitudes, middles, spread.abs()))
    return torch.cat((positive, -positive))


@pytest.mark.parametrize("kind", TORCH)
def test_eight_bits_equal_torch_bit_for_bit(kind: MiniFloat) -> None:
    x = values(kind)
    expected = x.clamp(-kind.most, kind.most).to(TORCH[kind])
    nearest = kind.nearest_(x.clone())
    assert torch.equal(nearest, expected.float())
    known = expected.view(torch.uint8)[nearest != 0]  # -0.0 has a code there, and none here
    assert torch.equal(kind.pack(nearest[nearest != 0]), known)


@pytest.mark.parametrize("kind", OTHER)
def test_all_equal_ml_dtypes(kind: MiniFloat) -> None:
    types = pytest.importorskip("ml_dtypes")
    x = values(kind)
    expected = x.clamp(-kind.most, kind.most).numpy().astype(getattr(types, OTHER[kind]))
    assert torch.equal(kind.nearest_(x.clone()), torch.from_numpy(expected.astype("f4")))


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (E2M1, [0, 0.5, 1, 1.5, 2, 3, 4, 6]),
        (MiniFloat(1, 2, 0), [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]),
        (MiniFloat(3, 0, -6), [0, *(2.0**n for n in range(-6, 1))]),
    ],
)
def test_numbers_by_hand(kind: MiniFloat, numbers: list[float]) -> None:
    assert kind.magnitudes.tolist() == numbers


def test_largest_and_smallest_numbers_are_those_of_the_specification() -> None:
    ends = {kind: (float(kind.magnitudes[1]), kind.most) for kind in OTHER}
    assert ends == {
        E2M1: (0.5, 6.0),
        E2M3: (0.125, 7.5),
        E3M2: (0.0625, 28.0),
        E4M3: (2.0**-9, 448.0),
        E5M2: (2.0**-16, 57344.0),
    }


@given(
    exponent=st.integers(1, 4), mantissa=st.integers(0, 6), lowest=st.integers(-9, 3), signed=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_nearest_is_nearest(exponent: int, mantissa: int, lowest: int, signed: bool, seed: int) -> None:
    kind = MiniFloat(exponent, mantissa, lowest, signed=signed)
    x = torch.randn(300, generator=torch.Generator().manual_seed(seed)) * kind.most
    x *= torch.rand(300, generator=torch.Generator().manual_seed(seed)) ** 4
    levels = torch.cat((kind.magnitudes, -kind.magnitudes)) if signed else kind.magnitudes
    least = (x[:, None] - levels).abs().amin(dim=1)
    assert torch.equal((kind.nearest_(x.clone()) - x).abs(), least)
    assert len(levels.unique()) == 2**kind.bits - signed
    numbers = levels.repeat(2)
    assert torch.equal(kind.unpack(kind.pack(numbers), len(numbers)), numbers)


@given(k=st.integers(-20, 20), bits=st.sampled_from(["fp4", "fp6:e3m2", "fp8"]))
def test_a_power_of_two_moves_through(k: int, bits: str) -> None:
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    quantizer, fmt = Float(), Format.parse(bits)
    plain, scaled = (quantizer.fit(t, fmt, Role.WEIGHT, 0).round_trip(t) for t in (x, x * 2.0**k))
    assert torch.equal(scaled, plain * 2.0**k)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("fp4", E2M1), ("fp6:e2m3", E2M3), ("fp6:e3m2", E3M2), ("fp8:e4m3", E4M3), ("fp8:e5m2", E5M2)],
)
@pytest.mark.parametrize("rule", ["mse", "gain"])
def test_the_scale_is_as_good_as_a_fine_scan(text: str, kind: MiniFloat, rule: str) -> None:
    x = torch.randn(4, 400, generator=torch.Generator().manual_seed(1))

    def loss(scale: Tensor) -> Tensor:
        y = MiniFloatGrid(kind, scale, Grain(0)).round_trip(x)
        missing = 1 - (x * y).sum(dim=1) / x.square().sum(dim=1)
        error = (y - x).square().sum(dim=1) / x.square().sum(dim=1)
        return error + (10.0 * missing.square() if rule == "gain" else 0.0)

    quantizer = Float()
    grid = quantizer.fit(x, quantizer.canonical(Format.parse(f"{text}:{rule}"), Role.WEIGHT), Role.WEIGHT, 0)
    assert isinstance(grid, MiniFloatGrid)
    best = torch.full((4,), torch.inf)
    for ratio in torch.logspace(-1.5, 0.1, 600):
        best = torch.minimum(best, loss(x.abs().amax(dim=1) * ratio / kind.most))
    assert (loss(grid.scale) <= 1.2 * best).all()  # of 400 numbers: a scan of 600 scales has luck, too


def test_long_values_are_judged_by_a_part() -> None:
    x = torch.randn(1 << 19, generator=torch.Generator().manual_seed(0))
    whole, part = (Float().fit(t, Format("fp", 4), Role.ACTIVATION, 0) for t in (x, x[: 1 << 16]))
    errors = [float((grid.round_trip(x) - x).square().mean()) for grid in (whole, part)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)
    x[0] = 50.0  # one value of half a million must not decide
    assert float((Float().fit(x, Format("fp", 4), Role.ACTIVATION, 0).round_trip(x) - x)[1:].square().mean()) == (
        pytest.approx(errors[0], rel=0.05)
    )


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("fp4:e4m3", Role.WEIGHT, "no e4m3 of 4 bits. Allowed: e2m1"),
        ("fp8:e3m4", Role.WEIGHT, "Allowed: e4m3, e5m2"),
        ("fp8:g32", Role.ACTIVATION, "only parameters"),
        ("fp5", Role.WEIGHT, "Allowed: fp4, fp6, fp8, fp16"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Float().canonical(Format.parse(text), role)


def test_defaults_are_left_out() -> None:
    def canonical(text: str, role: Role) -> str:
        return str(Float().canonical(Format.parse(text), role))

    assert canonical("fp8:e4m3:channel:gain", Role.WEIGHT) == "fp8"
    assert canonical("fp8:max:e5m2", Role.WEIGHT) == "fp8:e5m2:max"
    assert canonical("fp4:tensor:mse", Role.FEATURE) == "fp4"
    assert canonical("fp4:gain", Role.EMBEDDING) == "fp4:gain"
