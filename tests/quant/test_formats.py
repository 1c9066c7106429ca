"""The text of integer formats: defaults by role, order, and what does not exist."""

import pytest
import torch

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.floating import BrainFloat, Float
from mpsearch.quant.grid import Quantizer
from mpsearch.quant.integer import Integer

WEIGHT, VALUE = Role.WEIGHT, Role.ACTIVATION


def canonical(text: str, role: Role, quantizer: Quantizer | None = None) -> str:
    return str((quantizer or Integer()).canonical(Format.parse(text), role))


@pytest.mark.parametrize(
    ("text", "role", "expected"),
    [
        ("int4:sym:channel:gain", WEIGHT, "int4"),
        ("int4:sym:channel:mse", Role.EMBEDDING, "int4"),
        ("int4:gain", Role.EMBEDDING, "int4:gain"),
        ("int4:sym:channel:mse", WEIGHT, "int4:mse"),
        ("int1:mse", WEIGHT, "int1"),
        ("int1:affine:mse", WEIGHT, "int1:affine"),
        ("int16:mse", WEIGHT, "int16"),
        ("int8:gain", VALUE, "int8:gain"),
        ("int8:affine:tensor:mse", VALUE, "int8"),
        ("int8:affine:tensor:mse", Role.FEATURE, "int8"),
        ("int8:affine:tensor:gain", WEIGHT, "int8:affine:tensor"),
        ("int4:sym:channel:mse", VALUE, "int4:sym:channel"),
        ("int4:max:g32:affine", WEIGHT, "int4:affine:g32:max"),
        ("int8:p99.990", VALUE, "int8:p99.99"),
        ("int16", VALUE, "int16"),
        ("int4:stochastic:max", VALUE, "int4:max:stochastic"),
        ("int4:nearest", WEIGHT, "int4"),
        ("int8:tensor:entropy", WEIGHT, "int8:tensor:entropy"),
    ],
)
def test_defaults_are_left_out(text: str, role: Role, expected: str) -> None:
    assert canonical(text, role) == expected
    assert canonical(expected, role) == expected


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("int9", WEIGHT, "no 9 bits.*Allowed: 1, 2"),
        ("int2.5", WEIGHT, "no 2.5 bits"),
        ("int4:chanel", WEIGHT, "unknown option 'chanel'. Did you mean 'channel'"),
        ("int4:g0", WEIGHT, "unknown option 'g0'"),
        ("int4:affine:sym", WEIGHT, "'sym' is a second map"),
        ("int4:max:p99", WEIGHT, "'p99' is a second range"),
        ("int4:g32", VALUE, "only parameters"),
        ("int4:p20", VALUE, "percentile"),
        ("int4:p101", VALUE, "percentile"),
        ("int1:max", WEIGHT, "mean magnitude"),
        ("int1:gain", WEIGHT, "mean magnitude"),
        ("int1:affine:gain", WEIGHT, "gain needs 2 to 8 bits, not 1"),
        ("int16:gain", WEIGHT, "gain needs 2 to 8 bits, not 16"),
        ("int4:gian", WEIGHT, "unknown option 'gian'. Did you mean 'gain'"),
        ("int8:entropy", WEIGHT, "one scale per tensor.*int8:tensor:entropy"),
        ("int16:entropy", VALUE, "2 to 8 bits"),
        ("int16:stochastic", VALUE, "stochastic rounding needs 2 to 8 bits"),
        ("int1:stochastic", WEIGHT, "stochastic rounding needs 2 to 8 bits"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, role: Role, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        canonical(text, role)


@pytest.mark.parametrize(("quantizer", "text"), [(Float(), "fp7"), (Float(), "fp16:sym"), (BrainFloat(), "bf8")])
def test_wide_floats_have_no_options(quantizer: Quantizer, text: str) -> None:
    with pytest.raises(BadInput, match=r"Allowed: .*(fp|bf)16"):
        canonical(text, WEIGHT, quantizer)


def test_half_floats_stay_finite() -> None:
    x = torch.tensor([1e6, -1e6, 1.0 + 2**-12])
    grid = Float().fit(x, Format("fp", 16), WEIGHT, 0)
    assert grid.round_trip(x).tolist() == [65504.0, -65504.0, 1.0]
    wide = torch.tensor([3e38], dtype=torch.float64)
    assert BrainFloat().fit(wide, Format("bf", 16), WEIGHT, 0).round_trip(wide * 10).isfinite().all()
