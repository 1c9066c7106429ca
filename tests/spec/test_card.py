# ruff: noqa: E501 - one case, one line
"""Cards: found by name and by path; what is right loads, what is wrong is named with its place, all at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsearch.core.errors import BadInput
from mpsearch.cost.accelerators.base import Accelerator
from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.spec import find, registry
from mpsearch.spec.schema import card_name

CARD = """\
schema: mpsearch.accelerator/1
name: mine
kind: roofline
status: analytic
note: One of mine.
src:
  precision: datasheet, halved
  memory: measured
  overhead: measured
  efficiency: measured
precision:
  legal:
    - {w: 8, a: 8, type: int, peak_mac_per_s: 65.0e12, kinds: [conv, linear]}
    - {w: 16, a: 16, type: fp, peak_mac_per_s: 32e12}
    - {w: 32, a: 32, type: fp, peak_mac_per_s: 4e12}
  weight_only: {compute: {w: 16, a: 16, type: fp}, unpack_s_per_weight: {w4: null}}
efficiency: {conv: 0.5, linear: {w8a8: 0.5, all: 0.3}}
memory:
  - {level: l2, bytes: 4194304, read_bytes_per_s: 1e12}
  - {level: dram, bytes: 16000000000, read_bytes_per_s: 3.2e11}
