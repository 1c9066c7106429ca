"""The memory measures against a second model that walks step by step. Numbers only: no grid, no model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost.memory import Packed, Parameter, Value, chosen_measures, memory_measures
from mpsearch.cost.model import CostModel

INT3 = Format.parse("int3")
SCALE_BITS = 96


def packed(name: str, fmt: Format) -> Packed:
    """An imagined grid: the site's name says how many elements it has."""
    codes = int(name.removeprefix("p").removeprefix("v").split(".")[1]) * int(fmt.bits)
    return Packed((codes + 7) // 8 * 8 + SCALE_BITS, codes, SCALE_BITS)


@dataclass(frozen=True)
class Case:
    """An imagined model and an assignment of it."""

    parameters: tuple[Parameter, ...]
    values: tuple[Value, ...]
    assignment: Assignment

    @property
    def model(self) -> CostModel:
        chosen = {value.site for value in self.values if value.site is not None}
        memory = memory_measures(self.parameters, self.values, packed)
        return CostModel({**memory, **chosen_measures(self.values, packed, chosen)})


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def number(top: int) -> int:
        return draw(st.integers(0, top))

    parameters, values, chosen = [], [], {}
    for i in range(number(5)):
        elements = number(40)
        name = f"p{i}.{elements}" if number(1) else None
        counts = bool(number(1))
        parameters.append(Parameter(f"p{i}", elements, site=name, counts=counts, correction_bits=number(1) * 64))
        if name and number(1):
            chosen[name] = INT3
    for i in range(number(6)):
        elements, born = number(40), number(8)
        name = f"v{i}.{elements}" if number(1) else None
        dies, is_feature = born + number(6), bool(number(1))
        values.append(Value(f"v{i}", elements, site=name, born=born, dies=dies, is_feature=is_feature))
        if name and number(1):
            chosen[name] = INT3
    return Case(tuple(parameters), tuple(values), Assignment(chosen))


@given(cases())
def test_measures_against_a_walk(case: Case) -> None:
    measures = case.model.at(case.assignment)
    stored = sum(
        packed(p.site, INT3).bits + p.correction_bits if p.site in case.assignment else 32 * p.elements
        for p in case.parameters
    ) + sum(SCALE_BITS for v in case.values if v.site in case.assignment)
    assert measures["memory_bytes"] == -(-stored // 8)

    def size(value: Value) -> int:
        return -(-value.elements * (3 if value.site in case.assignment else 32) // 8)

    assert measures["activation_sum_bytes"] == sum(map(size, case.values))
    worst = max((v.dies for v in case.values), default=0)
    held = [sum(size(v) for v in case.values if v.born <= step <= v.dies) for step in range(worst + 1)]
    assert measures["activation_peak_bytes"] == max(held)
    features = [size(v) for v in case.values if v.is_feature]
    assert measures.get("feature_bytes") == (sum(features) if features else None)
    counted = [p for p in case.parameters if p.counts]
    elements = sum(p.elements for p in counted)
    codes = sum(p.elements * (3 if p.site in case.assignment else 32) for p in counted)
    assert measures.get("weight_bits") == (codes / elements if elements else None)
    with_site = [v for v in case.values if v.site is not None]
    elements = sum(v.elements for v in with_site)
    codes = sum(v.elements * (3 if v.site in case.assignment else 32) for v in with_site)
    assert measures.get("activation_bits") == (codes / elements if elements else None)


@given(cases())
def test_narrower_is_never_larger_but_for_its_overhead(case: Case) -> None:
    narrow, wide = case.model.at(case.assignment), case.model.at(Assignment())
    assert narrow["activation_sum_bytes"] <= wide["activation_sum_bytes"]
    assert narrow["activation_peak_bytes"] <= wide["activation_peak_bytes"]
    assert all(value == int(value) for name, value in narrow.items() if name not in ("weight_bits", "activation_bits"))


@given(cases())
def test_shares_add_up(case: Case) -> None:
    """To the measure itself, before a part of a byte counts as a whole one."""
    model = case.model
    for name, value in model.at(case.assignment).items():
        total = sum(model.shares(name, case.assignment).values())
        assert total == pytest.approx(value, abs=1 if name == "memory_bytes" else 1e-9)


@given(cases(), st.booleans())
def test_tables_equal_the_measures(case: Case, tied: bool) -> None:
    model = case.model
    names = [part.site for part in (*case.parameters, *case.values) if part.site is not None]
    names = list(dict.fromkeys(names))
    groups = [tuple(names)] if tied and names else [(name,) for name in names[:4]]
    options = (INT3, Format.parse("int8"), FP32)
    space = Space(tuple(Choice(group[0], group, options) for group in groups))
    every = list(space.assignments())
    indices = [space.encode(a) for a in every]
    for name in model.measures:
        cost = model.cost(name, space)
        assert cost is not None
        assert cost(indices).tolist() == [model.at(a)[name] for a in every]


def test_average_bits_leave_out_what_is_not_chosen() -> None:
    values = Value("v0", 2, site="v0.2"), Value("v1", 6, site="v1.6"), Value("v2", 9)
    found = chosen_measures(values, packed, {"v1.6"})["activation_bits"]
    assert found.measure(Assignment({"v0.2": INT3})) == 32
    assert found.measure(Assignment({"v1.6": INT3})) == 3
    assert chosen_measures(values, packed, set()) == {}


def test_no_peak_where_lifetimes_are_unknown() -> None:
    value = Value("v0", 2, site="v0.2", born=0, dies=3)
    measures = memory_measures((), (value,), packed, knows_lifetimes=False)
    assert CostModel(measures).at(Assignment()) == {"memory_bytes": 0.0, "activation_sum_bytes": 8.0}


def test_a_model_of_nothing() -> None:
    assert CostModel(memory_measures((), (), packed)).at(Assignment()) == {
        "memory_bytes": 0.0,
        "activation_sum_bytes": 0.0,
        "activation_peak_bytes": 0.0,
    }


def test_sites_that_the_model_does_not_store_cost_nothing() -> None:
    assert memory_measures((), (), packed)["memory_bytes"].measure(Assignment({"v9.9": INT3})) == 0
