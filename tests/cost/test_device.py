"""Kernels of random workloads, latency and energy as sums over them, and what is said of promoted widths."""

from __future__ import annotations

from collections import Counter
from graphlib import TopologicalSorter
from math import ceil

import pytest
from accelerator_runs import bundled
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost.accelerators.roofline import Roofline
from mpsearch.cost.accelerators.roofline_card import RooflineCard
from mpsearch.cost.device import energy, latency, run
from mpsearch.cost.kernels import MOST_READS, fused
from mpsearch.cost.memory import Packed, PackedAt
from mpsearch.cost.promotions import promotions
from mpsearch.cost.workload import Access, Gemm, Held, Kind, Operation, Workload

FORMATS = [Format("int", bits) for bits in (2, 3, 4, 8)] + [Format("fp", 16), FP32]
JOINING = [Kind.ELEMENTWISE, Kind.NORM]


def roofline(**blocks) -> Roofline:
    """int8 and float32, memory with a cache, energy; joins what `JOINING` says."""
    rows = [{"w": b, "a": b, "type": t, "peak_mac_per_s": p} for b, t, p in ((8, "int", 4e9), (32, "fp", 1e9))]
    data = {
        "schema": "mpsearch.accelerator/1",
        "name": "mine",
        "kind": "roofline",
        "status": "analytic",
        "src": {"precision": "round numbers"},
        "precision": {"legal": rows},
        "fusion": [str(kind) for kind in JOINING],
        "overhead": {"launch_s": 1e-7},
        "memory": [
            {"level": "cache", "bytes": 64, "read_bytes_per_s": 3e9},
            {"level": "dram", "read_bytes_per_s": 1e9, "energy_j_per_bit": 1e-12},
        ],
        "energy": {"mac_pj_per_bit2": 1e-3, "acc_pj_per_bit": 2e-3, "static_w": 0.1},
    }
    return Roofline(RooflineCard.model_validate(data | blocks))


@st.composite
def workloads(draw) -> Workload:
    """Operations that read what was made before them; some tensors have a site, some sites two tensors."""
    tensors: list[Held] = []
    operations: list[Operation] = []

    def hold(is_parameter: bool = False) -> int:
        elements, rows = draw(st.sampled_from([(1, 1), (6, 2), (40, 8), (300, 10)]))
        site = draw(st.sampled_from([None, *(f"s{i}" for i in range(6))])) if not is_parameter else None
        same = [held.elements for held in tensors if site is not None and held.site == site]
        elements = same[0] if same else elements
        name = f"p{len(tensors)}" if is_parameter else f"v{len(tensors)}"
        sited = draw(st.booleans()) if is_parameter else None
        tensors.append(Held(name, elements, rows, site=name if sited else site, is_parameter=is_parameter))
        return len(tensors) - 1

    values = [hold()]
    for number in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from([Kind.LINEAR, Kind.MATMUL, Kind.SPMM, Kind.ELEMENTWISE, Kind.NORM, Kind.COPY]))
        many = 7 if kind is Kind.COPY else 3
        read = draw(st.lists(st.sampled_from(values), min_size=1, max_size=many, unique=True))
        places: dict[str, int] = {}
        if kind is Kind.LINEAR:
            read.append(hold(is_parameter=True))
            places = {"weight": len(read) - 1, "value": 0}
        elif kind in (Kind.MATMUL, Kind.SPMM):
            places = {"weight": len(read) - 1, "value": 0}
        wrote = [hold() for _ in range(draw(st.sampled_from([1, 1, 1, 2])))]
        values += wrote
        macs = draw(st.integers(1, 10**5)) if places else 0
        touched = tuple(Access(t, draw(st.sampled_from([1, tensors[t].elements, 500]))) for t in read)
        first, *more = (Access(t, tensors[t].elements) for t in wrote)
        operations.append(
            Operation(f"op{number}", kind, touched, first, macs, more_writes=tuple(more), is_first=not number, **places)
        )
    return Workload(tuple(tensors), tuple(operations), samples=2)


@st.composite
def spaces(draw, workload: Workload) -> Space:
    """Choices over the sites of a workload, some tied, some sites left out."""
    sites = sorted({held.site for held in workload.tensors if held.site is not None})
    sites = [site for site in sites if draw(st.integers(0, 4))]
    choices = []
    while sites:
        tied = [sites.pop() for _ in range(min(len(sites), draw(st.sampled_from([1, 1, 1, 2]))))]
        options = draw(st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3, unique=True))
        choices.append(Choice(tied[0], tuple(tied), tuple(options)))
    return Space(tuple(choices))