overhead: {launch_s: 5e-6}
"""


def errors_of(folder: Path, text: str, name: str = "mine") -> list[str]:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_accelerator(path)
    return [error.replace(f"{folder}/", "") for error in caught.value.errors]


def test_a_good_card(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CARD)
    card = load_accelerator(tmp_path / "mine.yaml").card
    assert (card.name, card.kind, card.status, card.note) == ("mine", "roofline", "analytic", "One of mine.")
    assert [level.level for level in card.memory] == ["l2", "dram"]
    assert card.memory[1].read_bytes_per_s == 3.2e11
    assert card.energy is None


@pytest.mark.parametrize("name", find.card_names())
def test_shipped_cards_are_valid_and_say_where_every_number_is_from(name: str) -> None:
    device = load_accelerator(find.find_card(name, Path()))
    assert device.card.name == name
    assert device.card.note
    assert all(len(text) > 15 for text in device.card.src.values())
    assert device.refuses("latency_s") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # what a number is of
        ("peak_mac_per_s: 32e12", "peak: 32e12", "mine.yaml:14:32: precision.legal[1].peak: unknown key 'peak': units stand in names, without prefixes such as giga; write peak_mac_per_s."),
        ("peak_mac_per_s: 32e12", "throughput: 32e12", "write peak_mac_per_s."),
        ("read_bytes_per_s: 1e12", "bandwidth: 1e12", "mine.yaml:19:33: memory[0].bandwidth: unknown key 'bandwidth': units stand in names, without prefixes such as giga; write read_bytes_per_s."),
        ("read_bytes_per_s: 1e12", "bandwidth_gb_per_s: 1000", "write read_bytes_per_s."),
        ("read_bytes_per_s: 1e12", "read_gb_per_s: 1000", "write read_bytes_per_s."),
        ("bytes: 4194304", "size: 4194304", "unknown key 'size': units stand in names, without prefixes such as giga; write bytes."),
        ("launch_s", "launch", "overhead.launch: unknown key 'launch': units stand in names"),
        ("launch_s", "launch_us", "write launch_s."),
        ("level: l2", "levle: l2", "memory[0].levle: unknown key 'levle'. Did you mean 'level'?"),
        ("overhead: {", "overhaed: {", "src.overhead: the card has no block 'overhead'."),
        ("efficiency: {", "efficency: {", "unknown key 'efficency'. Did you mean 'efficiency'?"),
        # dense MAC/s
        ("peak_mac_per_s: 65.0e12", "peak_tops: 130", "unknown key 'peak_tops': peaks are dense MAC/s = dense TOPS / 2"),
        ("peak_mac_per_s: 65.0e12", "sparse_peak_mac_per_s: 130e12", "never a sparse figure"),
        ("peak_mac_per_s: 65.0e12", "tflops: 130", "dense TOPS / 2"),
        ("datasheet, halved", "datasheet, peak with 2:4 sparsity", "mine.yaml:7:3: src.precision: speaks of sparse peaks"),
        ("datasheet, halved", "130 TOPS by the datasheet", "src.precision: speaks of operations per second"),
        ("datasheet, halved", "65 TFLOP/s by the datasheet", "src.precision: speaks of operations per second"),
        ("datasheet, halved", "sparse TOPS / 2", "src.precision: speaks of sparse peaks"),
        ("65.0e12", "65", "mine.yaml:13:31: precision.legal[0].peak_mac_per_s: 65 MAC/s cannot be: write the whole number, 65e12 for 65 tera MAC/s."),
        ("65.0e12", "65.0e18", "6.5e+19 MAC/s cannot be"),
        ("65.0e12", "260.0e12", "w8a8 is 8.12 times as fast as fp16, and 4 times is the most that its bits allow; are both dense MAC/s?"),
        # sources
        ("  memory: measured\n", "", "mine.yaml:17:1: memory: has numbers and no source; write src.memory: where they are from."),
        ("  memory: measured\n", "  memory: ''\n", "memory: has numbers and no source"),
        ("  memory: measured", "  memroy: measured", "src.memroy: the card has no block 'memroy'. Did you mean 'memory'?"),
        ("src:\n  precision: datasheet, halved\n  memory: measured\n  overhead: measured\n  efficiency: measured\n", "", "src: is missing: a card names the source of every block that has numbers: precision, efficiency, memory, overhead."),
        ("src:\n  precision: datasheet, halved\n  memory: measured\n  overhead: measured\n  efficiency: measured\n", "src: {}\n", "src: is missing"),
        # what a card is
        ("name: mine", "name: yours", "mine.yaml:2:1: name: 'yours' is not the name of the file; write mine, or call the file yours.yaml."),
        ("accelerator/1", "accelerator/2", "schema: 'mpsearch.accelerator/2' is not allowed. Did you mean 'mpsearch.accelerator/1'?"),
        ("mpsearch.accelerator/1", "mpsearch.space/1", "schema: 'mpsearch.space/1' is not allowed."),
        ("schema: mpsearch.accelerator/1\n", "", "schema: is required and missing."),
        ("kind: roofline", "kind: rooflin", "mine.yaml:3:1: kind: unknown accelerator 'rooflin'. Did you mean 'roofline'?"),
        ("kind: roofline\n", "", "kind: is required and missing; the kinds are bitfusion, bitserial, fpga, lut_table, mcu, roofline, systolic."),
        ("status: analytic", "status: guessed", "status: 'guessed' is not allowed."),
        ("status: analytic", "status: calibrated", "status: 'calibrated' needs calibration.n_anchors"),
        ("status: analytic", "status: measured", "status: 'measured' is for tables with a measurement block"),
        ("note: One of mine.", "note: With 2:4 sparsity enabled.", "mine.yaml:5:1: note: speaks of sparse peaks"),
        ("overhead: {", "calibration: {intercept_s: 1.0}\noverhead: {", "calibration: is a line through measured whole models; write n_anchors"),
        ("overhead: {", "calibration: {intercept_s: -1.0}\noverhead: {", "calibration.intercept_s: should be greater than or equal to 0"),
        # precisions
        ("    - {w: 32, a: 32, type: fp, peak_mac_per_s: 4e12}\n", "", "precision.legal: has no row {w: 32, a: 32, type: fp, ...} for all kinds"),
        ("type: fp, peak_mac_per_s: 4e12}", "type: fp, peak_mac_per_s: 4e12, kinds: [conv]}", "has no row {w: 32, a: 32, type: fp, ...}"),
        ("w: 16, a: 16, type: fp, peak_mac_per_s: 32e12", "w: 8, a: 8, type: int, peak_mac_per_s: 32e12", "precision.legal[1]: w8a8 is listed twice for the same kind; keep one of the two."),
        ("w: 16, a: 16, type: fp, peak_mac_per_s", "w: 12, a: 12, type: fp, peak_mac_per_s", "there is no fp12; floats are fp4, fp6, fp8, fp16, bf16, fp32, nvfp4, mx4, mx6, mx8."),
        ("[conv, linear]", "[conv, liner]", "precision.legal[0].kinds[1]: 'liner' is not allowed. Did you mean 'linear'?"),
        ("compute: {w: 16, a: 16, type: fp}", "compute: {w: 4, a: 16, type: fp}", "precision.weight_only.compute: w4a16 is none of w8a8, fp16, fp32."),
        ("{w4: null}", "{int4: null}", "precision.weight_only.unpack_s_per_weight.int4"),
        # numbers
        ("launch_s: 5e-6", "launch_s: -5e-6", "mine.yaml:21:12: overhead.launch_s: should be greater than or equal to 0, got -5e-06."),
        ("read_bytes_per_s: 1e12", "read_bytes_per_s: -1", "memory[0].read_bytes_per_s: must be above 0, got -1."),
        ("read_bytes_per_s: 1e12", "read_bytes_per_s: 1 TB/s", "memory[0].read_bytes_per_s: should be a valid number, got '1 TB/s'."),
        ("bytes: 4194304", "bytes: 4.5e6", "memory[0].bytes: should be a valid integer, got 4500000.0."),
        ("bytes: 4194304", "bytes: 99000000000", "memory[1].bytes: is not larger than 'l2' before it; list levels from the inner to the outer."),
        ("3.2e11", "3.2e13", "memory[1].read_bytes_per_s: is faster than 'l2' before it"),
        ("conv: 0.5", "conv: 1.5", "efficiency.conv.all: should be less than or equal to 1, got 1.5."),
        ("conv: 0.5", "convv: 0.5", "efficiency.convv: unknown kind of operation 'convv'. Did you mean 'conv'?"),
        ("w8a8: 0.5", "w8a4: 0.5", "efficiency.linear.w8a4: linear has no precision 'w8a4'."),
        ("conv: 0.5", "matmul: {w8a8: 0.5, all: 1}", "efficiency.matmul.w8a8: matmul has no precision 'w8a8'."),
        ("{w8a8: 0.5, all: 0.3}", "{w8a8: 0.5}", "efficiency.linear: says nothing of fp16, fp32"),
        ("launch_s: 5e-6", "launch_s: 1e300", "overhead.launch_s: should be less than or equal to 1000"),
        ("overhead: {", "layout: {storage_bits: []}\noverhead: {", "layout.storage_bits: tuple should have at least 1 item"),
        ("overhead: {launch_s: 5e-6}", "overhead: 5e-6", "overhead: must be a mapping of keys to values, got 5e-06."),
        ("[conv, linear]", "conv", "precision.legal[0].kinds: must be a list, got 'conv'."),
        # YAML
        ("note: One of mine.", "note: One of mine.\nnote: Twice.", "key 'note' is written twice; it is also on line 5; keep one."),
        ("65.0e12", ".inf", ".inf is not a finite number."),
    ],
)  # fmt: skip
def test_one_fault(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CARD
    found = errors_of(tmp_path, CARD.replace(old, new, 1))
    assert any(message in error for error in found), found
    assert all(re.match(r"mine\.yaml:\d+:\d+: ", error) for error in found), found


def test_every_fault_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = CARD
    for old, new in (
        ("name: mine", "name: yours"),
        ("datasheet, halved", "260 TOPS, sparse"),
        ("  memory: measured\n", ""),
        ("32e12", "32"),
        ("conv: 0.5", "convv: 0.5"),
        ("read_bytes_per_s: 1e12", "bandwidth: 1e12"),
        ("launch_s: 5e-6", "launch_s: -1"),
    ):
        text = text.replace(old, new, 1)
    found = errors_of(tmp_path, text)
    starts = [
        "mine.yaml:2:1: name: ",
        "mine.yaml:7:3: src.precision: ",
        "mine.yaml:13:32: precision.legal[1].peak_mac_per_s: 32",
        "mine.yaml:16:14: efficiency.convv: unknown kind of operation 'convv'. Did you mean 'conv'?",
        "mine.yaml:17:1: memory: has numbers and no source",
        "mine.yaml:18:33: memory[0].bandwidth: ",
        "mine.yaml:20:12: overhead.launch_s: ",
    ]
    for start in starts:
        assert any(error.startswith(start) for error in found), (start, found)
    places = [tuple(map(int, re.findall(r":(\d+):(\d+)", error)[0])) for error in found]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "text",
    [
        "dense rates of the datasheet, not sparse, halved",
        "dense figures without sparsity",
        "130 dense TOPS / 2",
        "half of the TFLOPS of the datasheet",
        "measured stops and loops",
    ],
)
def test_sources_that_are_careful_pass(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(CARD.replace("datasheet, halved", text))
    assert load_accelerator(path).card.src["precision"] == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "mine.yaml: is empty; start from a bundled card (mpsearch list accelerators)."),
        (b"- 1", "holds a list; a card is a mapping of keys: schema, name, kind"),
        (b"a: [1", "not YAML"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_files_that_are_no_card(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(message)):
        load_accelerator(path)


def _places(value: object, where: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(place for key, item in inner for place in _places(item, (*where, key)))]


JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2)
    | st.sampled_from(["", "x", "conv", [], {}, [{}], {"a": 1}])
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data(), st.sampled_from(find.card_names()), JUNK)
def test_whatever_stands_in_a_card_it_loads_or_is_refused(tmp_path: Path, data, name: str, junk: object) -> None:
    card = yaml.safe_load(find.find_card(name, Path()).read_text())
    *way, last = data.draw(st.sampled_from(_places(card)[1:]))
    holder = card
    for key in way:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = junk
    else:
        del holder[last]
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card))
    try:
        assert isinstance(load_accelerator(path), Accelerator)
    except BadInput as error:
        refused = error.errors
    else:
        refused = ()
    assert all(text.startswith(str(path)) for text in refused)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for place in ("space/cards", "path"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setenv("MPSEARCH_PATH", f"{tmp_path / 'nowhere'}:{tmp_path / 'path'}")
    return tmp_path


def test_cards_are_found_by_name_and_by_path(world: Path) -> None:
    beside = world / "space"
    assert find.find_card("nvidia-t4", beside) == find.cards() / "nvidia-t4.yaml"
    assert find.find_card("nvidia-t4.yaml", beside) == find.cards() / "nvidia-t4.yaml"
    for place in ("space/nvidia-t4.yaml", "path/nvidia-t4.yaml", "path/mine.yaml", "space/cards/mine.yaml"):
        (world / place).write_text(CARD)
    assert find.find_card("nvidia-t4", beside) == world / "path/nvidia-t4.yaml"
    assert find.find_card("nvidia-t4.yaml", beside) == world / "space/nvidia-t4.yaml"
    assert find.find_card("mine", beside) == world / "path/mine.yaml"
    assert find.find_card("cards/mine.yaml", beside) == world / "space/cards/mine.yaml"
    assert find.find_card(str(world / "path/mine.yaml"), beside) == world / "path/mine.yaml"
    assert find.own_cards() == ["mine", "nvidia-t4"]


def test_a_card_that_is_not_there_names_what_was_tried_and_the_nearest(world: Path) -> None:
    with pytest.raises(BadInput) as caught:
        find.find_card("nvidia-t5", world / "space")
    message = str(caught.value)
    assert "no card 'nvidia-t5'; tried" in message
    assert "Did you mean 'nvidia-t4'?" in message
    assert "mpsearch list accelerators" in message
    with pytest.raises(
        BadInput, match=r"no card '\./nvidia-t4.yaml'; tried \S*space/nvidia-t4.yaml\. Did you mean 'nvidia-t4'"
    ):
        find.find_card("./nvidia-t4.yaml", world / "space")


def test_names_keep_their_dots() -> None:
    assert (
        card_name("cards/jetson.v1.2.yaml")
        == card_name("jetson.v1.2")
        == card_name(Path("x/jetson.v1.2.yml"))
        == "jetson.v1.2"
    )


def test_the_page_on_accelerators_lists_every_card_and_its_example_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/accelerators.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in find.card_names())
    (example,) = re.findall(r"```yaml\n(schema: mpsearch\.accelerator/1\n.*?)```", page, re.DOTALL)
    path = tmp_path / "my-board.yaml"
    path.write_text(example)
    assert load_accelerator(path).refuses("latency_s") is None
    for name in registry.names("accelerators"):
        assert f"| `{name}` |" in page
    for row in re.findall(r"\| `([a-z0-9-]+)` \| roofline \| ([^|]*)\|", page):
        rows = load_accelerator(find.find_card(row[0], tmp_path)).card.precision.legal
        for label, peak in re.findall(r"\b(int\d+|fp\d+|bf16|mx\d+|nvfp4)(?:/\w+)* ([\d.]+e\d+)", row[1]):
            peaks = [r.peak_mac_per_s for r in rows if str(r.weight) == label]
            assert peaks == [float(peak)]
