"""FPGAs: the one published point, look-up tables by significant bits, and DSP blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator_runs import at, device, linear
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.errors import BadInput
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.cost.workload import Kind

MODERATE = settings(max_examples=60, deadline=None)
BITS = st.integers(1, 16)


def test_the_peak_is_the_published_one() -> None:
    made = device("esb-zcu102")
    rate = made.mac_per_s(Width(1), Width(1))
    assert 2 * rate / (made.block.luts / 1000) == pytest.approx(10.95e9)


def test_time_is_products_over_rate_or_bits_over_bandwidth() -> None:
    made = device("esb-zcu102")
    dense, thin = linear(512, 512, samples=5000), linear(4096, 4096)
    assert made.seconds(at(dense, 8, 8)) == pytest.approx(dense.macs / made.mac_per_s(Width(8), Width(8)))
    assert made.seconds(at(thin, 8, 8)) == pytest.approx(at(thin, 8, 8).moved_bits / 8 / 17.064e9)


@MODERATE
@given(BITS, BITS, st.integers(1, 3))
def test_wider_multipliers_take_more_tables(w: int, a: int, more: int) -> None:
    made = device("esb-zcu102")
    assert made.luts(Width(w), Width(a)) == made.luts(Width(a), Width(w))
    assert made.luts(Width(w + more), Width(a)) > made.luts(Width(w), Width(a))
    assert made.mac_per_s(Width(w + more), Width(a)) < made.mac_per_s(Width(w), Width(a))


@MODERATE
@given(st.integers(2, 8), st.integers(0, 2), st.integers(1, 3))
def test_fewer_significant_bits_take_fewer_tables(significant: int, exponent: int, fewer: int) -> None:
    made = device("esb-zcu102")
    less = max(1, significant - fewer)
    many = Width(significant + exponent, significant=significant)
    few = Width(less + exponent, significant=less)
    assert (made.luts(few, few) < made.luts(many, many)) == (less < significant)


def test_a_value_with_an_exponent_multiplies_its_significant_bits_only() -> None:
    made = device("esb-zcu102", lut_per_adder_bit=0.0, lut_per_shifted_bit=0.0)
    assert made.luts(Width(8, significant=6), Width(8, significant=3)) == 18
    shifting = device("esb-zcu102", lut_per_adder_bit=0.0, lut_per_shifted_bit=1.0)
    # 2 exponent bits each: shifts by up to 2, so that the product of 4 bits moves by up to 4 (3 stages) in 8 bits
    both = Width(4, significant=2)
    assert shifting.luts(both, both) == 4 + 8 * 3
    assert shifting.luts(Width(4), Width(4)) == 16


def test_floats_run_as_fixed_point() -> None:
    made = device("esb-zcu102")
    assert made.promote(Kind.LINEAR, FLOAT32, Width(4, significant=2)) == (Width(32), Width(4, significant=2))


@pytest.mark.parametrize(
    ("w", "a", "products"), [(4, 4, 4), (3, 4, 4), (8, 8, 2), (4, 8, 2), (9, 9, 1), (18, 18, 1), (32, 32, 0.25)]
)
def test_blocks_multiply_beside_the_tables(w: int, a: int, products: float) -> None:
    plain, both = device("esb-zcu102"), device("esb-zcu102", dsp={"count": 1000, "freq_hz": 3e8})
    gained = both.mac_per_s(Width(w), Width(a)) - plain.mac_per_s(Width(w), Width(a))
    assert gained == pytest.approx(3e11 * products)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("gops_per_klut: 10.95", "'gops_per_klut': peaks are dense MAC/s = dense TOPS / 2"),
        ("gops_per_klut: 10.95", "; write peak_mac_per_s_per_klut, never a sparse figure."),
        ("dsp: null", "fpga.peak_mac_per_s_per_klut: is required and missing: published peak of 1000 look-up tables"),
    ],
)
def test_a_card_without_the_peak_is_told_what_it_is(tmp_path: Path, written: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    head = "schema: mpsearch.accelerator/1\nname: mine\nkind: fpga\nstatus: analytic\nsrc: {fpga: a paper}\n"
    path.write_text(f"{head}fpga: {{luts: 1000, {written}}}\n")
    with pytest.raises(BadInput) as caught:
        load_accelerator(path)
    assert any(told in error for error in caught.value.errors), caught.value.errors
