"""The roofline: promotion, what is moved, levels of memory, and the measured kernels that two cards are made from."""

from __future__ import annotations

from itertools import product

import pytest
from accelerator_runs import CARDS, at, bundled, conv, linear
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.format import Format
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.precision import holds
from mpsearch.cost.accelerators.roofline import Roofline
from mpsearch.cost.accelerators.roofline_card import RooflineCard
from mpsearch.cost.width import width as width_of
from mpsearch.cost.workload import Access, Kind, Operation

INT = {bits: Width(bits) for bits in range(1, 17)}
FP8, FP16, BF16 = Width(8, "fp"), Width(16, "fp"), Width(16, "bf")
WIDTHS = (*INT.values(), FP8, FP16, BF16, FLOAT32)
NAMES = "mx4 mx6 mx8 mx8:int nvfp4 fp4 fp6 esb4 esb4:k2 esb7:k3 pow3 pow4 planes2 multibit2 pq2 sparse8"
CODES = {text: width_of(Format.parse(text)) for text in NAMES.split()}
"""What has a kernel on few devices or none."""
ROOFLINES = [path.stem for path in CARDS if bundled(path.stem).kind == "roofline"]


def roofline(**blocks) -> Roofline:
    """A device of round numbers: int8 at 4, fp16 at 2 and float32 at 1 tera MAC/s, 1e9 bytes/s, no launch."""
    rows = [(8, "int", 4e12), (16, "fp", 2e12), (32, "fp", 1e12)]
    data = {
        "schema": "mpsearch.accelerator/1",
        "name": "round",
        "kind": "roofline",
        "status": "analytic",
        "src": {"precision": "round numbers"},
        "precision": {"legal": [{"w": b, "a": b, "type": t, "peak_mac_per_s": p} for b, t, p in rows]},
        "memory": [{"level": "dram", "read_bytes_per_s": 1e9}],
    }
    card = RooflineCard.model_validate(data | blocks)
    assert not [*card.faults(), *card.precision.faults()]
    return Roofline(card)


def test_what_holds_what() -> None:
    every = (*WIDTHS, *CODES.values())
    for wide, asked in product(every, every):
        assert holds(wide, wide)
        if holds(wide, asked):
            assert all(holds(wider, asked) for wider in every if holds(wider, wide))
    assert holds(BF16, INT[8])
    assert holds(FP16, INT[11])
    assert not holds(BF16, INT[9])
    assert not holds(FP16, INT[12])
    assert not holds(FP16, BF16)
    assert not holds(BF16, FP16)
    assert holds(FP16, FP8)
    assert not holds(INT[16], FP8)
    assert all(holds(FLOAT32, asked) for asked in WIDTHS)


@pytest.mark.parametrize("name", ROOFLINES)
def test_promotion_is_idempotent_holds_both_and_is_the_fastest_that_does(name: str) -> None:
    device = bundled(name)
    some = (*WIDTHS[3::5], *CODES.values())
    for kind, weight, value in (*product(Kind, WIDTHS, WIDTHS), *product((Kind.LINEAR,), some, some)):
        w, a = device.promote(kind, weight, value)
        assert device.promote(kind, w, a) == (w, a)
        assert holds(w, weight)
        assert holds(a, value)
        able = [
            row.peak_mac_per_s
            for row in device.roof.precision.legal
            if (row.kinds is None or kind in row.kinds) and holds(row.weight, weight) and holds(row.value, value)
        ]
        if weight.is_binary and value.is_binary:
            continue  # which may run bit by bit
        chosen = device.ways(kind, weight, value)
        assert chosen.mac_per_s == max(able)
        assert chosen.widths == (w, a)


