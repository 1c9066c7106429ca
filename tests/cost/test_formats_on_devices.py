"""What formats that are no plain integers or floats cost: bit operations, arrays, kernels for single bits, decoding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerator_runs import at, bundled, conv, device, linear
from hypothesis import given
from hypothesis import strategies as st
from test_roofline import roofline

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.space import Choice, Space
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.operations import operation_measures
from mpsearch.cost.promotions import promotions
from mpsearch.cost.width import width
from mpsearch.cost.workload import Access, Gemm, Held, Kind, Operation, Workload
from mpsearch.quant.esb import LAMBDA
from mpsearch.spec import registry

FP16 = Width(16, "fp")


def of(text: str) -> Width:
    return width(Format.parse(text))


def product() -> Workload:
    tensors = (Held("x", 40, 4, site="x"), Held("w", 80, 8, site="w", is_parameter=True), Held("y", 32, 4))
    gemm = Gemm(m=4, n=8, k=10)
    made = Operation("mm", Kind.LINEAR, (Access(0, 40), Access(1, 80)), Access(2, 32), gemm.macs, 1, 0, gemm)
    return Workload(tensors, (made,))


@pytest.mark.parametrize(
    ("weight", "value", "w", "a"),
    [
        ("mx4", "mx8", 4, 8),
        ("nvfp4", "fp6", 4, 6),
        ("mx8:int", "bf16", 8, 16),
        ("esb4", "esb6:k4", 2, 5),
        ("pow4", "int8", 1, 8),
        ("planes3", "planes2", 3, 2),
        ("multibit1.5", "rowscale1", 1.5, 1),
        ("multibit0.6", "int8", 0.6, 8),
        ("pq2", "int8", 16, 8),
        ("pq2:c32", "sparse8", 32, 8),
        ("sub4", "sparse32", 4, 32),
        ("int3:stochastic", "fp32", 3, 32),
    ],
)
def test_bits_that_enter_products(weight: str, value: str, w: float, a: float) -> None:
    found = operation_measures(product())
    at_both = Assignment.parse({"w": weight, "x": value})
    assert found["bops"].measure(at_both) == round(320 * w * a)
    assert found["macs_bits"].measure(at_both) == round(320 * max(w, a))


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(BadInput, match="unknown quantizer 'nonsense'"):
        of("nonsense4")
    assert of("fp32") == FLOAT32


@pytest.mark.parametrize(("bits", "k"), [pair for pair in LAMBDA if pair[0] < 9])
def test_elastic_numbers_fit_the_integer_and_the_float_that_stand_for_them(bits: int, k: int) -> None:
    """All levels are whole multiples of the smallest one, below 2^(bits - 1) of the integer, sign apart."""
    fmt = Format.parse(f"esb{bits}:k{k}")
    grid = registry.load("quantizers", "esb")().fit(torch.linspace(-1, 1, 16), fmt, Role.WEIGHT, 0)
    steps = grid.kind.magnitudes * 2**k
    assert (steps == steps.round()).all()
    assert 2 ** (of(str(fmt)).fixed_bits - 2) <= float(steps.max()) < 2 ** (of(str(fmt)).fixed_bits - 1)


@given(st.integers(1, 8), st.integers(1, 8))
def test_planes_take_a_pass_for_each_pair_on_serial_arrays(w: int, a: int) -> None:
    made = device("bismo-pynq-z1", fill_cycles=0)
    layer = linear(512, 64, samples=64)
    one = made.compute_cycles(at(layer, 1, 1))
    for weight in (of(f"planes{w}"), of(f"multibit{w}"), Width(w)):
        assert made.compute_cycles(at(layer, weight, of(f"planes{a}"))) == w * a * one


@given(st.integers(1, 8), st.integers(1, 8))
def test_planes_run_bit_by_bit_where_that_is_faster(w: int, a: int) -> None:
    """Break-even against int4 and int8: as many passes as single bits are faster (4 and 8 times on this card)."""
    made, deep = bundled("nvidia-a100-sxm"), linear(8192, 8192, samples=8192)
    weight, value = of(f"planes{w}"), of(f"planes{a}")
    plain = Width(4) if max(w, a) <= 4 else Width(8)
    is_single = w * a <= 2496 / (624 if plain.bits == 4 else 312)
    assert made.promote(Kind.LINEAR, weight, value) == ((weight, value) if is_single else (plain, plain))
    rate = 2496e12 / (w * a) if is_single else 624e12 if plain.bits == 4 else 312e12
    assert made.seconds(at(deep, weight, value, 32)) == pytest.approx(deep.macs / rate)
    bases = of(f"multibit{w}")
    on_bits = 2496 / (w * a) >= 9.75  # tera MAC/s, against float32
    assert made.promote(Kind.LINEAR, bases, value) == ((bases, value) if on_bits else (FLOAT32, FLOAT32))


FLOATS = [{"w": b, "a": b, "type": "fp", "peak_mac_per_s": p} for b, p in ((16, 2e12), (32, 1e12))]


def test_codebooks_save_traffic_only_where_decoding_has_a_price() -> None:
    thin = linear(4096, 4096)
    asked, wide = of("pq2"), at(thin, FP16, FP16)
    run = replace(wide, weight=asked, read_bits=(wide.read_bits[0], 4096 * 4096 * 2))
    decodes = {"compute": {"w": 16, "a": 16, "type": "fp"}, "unpack_s_per_weight": {"pq2": 1e-12}}
    plain, able = roofline(), roofline(precision={"legal": FLOATS, "weight_only": decodes})
    assert plain.moved_bits(run) - able.moved_bits(run) == 4096 * 4096 * 14
    assert able.seconds(run) == pytest.approx(able.moved_bits(run) / 8e9 + 4096 * 4096 * 1e-12)
    assert plain.promote(Kind.LINEAR, asked, FP16) == able.promote(Kind.LINEAR, asked, FP16) == (FP16, FP16)


def test_arrays_of_integers_have_room_for_every_place() -> None:
    layer = conv(28, 128, 128, 3)
    assert bundled("bitfusion-eyeriss45").promote(Kind.CONV, of("esb4"), of("pow4")) == (Width(8), Width(8))
    assert bundled("systolic-32x32-ws").promote(Kind.CONV, of("esb4:k2"), of("pow2")) == (Width(4), Width(4))
    assert bundled("cortex-m7-stm32f746").promote(Kind.CONV, of("pq2"), Width(8)) == (FLOAT32, FLOAT32)
    assert bundled("cortex-m7-stm32f746").promote(Kind.CONV, of("pow4"), Width(8)) == (Width(8), Width(8))
    fpga = bundled("esb-zcu102")
    assert fpga.promote(Kind.CONV, of("esb4"), of("multibit2")) == (of("esb4"), Width(2))
    few, whole = (fpga.seconds(at(layer, of(text), of(text))) for text in ("esb8", "int8"))
    assert few < whole, "a shifter takes fewer tables than the bits that it saves"


def test_two_of_four_gain_where_a_card_has_a_rate_for_them_and_other_zeros_nowhere() -> None:
    deep, kind = linear(8192, 8192, samples=8192), Kind.LINEAR
    a100, t4 = bundled("nvidia-a100-sxm"), bundled("nvidia-t4")
    half, quarter, anywhere = of("pruned4:2of4"), of("pruned3:1of4"), of("pruned4:s90")
    assert a100.promote(kind, half, Width(4)) == (half, Width(4))
    assert a100.promote(kind, quarter, Width(4)) == (half, Width(4))
    assert a100.promote(kind, anywhere, Width(4)) == t4.promote(kind, half, Width(4)) == (Width(4), Width(4))
    assert a100.promote(kind, of("pruned4:3of4"), Width(4)) == (Width(4), Width(4))
    dense = a100.seconds(at(deep, 4, 4))
    assert a100.seconds(at(deep, half, 4)) == a100.seconds(at(deep, quarter, 4)) == pytest.approx(dense / 2)
    assert a100.seconds(at(deep, anywhere, 4)) == dense
    thin = linear(4096, 4096)
    wide = at(thin, half, 4)
    as_it_lies = replace(wide, read_bits=(wide.read_bits[0], 4096 * 4096 * 3))
    assert a100.moved_bits(as_it_lies) == sum(as_it_lies.read_bits) + wide.write_bits, "2 codes and 2 places for 4"
    assert t4.moved_bits(as_it_lies) == wide.moved_bits, "filled up ahead of the kernel"


def test_what_is_said_of_formats_without_a_kernel() -> None:
    def said(device: str, weights: str, values: str) -> list[str]:
        options = (("w", weights), ("x", values))
        choices = (Choice(site, (site,), tuple(map(Format.parse, texts.split()))) for site, texts in options)
        return promotions(bundled(device), product(), Space(tuple(choices)))

    h100 = "nvidia-h100-sxm has no kernel for"
    assert said("nvidia-h100-sxm", "mx4", "nvfp4")[:2] == [
        f"{h100} mx4 weights: they run as bf16 (1 operation), no faster.",
        "nvidia-h100-sxm runs nvfp4 values as bf16 beside mx4 weights (1 operation), no faster.",
    ]
    assert f"{h100} pq2 weights: they run as fp16 (1 operation), no faster." in said("nvidia-h100-sxm", "pq2", "fp16")
    assert said("nvidia-b200", "mx4", "mx4") == []
    assert said("nvidia-h100-sxm", "pruned8:2of4", "int8") == []
    assert said("nvidia-t4", "pruned4:2of4", "int4")[0] == (
        "nvidia-t4 has no kernel for pruned4:2of4 weights: they run as int4 (1 operation), no faster."
    )
    assert said("nvidia-h100-sxm", "pruned4:2of4", "fp16")[0] == (
        "nvidia-h100-sxm runs pruned4:2of4 weights as fp16:2of4 beside fp16 values (1 operation), no faster."
    )
