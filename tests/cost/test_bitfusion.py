"""BitFusion against the published sweep of its simulator (hsharma35/bitfusion @ 04ec1c87,
results/bitfusion-eyeriss-sim-sweep.csv: 16 rows, batch of 16)."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest
from accelerator_runs import at, conv, cycles, device, linear
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.tiling import Matmul, Room, best_tiling
from mpsearch.cost.workload import Access, Kind, Operation

MODERATE = settings(max_examples=40)
BATCH = 16
RNN, LSTM = linear(4096, 4096, BATCH), linear(3600, 3600, BATCH)
CONV = conv(56, 128, 128, 3, samples=BATCH)
FIRST = conv(112, 3, 128, 7, stride=2, samples=BATCH, first=True)


@pytest.mark.parametrize(
    ("operation", "columns", "bits", "waited", "total"),
    [
        (RNN, 32, 4, 7, 131_079),
        (RNN, 64, 4, 76, 65_612),
        (RNN, 128, 4, 104, 32_872),
        (RNN, 256, 4, 1_088, 17_472),
        (LSTM, 32, 4, 7, 103_063),
        (CONV, 32, 4, 1_036, 3_613_708),
        (FIRST, 32, 8, 1_765_377, 9_793_537),
    ],
)
def test_compute_cycles_are_those_of_the_simulator(operation, columns: int, bits: int, waited: int, total: int) -> None:
    made = device("bitfusion-eyeriss45", columns=columns)
    assert made.compute_cycles(at(operation, bits, bits)) == total - waited


def test_compute_cycles_in_factors() -> None:
    made = device("bitfusion-eyeriss45")
    assert made.compute_cycles(at(CONV, 4, 4)) == 16 * 3136 * 9 * 4 * 2 == 3_612_672
    assert made.compute_cycles(at(FIRST, 8, 8)) == 16 * 12544 * 4 * 10 == 8_028_160
    assert made.compute_cycles(at(LSTM, 4, 4)) == 16 * 113 * 57 == 103_056


@pytest.mark.parametrize(
    ("w", "a", "products"),
    [(8, 8, 1), (8, 4, 2), (4, 4, 4), (2, 2, 16), (3, 3, 4), (1, 1, 16), (5, 8, 1), (16, 16, Fraction(1, 4)),
     (16, 8, Fraction(1, 2)), (32, 32, Fraction(1, 16))],
)  # fmt: skip
def test_products_of_a_unit(w: int, a: int, products: Fraction) -> None:
    made = device("bitfusion-eyeriss45")
    assert made.per_unit(Width(w), Width(a)) == made.per_unit(Width(a), Width(w)) == products


def test_floats_run_as_fixed_point_of_as_many_bits() -> None:
    made = device("bitfusion-eyeriss45")
    assert made.promote(Kind.LINEAR, FLOAT32, Width(3)) == (Width(32), Width(4))
    assert made.compute_cycles(at(RNN, FLOAT32, FLOAT32)) == 16 * made.compute_cycles(at(RNN, 8, 8))


def test_depthwise_leaves_most_of_the_array_idle() -> None:
    made = device("bitfusion-eyeriss45")
    layer = conv(14, 64, 64, 3, groups=64)
    assert {made.compute_cycles(at(layer, bits, bits)) for bits in (2, 4, 8)} == {14 * 14 * 9 * 64}


def with_sums_loaded(operation: Operation) -> Operation:
    """The simulator loads every partial sum before its first product, 32 bits each; here only the spilled are."""
    assert operation.write is not None
    return replace(operation, reads=(*operation.reads, Access(3, operation.write.elements)))


@pytest.mark.parametrize(
    ("operation", "w", "a", "total", "within"),
    [
        (RNN, 4, 4, 394_583, 1e-5),
        (linear(8192, 8192, BATCH), 4, 4, 1_575_596, 1e-5),
        (conv(32, 3, 64, 3, samples=BATCH, first=True), 1, 8, 367_979, 1e-5),
        (conv(32, 3, 128, 3, samples=BATCH, first=True), 8, 8, 717_654, 1e-5),
        (FIRST, 8, 8, 9_793_537, 1e-5),
        (linear(4096, 1024, BATCH), 1, 1, 27_649, 1e-4),
        (linear(8192, 1024, BATCH), 2, 2, 99_671, 1e-4),
        (CONV, 4, 4, 3_613_708, 1e-3),
        (LSTM, 4, 4, 337_175, 0.06),
        (conv(16, 64, 128, 3, samples=BATCH), 1, 1, 177_409, 0.01),
        (conv(32, 128, 128, 3, samples=BATCH), 2, 2, 799_062, 0.07),  # tiles share their borders here
        (conv(16, 256, 256, 3, samples=BATCH), 2, 2, 492_204, 0.11),
    ],
)
def test_totals_are_those_of_the_simulator(operation, w: int, a: int, total: int, within: float) -> None:
    made = device("bitfusion-eyeriss45")
    run = at(with_sums_loaded(operation), w, a, result_bits=32)
    loaded = (*run.read_bits[:2], run.operation.reads[2].elements * 32)
    assert cycles(made, replace(run, read_bits=loaded)) == pytest.approx(total, rel=within)


def test_the_bandwidth_bound_layer_is_within_a_tenth_as_it_is() -> None:
    made = device("bitfusion-eyeriss45")
    assert made.compute_cycles(at(RNN, 4, 4)) == 131_072
    assert cycles(made, at(RNN, 4, 4)) == pytest.approx(394_583, rel=0.1)
    assert cycles(made, at(RNN, 4, 4)) > 4096 * 4096 * 4 / 192


@MODERATE
@given(st.integers(1, 64), st.integers(1, 300), st.integers(1, 300), st.sampled_from([(8, 8), (4, 8), (4, 4), (2, 2)]))
def test_time_is_no_less_than_products_or_bits(m: int, n: int, k: int, bits: tuple[int, int]) -> None:
    made = device("bitfusion-eyeriss45")
    run = at(linear(k, n, samples=m), *bits)
    assert cycles(made, run) >= max(made.compute_cycles(run), run.moved_bits / 192) - 1e-6
    assert made.moved_bits(run) >= run.moved_bits


def test_only_the_first_group_waits_for_its_tiles() -> None:
    made = device("bitfusion-eyeriss45")
    one, six = (at(conv(28, 64 * groups, 64 * groups, 3, groups=groups), 8, 8) for groups in (1, 6))
    waited = [cycles(made, run) - made.compute_cycles(run) for run in (one, six)]
    assert waited[0] > 10
    assert waited[1] == pytest.approx(waited[0], abs=1)


def test_a_product_of_a_tensor_with_itself_reads_it_once() -> None:
    made = device("bitfusion-eyeriss45")
    gram = replace(linear(64, 64, 64), kind=Kind.MATMUL, reads=(Access(0, 64 * 64),), weight=0, value=0)
    run = at(gram, 8, 8)
    assert made.moved_bits(run) == run.moved_bits == 2 * 64 * 64 * 8


@MODERATE
@given(st.integers(1, 40), st.integers(1, 200), st.integers(1, 30), st.integers(10, 16))
def test_fewer_bits_are_no_slower_where_sums_fill_the_rows(m: int, n: int, times: int, log_sram: int) -> None:
    sizes = {name: {"bytes": 2**log_sram} for name in ("weight", "value", "output")}
    made = device("bitfusion-eyeriss45", sram=sizes)
    layer = linear(256 * times, n, samples=m)  # 256 products are what the rows take at 2 bits
    took = [made.seconds(at(layer, bits, bits, result_bits=8)) for bits in (2, 4, 8, 16, 32)]
    assert all(narrow <= 1.01 * wide for narrow, wide in pairwise(took))


def brute_force(matmul: Matmul, room: Room, compute: float, per_cycle: float) -> float:
    """The least time over all tiles of halves and all orders, by walking through the loops."""
    best = np.inf
    extents = (matmul.m, matmul.n, matmul.steps)
    halves = [sorted({-(-extent // 2**i) for i in range(12)}) for extent in extents]
    for tile in ((a, b, c) for a in halves[0] for b in halves[1] for c in halves[2]):
        counts = [-(-extent // size) for extent, size in zip(extents, tile, strict=True)]
        lanes = -(-tile[2] * matmul.window // matmul.lanes) * matmul.lanes
        size = {
            "weight": lanes * tile[1] * matmul.weight_bits,
            "value": matmul.value_bits / counts[0] / counts[2],
            "sum": tile[0] * -(-tile[1] // matmul.columns) * matmul.columns * matmul.sum_bits,
        }
        if any(bits > getattr(room, name) for name, bits in size.items()):
            continue
        plain = matmul.m * matmul.n * matmul.sum_bits
        for order in permutations(range(3)):
            loads = {name: _walked(name, size[name], getattr(room, name), order, counts) for name in size}
            turns = loads["sum"] / (counts[0] * counts[1])
            moved = loads["weight"] * size["weight"] + loads["value"] * size["value"] + (2 * turns - 1) * plain
            ends = size["weight"] + size["value"] + plain / counts[0] / counts[1]
            best = min(best, max(compute, (moved - ends) / per_cycle) + ends / per_cycle)
    return best


def _walked(name: str, bits: float, room: float, order: tuple[int, ...], counts: list[int]) -> int:
    """How many tiles of one operand are loaded when its memory keeps the inner loops that fit."""
    depends = {"weight": (1, 2), "value": (0, 2), "sum": (0, 1)}[name]
    kept: list[int] = []  # loops, from the innermost, whose tiles stay together
    held = bits
    for axis in reversed(order):
        grown = held * counts[axis] if axis in depends else held
        if grown > room:
            break
        held, kept = grown, [*kept, axis]
    loads = 0
    seen = None
    for index in np.ndindex(*(counts[axis] for axis in order)):
        at_axis = dict(zip(order, index, strict=True))
        outer = tuple(at_axis[axis] for axis in order if axis not in kept)
        if outer != seen:
            loads += int(np.prod([counts[axis] for axis in kept if axis in depends]))
            seen = outer
    return loads


@settings(max_examples=15)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(100, 4000), st.integers(30, 600), st.integers(200, 2000)),
    st.integers(0, 300),
)
def test_the_tiles_are_the_best_by_enumeration(
    extents: tuple[int, int, int], rooms: tuple[int, int, int], compute: int
) -> None:
    m, n, steps = extents
    matmul = Matmul(m, n, steps, lanes=4, window=1, columns=2, weight_bits=4, value_bits=m * steps * 4.0, sum_bits=32)
    room = Room(*rooms)
    expected = brute_force(matmul, room, compute, 16.0)
    assume(expected < np.inf)
    found = best_tiling(matmul, room, compute, 16.0)
    weights, values, plain = n * steps * 4, matmul.value_bits, m * n * 32
    moved = found.weights * weights + found.values * values + found.spilled_bits + plain
    ends = found.first_weights * weights + found.first_values * values + found.last_results * plain
    time = max(compute, (moved - ends) / 16) + ends / 16
    assert expected * (1 - 1e-9) <= time <= expected * 1.01 * (1 + 1e-9)


def test_what_fits_no_memory_is_one_tile() -> None:
    made = device("bitfusion-eyeriss45", sram={name: {"bytes": 1} for name in ("weight", "value", "output")})
    run = at(RNN, 8, 8)
    assert made.moved_bits(run) == run.moved_bits