@pytest.mark.parametrize(
    ("name", "kind", "asked", "runs"),
    [
        ("nvidia-t4", Kind.CONV, (INT[3], INT[4]), (INT[4], INT[4])),
        ("nvidia-t4", Kind.CONV, (INT[2], INT[8]), (INT[8], INT[8])),
        ("nvidia-t4", Kind.LINEAR, (INT[4], FLOAT32), (FLOAT32, FLOAT32)),
        ("nvidia-t4", Kind.LINEAR, (INT[4], FP16), (FP16, FP16)),
        ("nvidia-t4", Kind.LINEAR, (BF16, BF16), (FLOAT32, FLOAT32)),
        ("nvidia-t4", Kind.SPMM, (INT[8], INT[8]), (FP16, FP16)),
        ("nvidia-h200", Kind.CONV, (INT[2], INT[2]), (INT[8], INT[8])),
        ("nvidia-h200", Kind.LINEAR, (INT[4], FP8), (FP8, FP8)),
        ("nvidia-a100-sxm", Kind.LINEAR, (INT[1], INT[1]), (INT[1], INT[1])),
        ("nvidia-a100-sxm", Kind.CONV, (INT[1], INT[1]), (INT[4], INT[4])),
        ("nvidia-h100-sxm", Kind.LINEAR, (CODES["fp6"], CODES["fp4"]), (FP8, FP8)),
        ("nvidia-h100-sxm", Kind.LINEAR, (CODES["mx4"], CODES["mx8"]), (BF16, BF16)),
        ("nvidia-h100-sxm", Kind.LINEAR, (CODES["nvfp4"], CODES["nvfp4"]), (FP16, FP16)),
        ("nvidia-t4", Kind.LINEAR, (CODES["mx4"], CODES["mx4"]), (FLOAT32, FLOAT32)),
        ("nvidia-t4", Kind.LINEAR, (CODES["pq2"], INT[8]), (FP16, FP16)),
        ("nvidia-t4", Kind.LINEAR, (CODES["multibit2"], INT[8]), (FLOAT32, FLOAT32)),
        ("nvidia-t4", Kind.CONV, (CODES["esb4"], CODES["pow4"]), (INT[8], INT[8])),
        ("nvidia-t4", Kind.CONV, (CODES["esb4:k2"], INT[4]), (INT[4], INT[4])),
        ("nvidia-t4", Kind.CONV, (CODES["planes2"], CODES["sparse8"]), (INT[8], INT[8])),
        ("nvidia-a100-sxm", Kind.LINEAR, (CODES["planes2"], CODES["planes2"]), (CODES["planes2"], CODES["planes2"])),
        ("nvidia-a100-sxm", Kind.CONV, (CODES["planes2"], CODES["planes2"]), (INT[4], INT[4])),
        ("nvidia-b200", Kind.LINEAR, (CODES["mx4"], CODES["mx6"]), (Width(6, "mx"), Width(6, "mx"))),
        ("nvidia-b200", Kind.LINEAR, (CODES["nvfp4"], CODES["nvfp4"]), (Width(4, "nvfp"), Width(4, "nvfp"))),
        ("nvidia-b200", Kind.LINEAR, (CODES["nvfp4"], INT[8]), (FP16, FP16)),
        ("nvidia-b200", Kind.LINEAR, (CODES["mx8:int"], CODES["mx8"]), (BF16, BF16)),
        ("nvidia-b200", Kind.LINEAR, (CODES["esb4"], CODES["fp4"]), (FP8, FP8)),
        ("cpu-generic", Kind.CONV, (INT[2], INT[5]), (INT[8], INT[8])),
        ("cpu-generic", Kind.CONV, (INT[8], BF16), (BF16, BF16)),
        ("cpu-generic", Kind.SPMM, (INT[8], INT[8]), (FLOAT32, FLOAT32)),
    ],
)
def test_legal_widths_of_devices(name: str, kind: Kind, asked, runs) -> None:
    assert bundled(name).promote(kind, *asked) == runs


@pytest.mark.parametrize("name", ROOFLINES)
@given(st.sampled_from(WIDTHS), st.sampled_from(WIDTHS), st.sampled_from([0, 1, 7, 512]), st.booleans())
def test_a_width_without_a_kernel_takes_as_long_as_what_it_runs_at(name, weight, value, samples, is_conv) -> None:
    device = bundled(name)
    operation = conv(8, 16, 32, 3, samples=samples + 1) if is_conv else linear(512, 384, samples + 1)
    w, a = device.promote(operation.kind, weight, value)
    asked, runs = at(operation, weight, value, 32), at(operation, w, a, 32)
    assert device.moved_bits(asked) == device.moved_bits(runs)
    convert_s = device.roof.overhead.convert_s_per_element.get(f"{value}->{a}", 0.0)
    assert device.seconds(asked) == pytest.approx(device.seconds(runs) + convert_s * operation.reads[0].elements)


@pytest.mark.parametrize("name", ROOFLINES)
@given(
    st.sampled_from(sorted(INT)),
    st.sampled_from(sorted(INT)),
    st.sampled_from(sorted(INT)),
    st.sampled_from(list(Kind)),
)
def test_narrower_integers_never_move_more(name, first, second, value, kind) -> None:
    device = bundled(name)
    narrow, wide = sorted((first, second))
    base = conv(8, 16, 32, 3)
    operation = Operation("op", kind, base.reads, base.write, base.macs, weight=1, value=0, gemm=base.gemm)
    for pairs in (((narrow, value), (wide, value)), ((value, narrow), (value, wide))):
        less, more = (device.moved_bits(at(operation, *pair, 32)) for pair in pairs)
        assert less <= more


