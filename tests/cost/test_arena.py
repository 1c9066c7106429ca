"""Plans of offsets: nothing overlaps in time and in memory, and chains lose nothing."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.cost.arena import Block, arena_bytes, extent, most_at_once, plan
from mpsearch.cost.layout import device_peak
from mpsearch.cost.memory import Packed, Value
from mpsearch.spec.card import InPlace, Layout

sizes = st.integers(1, 60)
blocks = st.lists(
    st.builds(lambda size, born, more: Block(size, born, born + more), sizes, st.integers(0, 9), st.integers(0, 5)),
    max_size=12,
)


@given(blocks)
def test_no_two_blocks_overlap_in_time_and_in_memory(found: list[Block]) -> None:
    offsets = plan(found)
    assert all(offset >= 0 for offset in offsets)
    for (one, at), (other, there) in combinations(zip(found, offsets, strict=True), 2):
        if one.born <= other.dies and other.born <= one.dies:
            assert at + one.bytes <= there or there + other.bytes <= at
    peak = max((sum(b.bytes for b in found if b.born <= step <= b.dies) for step in range(15)), default=0)
    assert most_at_once(found) == peak
    assert peak <= extent(found, offsets) <= sum(block.bytes for block in found)


@given(st.lists(sizes, min_size=1, max_size=12))
def test_a_chain_needs_no_more_than_its_two_largest_neighbours(chain: list[int]) -> None:
    found = [Block(size, i, i + 1) for i, size in enumerate(chain)]
    assert extent(found, plan(found)) == max((a + b for a, b in pairwise(chain)), default=chain[0])


def test_the_largest_first_alone_would_waste_memory_on_this_chain() -> None:
    """12 and 11 lie on top of each other, 10 at the bottom: 8 finds no room between 10 and 12, and goes to 23."""
    found = [Block(size, i, i + 1) for i, size in enumerate((10, 8, 11, 12))]
    assert extent(found, plan(found)) == 23


@st.composite
def models(draw: st.DrawFn) -> list[Value]:
    """Values one after the other, some made over the one before, some read again later."""
    count = draw(st.integers(1, 8))
    found: list[Value] = []
    for i in range(count):
        fits = bool(found) and found[-1].dies == i
        over = i - 1 if fits and draw(st.booleans()) else None
        size = draw(st.integers(1, found[-1].elements if over is not None else 50))
        dies = min(count - 1, i + draw(st.integers(1, 3)))
        is_depthwise = draw(st.booleans())
        site = f"v{i}.{size}"
        found.append(Value(site, size, site=site, born=i, dies=dies, overwrites=over, is_depthwise=is_depthwise))
    return found


def packed(name: str, fmt: Format) -> Packed:
    codes = int(name.split(".")[1]) * int(fmt.bits)
    return Packed(codes, codes, 0)


@given(models(), st.booleans(), st.booleans(), st.sampled_from((1, 4)), st.data())
def test_an_arena_holds_at_least_the_peak(
    values: list[Value], elementwise: bool, depthwise: bool, align: int, data: st.DataObject
) -> None:
    formats = {v.site: Format.parse(data.draw(st.sampled_from(("int4", "int8", "fp32")))) for v in values if v.site}
    layout, in_place = Layout(align_bytes=align), InPlace(elementwise=elementwise, depthwise=depthwise)
    assignment = Assignment(formats)
    arena = arena_bytes(layout, in_place, values, packed, assignment)
    peak = device_peak(layout, in_place, values, packed).measure(assignment)
    assert arena >= peak
    assert arena % align == 0


@pytest.mark.parametrize(("in_place", "expected"), [(False, 90), (True, 60)])
def test_what_is_made_in_place_shares_its_block(in_place: bool, expected: int) -> None:
    """Bytes 10, 50, 40 and 5 one after the other, the third over the second: 50 + 40 held together, or 10 + 50."""
    values = [
        Value("a.10", 10, site="a.10", born=0, dies=1),
        Value("b.50", 50, site="b.50", born=1, dies=2),
        Value("c.40", 40, site="c.40", born=2, dies=3, overwrites=1, is_depthwise=True),
        Value("d.5", 5, site="d.5", born=3, dies=3),
    ]
    int8 = Assignment({v.name: Format.parse("int8") for v in values})
    assert arena_bytes(Layout(), InPlace(depthwise=in_place), values, packed, int8) == expected