def packed_in(workload: Workload) -> PackedAt:
    """Codes without gaps, and 32 bits of scale for integers."""
    elements = {held.site: held.elements for held in workload.tensors}

    def packed(site: str, fmt: Format) -> Packed:
        codes, scale = ceil(elements[site] * fmt.bits), 32 * (fmt.scheme == "int")
        return Packed(codes + scale, codes, scale)

    return packed


@given(workloads())
def test_joining_loses_no_product_no_read_and_no_tensor_but_those_inside(workload: Workload) -> None:
    kernels = fused(roofline(), workload)
    assert sum(kernel.macs for kernel in kernels) == workload.macs
    readers = Counter(a.tensor for operation in workload.operations for a in operation.reads)
    writers = Counter(a.tensor for operation in workload.operations for a in operation.writes)
    kept = {access.tensor for kernel in kernels for access in (*kernel.reads, *kernel.writes)}
    by_reader = {a.tensor: operation for operation in workload.operations for a in operation.reads}
    for tensor in (readers | writers).keys() - kept:
        assert readers[tensor] == writers[tensor] == 1
        assert by_reader[tensor].kind in JOINING
        assert not by_reader[tensor].macs
    for kernel in kernels:
        assert len({access.tensor for access in kernel.reads}) == len(kernel.reads)
        before = next(operation for operation in workload.operations if operation.name == kernel.name)
        assert kernel.reads == before.reads[: len(kernel.reads)] or len(kernel.reads) <= max(
            MOST_READS, len(before.reads)
        )
        assert (kernel.kind, kernel.macs, kernel.weight, kernel.value) == (
            before.kind, before.macs, before.weight, before.value,
        )  # fmt: skip


@given(workloads())
def test_kernels_can_run_one_after_the_other(workload: Workload) -> None:
    kernels = fused(roofline(), workload)
    made: dict[int, set[int]] = {}
    for number, kernel in enumerate(kernels):
        for access in kernel.writes:
            made.setdefault(access.tensor, set()).add(number)
    needs = {n: set().union(*(made.get(a.tensor, set()) for a in k.reads)) - {n} for n, k in enumerate(kernels)}
    assert len(list(TopologicalSorter(needs).static_order())) == len(kernels)


@given(workloads())
def test_joining_moves_less_and_launches_less(workload: Workload) -> None:
    joined, apart = roofline(), roofline(fusion=[])
    packed = packed_in(workload)

    def total(device: Roofline) -> tuple[int, int]:
        runs = [
            run(device, workload, k, packed, dict.fromkeys(workload.sites(k), FP32)) for k in fused(device, workload)
        ]
        return len(runs), sum(found.moved_bits for found in runs)

    assert all(less <= more for less, more in zip(total(joined), total(apart), strict=True))
    large = [op for op in workload.operations if op.kind is Kind.COPY and len(op.reads) > MOST_READS]
    assert total(apart)[0] == len(workload.operations) + sum(len(op.reads) - 1 for op in large)


@settings(max_examples=60)
@given(st.data(), workloads(), st.sampled_from([latency, energy]))
def test_tables_and_shares_equal_the_measure(data, workload: Workload, measure) -> None:
    space = data.draw(spaces(workload))
    device, packed = roofline(), packed_in(workload)
    found = measure(device, workload, packed)
    cost = found.cost(space)
    at = data.draw(st.lists(st.tuples(*(st.integers(0, len(c.options) - 1) for c in space.choices)), min_size=1))
    for indices in at:
        assignment = space.decode(indices)
        of_each = {latency: device.seconds, energy: device.joules}[measure]
        runs = [
            run(device, workload, k, packed, {site: assignment.at(site) for site in workload.sites(k)})
            for k in fused(device, workload)
        ]
        value = found.measure(assignment)
        assert cost([indices])[0] == value
        assert value == pytest.approx(sum(map(of_each, runs)), rel=1e-3, abs=1e-11)
        assert sum(found.shares(assignment).values()) == pytest.approx(value)


def chain(*steps: Operation, sizes: dict[int, int]) -> Workload:
    """Tensors of the sizes; each of them has a site of its number."""
    return Workload(tuple(Held(f"t{i}", sizes[i], 1, site=f"s{i}") for i in sorted(sizes)), steps)