def test_the_time_is_the_longer_of_products_and_bytes() -> None:
    device = roofline()
    small, large = linear(1000, 1000, samples=1), linear(1000, 1000, samples=10**6)
    moved = 1e6 + 1e3 + 1e3
    assert device.seconds(at(small, INT[8], INT[8])) == pytest.approx(moved / 1e9)
    assert device.seconds(at(large, INT[8], INT[8])) == pytest.approx(max(1e12 / 4e12, (1e6 + 2e9) / 1e9))
    compute = conv(1000, 100, 100, 3)
    assert device.seconds(at(compute, INT[8], INT[8])) == pytest.approx(max(9e10 / 4e12, (2e8 + 9e4) / 1e9))
    deep = Operation("op", Kind.LINEAR, (Access(0, 10), Access(1, 10)), None, 10**12, weight=1, value=0)
    for width, rate in ((INT[8], 4e12), (FP16, 2e12), (FLOAT32, 1e12)):
        assert device.seconds(at(deep, width, width)) == pytest.approx(1e12 / rate)


def test_efficiencies_from_the_most_special_to_the_kind() -> None:
    names = {"conv": 0.5, "conv_pointwise": {"w8a8": 0.25, "all": 0.2}, "conv_first": 0.1, "conv_depthwise": 0.05}
    fast = [{"level": "dram", "read_bytes_per_s": 1e18}]
    device = roofline(efficiency={**names, "gather": 0.5}, memory=fast)

    def share(operation: Operation, width: Width = INT[8]) -> float:
        peak = {INT[8]: 4e12, FLOAT32: 1e12}[width]
        return operation.macs / peak / device.seconds(at(operation, width, width))

    assert share(conv(8, 16, 16, 3)) == pytest.approx(0.5)
    assert share(conv(8, 16, 16, 1)) == pytest.approx(0.25)
    assert share(conv(8, 16, 16, 1), FLOAT32) == pytest.approx(0.2)
    assert share(conv(8, 16, 16, 3, first=True)) == pytest.approx(0.1)
    assert share(conv(8, 16, 16, 3, groups=16)) == pytest.approx(0.05)
    assert share(linear(16, 16)) == pytest.approx(1.0)
    gather = Operation("op", Kind.GATHER, (Access(0, 100),), Access(1, 100))
    assert device.seconds(at(gather, FLOAT32, FLOAT32)) == pytest.approx(800 / 0.5e18)


def test_the_innermost_level_that_holds_all_and_is_known() -> None:
    levels = [
        {"level": "l1", "bytes": 1000},
        {"level": "l2", "bytes": 10_000, "read_bytes_per_s": 1e10},
        {"level": "dram", "bytes": 20_000, "read_bytes_per_s": 1e9},
    ]
    device = roofline(memory=levels)

    def seconds(size: int) -> float:
        operation = Operation("op", Kind.COPY, (Access(0, size),), Access(1, 0))
        return device.seconds(at(operation, INT[8], INT[8]))

    assert seconds(500) == pytest.approx(500 / 1e10)  # nothing is known of l1
    assert seconds(10_000) == pytest.approx(1e-6)
    assert seconds(10_001) == pytest.approx(1.0001e-5)
    assert seconds(10**6) == pytest.approx(1e-3)  # more than there is: it goes through the outer memory all the same
    assert all(seconds(n) <= seconds(n + 1) for n in range(9_990, 10_010))


def test_without_the_bandwidth_of_the_outer_memory_there_is_no_time() -> None:
    energy = {"mac_pj_per_bit2": 1.0, "acc_pj_per_bit": 1.0}
    for memory in ([], [{"level": "dram"}], [{"level": "l2", "bytes": 1, "read_bytes_per_s": 1.0}, {"level": "dram"}]):
        device = roofline(memory=memory, energy=energy)
        assert device.refuses("latency_s") == "its outer memory has no read_bytes_per_s"
        assert device.refuses("memory_bytes") is None
    assert roofline().refuses("latency_s") is None
    assert roofline().refuses("energy_j") == "it has no energy block"
    assert "energy_j_per_bit" in (roofline(energy=energy).refuses("energy_j") or "")


