"""Every registered quantizer sits the shipped exam."""

import pytest

from mpsearch.core.site import Role
from mpsearch.quant.floating import BrainFloat, Float
from mpsearch.quant.integer import Integer
from mpsearch.spec import registry
from mpsearch.testing.quantizers import QuantizerExam

BOTH = [Role.WEIGHT, Role.ACTIVATION]


NARROW = "int1 int1:affine int1:sym int2 int2:affine int2:sym:tensor int3 int3:mse int3:gain int4:affine:channel"
WIDE = "int4:tensor:p99.9 int5:max int6:tensor:entropy int7:channel int8 int8:affine:tensor:max"


@pytest.mark.parametrize("quantizer", [Integer()])
@pytest.mark.parametrize("text", [*NARROW.split(), *WIDE.split()])
@pytest.mark.parametrize("role", BOTH)
class TestInteger(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Integer()])
@pytest.mark.parametrize(
    "text", ["int1:g4", "int2:g16", "int2:g16:mse", "int3:affine:g7", "int4:g32:max", "int4:affine:g1"]
)
@pytest.mark.parametrize("role", [Role.EMBEDDING])
class TestIntegerGroups(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Integer()])
@pytest.mark.parametrize("text", ["int16", "int16:affine:channel:max"])
@pytest.mark.parametrize("role", BOTH)
class TestIntegerSixteen(QuantizerExam):
    pass


@pytest.mark.parametrize(("quantizer", "text"), [(Float(), "fp16"), (BrainFloat(), "bf16")])
@pytest.mark.parametrize("role", BOTH)
class TestFloats(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Float()])
@pytest.mark.parametrize("text", ["fp4", "fp4:channel", "fp6:max", "fp6:e3m2", "fp8:tensor", "fp8:e5m2:gain"])
@pytest.mark.parametrize("role", BOTH)
class TestSmallFloats(QuantizerExam):
    pass


@pytest.mark.parametrize(("quantizer", "text", "role"), [(Float(), "fp4:g32", Role.WEIGHT)])
class TestSmallFloatGroups(QuantizerExam):
    pass


def test_all_that_are_registered_are_examined() -> None:
    examined = {Integer, Float, BrainFloat}
    assert {registry.load("quantizers", name) for name in registry.names("quantizers")} == examined
    assert {q.scheme for q in examined} == set(registry.names("quantizers"))
