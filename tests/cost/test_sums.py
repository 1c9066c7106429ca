"""Sums of parts: tables against the measure of every assignment, and what is remembered against what is computed."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost import sums
from mpsearch.cost.sums import Part, Sum

FORMATS = [Format("int", 2), Format("int", 4), Format("int", 4, ("affine",)), Format("int", 8), Format("fp", 32)]
SITES = list("abcdefg")


def told(name, formats):
    """A number that any other format, or another order of them, changes."""
    found = 0
    for fmt in formats:
        found = (1009 * found + 31 * int(fmt.bits) + 7 * len(fmt.options) + len(fmt.scheme)) % 100_003
    return found + ord(name[-1])


def part(name, sites):
    return Part(name, sites, lambda formats: told(name, formats))


@st.composite
def sums_over_spaces(draw):
    """Ties, choices with one option, and sites that the space does not have."""
    inside = draw(st.lists(st.sampled_from(SITES), unique=True, max_size=5))
    choices = []
    while inside:
        tied = tuple(inside[: draw(st.integers(1, 2))])
        inside = inside[len(tied) :]
        options = draw(st.lists(st.sampled_from(FORMATS), unique=True, min_size=1, max_size=3))
        choices.append(Choice(tied[0], tied, tuple(options)))
    parts = [
        part(f"p{i % 4}", tuple(sites))
        for i, sites in enumerate(draw(st.lists(st.lists(st.sampled_from(SITES), unique=True, max_size=4), max_size=6)))
    ]
    per, whole = draw(st.sampled_from([(1, False), (8, True), (8, False), (10**12, False)]))
    return Space(tuple(choices)), Sum(parts, per, whole)


@settings(max_examples=150)
@given(sums_over_spaces())
def test_tables_are_the_measure_of_every_assignment(problem):
    space, total = problem
    every = list(product(*(range(len(choice.options)) for choice in space.choices)))
    cost = total.cost(space)
    assert cost(every).tolist() == [total.measure(space.decode(at)) for at in every]
    for key in cost.rows[0].joint:
        assert all(len(space.choices[i].options) > 1 for i in key)


@given(sums_over_spaces(), st.dictionaries(st.sampled_from(SITES), st.sampled_from(FORMATS)))
def test_shares_add_up_to_the_measure(problem, formats):
    _, total = problem
    assignment = Assignment(formats)
    shares = total.shares(assignment)
    exact = Sum(total.parts, total.per)
    assert sum(shares.values()) == pytest.approx(exact.measure(assignment))
    assert set(shares) == {part.name for part in total.parts}
    assert 0 <= total.measure(assignment) - exact.measure(assignment) < 1


@given(sums_over_spaces(), st.lists(st.dictionaries(st.sampled_from(SITES), st.sampled_from(FORMATS)), max_size=8))
def test_what_is_remembered_is_what_parts_say(problem, asked):
    """Formats are given as objects of their own, as those that are read from a file are."""
    _, total = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums._Remembered, "_MOST", 3)
        for formats in asked:
            for assignment in (Assignment(formats), Assignment.parse({s: str(f) for s, f in formats.items()})):
                units = sum(
                    told(part.name, [formats.get(site, FORMATS[-1]) for site in part.sites]) for part in total.parts
                )
                expected = -(-units // total.per) if total.whole else units / total.per
                assert total.measure(assignment) == expected


def test_a_part_is_computed_once_per_combination():
    asked = []

    def units(formats):
        asked.append(formats)
        return 1

    total = Sum([Part("p", ("a", "b"), units)])
    for _ in range(3):
        for text in ("int4", "int8"):
            total.measure(Assignment({"a": Format.parse(text)}))
    assert len(asked) == 2