def test_energy_is_products_bits_and_what_waiting_takes() -> None:
    device = roofline(
        energy={"mac_pj_per_bit2": 2.0, "acc_pj_per_bit": 3.0, "acc_bits": 32, "static_w": 5.0},
        memory=[{"level": "dram", "read_bytes_per_s": 1e9, "energy_j_per_bit": 1e-12}],
    )
    run = at(linear(100, 10), INT[4], INT[4])  # runs as int8
    moved = 8 * (1000 + 100) + 4 * 10
    expected = 1000 * (2 * 64 + 3 * 32) * 1e-12 + moved * 1e-12 + 5.0 * device.seconds(run)
    assert device.joules(run) == pytest.approx(expected)


def test_packed_weights_beside_floats_are_offered_where_their_cost_is_known() -> None:
    rows = roofline().card.model_dump(mode="json", by_alias=True)["precision"]["legal"]
    known = {"compute": {"w": 16, "a": 16, "type": "fp"}, "unpack_s_per_weight": {"w4": 1e-9, "w2": 0.0, "w8": None}}
    plain, able = roofline(), roofline(precision={"legal": rows, "weight_only": known})
    layer = linear(1000, 1000)
    values = 16 * 2000
    assert plain.moved_bits(at(layer, INT[4], FP16)) == 16 * 10**6 + values
    assert able.moved_bits(at(layer, INT[4], FP16)) == 4 * 10**6 + values
    assert able.seconds(at(layer, INT[4], FP16)) == pytest.approx((4 * 10**6 + values) / 8e9 + 1e-3)
    assert able.seconds(at(layer, INT[2], FP16)) == pytest.approx((2 * 10**6 + values) / 8e9)  # known to be free
    for weight, value in ((INT[8], FP16), (INT[3], FP16), (INT[4], FLOAT32), (INT[4], INT[8])):
        assert able.seconds(at(layer, weight, value)) == plain.seconds(at(layer, weight, value))
    product_of_values = Operation("op", Kind.MATMUL, layer.reads, layer.write, layer.macs, weight=1, value=0)
    assert able.moved_bits(at(product_of_values, INT[4], FP16)) == 16 * 10**6 + values


def test_launches_and_conversions_add_up() -> None:
    overhead = {"launch_s": 1.0, "convert_s_per_element": {"int8->fp32": 0.5, "int8->fp16": None}}
    plain, device = roofline(), roofline(overhead=overhead)
    layer = linear(10, 20)
    extra = {(INT[8], INT[8]): 0, (FLOAT32, INT[8]): 10, (INT[8], FLOAT32): 0, (FP16, INT[8]): 0}
    for (weight, value), elements in extra.items():
        run = at(layer, weight, value)
        assert device.seconds(run) == pytest.approx(plain.seconds(run) + 1.0 + 0.5 * elements)
    scores = Operation("op", Kind.MATMUL, layer.reads, layer.write, layer.macs, weight=1, value=0)
    assert device.seconds(at(scores, INT[8], FLOAT32)) > 100  # the other factor is a value as well: 200 of it


T4 = [  # convolution, microseconds in int8 and int4 at batch 8: mean of the TVM logs of Zhen-Dong/HAWQ @ 1616df69
    (conv(56, 64, 64, 3, samples=8), 118.8, 62.4),
    (conv(28, 128, 128, 3, samples=8), 146.0, 63.5),
    (conv(14, 256, 256, 3, samples=8), 125.3, 76.3),
    (conv(7, 512, 512, 3, samples=8), 145.7, 83.1),
    (conv(28, 64, 128, 3, stride=2, samples=8), 70.5, 33.7),
    (conv(14, 128, 256, 3, stride=2, samples=8), 65.2, 33.6),
    (conv(7, 256, 512, 3, stride=2, samples=8), 75.5, 45.5),
]
T4_POINTWISE = [
    (conv(28, 64, 128, 1, stride=2, samples=8), 13.8, 9.0),
    (conv(14, 128, 256, 1, stride=2, samples=8), 10.8, 6.4),
    (conv(7, 256, 512, 1, stride=2, samples=8), 11.1, 6.4),
    (conv(56, 64, 64, 1, samples=8), 38.2, 33.2),
    (conv(56, 64, 256, 1, samples=8), 120.8, 112.3),
]


