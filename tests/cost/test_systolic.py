"""Systolic arrays against the cycles that SCALE-Sim v2 gives (run at commit 22f88b17, stall-free)."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator_runs import at, conv, cycles, device, linear
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.errors import BadInput
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.cost.accelerators.systolic import mapping_efficiency
from mpsearch.cost.workload import Gemm, Kind

LAYERS = {"a": (36, 36, 20), "b": (196, 40, 24), "c": (1, 70, 33), "d": (36, 27, 16)}
"""(positions, length of the sum, output channels)."""
COUNTED = {
    (8, 8): {"os": (749, 4049, 419, 409), "ws": (869, 3269, 1034, 463), "is": (1049, 5749, 494, 759)},
    (16, 8): {"os": (521, 2417, 459, 293), "ws": (665, 2105, 974, 295), "is": (869, 4649, 354, 539)},
    (8, 16): {"os": (579, 3099, 275, 244), "ws": (659, 2259, 836, 263), "is": (749, 3509, 566, 551)},
}
MODERATE = settings(max_examples=50)
SMALL = st.integers(1, 40)


def array(**block):
    return device("systolic-32x32-ws", interface_bits_per_cycle=1e12, **block)


def product(m: int, k: int, n: int):
    return linear(k, n, samples=m)


@pytest.mark.parametrize("shape", COUNTED)
@pytest.mark.parametrize("dataflow", ["os", "ws", "is"])
def test_cycles_are_those_of_the_simulator(shape: tuple[int, int], dataflow: str) -> None:
    made = array(rows=shape[0], columns=shape[1], dataflow=dataflow)
    found = [made.compute_cycles(at(product(*size), 8, 8)) for size in LAYERS.values()]
    assert tuple(found) == COUNTED[shape][dataflow]


def test_the_reference_run_of_the_simulator() -> None:
    made = array()
    run = at(product(3025, 363, 96), 8, 8)
    assert made.compute_cycles(run) == 112283 == 36 * 3119 - 1
    assert cycles(made, run) == pytest.approx(112283)
    assert mapping_efficiency(made.block, Gemm(3025, 96, 363)) == 0.9453125


@MODERATE
@given(SMALL, SMALL, SMALL, st.sampled_from(["os", "ws", "is"]))
def test_short_operands_shorten_the_sum_and_long_ones_lengthen_it(m: int, k: int, n: int, dataflow: str) -> None:
    made = array(dataflow=dataflow)

    def took(k: int, weight, value) -> int:
        return made.compute_cycles(at(product(m, k, n), weight, value))

    assert took(k, 4, 4) == took(-(-k // 2), 8, 8)
    assert took(k, 2, 2) == took(k, 1, 2) == took(-(-k // 4), 8, 8)
    assert took(k, 4, 8) == took(k, 8, 8) == took(k, 3, 6)
    assert took(k, 16, 16) == took(k, 9, 3) == took(4 * k, 8, 8)
    assert took(k, FLOAT32, FLOAT32) == took(16 * k, 8, 8)


def test_groups_run_one_after_the_other() -> None:
    one = array().compute_cycles(at(conv(10, 4, 8, 3), 8, 8))
    assert array().compute_cycles(at(conv(10, 4 * 6, 8 * 6, 3, groups=6), 8, 8)) == 6 * one


def test_the_interface_bounds_time_in_bits() -> None:
    layer = linear(4096, 1024)
    slow, fast = device("systolic-32x32-ws", interface_bits_per_cycle=1.0), array()
    run = at(layer, 8, 8)
    assert cycles(slow, run) == pytest.approx(run.moved_bits)
    assert cycles(fast, run) == pytest.approx(fast.compute_cycles(run))
    assert cycles(slow, at(layer, 2, 2)) == pytest.approx(run.moved_bits / 4)


def test_words_are_those_of_the_wider_operand() -> None:
    made = array()
    assert made.promote(Kind.CONV, Width(3), Width(2)) == (Width(4), Width(4))
    assert made.promote(Kind.CONV, Width(8), Width(17)) == (Width(24), Width(24))
    assert made.promote(Kind.LINEAR, FLOAT32, Width(8)) == (Width(32), Width(32))


CARD = """
schema: mpsearch.accelerator/1
name: mine
kind: systolic
status: analytic
src: {systolic: a made-up array}
systolic: {rows: 8, columns: 8, dataflow: xs, freq_hz: 1e9, interface_bits_per_cycle: 64, pack: {eight: 1}}
"""


def test_a_card_with_another_dataflow_or_word_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(CARD)
    with pytest.raises(BadInput) as caught:
        load_accelerator(path)
    dataflow, pack = caught.value.errors
    assert "systolic.dataflow" in dataflow
    assert "os" in dataflow
    assert "systolic.pack" in pack
