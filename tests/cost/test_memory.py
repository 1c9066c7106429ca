"""The memory model against a second one that walks step by step. Numbers only: no grid, no model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost.memory import Memory, Packed, Parameter, Value

INT3 = Format.parse("int3")
SCALE_BITS = 96


def packed(name: str, fmt: Format) -> Packed:
    """An imagined grid: the site's name says how many elements it has."""
    codes = int(name.removeprefix("p").removeprefix("v").split(".")[1]) * int(fmt.bits)
    return Packed((codes + 7) // 8 * 8 + SCALE_BITS, codes, SCALE_BITS)


@st.composite
def memories(draw: st.DrawFn) -> tuple[Memory, Assignment]:
    def number(top: int) -> int:
        return draw(st.integers(0, top))

    parameters, values, chosen = [], [], {}
    for i in range(number(5)):
        elements = number(40)
        name = f"p{i}.{elements}" if number(1) else None
        counts = bool(number(1))
        parameters.append(Parameter(elements * 32, name, counts, elements if counts else 0, number(1) * 64))
        if name and number(1):
            chosen[name] = INT3
    for i in range(number(6)):
        elements, born = number(40), number(8)
        name = f"v{i}.{elements}" if number(1) else None
        values.append(Value(elements * 32, born, born + number(6), name, bool(number(1))))
        if name and number(1):
            chosen[name] = INT3
    return Memory(tuple(parameters), tuple(values), packed), Assignment(chosen)


@given(memories())
def test_measures_against_a_walk(case: tuple[Memory, Assignment]) -> None:
    memory, assignment = case
    measures = memory.measures(assignment)
    stored = sum(
        packed(p.site, INT3).bits + p.correction_bits if p.site in assignment else p.float_bits
        for p in memory.parameters
    ) + sum(SCALE_BITS for v in memory.values if v.site in assignment)
    assert measures["memory_bytes"] == -(-stored // 8)

    def size(value: Value) -> int:
        elements = value.float_bits // 32
        return -(-elements * (3 if value.site in assignment else 32) // 8)

    assert measures["activation_sum_bytes"] == sum(map(size, memory.values))
    worst = max((v.dies for v in memory.values), default=0)
    held = [sum(size(v) for v in memory.values if v.born <= step <= v.dies) for step in range(worst + 1)]
    assert measures["activation_peak_bytes"] == max(held)
    features = [size(v) for v in memory.values if v.is_feature]
    assert measures.get("feature_bytes") == (sum(features) if features else None)
    counted = [p for p in memory.parameters if p.counts]
    elements = sum(p.elements for p in counted)
    codes = sum(p.elements * (3 if p.site in assignment else 32) for p in counted)
    assert measures.get("weight_bits") == (codes / elements if elements else None)


@given(memories())
def test_narrower_is_never_larger_but_for_its_overhead(case: tuple[Memory, Assignment]) -> None:
    memory, assignment = case
    narrow, wide = memory.measures(assignment), memory.measures(Assignment())
    assert narrow["activation_sum_bytes"] <= wide["activation_sum_bytes"]
    assert narrow["activation_peak_bytes"] <= wide["activation_peak_bytes"]
    assert all(value == int(value) for name, value in narrow.items() if name != "weight_bits")


def test_no_peak_where_lifetimes_are_unknown() -> None:
    memory = Memory((), (Value(64, 0, 3, "v0.2"),), packed, knows_lifetimes=False)
    assert memory.measures(Assignment()) == {"memory_bytes": 0.0, "activation_sum_bytes": 8.0}


def test_a_model_of_nothing() -> None:
    assert Memory((), (), packed).measures(Assignment()) == {
        "memory_bytes": 0.0,
        "activation_sum_bytes": 0.0,
        "activation_peak_bytes": 0.0,
    }


def test_sites_that_the_model_does_not_store_cost_nothing() -> None:
    assert Memory((), (), packed).measures(Assignment({"v9.9": INT3}))["memory_bytes"] == 0


@given(memories(), st.booleans())
def test_tables_equal_the_measures(case: tuple[Memory, Assignment], tied: bool) -> None:
    memory, _ = case
    names = [part.site for part in (*memory.parameters, *memory.values) if part.site is not None]
    names = list(dict.fromkeys(names))
    groups = [tuple(names)] if tied and names else [(name,) for name in names[:4]]
    options = (INT3, Format.parse("int8"), FP32)
    space = Space(tuple(Choice(group[0], group, options) for group in groups))
    every = list(space.assignments())
    indices = [space.encode(a) for a in every]
    for name in memory.measures(Assignment()):
        cost = memory.cost(name, space)
        assert cost is not None
        assert cost(indices).tolist() == [memory.measures(a)[name] for a in every]
    assert memory.cost("accuracy", space) is None
