"""Long samples: an even part of them says the same, and the formats of one sample share it."""

import gc
from math import gcd

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.calibrate import stride, thinned
from mpsearch.quant.integer import Integer
from mpsearch.quant.latest import Latest

VALUE = Role.ACTIVATION
LONG = 1 << 20


@given(n=st.integers(1, 10**9), most=st.integers(1, 10**6))
def test_a_stride_meets_every_channel_and_leaves_few(n: int, most: int) -> None:
    step = stride(n, most)
    assert gcd(step, n) == 1
    assert -(-n // step) <= most
    assert all(gcd(k, n) > 1 for k in range(-(-n // most), step))


def test_short_rows_are_left_and_long_ones_keep_their_ends() -> None:
    short = torch.randn(2, LONG)
    assert thinned(short) is short
    long = torch.zeros(2, 3 * LONG)
    long[:, 3], long[:, 4] = 7.0, -5.0
    assert thinned(long).shape[1] <= LONG + 2
    assert torch.equal(torch.stack(thinned(long).aminmax(dim=1)), torch.tensor([[-5.0, -5.0], [7.0, 7.0]]))


def test_every_channel_counts_whatever_their_number() -> None:
    """An odd stride of 3 would see one channel of three."""
    x = torch.tensor([0.0, 1.0, 2.0]).repeat(LONG)[None]
    shares = torch.bincount(thinned(x)[0].long()) / thinned(x).shape[1]
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)


@pytest.mark.parametrize("text", ["int2", "int4", "int8", "int8:p99.9", "int4:entropy", "int1"])
def test_a_part_says_what_all_would(text: str) -> None:
    """Thinned, a long sample loses as little as when all of it is searched."""
    fmt = Format.parse(text)
    x = torch.nn.functional.gelu(2 * torch.randn(3 * LONG, generator=torch.Generator().manual_seed(0)))
    part, whole = Integer().fit(x, fmt, VALUE, 0), Integer().fit(x[: LONG // 2], fmt, VALUE, 0)
    errors = [float((grid.round_trip(x) - x).double().square().mean()) for grid in (part, whole)]
    assert errors[0] <= 1.02 * errors[1]


def test_the_order_of_formats_changes_nothing() -> None:
    x = torch.randn(4, 40_000, generator=torch.Generator().manual_seed(1)).relu()
    formats = [Format.parse(text) for text in ("int4", "int8:channel", "int1", "int2:max", "int8")]
    shared = Integer()
    for fmt in [*formats, *reversed(formats)]:
        alone = Integer().fit(x, fmt, VALUE, 0)
        assert torch.equal(shared.fit(x, fmt, VALUE, 0).round_trip(x), alone.round_trip(x))


def test_a_sample_that_was_written_to_is_read_again() -> None:
    quantizer, fmt, x = Integer(), Format("int", 4), torch.rand(100)
    quantizer.fit(x, fmt, VALUE, 0)
    x *= 10
    assert quantizer.fit(x, fmt, VALUE, 0).round_trip(x).max() > 9
    x[3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quantizer.fit(x, fmt, VALUE, 0)


def test_the_latest_is_kept_until_something_changes() -> None:
    latest: Latest[object] = Latest()
    x, y = torch.zeros(2), torch.zeros(2)
    first = latest.get(x, "a", object)
    assert latest.get(x, "a", object) is first
    assert latest.get(x, "b", object) is not first
    second = latest.get(x, "a", object)
    assert second is not first
    assert latest.get(y, "a", object) is not second
    with torch.inference_mode():
        z = torch.zeros(2)
    assert latest.get(z, "a", object) is not latest.get(z, "a", object)


def test_the_latest_goes_with_its_tensor() -> None:
    latest: Latest[torch.Tensor] = Latest()
    x = torch.zeros(2)
    latest.get(x, None, lambda: torch.ones(3))
    assert latest._made is not None
    del x
    gc.collect()
    assert latest._made is None
