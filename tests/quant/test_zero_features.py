"""Features that are all zero, or zero in some rows: no range, no scale, and still zeros and no NaN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.spec import registry
from mpsearch.testing.quantizers import fit

INTEGERS = "int1 int2 int4:max int8 int16 int1:rows int2:rows int4:rows int8:rows int4:p99.9 int4:entropy"
BY_ROWS = "rowscale1 rowrange1 rowrange4 rowrange16 sparse1 sparse4:max sparse16 sparse32 sparse1:row mx4 mx6 mx8 nvfp4"
OTHERS = "int4:stochastic fp16 bf16 fp8 fp8:e5m2 fp6 fp4 esb2 esb4 esb4:align pow2 pow4 planes1 planes4"
FORMATS = (*INTEGERS.split(), *BY_ROWS.split(), *OTHERS.split())


def grid(text: str, x: Tensor) -> Tensor:
    return fit(registry.load("quantizers", Format.parse(text).scheme)(), text, Role.FEATURE, x, axis=1).round_trip(x)


@pytest.mark.parametrize("text", FORMATS)
def test_zeros_stay_zeros(text: str) -> None:
    for shape in ((6, 40), (1, 40), (6, 1)):
        x = torch.zeros(shape)
        assert torch.equal(grid(text, x), x)
    some = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).relu()
    some[2:4] = 0
    met = grid(text, some)
    assert torch.isfinite(met).all()
    if text in BY_ROWS.split():
        assert not met[2:4].any(), "a row of zeros has a range of its own"


def test_every_scheme_for_values_is_among_them() -> None:
    tried = {Format.parse(text).scheme for text in FORMATS}
    for scheme in set(registry.names("quantizers")) - tried:
        for bits in (1, 2, 4):
            with pytest.raises(BadInput):
                registry.load("quantizers", scheme)().canonical(Format(scheme, bits), Role.FEATURE)
