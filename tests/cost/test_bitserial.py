"""Bit-serial arrays: published peaks of BISMO, and time in proportion to the serial bits."""

from __future__ import annotations

import pytest
from accelerator_runs import at, conv, cycles, device, linear
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.workload import Access, Kind, Operation

MODERATE = settings(max_examples=50)
BITS = st.integers(1, 16)
SIZES = st.integers(1, 500)


@pytest.mark.parametrize(
    ("card", "binary_tops", "mac_per_s_w8a8"), [("bismo-pynq-z1", 6.5, 0.051e12), ("bismo-ultra96", 15.4, 0.120e12)]
)
def test_the_peaks_are_the_published_ones(card: str, binary_tops: float, mac_per_s_w8a8: float) -> None:
    made = device(card, interface_bits_per_cycle=1e9)
    block = made.block
    full = linear(block.depth * 64, block.columns * 8, samples=block.rows * 8)
    assert 2 * full.macs / made.seconds(at(full, 1, 1)) == pytest.approx(binary_tops * 1e12, rel=0.01)
    assert full.macs / made.seconds(at(full, 8, 8)) == pytest.approx(mac_per_s_w8a8, rel=0.01)


@MODERATE
@given(BITS, BITS, SIZES, SIZES, SIZES)
def test_both_serial_takes_the_product_of_bits(w: int, a: int, m: int, n: int, k: int) -> None:
    made = device("bismo-pynq-z1")
    layer = linear(k, n, samples=m)
    tiles = -(-m // 8) * -(-n // 8) * -(-k // 256)
    assert made.compute_cycles(at(layer, w, a)) == w * a * tiles
    assert made.compute_cycles(at(layer, w, a)) == w * made.compute_cycles(at(layer, 1, a))


@MODERATE
@given(BITS, BITS)
def test_one_serial_operand_takes_its_own_bits(w: int, a: int) -> None:
    layer = linear(300, 20, samples=10)
    by_value, by_weight = (device("bismo-pynq-z1", serial=serial, word_bits=16) for serial in ("value", "weight"))
    whole = by_value.compute_cycles(at(layer, 16, 1))
    assert by_value.compute_cycles(at(layer, w, a)) == a * whole
    assert by_weight.compute_cycles(at(layer, w, a)) == w * whole
    assert by_value.promote(Kind.LINEAR, Width(w), Width(a)) == (Width(16), Width(a))
    assert by_weight.promote(Kind.LINEAR, Width(w), Width(a)) == (Width(w), Width(16))


def test_wide_operands_take_several_words() -> None:
    layer = linear(300, 20, samples=10)
    made = device("bismo-pynq-z1", serial="value", word_bits=16)
    assert made.compute_cycles(at(layer, FLOAT32, 8)) == 2 * made.compute_cycles(at(layer, 16, 8))
    assert device("bismo-pynq-z1").compute_cycles(at(layer, FLOAT32, FLOAT32)) == 1024 * 2 * 3 * 2


def test_groups_and_filling() -> None:
    one = device("bismo-pynq-z1").compute_cycles(at(conv(8, 4, 8, 3), 4, 4))
    filled = device("bismo-pynq-z1", fill_cycles=100)
    assert filled.compute_cycles(at(conv(8, 4 * 5, 8 * 5, 3, groups=5), 4, 4)) == 5 * (one + 100)


def test_what_multiplies_nothing_is_bound_by_the_interface() -> None:
    made = device("bismo-ultra96")
    copy = Operation("copy", Kind.COPY, (Access(0, 640),), Access(1, 640))
    assert made.compute_cycles(at(copy, 8, 8)) == 0
    assert cycles(made, at(copy, 8, 8)) == pytest.approx(2 * 640 * 8 / 64)


def test_products_outside_of_matrix_products_use_one_of_each_sum() -> None:
    scale = Operation("scale", Kind.SCALE, (Access(0, 100), Access(1, 100)), Access(2, 100), 100, weight=0, value=1)
    assert device("bismo-pynq-z1").compute_cycles(at(scale, 2, 3)) == 2 * 3 * 13
