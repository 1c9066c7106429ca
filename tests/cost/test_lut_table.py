"""Tables of times: what is looked up, what conversions cost, and what a card of another model or machine is told."""

from __future__ import annotations

import csv
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Choice, Space
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost import machine
from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.cost.accelerators.lut_table import LutTable
from mpsearch.cost.conversions import asked, dequantized, inputs, quantized
from mpsearch.cost.device import latency
from mpsearch.cost.machine import Machine, this_machine
from mpsearch.cost.sums import Sum
from mpsearch.cost.workload import Access, Gemm, Held, Kind, Operation, Workload
from mpsearch.testing.accelerators import AcceleratorExam, packed_in, zoo

INT8, INT4, INT2 = (Format("int", bits) for bits in (8, 4, 2))
WORKLOAD = Workload(
    (
        Held("in", 100, site="in"),
        Held("a.weight", 30, site="a.weight", is_parameter=True),
        Held("a:out", 200, site="a:out"),
        Held("b.weight", 40, site="b.weight", is_parameter=True),
        Held("b:out", 200, site="b:out"),
        Held("sum", 200, site="sum"),
        Held("logits", 10),
    ),
    (
        Operation("a", Kind.CONV, (Access(0, 100), Access(1, 30)), Access(2, 200), 6000, 1, 0, Gemm(20, 10, 30)),
        Operation("b", Kind.LINEAR, (Access(2, 200), Access(3, 40)), Access(4, 200), 8000, 1, 0, Gemm(20, 10, 40)),
        Operation("add", Kind.ELEMENTWISE, (Access(2, 200), Access(4, 200)), Access(5, 200)),
        Operation("mean", Kind.POOL, (Access(5, 200),), Access(6, 10)),
    ),
    samples=5,
)
ROWS = [
    ("a", "fp32", 10e-6), ("a", "int8", 4e-6), ("b", "fp32", 20e-6), ("b", "int8", 8e-6),
    ("add", "fp32", 2e-6), ("add", "int8", 3e-6), ("mean", "fp32", 1e-6),
]  # fmt: skip
TABLE = """
table:
  integer_results: [a, add]
  conversions:
    quantize_s: {input: 1.0e-9, conv: 2.0e-9, linear: 3.0e-9}
    dequantize_s: {elementwise: 4.0e-9, pool: 5.0e-9}
  rows:
""" + "".join(f"  - {{operation: {o}, w: {w}, a: {w}, seconds: {s}}}\n" for o, w, s in ROWS)
SITES = ("in", "a.weight", "a:out", "b.weight", "b:out", "sum")


def card(folder: Path, body: str = TABLE, name: str = "mine", src: str = "table: measured by hand") -> Path:
    path = folder / f"{name}.yaml"
    head = f"schema: mpsearch.accelerator/1\nname: {name}\nkind: lut_table\nstatus: analytic\n"
    path.write_text(f"{head}src: {{{src}}}\n{body}")
    return path


def seconds(path: Path, assignment: Assignment, workload: Workload = WORKLOAD) -> float:
    return latency(load_accelerator(path), workload, packed_in(workload)).measure(assignment)


def everywhere(fmt: Format, *but: str) -> Assignment:
    return Assignment({site: fmt for site in SITES if site not in but})


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        (Assignment(), 33.0),
        # input, a, b, add run on integers; the mean reads codes
        (everywhere(INT8), 4 + 8 + 3 + 1 + 100 * 1e-3 + 200 * 5e-3),
        # narrower codes run as 8 bits
        (everywhere(INT4), 4 + 8 + 3 + 1 + 100 * 1e-3 + 200 * 5e-3),
        # the weight of b is float: b reads codes for free (no price is given), writes codes
        (everywhere(INT8, "b.weight"), 4 + 20 + 3 + 1 + 100 * 1e-3 + 200 * 3e-3 + 200 * 5e-3),
        # the result of a is float, so a runs on floats, and so do b and the sum; the sum reads codes of b's result
        (everywhere(INT8, "a:out"), 10 + 20 + 2 + 1 + 100 * 1e-3 + 200 * 3e-3 + 200 * 4e-3 + 200 * 5e-3),
        # weights alone gain nothing
        (Assignment({"a.weight": INT4, "b.weight": INT2}), 33.0),
        # one value between floats: a quantizes it, the sum dequantizes it, b has no price for reading codes
        (Assignment({"a:out": INT8}), 33 + 200 * 2e-3 + 200 * 4e-3),
    ],
)
def test_times_by_hand(assignment: Assignment, expected: float, tmp_path: Path) -> None:
    assert seconds(card(tmp_path), assignment) == pytest.approx(expected * 1e-6, rel=1e-9)