def test_a_residual_addition_joins_the_later_of_its_two_layers() -> None:
    one = Operation("one", Kind.LINEAR, (Access(0, 8), Access(1, 8)), Access(2, 8), 64, weight=1, value=0)
    two = Operation("two", Kind.LINEAR, (Access(0, 8), Access(3, 8)), Access(4, 8), 64, weight=1, value=0)
    add = Operation("add", Kind.ELEMENTWISE, (Access(2, 8), Access(4, 8)), Access(5, 8))
    norm = Operation("norm", Kind.NORM, (Access(5, 8),), Access(6, 8))
    workload = chain(one, two, add, norm, sizes=dict.fromkeys(range(7), 8))
    first, second = fused(roofline(), workload)
    assert first == one
    assert [access.tensor for access in second.reads] == [0, 3, 2]
    assert second.write == Access(6, 8)
    assert workload.sites(second) == ("s0", "s3", "s2", "s6")
    assert [kernel.name for kernel in fused(roofline(fusion=["elementwise"]), workload)] == ["one", "two", "norm"]


def test_what_is_read_twice_or_made_with_other_results_is_stored() -> None:
    layer = Operation("layer", Kind.LINEAR, (Access(0, 8), Access(1, 8)), Access(2, 8), 64, weight=1, value=0)
    add = Operation("add", Kind.ELEMENTWISE, (Access(2, 8), Access(0, 8)), Access(3, 8))
    late = Operation("late", Kind.LINEAR, (Access(2, 8), Access(1, 8)), Access(4, 8), 64, weight=1, value=0)
    sizes = dict.fromkeys(range(5), 8)
    assert len(fused(roofline(), chain(layer, add, late, sizes=sizes))) == 3
    split = Operation("split", Kind.COPY, (Access(0, 8),), Access(2, 8), more_writes=(Access(1, 8),))
    assert len(fused(roofline(), chain(split, add, sizes=sizes))) == 2
    scaled = Operation("scaled", Kind.ELEMENTWISE, (Access(2, 8), Access(0, 8)), Access(3, 8), 8, weight=1, value=0)
    assert len(fused(roofline(), chain(layer, scaled, sizes=sizes))) == 2


def test_a_wide_concatenation_is_a_copy_each_so_that_tables_stay_small() -> None:
    n = 24
    copy = Operation("cat", Kind.COPY, tuple(Access(i, 10) for i in range(n)), Access(n, 10 * n))
    gelu = Operation("gelu", Kind.ELEMENTWISE, (Access(n, 10 * n),), Access(n + 1, 10 * n))
    workload = chain(copy, gelu, sizes={**dict.fromkeys(range(n), 10), n: 10 * n, n + 1: 10 * n})
    kernels = fused(roofline(), workload)
    assert len(kernels) == n + 1
    assert kernels[-1] == gelu  # no copy alone has made what it reads
    assert sum(access.elements for kernel in kernels[:-1] for access in kernel.writes) == 10 * n
    space = Space(tuple(Choice(f"s{i}", (f"s{i}",), tuple(FORMATS)) for i in range(n + 2)))
    found = latency(roofline(), workload, packed_in(workload))
    cost = found.cost(space)
    assert {len(key) for row in cost.rows for key in row.joint} == {2}
    assert list(found.shares(Assignment())) == ["cat", "gelu"]


def test_calibration_is_a_line_over_the_sum() -> None:
    layer = Operation("layer", Kind.LINEAR, (Access(0, 8), Access(1, 8)), Access(2, 8), 10**6, weight=1, value=0)
    workload = chain(layer, layer, sizes=dict.fromkeys(range(3), 8))
    plain, packed = roofline(), packed_in(workload)
    line = {"intercept_s": 0.5, "slope": 2.0, "n_anchors": 2}
    calibrated = roofline(calibration=line, status="calibrated")
    before, after = (latency(device, workload, packed) for device in (plain, calibrated))
    assert after.measure(Assignment()) == pytest.approx(0.5 + 2 * before.measure(Assignment()), rel=1e-9)
    assert after.shares(Assignment())["(fixed)"] == 0.5
    assert energy(calibrated, workload, packed).measure(Assignment()) == energy(plain, workload, packed).measure(
        Assignment()
    )


def network(weights: list[str], values: list[str]) -> tuple[Workload, Space]:
    """Two linear layers and a sparse product, large enough that their products take the time."""
    tensors = (
        Held("x", 400, 4, site="x" if values else None),
        Held("a.weight", 10**4, 100, site="a.weight", is_parameter=True),
        Held("b.weight", 10**4, 100, site="b.weight", is_parameter=True),
        Held("edges", 50),
    )
    layers = [
        Operation(name, Kind.LINEAR, (Access(0, 400), Access(w, 10**4)), None, 10**12, weight=1, value=0)
        for name, w in (("a", 1), ("b", 2))
    ]
    spread = Operation("spread", Kind.SPMM, (Access(3, 50), Access(0, 400)), None, 10**12, weight=0, value=1)
    choices = [Choice(f"{name}.weight", (f"{name}.weight",), tuple(map(Format.parse, weights))) for name in "ab"]
    choices += [Choice("x", ("x",), tuple(map(Format.parse, values)))] if values else []
    return Workload(tensors, (*layers, spread)), Space(tuple(choices))