@pytest.mark.parametrize(("kernels", "tolerance"), [(T4, 0.28), (T4_POINTWISE, 1.05)])
def test_the_t4_card_gives_the_measured_kernels_that_it_is_made_from(kernels, tolerance: float) -> None:
    """Each within a factor that is wide for 1x1 convolutions, whose rates differ so much; their sums exactly."""
    device = bundled("nvidia-t4")
    launch_s = device.roof.overhead.launch_s  # the logs are of kernels alone
    for operation, int8_us, int4_us in kernels:
        for bits, measured_us in ((8, int8_us), (4, int4_us)):
            found_us = (device.seconds(at(operation, INT[bits], INT[bits])) - launch_s) * 1e6
            assert 1 / (1 + tolerance) < found_us / measured_us < 1 + tolerance
    totals = [
        [sum((device.seconds(at(k[0], INT[b], INT[b])) - launch_s) * 1e6 for k in kernels) for b in (8, 4)],
        [sum(k[i] for k in kernels) for i in (1, 2)],
    ]
    assert totals[0] == pytest.approx(totals[1], rel=0.01)
    gain = {id(T4): 1.88, id(T4_POINTWISE): 1.16}[id(kernels)]  # of int4 over int8: 1.6 to 2.3 times, 1.1 to 1.7 times
    assert totals[0][0] / totals[0][1] == pytest.approx(gain, rel=0.02)


def test_the_first_layer_of_the_t4_and_float32_as_published() -> None:
    device = bundled("nvidia-t4")
    stem = conv(112, 3, 64, 7, stride=2, samples=8, first=True)
    assert device.seconds(at(stem, INT[8], INT[8])) * 1e6 == pytest.approx(376.9 + 5, rel=0.01)
    share = 8 * 1_814_073_344 / 9.7e-3 / 4.05e12  # ResNet-18 in float32: 9.7 ms for a batch of 8
    assert device.card.efficiency["conv"]["fp32"] == pytest.approx(share, rel=0.01)
    for operation, *_ in (*T4, *T4_POINTWISE, (stem,)):
        times = [device.seconds(at(operation, width, width)) for width in (INT[4], INT[8], FP16, FLOAT32)]
        assert times == sorted(times)


CPU = [  # operation, microseconds in float32 and int8 on one core of an EPYC Zen 4, and how far off the card may be
    (conv(56, 64, 64, 3), 2041, 557, 0.1),
    (conv(14, 256, 256, 3), 1942, 529, 0.1),
    (conv(7, 512, 512, 3), 1946, 600, 0.1),
    (conv(56, 64, 256, 1), 1063, 353, 0.1),
    (conv(56, 144, 144, 3, groups=144), 202, 238, 0.1),
    (linear(768, 768, 128), 1333, 372, 0.1),
    (linear(4096, 4096), 3009, 271, 0.25),
    (linear(1024, 1024), 58, 31, 0.45),
    (linear(1433, 16, 2708), 1180, 490, 0.6),
]


def test_the_cpu_card_gives_the_measured_kernels_that_it_is_made_from() -> None:
    device = bundled("cpu-avx512vnni-1t")
    for operation, *measured_us, tolerance in CPU:
        for width, us in zip((FLOAT32, INT[8]), measured_us, strict=True):
            found_us = device.seconds(at(operation, width, width)) * 1e6
            assert 1 / (1 + tolerance) < found_us / us < 1 + tolerance
    depthwise = CPU[4][0]  # int8 is no gain everywhere
    assert device.seconds(at(depthwise, INT[8], INT[8])) > device.seconds(at(depthwise, FLOAT32, FLOAT32))


@pytest.mark.parametrize(("features", "product_us", "scatter_us"), [(16, 36, 277), (64, 131, 634), (256, 434, 3220)])
def test_message_passing_on_the_cpu_card(features: int, product_us: float, scatter_us: float) -> None:
    """Cora: a sparse product, and gather with index_add, which takes many times as long."""
    device, nodes, edges = bundled("cpu-avx512vnni-1t"), 2708, 10556
    loops = (edges + nodes) * features
    sparse = Operation(
        "op", Kind.SPMM, (Access(0, edges + nodes), Access(1, loops)), Access(2, nodes * features), loops, 0, 1
    )
    gather = Operation("op", Kind.GATHER, (Access(0, edges * features),), Access(1, edges * features))
    scatter = Operation("op", Kind.SCATTER, (Access(0, edges * features),), Access(1, nodes * features))
    found_us = device.seconds(at(sparse, FLOAT32, FLOAT32)) * 1e6
    assert found_us == pytest.approx(product_us, rel=0.15)
    both_us = sum(device.seconds(at(step, FLOAT32, FLOAT32)) for step in (gather, scatter)) * 1e6
    assert 0.5 < both_us / scatter_us < 1.1
    assert device.seconds(at(sparse, INT[8], INT[8], 32)) >= device.seconds(at(sparse, FLOAT32, FLOAT32))