def test_every_part_depends_on_one_operation(tmp_path: Path) -> None:
    parts = load_accelerator(card(tmp_path)).parts(WORKLOAD)
    assert {part.name: part.sites for part in parts} == {
        "in (input)": ("in",),
        "a": ("in", "a.weight", "a:out"),
        "b": ("a:out", "b.weight", "b:out"),
        "add": ("a:out", "b:out", "sum"),
        "mean": ("sum",),
    }


def test_the_fixed_part_and_the_slope_count(tmp_path: Path) -> None:
    body = f"{TABLE}calibration: {{intercept_s: 5.0e-6, slope: 2.0, n_anchors: 2}}\n"
    path = card(tmp_path, body, src="table: measured by hand, calibration: made up by hand")
    assert seconds(path, Assignment()) == pytest.approx((5 + 2 * 33) * 1e-6)
    assert seconds(path, everywhere(INT8)) == pytest.approx((5 + 2 * (16 + 0.1 + 1)) * 1e-6)


def test_tables_equal_the_measure(tmp_path: Path) -> None:
    found = latency(load_accelerator(card(tmp_path)), WORKLOAD, packed_in(WORKLOAD))
    space = Space(tuple(Choice(site, (site,), (INT4, INT8, FP32)) for site in SITES))
    indices = np.array(list(product(range(3), repeat=len(SITES))))
    measured = [found.measure(space.decode(row)) for row in indices.tolist()]
    np.testing.assert_array_equal(found.cost(space)(indices), measured)
    assert isinstance(found, Sum)


def test_conversions_are_counted_on_the_float_side() -> None:
    conv, linear, add, mean = WORKLOAD.operations
    at = dict(everywhere(INT8))
    assert asked(WORKLOAD, conv, at) == (Width(8), Width(8))
    assert asked(WORKLOAD, mean, at) == (Width(8), Width(8))
    assert asked(WORKLOAD, conv, {**at, "a:out": FP32}) == (Width(8), Width(8))
    assert asked(WORKLOAD, conv, {**at, "a:out": FP32}, {"a"}) == (FLOAT32, FLOAT32)
    assert asked(WORKLOAD, add, {**at, "b:out": FP32}) == (FLOAT32, FLOAT32)
    assert asked(WORKLOAD, linear, {**at, "a:out": INT4}) == (Width(8), Width(4))
    assert (dequantized(WORKLOAD, add, at), quantized(WORKLOAD, add, at)) == (400, 200)
    assert dequantized(WORKLOAD, conv, at) == 100  # its weight is dequantized beforehand
    assert inputs(WORKLOAD) == [Access(0, 100)]


WIDE = "table:\n  rows:\n" + "".join(
    f"  - {{operation: {operation.name}, w: {w}, a: {w}, seconds: {s}}}\n"
    for operation in zoo().operations
    for w, s in (("fp32", 2e-6), ("int8", 1e-6))
)


@pytest.fixture
def accelerator(tmp_path: Path) -> LutTable:
    return load_accelerator(card(tmp_path, WIDE))


class TestTable(AcceleratorExam):
    pass


# A table of widths of weight and value in cycles, as simulators and vendors give them


def cycles(layer: int, w: int, a: int) -> int:
    """More bits take longer; of the first layer, traffic counts and weights hardly."""
    return (100 * a + w) if layer == 0 else 10 * (layer + 1) * w * a


def table_file(folder: Path, unit: str = "cycles", scale: float = 1.0, fp32: bool = True) -> Path:
    path = folder / "times.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["operation", "w", "a", unit])
        for (i, name), w, a in product(enumerate(("a", "b")), range(1, 9), range(1, 9)):
            rows.writerow([name, w, a, cycles(i, w, a) * scale])
        rows.writerows([name, "fp32", "fp32", 1000 * scale] for name in "ab" if fp32)
    return path


def test_a_file_of_cycles_is_read_in_full(tmp_path: Path) -> None:
    table_file(tmp_path)
    path = card(tmp_path, "table: {path: times.csv, frequency_hz: 1.0e9}\n")
    device = load_accelerator(path)
    assert sum(len(pairs) for pairs in device.entries.values()) == 2 * 65
    for w, a in product(range(1, 9), range(1, 9)):
        formats = {"in": Format("int", a), "a.weight": Format("int", w)}
        formats |= {"a:out": Format("int", a), "b.weight": Format("int", w)}
        expected = (cycles(0, w, a) + cycles(1, w, a)) * 1e-9
        assert seconds(path, Assignment(formats)) == pytest.approx(expected, rel=1e-9)
    uniform = [sum(cycles(i, k, k) for i in (0, 1)) for k in range(1, 9)]
    assert uniform == sorted(uniform)