def test_what_is_said_of_widths_without_a_kernel() -> None:
    t4 = bundled("nvidia-t4")
    assert promotions(t4, *network(["int3", "int4"], ["int4"])) == [
        "nvidia-t4 has no kernel for int3 weights: they run as int4 (2 operations), no faster.",
        "nvidia-t4 runs int4 values as fp32 beside fp32 weights (1 operation: spmm), no faster.",
    ]


def test_what_is_said_of_weights_alone() -> None:
    assert promotions(bundled("nvidia-t4"), *network(["int4", "int8", "fp32"], [])) == [
        "nvidia-t4 runs int4 and int8 weights as fp32 beside fp32 values (2 operations), no faster.",
        "int4 and int8 weights gain no time at all on nvidia-t4.",
    ]


def test_what_is_said_of_widths_that_take_longer_than_wider_ones() -> None:
    mcu = bundled("cortex-m7-stm32f746")  # an instruction of unpacking more for 4 bits and 2 than for 8: 1.5 to 1.125
    assert promotions(mcu, *network(["int2", "int4", "int8"], ["int8"]))[-1] == (
        "cortex-m7-stm32f746 takes up to 33% longer for int2 and int4 weights than for int8 (2 operations)."
    )
    # 16 rows of BitFusion take 64 / (w a) values each at once: the narrower the values, the more weights are padding
    fusion = bundled("bitfusion-eyeriss45")
    held = (Held("x", 128, 16, site="x"), Held("w", 4608, 64, site="w", is_parameter=True), Held("out", 1024))
    gemm = Gemm(m=16, n=64, k=72, window=9)
    short = Operation("short", Kind.CONV, (Access(0, 128), Access(1, 4608)), Access(2, 1024), gemm.macs, 1, 0, gemm)
    made, (int2, int4, int8) = Workload(held, (short,)), (Format("int", bits) for bits in (2, 4, 8))
    space = Space((Choice("w", ("w",), (int8,)), Choice("x", ("x",), (int2, int4, int8))))

    def took(value: Format) -> float:
        elements = {tensor.site: tensor.elements for tensor in held}

        def codes(site: str, fmt: Format) -> Packed:
            bits = elements[site] * int(fmt.bits)
            return Packed(bits, bits, 0)

        return fusion.seconds(run(fusion, made, short, codes, {"w": int8, "x": value}))

    assert took(int2) > took(int4) > took(int8)
    card, where = "bitfusion-eyeriss45", "(1 operation)."
    assert promotions(fusion, made, space)[-2:] == [
        f"{card} takes up to {took(int2) / took(int8) - 1:.0%} longer for int2 values than for int4 and int8 {where}",
        f"{card} takes up to {took(int4) / took(int8) - 1:.0%} longer for int4 values than for int8 {where}",
    ]


def test_nothing_is_said_where_every_width_has_a_kernel() -> None:
    workload, space = network(["int4"], ["int4"])
    layers = Workload(workload.tensors, workload.operations[:2])
    assert promotions(bundled("nvidia-t4"), layers, space) == []
    assert promotions(bundled("nvidia-t4"), *network(["fp32"], [])) == []


def test_tied_operands_are_never_asked_in_different_widths() -> None:
    workload, space = network(["int4", "int8"], ["int4", "int8"])
    tied = Choice("x", ("x", "a.weight", "b.weight"), space.choices[0].options)
    layers = Workload(workload.tensors, workload.operations[:2])
    assert promotions(bundled("nvidia-t4"), layers, Space((tied,))) == []
    beside = promotions(bundled("nvidia-t4"), layers, space)
    assert "nvidia-t4 runs int4 weights as int8 beside int8 values (2 operations), no faster." in beside


def test_what_the_model_returns_is_stored_whoever_reads_it() -> None:
    layer = Operation("layer", Kind.LINEAR, (Access(0, 8),), Access(1, 8))
    add = Operation("add", Kind.ELEMENTWISE, (Access(1, 8),), Access(2, 8))
    made = chain(layer, add, sizes=dict.fromkeys(range(3), 8))
    assert [k.write for k in fused(roofline(), made)] == [Access(2, 8)]
    returned = Workload(made.tensors, made.operations, outputs=frozenset({1, 2}))
    assert [k.write for k in fused(roofline(), returned)] == [Access(1, 8), Access(2, 8)]
