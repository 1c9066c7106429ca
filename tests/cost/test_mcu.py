"""Microcontrollers: cycles counted from CMix-NN's loops, and low bits that take longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator_runs import CARDS, at, conv, cycles, device, linear
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.errors import BadInput
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.cost.workload import Access, Kind, Operation

MODERATE = settings(max_examples=60)
PRESETS = ["cortex-m7-stm32f746", "cortex-m7-stm32h743"]
LAYER = conv(14, 64, 64, 3)


@pytest.mark.parametrize("card", PRESETS)
def test_products_per_cycle_are_those_of_the_inner_loop(card: str) -> None:
    made = device(card)
    per_cycle = {name: 1 / taken for name, taken in made.block.cycles_per_mac.items()}
    assert {name: round(many, 2) for name, many in per_cycle.items()} == {
        "int8": 0.89, "int4": 0.67, "int2": 0.67, "fp32": 0.5,
    }  # fmt: skip
    bare = device(card, im2col_cycles_per_element=dict.fromkeys(per_cycle, 0), requant_cycles_per_output=0)
    for bits in (2, 4, 8):
        took = cycles(bare, at(LAYER, bits, 8))
        assert LAYER.macs / took == pytest.approx(per_cycle[f"int{bits}"])


@pytest.mark.parametrize("card", PRESETS)
def test_low_bit_weights_take_longer_and_lie_in_less(card: str) -> None:
    made = device(card)
    took = {bits: made.seconds(at(LAYER, bits, 8)) for bits in (2, 4, 8)}
    assert took[2] == took[4] > took[8]
    assert at(LAYER, 2, 8).moved_bits < at(LAYER, 4, 8).moved_bits < at(LAYER, 8, 8).moved_bits
    assert made.seconds(at(LAYER, 8, 4)) > made.seconds(at(LAYER, 8, 8))
    assert made.seconds(at(LAYER, FLOAT32, FLOAT32)) > took[8]


def test_unpacking_and_requantization_are_counted() -> None:
    made = device("cortex-m7-stm32h743")
    products, unpacked, results = LAYER.macs, 14 * 14 * 64 * 9, 14 * 14 * 64
    assert cycles(made, at(LAYER, 8, 8)) == pytest.approx(products * 1.125 + unpacked * 1.25 + results * 6)
    assert cycles(made, at(LAYER, 4, 2)) == pytest.approx(products * 1.5 + unpacked * 2.5 + results * 6)
    assert cycles(made, at(LAYER, FLOAT32, FLOAT32)) == pytest.approx(products * 2 + unpacked * 2)
    depthwise = conv(14, 64, 64, 3, groups=64)
    assert cycles(made, at(depthwise, 8, 8)) == pytest.approx(unpacked * (1.125 + 1.25) + results * 6)


def test_the_clock_is_what_differs() -> None:
    slow, fast = map(device, PRESETS)
    run = at(linear(256, 64, 4), 8, 8)
    assert slow.seconds(run) / fast.seconds(run) == pytest.approx(480 / 216)
    assert (slow.block.flash_bytes, slow.block.sram_bytes) == (2**20, 320 * 2**10)
    assert (fast.block.flash_bytes, fast.block.sram_bytes) == (2**21, 2**20)


@pytest.mark.parametrize(
    ("weight", "value", "weight_runs", "value_runs"),
    [
        (Width(1), Width(3), Width(2), Width(4)),
        (Width(5), Width(8), Width(8), Width(8)),
        (Width(4), Width(16), FLOAT32, FLOAT32),
        (Width(4), FLOAT32, FLOAT32, FLOAT32),
        (Width(16, "fp"), Width(8), FLOAT32, FLOAT32),
    ],
)
def test_widths_run_in_the_next_container_or_in_float(weight, value, weight_runs, value_runs) -> None:
    made = device("cortex-m7-stm32h743")
    assert made.promote(Kind.CONV, weight, value) == (weight_runs, value_runs)


@MODERATE
@given(st.integers(1, 10**4), st.integers(1, 10**4))
def test_what_multiplies_nothing_takes_an_access_for_each_number(reads: int, writes: int) -> None:
    made = device("cortex-m7-stm32h743")
    pool = Operation("pool", Kind.POOL, (Access(0, reads),), Access(1, writes))
    assert cycles(made, at(pool, 8, 8)) == pytest.approx(reads + writes)
    assert made.seconds(at(pool, 2, 2)) == made.seconds(at(pool, 8, 8))


def test_cards_that_cannot_run_the_float_model_are_refused(tmp_path: Path) -> None:
    text = next(path for path in CARDS if path.stem == PRESETS[0]).read_text()
    path = tmp_path / f"{PRESETS[0]}.yaml"
    path.write_text(text.replace("int2: 1.5, fp32: 2.0", "int2: 1.5"))
    with pytest.raises(BadInput) as caught:
        load_accelerator(path)
    assert any("mcu.cycles_per_mac: has no fp32" in error for error in caught.value.errors)
    assert any("other widths than cycles_per_mac (fp32)" in error for error in caught.value.errors)