def test_a_table_says_what_the_float_model_takes(tmp_path: Path) -> None:
    table_file(tmp_path, fp32=False)
    path = card(tmp_path, "table: {path: times.csv, frequency_hz: 1.0e9}\n")
    with pytest.raises(BadInput, match="'a' has no row for fp32 x fp32, which the float model runs at; add one"):
        seconds(path, Assignment())
    table_file(tmp_path)
    assert seconds(path, Assignment()) == pytest.approx(2000e-9)
    assert seconds(path, Assignment({"a.weight": Format("int", 16)})) == seconds(path, Assignment())


def test_a_file_in_seconds_is_the_same(tmp_path: Path) -> None:
    table_file(tmp_path, "seconds", 1e-9)
    body = "table: {path: times.csv}\n"
    assert seconds(card(tmp_path, body), everywhere(INT4)) == pytest.approx((404 + 320) * 1e-9)


BAD_FILES = {
    "operation,w,a\na,8,8\n": "has columns operation, w, a; it needs operation, w, a and one of seconds, cycles",
    "operation,w,a,ms\na,8,8,1\n": "has columns operation, w, a, ms",
    "operation,w,a,cycles,seconds\na,8,8,1,1\n": "one of seconds, cycles",
    "operation,w,a,cycles\na,8,8,1\n": "is in cycles: give frequency_hz",
    "operation,w,a,seconds\n": "has no rows",
    "operation,w,a,seconds\na,8,8\n": ":2: has not as many values as the header has columns",
    "operation,w,a,seconds\na,8,8,1,2\n": ":2: has not as many values as the header has columns",
    "operation,w,a,seconds\na,eight,8,1\n": ":2: 'eight' is not a width such as 4, int8 or fp16",
    "operation,w,a,seconds\na,8,8,fast\n": ":2: 'fast' is not a number of seconds",
    "operation,w,a,seconds\na,8,8,-1\n": ":2: -1 seconds cannot be; 0 or more",
    "operation,w,a,seconds\na,8,8,nan\n": ":2: nan seconds cannot be",
    "operation,w,a,seconds\n,8,8,1\n": ":2: names no operation",
    "operation,w,a,seconds\na,8,8,1\na,int8,8,2\n": ":3: a has int8 x 8 twice",
}


def test_what_is_no_width_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"table\.rows\[0\]\.w: .* is not a width"):
        load_accelerator(card(tmp_path, TABLE.replace("w: fp32", "w: xfp32yy", 1)))


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_faulty_file_is_answered_with_its_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text(text)
    with pytest.raises(BadInput, match=re.escape(BAD_FILES[text])) as told:
        load_accelerator(card(tmp_path, "table: {path: times.csv}\n"))
    assert "mine.yaml:6:9: table.path" in str(told.value)


BAD_BODIES = {
    "table: {path: time.csv}\n": r"time\.csv is not there\. Did you mean 'times\.csv'",
    "table: {}\n": "needs either rows or path",
    f"{TABLE}  path: times.csv\n": "needs either rows or path",
    f"{TABLE}  frequency_hz: 1.0e9\n": "is for a file in cycles",
    f"{TABLE}  - {{operation: a, w: fp32, a: fp32, seconds: 1.0}}\n": "a has fp32 x fp32 twice",
    f"{TABLE}  - {{operation: a, w: wide, a: fp32, seconds: 1.0}}\n": r"table\.rows\[7\]\.w",
    f"{TABLE}  - {{operation: a, w: fp16, a: fp16}}\n": r"table\.rows\[7\]\.seconds: is required and missing",
    f"{TABLE}  rows2: 1\n": "unknown key 'rows2'",
}


@pytest.mark.parametrize("body", BAD_BODIES)
def test_a_faulty_table_is_refused(body: str, tmp_path: Path) -> None:
    table_file(tmp_path, "seconds")
    with pytest.raises(BadInput, match=BAD_BODIES[body]):
        load_accelerator(card(tmp_path, body))


