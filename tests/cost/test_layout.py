"""Layouts against tensors that are really laid out, and bits per weight against published formats and real grids."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.codes import Codes
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.cost.layout import code_bits, device_memory, device_peak, stored_bits
from mpsearch.cost.memory import Packed, Parameter, Value, memory_measures
from mpsearch.cost.overheads import codebook_bits, groups, nested_scale_bits, pruned_bits, scale_bits
from mpsearch.cost.workload import Held
from mpsearch.graph.grids import packed_size
from mpsearch.quant.binary import BinaryGrid
from mpsearch.quant.grid import Grid
from mpsearch.quant.packing import pack_codes, unpack_codes
from mpsearch.spec import registry
from mpsearch.spec.card import InPlace, Layout

CONTAINERS = (4, 8, 16)


def tensor(rows: int, columns: int, bits: int, is_parameter: bool = True) -> tuple[Held, Packed]:
    held = Held("x", rows * columns, rows, site="x", is_parameter=is_parameter)
    return held, Packed(-(-held.elements * bits // 8) * 8 + 32, held.elements * bits, 32)


def in_words(count: int, bits: int, word: int) -> int:
    """Words taken, one code after the other, when none may straddle two words unless it is longer than one."""
    words, free = 0, 0
    for _ in range(count):
        if free < bits:
            words += max(1, math.ceil(bits / word))
            free = word if bits <= word else 0
        free -= bits if bits <= word else 0
    return words


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 40), st.sampled_from((8, 16, 32)), st.integers(1, 5))
def test_codes_of_each_layout(rows: int, columns: int, bits: int, word: int, align: int) -> None:
    held, packed = tensor(rows, columns, bits)
    n, unit = rows * columns, 8 * align
    container = next((c for c in CONTAINERS if c >= bits), None) or 16 * math.ceil(bits / 16)
    padded = len(range(0, rows, 3)) * 3 * len(range(0, columns, 4)) * 4
    expected = {
        "bit": n * bits,
        "row": sum(len(range(0, columns * bits, 8)) * 8 for _ in range(rows)),
        "word": in_words(n, bits, word) * word,
        "container": n * container,
        "tile": padded * bits if rows > 1 else math.ceil(columns * bits / 8) * 8,
    }
    for pack, found in expected.items():
        layout = Layout(weight_pack=pack, word_bits=word, storage_bits=CONTAINERS, tile=(3, 4), align_bytes=align)
        assert code_bits(layout, held, packed) == len(range(0, found, unit)) * unit
        assert stored_bits(layout, held, packed) == code_bits(layout, held, packed) + len(range(0, 32, unit)) * unit
        assert code_bits(layout, held, packed) >= n * bits


@pytest.mark.parametrize(("bits", "each"), [(3, 3.2), (5, 32 / 6), (4, 4), (7, 8), (31, 32), (33, 64)])
def test_codes_that_do_not_straddle_words(bits: int, each: float) -> None:
    held, packed = tensor(10, 96, bits)
    assert code_bits(Layout(weight_pack="word"), held, packed) == 960 * each


def test_values_and_vectors_are_not_padded_to_tiles() -> None:
    layout = Layout(weight_pack="tile", tile=(8, 64))
    value, packed = tensor(5, 3, 4, is_parameter=False)
    assert code_bits(layout, value, packed) == 5 * 16
    bias = Held("bias", 10, is_parameter=True)
    assert code_bits(layout, bias, None) == 320


def test_scales_and_shared_codes_lie_beside() -> None:
    """30 codes of 5 bits, and scales of 8 bits for every 10 that are worked out as the model runs."""
    held = Held("x", 30, 3, site="x", is_parameter=True)
    packed = Packed(176, 174, 0, (Codes(30, 5), Codes(3, 8)))
    packs = ("bit", "row", "word", "container", "tile")
    found = {pack: code_bits(Layout(weight_pack=pack, tile=(2, 4)), held, packed) for pack in packs}
    assert found == {"bit": 176, "row": 3 * 64, "word": 32 * 6, "container": 30 * 8 + 24, "tile": 4 * 12 * 5 + 24}
    shared = Packed(48, 45, 0, (Codes(15, 3),))  # a code for two elements each
    found = {pack: code_bits(Layout(weight_pack=pack, tile=(2, 4)), held, shared) for pack in packs}
    assert found == {"bit": 48, "row": 3 * 16, "word": 64, "container": 15 * 4 + 4, "tile": 3 * 16}
    digits = Packed(48, 45, 0, (Codes(45, 1, is_stream=True),))
    found = {pack: code_bits(Layout(weight_pack=pack, storage_bits=(8,)), held, digits) for pack in packs}
    assert found == {"bit": 48, "row": 3 * 16, "word": 64, "container": 48, "tile": 3 * 16}


@pytest.mark.parametrize("role", [Role.WEIGHT, Role.FEATURE])
@pytest.mark.parametrize("text", ["mx4", "mx6:e3m2", "mx8", "nvfp4", "fp6", "int5", "planes3", "rowscale1", "pq2"])
@pytest.mark.parametrize("shape", [(3, 7), (5, 40), (4, 6, 11)])
def test_each_layout_is_what_its_codes_take_when_laid_out(text: str, role: Role, shape: tuple[int, ...]) -> None:
    """Codes are taken out of the packed tensor and packed again, row by row, word by word and so on."""
    if (text == "rowscale1") == role.is_parameter and text in ("rowscale1", "pq2"):
        pytest.skip("not of this role")
    axis = 0 if role.is_parameter else len(shape) - 1
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    fmt, n = Format.parse(text), math.prod(shape)
    made = registry.load("quantizers", fmt.scheme)().fit(x, fmt, role, axis)
    rows = shape[0] if role.is_parameter else n // shape[-1]
    held, stored, packed = (
        Held("x", n, rows, site="x", is_parameter=role.is_parameter),
        made.pack(x),
        packed_size(made, shape),
    )
    arrays = [unpack_codes(stored["codes"], packed.arrays[0].bits, packed.arrays[0].count)]
    arrays += [stored["scales"]] if role is Role.FEATURE and "scales" in stored else []
    arrays += [stored["value"].view(torch.int32)] if "value" in stored else []
    for pack in ("bit", "row", "word", "container", "tile"):
        layout = Layout(weight_pack=pack, word_bits=32, storage_bits=CONTAINERS, tile=(4, 8))
        laid = sum(_laid_out(a, c, layout, held) for a, c in zip(arrays, packed.arrays, strict=True))
        assert code_bits(layout, held, packed) == 8 * laid, pack


def _laid_out(numbers: torch.Tensor, codes: Codes, layout: Layout, held: Held) -> int:
    """Bytes of `numbers`."""
    bits, rows = codes.bits, held.rows
    match layout.weight_pack:
        case "bit":
            return _bytes(numbers, bits)
        case "word":
            return sum(4 for _ in torch.split(numbers, 32 // bits))
        case "container" if not codes.is_stream:
            return _bytes(numbers, next((c for c in CONTAINERS if c >= bits), 32))
        case "tile" if held.is_parameter and codes.count == held.elements:
            matrix = numbers.reshape(rows, -1)
            padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % 8, 0, -rows % 4))
            return _bytes(padded, bits)
        case "container":
            return _bytes(numbers, bits)
    return sum(_bytes(row, bits) for row in numbers.reshape(rows, -1))


def _bytes(numbers: torch.Tensor, bits: int) -> int:
    return 4 * numbers.numel() if bits == 32 else len(pack_codes(numbers, bits))


def test_nothing_takes_nothing() -> None:
    for pack in ("bit", "row", "word", "container", "tile"):
        layout = Layout(weight_pack=pack, tile=(4, 4), align_bytes=16)
        assert code_bits(layout, Held("x", 0, 0), Packed(0, 0, 0)) == 0


FORMATS = (
    *("int1", "int1:affine", "int2", "int3:tensor", "int4:affine", "int4:g4", "int4:affine:g4", "int5:affine:channel"),
    *("int8:affine:tensor", "int16", "fp16", "bf16"),
)


def grid(fmt: str, sample: torch.Tensor) -> Grid:
    parsed = Format.parse(fmt)
    return registry.load("quantizers", parsed.scheme)().fit(sample, parsed, Role.WEIGHT, 0)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", [(6, 10), (3, 2, 5), (4, 7)])
def test_what_grids_store_is_codes_scales_and_zero_points(fmt: str, shape: tuple[int, ...]) -> None:
    found = grid(fmt, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    n, (rows, *_) = math.prod(shape), shape
    parsed = Format.parse(fmt)
    bits = int(parsed.bits)
    if parsed.scheme in ("fp", "bf"):
        count = 0
    elif "tensor" in parsed.options:
        count = 1
    else:
        count = groups(rows, n // rows, 4 if "g4" in parsed.options else n // rows)
    if isinstance(found, BinaryGrid):
        overhead = scale_bits(count) if found.low is None else codebook_bits(count, bits=1)
    else:
        zero_points = bits if "affine" in parsed.options else 0
        overhead = scale_bits(count) + math.ceil(zero_points * count / 8) * 8
    assert packed_size(found, shape).static_bits == overhead
    assert found.nbits(shape) == math.ceil(n * bits / 8) * 8 + overhead


def per_weight(bits: int, group: int, overhead: int, groups_of: int = 1) -> Fraction:
    """Bits per weight, where `groups_of` groups have `overhead` bits."""
    return bits + Fraction(overhead, group * groups_of)


def test_bits_per_weight_of_published_formats() -> None:
    """GPTQ, llama.cpp, QLoRA (NF4, double quantization: Dettmers et al., arXiv 2305.14314), OCP MX, NVFP4."""
    assert per_weight(4, 128, scale_bits(1, 16, zero_point=4)) == Fraction("4.15625")
    assert per_weight(4, 32, scale_bits(1, 16)) == Fraction("4.5")
    assert per_weight(8, 32, scale_bits(1, 16)) == Fraction("8.5")
    assert per_weight(4, 64, scale_bits(1)) == Fraction("4.5")
    assert float(per_weight(4, 64, nested_scale_bits(256, 8, group=256), 256)) == pytest.approx(4.126953, abs=5e-7)
    assert per_weight(4, 32, scale_bits(1, 8)) == Fraction("4.25")
    assert per_weight(4, 16, scale_bits(1, 8)) == Fraction("4.5")
    assert pruned_bits(64, bits=8, keep=2, of=4) == 64 * (8 // 2 + 1)


@pytest.mark.parametrize(("fmt", "expected", "besides"), [("int4:g64", 4.5, 0), ("mx4", 4.25, 0), ("nvfp4", 4.5, 32)])
def test_bits_per_weight_of_real_grids(fmt: str, expected: float, besides: int) -> None:
    """A float32 scale for every 64, a power of two for every 32, 8 bits for every 16 and 32 for the tensor."""
    sample = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    assert grid(fmt, sample).nbits((4, 128)) == 4 * 128 * expected + besides


def test_a_partial_last_group_counts_as_one() -> None:
    assert groups(rows=3, columns=10, group=4) == 9
    assert nested_scale_bits(257, 8, group=256) == 257 * 8 + 2 * 32


# Layouts of whole models. `packed` knows the elements of a site from its name.


def packed(name: str, fmt: Format) -> Packed:
    codes = int(name.split(".")[1]) * int(fmt.bits)
    return Packed(-(-codes // 8) * 8 + 64, codes, 64)


@st.composite
def models(draw: st.DrawFn) -> tuple[list[Parameter], list[Value], Assignment]:
    shapes = draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=5))
    parameters, values, formats = [], [], {}
    for i, (rows, columns) in enumerate(shapes):
        n = rows * columns
        corrected = draw(st.sampled_from((0, 32 * rows)))
        parameters.append(Parameter(f"p{i}.{n}", n, rows, site=f"p{i}.{n}", correction_bits=corrected))
        values.append(Value(f"v{i}.{n}", n, rows, site=f"v{i}.{n}", born=i, dies=i + draw(st.integers(0, 2))))
        for name in (f"p{i}.{n}", f"v{i}.{n}"):
            formats[name] = Format.parse(draw(st.sampled_from(("int1", "int3", "int8", "fp32"))))
    return parameters, values, Assignment(formats)


@given(models())
def test_bit_packing_is_what_the_plain_measures_count(
    model: tuple[list[Parameter], list[Value], Assignment],
) -> None:
    parameters, values, assignment = model
    plain = memory_measures(parameters, values, packed)
    stored = device_memory(Layout(), parameters, values, packed)
    assert stored.measure(assignment) == plain["memory_bytes"].measure(assignment)
    peak = device_peak(Layout(), InPlace(), values, packed)
    assert peak.measure(assignment) == plain["activation_peak_bytes"].measure(assignment)


@given(models(), st.sampled_from(("bit", "row", "word", "container", "tile")), st.sampled_from((1, 4, 16)))
def test_no_layout_stores_less_than_bit_packing(
    model: tuple[list[Parameter], list[Value], Assignment], pack: str, align: int
) -> None:
    parameters, values, assignment = model
    layout = Layout(weight_pack=pack, storage_bits=(2, 8, 32), tile=(4, 8), align_bytes=align)
    one, other = (device_memory(each, parameters, values, packed) for each in (layout, Layout()))
    assert one.measure(assignment) >= other.measure(assignment)
    assert one.measure(assignment) % align == 0
    one_peak, other_peak = (device_peak(each, InPlace(), values, packed) for each in (layout, Layout()))
    assert one_peak.measure(assignment) >= other_peak.measure(assignment)
