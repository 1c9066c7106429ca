"""Energy: the line through Horowitz' figures, synthesized units, memories, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from accelerator_runs import at, bundled, conv, device, linear

from mpsearch.core.width import Width
from mpsearch.cost.workload import Access, Kind, Operation
from mpsearch.spec.card import Energy, Level

HOROWITZ = {"mac_pj_per_bit2": 3.1e-3, "acc_pj_per_bit": 3.2e-3}
LAYER = conv(14, 64, 64, 3)


def with_energy(name: str, dram_j_per_bit: float = 0.0, **energy: float) -> Any:
    """A bundled accelerator with another block of energy."""
    made = bundled(name)
    outer = Level(level="dram", energy_j_per_bit=dram_j_per_bit)
    return type(made)(made.card.model_copy(update={"energy": Energy(**energy), "memory": (outer,)}))


def mac_pj(w: int, a: int, acc_bits: int) -> float:
    """Energy of one product and its addition."""
    made = with_energy("systolic-32x32-ws", acc_bits=acc_bits, **HOROWITZ)
    return 1e12 * made.joules(at(LAYER, w, a)) / LAYER.macs


@pytest.mark.parametrize(("bits", "acc_bits", "nw"), [(8, 32, 148_845), (4, 20, 60_101.7), (2, 16, 28_742)])
def test_products_are_within_12_percent_of_synthesized_units(bits: int, acc_bits: int, nw: float) -> None:
    """Dynamic power of one unit at 500 MHz, 45 nm: hsharma35/bitfusion, results/systolic_array_synth.csv."""
    assert mac_pj(bits, bits, acc_bits) == pytest.approx(nw * 1e-9 / 500e6 * 1e12, rel=0.12)


@pytest.mark.parametrize(("bits", "multiplication_pj", "addition_pj"), [(8, 0.2, 0.1), (32, 3.1, 0.1)])
def test_products_are_those_of_horowitz(bits: int, multiplication_pj: float, addition_pj: float) -> None:
    """Integers, the sum in 32 bits: ISSCC 2014."""
    assert mac_pj(bits, bits, 32) == pytest.approx(multiplication_pj + addition_pj, rel=0.03)


def test_the_bundled_array_has_these_constants() -> None:
    energy = bundled("systolic-32x32-ws").card.energy
    assert {name: getattr(energy, name) for name in HOROWITZ} == HOROWITZ


def test_energy_is_products_bits_and_waiting() -> None:
    made = with_energy("systolic-32x32-ws", dram_j_per_bit=2e-11, acc_bits=32, static_w=0.5, **HOROWITZ)
    run = at(LAYER, 4, 4)
    expected = LAYER.macs * (3.1e-3 * 16 + 3.2e-3 * 32) * 1e-12 + run.moved_bits * 2e-11 + 0.5 * made.seconds(run)
    assert made.joules(run) == pytest.approx(expected)
    assert made.joules(at(LAYER, 3, 4)) < made.joules(run)  # fewer bits are moved, the products are the same


def test_a_unit_that_fuses_pays_for_its_bricks() -> None:
    """4 x 4 units of 8/2 bits take 3,673,500 nW: one product of 8 x 8, or 4 of 4 x 4, per unit and cycle."""
    per_cycle_pj = 3_673_500e-9 / 16 / 500e6 * 1e12
    energy = bundled("bitfusion-eyeriss45").card.energy
    assert 64 * energy.mac_pj_per_bit2 == pytest.approx(per_cycle_pj, rel=1e-3)
    assert per_cycle_pj > 1.5 * mac_pj(8, 8, 32)


def test_the_memories_of_the_array_are_paid_for() -> None:
    made = bundled("bitfusion-eyeriss45")
    run = at(LAYER, 8, 4)
    block, energy = made.block, made.card.energy
    sram = block.sram
    expected = (
        LAYER.macs * energy.mac_pj_per_bit2 * 32 * 1e-12
        + LAYER.macs * (8 * sram.weight.energy_j_per_bit + 4 * sram.value.energy_j_per_bit)
        + 2 * 14 * 14 * 64 * 32 * sram.output.energy_j_per_bit
        + made.moved_bits(run) * 15e-12
        + made.seconds(run) * 0.243
    )
    assert made.joules(run) == pytest.approx(expected)


def test_narrow_operands_save_energy_where_the_card_knows_it() -> None:
    for name in ("bitfusion-eyeriss45", "systolic-32x32-ws"):
        took = [bundled(name).joules(at(linear(1024, 512, 8), bits, bits)) for bits in (2, 4, 8, 16, 32)]
        assert took == sorted(took)


def test_what_multiplies_nothing_moves_bits() -> None:
    copy = Operation("copy", Kind.COPY, (Access(0, 1000),), Access(1, 1000))
    made = bundled("systolic-32x32-ws")
    assert made.joules(at(copy, Width(8), Width(8))) == pytest.approx(2 * 8000 * 2e-11)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("bismo-pynq-z1", "no energy block"),
        ("cortex-m7-stm32h743", "no energy block"),
        ("esb-zcu102", "no energy block"),
        ("bitfusion-stripes45", "bitfusion.sram"),
    ],
)
def test_a_card_without_figures_refuses(name: str, missing: str) -> None:
    assert missing in bundled(name).refuses("energy_j")
    assert bundled(name).refuses("latency_s") is None


def test_an_array_without_outer_energy_refuses() -> None:
    made = device("systolic-32x32-ws")
    silent = type(made)(made.card.model_copy(update={"memory": (Level(level="dram"),)}))
    assert "energy_j_per_bit" in silent.refuses("energy_j")
