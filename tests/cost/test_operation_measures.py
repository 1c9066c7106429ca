"""Bit operations against published tables, and against sums written here."""

from __future__ import annotations

import math

import hawq_v3
import pytest
import resnets
from hypothesis import given, settings
from hypothesis import strategies as st
from resnets import Layer

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost.operations import RULES, operation_measures
from mpsearch.cost.workload import Access, Gemm, Held, Kind, Operation, Workload

HAWQ_18 = resnets.HAWQ_18 | {f"{name} {share:.2f}": bits for (name, share), (bits, _) in hawq_v3.PUBLISHED.items()}
NETWORKS = {
    "ResNet-18": (resnets.resnet18(), HAWQ_18, resnets.BOPS_18),
    "ResNet-50": (resnets.resnet50(), resnets.HAWQ_50, resnets.BOPS_50),
}
ROWS = [(network, setting) for network, (_, _, published) in NETWORKS.items() for setting in published]


def at(widths: dict[str, tuple[int, int]]) -> Assignment:
    """Integers of (weight, value) bits for the layers named, float32 for all others."""
    texts = {}
    for name, (w, a) in widths.items():
        texts |= {f"{name}.weight": f"int{w}", f"{name}:in": f"int{a}"}
    return Assignment.parse(texts)


@pytest.mark.parametrize(("network", "setting"), ROWS)
def test_bops_of_hawq_v3(network: str, setting: str) -> None:
    """Uniform settings to the unit in which they are published; mixed ones within 3.5 %: the authors add something."""
    layers, settings_of, published = NETWORKS[network]
    bits = settings_of.get(setting, "").replace(" ", "")
    widths = dict(zip((layer.name for layer in layers), f"8{bits}8" if bits else "", strict=bool(bits)))
    found = operation_measures(resnets.workload(layers))["bops"].measure(
        at({name: (int(b), int(b)) for name, b in widths.items()})
    )
    if setting in ("fp32", "W8A8", "W4A4"):
        assert abs(found / 1e9 - published[setting]) < 1
    else:
        assert found / 1e9 == pytest.approx(published[setting], rel=0.035)


def test_macs_of_the_residual_networks() -> None:
    assert resnets.workload(resnets.resnet18()).macs == 1_814_073_344
    assert resnets.workload(resnets.resnet50()).macs == 3_857_973_248


JETS = [Layer(f"dense{i}", *sizes, 1, 1, 1) for i, sizes in enumerate(((16, 64), (64, 32), (32, 32), (32, 5)), start=1)]
JET_BOPS = {
    3: (72704, 67584, 32768, 5120),
    4: (90112, 92160, 45056, 7040),
    5: (107520, 120832, 59392, 9280),
    6: (124928, 153600, 75776, 11840),
    7: (142336, 190464, 94208, 14720),
    8: (159744, 231424, 114688, 17920),
}
"""Bit operations of each layer by the bits of its weights: `training/econ_t/ilp.ipynb` of
https://github.com/fastmachinelearning/hawq-jet-tagging (Campos et al., arXiv 2304.06745)."""


def jets(bits: tuple[int, ...]) -> dict[str, float]:
    """By layer, at weights of `bits`: the input has 16 bits, later values three more than the weights."""
    widths = {layer.name: (b, 16 if i == 0 else b + 3) for i, (layer, b) in enumerate(zip(JETS, bits, strict=True))}
    return operation_measures(resnets.workload(JETS))["bops_baskin"].shares(at(widths))


@pytest.mark.parametrize("bits", JET_BOPS)
def test_bops_of_jet_tagging(bits: int) -> None:
    assert tuple(jets((bits,) * 4).values()) == JET_BOPS[bits]


def test_the_published_choice_for_jet_tagging_uses_its_budget() -> None:
    """8, 5, 5 and 5 bits under 350,000: 349,248, as the notebook prints. Its sensitivities are not in it."""
    assert sum(jets((8, 5, 5, 5)).values()) == 349_248


PRUNED_JETS = {
    32: (4_652_832, 1_166_317),
    12: (1_003_552, 316_653),
    8: (583_968, 208_774),
    6: (412_960, 162_592),
    4: (267_808, 121_581),
}
"""Bit operations with all weights and with a fifth of them, by their bits, as Hawks et al. (arXiv 2102.11289) count:
the input has 32 bits, later values as many as weights. 4,652,832 is their baseline, the rest follows from their
formula."""


@pytest.mark.parametrize("bits", PRUNED_JETS)
def test_bops_of_pruned_jet_tagging(bits: int) -> None:
    for density, expected in zip((1.0, 0.2), PRUNED_JETS[bits], strict=True):
        operations = enumerate(resnets.workload(JETS).operations)
        values = ((o, bits if i else 32) for i, o in operations)
        found = sum(RULES["bops_baskin"](o.macs, bits, a, o.reduction, density) for o, a in values)
        assert round(found) == expected