def test_bare_bits_are_integers_in_rows_as_in_files(tmp_path: Path) -> None:
    bare = TABLE.replace("w: int8, a: int8", "w: 8, a: '8'")
    assert bare != TABLE
    assert load_accelerator(card(tmp_path, bare)).entries == load_accelerator(card(tmp_path, name="other")).entries
    for wrong in ("0", "-8", "8.0", "true", "wide"):
        with pytest.raises(BadInput, match=r"table\.rows\[1\]\.w: .* is not a width such as 4, int8 or fp16\."):
            load_accelerator(card(tmp_path, TABLE.replace("w: int8", f"w: {wrong}", 1)))


def test_operations_of_another_model_are_named(tmp_path: Path) -> None:
    path = card(tmp_path, f"{TABLE}  - {{operation: ad, w: fp32, a: fp32, seconds: 1.0}}\n")
    with pytest.raises(BadInput, match=r"the model has no operation 'ad'\. Did you mean 'add'"):
        seconds(path, Assignment())
    few = card(tmp_path, "table:\n  rows:\n  - {operation: a, w: fp32, a: fp32, seconds: 1.0}\n")
    with pytest.raises(BadInput, match="the table has no row for b; add what they take"):
        seconds(few, Assignment())


def test_what_multiplies_nothing_may_be_left_out(tmp_path: Path) -> None:
    path = card(tmp_path, "table:\n  rows:\n" + "".join(TABLE.split("rows:\n")[1].splitlines(True)[:4]))
    assert seconds(path, Assignment()) == pytest.approx(30e-6)


def measured(folder: Path, workload: Workload = WORKLOAD, samples: int = 5, **changes: object) -> Path:
    here = this_machine().model_copy(update=changes)
    body = f"{TABLE}measurement: {{workload_sha256: {workload.digest}, samples: {samples}, threads: 1}}\n"
    body += f"machine: {here.model_dump_json(exclude_none=True)}\n"
    src = "table: by hand today, measurement: by hand today, machine: by hand today"
    return card(folder, body, src=src)


def test_a_card_of_this_model_and_machine_is_taken(tmp_path: Path) -> None:
    path = measured(tmp_path)
    assert load_accelerator(path).refuses("latency_s") is None
    assert seconds(path, Assignment()) == pytest.approx(33e-6)
    assert "energy" in load_accelerator(path).refuses("energy_j")


def test_a_card_of_another_model_or_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"measured on batches of 7, and this model runs on 5: set the batch size back"):
        seconds(measured(tmp_path, samples=7), Assignment())
    other = Workload(WORKLOAD.tensors, WORKLOAD.operations[:3], 5)
    with pytest.raises(
        BadInput, match=r"mine was measured on another model .*: measure this one with mpsearch profile"
    ):
        seconds(measured(tmp_path, other), Assignment())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cpu": "Elbrus-8S"}, "it was measured on Elbrus-8S, this is"),
        ({"flags": ("avx2", "amx_int8")}, "instructions amx_int8 were there and are not"),
        ({"flags": ()}, "were not there and are"),
        ({"l3_bytes": 1 << 20}, "the L3 cache held 1024 KiB and holds"),
        ({"l2_bytes": None}, "the L2 cache held an unknown size and holds"),
        ({"packages": {"onnxruntime": "1.0.0"}}, "onnxruntime was 1.0.0 and is"),
        ({"packages": {}}, "onnxruntime was not installed and is"),
    ],
)
def test_a_card_of_another_machine_is_refused_with_what_differs(changes: dict, told: str, tmp_path: Path) -> None:
    device = load_accelerator(measured(tmp_path, **changes))
    refused = device.refuses("latency_s")
    assert refused is not None
    assert told in refused
    assert refused.endswith("measure this machine with mpsearch profile")


def test_a_machine_is_itself_and_needs_nothing_heavy_to_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert this_machine() == this_machine()
    assert this_machine().differences(this_machine()) == []
    source = Path(machine.__file__).read_text(encoding="utf-8")
    assert not re.search(r"import (torch|onnx|onnxruntime|numpy)", source)
    (tmp_path / "cpuinfo").write_text("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\nFeatures\t: fp asimd asimddp sve\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_CACHES", tmp_path / "none")
    found = this_machine()
    assert (found.cpu, found.flags) == ("ARM 0x41 0xd0c", ("asimd", "asimddp", "sve"))
    assert (found.l2_bytes, found.l3_bytes) == (None, None)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    assert this_machine().cpu


def test_a_package_that_was_not_there_is_named() -> None:
    bare, full = (Machine(cpu="x", flags=(), packages=packages) for packages in ({}, {"torch": "2"}))
    assert bare.differences(full) == ["torch was not installed and is 2"]
    assert full.differences(bare) == ["torch was 2 and is not installed"]