@pytest.mark.parametrize(("weight", "bits", "kept"), [("pruned4:s80", 4, 0.2), ("pruned8:2of4", 8, 0.5)])
def test_formats_of_pruned_weights_count_what_they_keep(weight: str, bits: int, kept: float) -> None:
    measures = operation_measures(resnets.workload(JETS))
    formats = {f"{layer.name}{end}": text for layer in JETS for end, text in ((".weight", weight), (":in", "int6"))}
    dense = {site: text if text == "int6" else f"int{bits}" for site, text in formats.items()}
    found, whole = ({n: m.measure(Assignment.parse(f)) for n, m in measures.items()} for f in (formats, dense))
    assert found["bops"] == pytest.approx(kept * whole["bops"], abs=len(JETS))
    assert whole["bops_baskin"] - found["bops_baskin"] == pytest.approx((1 - kept) * whole["bops"], abs=len(JETS))
    assert found["macs_bits"] == whole["macs_bits"]


def test_what_has_no_site_is_multiplied_in_float32() -> None:
    tensors = (Held("x", 8), Held("w", 8, is_parameter=True), Held("q", 8, site="q"))
    operations = (
        Operation("plain", Kind.MATMUL, (Access(0, 8), Access(1, 8)), None, 100, 1, 0, Gemm(5, 5, 4)),
        Operation("inside", Kind.RECURRENT, (Access(2, 8),), None, 10, None, 0, Gemm(5, 1, 2)),
        Operation("none", Kind.NORM, (Access(2, 8),), None),
    )
    measures = operation_measures(Workload(tensors, operations))
    eight = Assignment.parse({"q": "int8"})
    assert measures["bops"].shares(eight) == {"plain": 100 * 32 * 32, "inside": 10 * 32 * 8}
    assert measures["macs_bits"].measure(eight) == 110 * 32
    assert measures["bops_baskin"].measure(eight) == 100 * (1024 + 64 + 2) + 10 * (256 + 40 + 1)


def test_the_sums_of_a_transposed_convolution_have_their_average_length() -> None:
    """4 input channels, a window of 3 x 3 and strides of 2: each of 4 positions gets a quarter of 36 products."""
    out = Held("y", 2 * 6 * 10 * 10)
    gemm = Gemm(2 * 5 * 5, 6 * 9, 4)
    operation = Operation("up", Kind.CONV_TRANSPOSED, (), Access(0, out.elements), gemm.macs, gemm=gemm)
    assert operation.reduction == 9
    measure = operation_measures(Workload((out,), (operation,)))["bops_baskin"]
    assert measure.measure(Assignment.parse({})) == round(gemm.macs * (1024 + 64 + math.log2(9)))


WIDTHS = st.lists(st.tuples(st.integers(1, 16), st.integers(1, 16)), min_size=4, max_size=4)


@given(WIDTHS)
@settings(max_examples=50)
def test_measures_against_their_formulas(widths: list[tuple[int, int]]) -> None:
    assignment = at({layer.name: width for layer, width in zip(JETS, widths, strict=True)})
    measures = operation_measures(resnets.workload(JETS))
    rows = [(layer.channels * layer.out, *width, layer.channels) for layer, width in zip(JETS, widths, strict=True)]
    assert measures["bops"].measure(assignment) == sum(n * w * a for n, w, a, _ in rows)
    assert measures["macs_bits"].measure(assignment) == sum(n * max(w, a) for n, w, a, _ in rows)
    baskin = sum(n * (w * a + w + a) + n * k.bit_length() - n for n, w, a, k in rows)  # all k are powers of two
    assert measures["bops_baskin"].measure(assignment) == baskin


@given(WIDTHS, st.integers(0, 7))
@settings(max_examples=50)
def test_a_narrower_operand_never_costs_more(widths: list[tuple[int, int]], place: int) -> None:
    layer, operand = divmod(place, 2)
    fewer = [list(width) for width in widths]
    fewer[layer][operand] = max(1, fewer[layer][operand] - 1)
    measures = operation_measures(resnets.workload(JETS))
    one, other = (at({j.name: tuple(w) for j, w in zip(JETS, both, strict=True)}) for both in (widths, fewer))
    for measure in measures.values():
        assert measure.measure(other) <= measure.measure(one)


@given(st.lists(st.integers(0, 2), min_size=7, max_size=7))
@settings(max_examples=50)
def test_tables_over_choices_equal_the_measure(indices: list[int]) -> None:
    """Weights and values of three layers each on their own; those of the last are tied to one choice."""
    options = tuple(map(Format.parse, ("int2", "int5", "fp16")))
    alone = [Choice(name, (name,), options) for j in JETS[:-1] for name in (f"{j.name}.weight", f"{j.name}:in")]
    tied = Choice("last", ("dense4.weight", "dense4:in"), options)
    space = Space((*alone, tied))
    assignment = space.decode(indices)
    for measure in operation_measures(resnets.workload(JETS)).values():
        assert measure.cost(space)([indices])[0] == measure.measure(assignment)
