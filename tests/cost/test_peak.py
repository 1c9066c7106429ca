"""Peaks against walks through the schedule, step by step."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Choice, Space
from mpsearch.cost.memory import Value, held_together
from mpsearch.cost.peak import Peak, steps_that_matter
from mpsearch.cost.sums import Part

OPTIONS = tuple(map(Format.parse, ("int2", "int8", "fp32")))
lifetimes = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=9).map(
    lambda found: [(born, born + more) for born, more in found]
)


def bits(sizes: tuple[int, ...], formats: tuple[Format, ...]) -> int:
    """Cost of a part of several sites: more than a sum over them."""
    return max((int(f.bits) * s for f, s in zip(formats, sizes, strict=True)), default=7)


@st.composite
def peaks(draw: st.DrawFn) -> Peak:
    held = draw(lifetimes)
    parts = []
    for i in range(len(held)):
        sites = draw(st.lists(st.sampled_from("abcd"), max_size=3, unique=True))
        sizes = tuple(draw(st.integers(0, 9)) for _ in sites)
        parts.append(Part(f"part {i}", tuple(sites), partial(bits, sizes)))
    return Peak(parts, steps_that_matter(*(zip(*held, strict=True) if held else ((), ()))))


@given(peaks(), st.fixed_dictionaries({site: st.sampled_from(OPTIONS) for site in "abcd"}))
def test_a_peak_is_the_largest_sum(peak: Peak, formats: dict[str, Format]) -> None:
    assignment = Assignment(formats)
    sizes = [part.units(tuple(formats[site] for site in part.sites)) for part in peak.parts]
    assert peak.measure(assignment) == max(sum(np.compress(held, sizes)) for held in peak.held)
    assert sum(peak.shares(assignment).values()) == peak.measure(assignment)


@given(peaks(), st.booleans())
def test_tables_equal_the_measure(peak: Peak, tied: bool) -> None:
    """Sites `c` and `d` decide together or not; `a` has no choice, and `b` has one option."""
    choices = [Choice("b", ("b",), OPTIONS[:1])]
    choices += [Choice("c", ("c", "d"), OPTIONS)] if tied else [Choice(s, (s,), OPTIONS) for s in "cd"]
    space = Space(tuple(choices))
    every = list(space.assignments())
    found = peak.cost(space)([space.encode(assignment) for assignment in every])
    assert found.tolist() == [peak.measure(assignment) for assignment in every]


@given(lifetimes.filter(bool))
def test_the_steps_that_matter_are_those_that_no_other_covers(found: list[tuple[int, int]]) -> None:
    kept = [frozenset(np.flatnonzero(step)) for step in steps_that_matter(*zip(*found, strict=True))]
    every = {frozenset(i for i, (b, d) in enumerate(found) if b <= step <= d) for step in range(16)}
    assert set(kept) == {step for step in every if not any(step < other for other in every)}
    assert len(set(kept)) == len(kept)


@given(st.lists(st.integers(1, 99), min_size=2, max_size=12))
def test_a_chain_holds_two_neighbours(sizes: list[int]) -> None:
    values = [Value(f"{i}", size, born=i, dies=min(i + 1, len(sizes) - 1)) for i, size in enumerate(sizes)]
    held = held_together(values, lambda _: False)
    assert len(held) == len(sizes) - 1
    assert (held @ np.array(sizes)).max() == max(a + b for a, b in pairwise(sizes))


@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=10), st.integers(0, 9))
def test_what_is_made_in_place_needs_the_larger_of_the_two(chain: list[tuple[int, bool]], beside: int) -> None:
    """A chain beside a value that is held throughout: of each pair both, or the larger where it is in place."""
    last = len(chain) - 1
    values = [
        Value(f"{i}", size, born=i, dies=min(i + 1, last), overwrites=i - 1 if i and in_place else None)
        for i, (size, in_place) in enumerate(chain)
    ]
    held = held_together([*values, Value("beside", beside, born=0, dies=last)], lambda value: value.elements % 2 == 0)
    needed = chain[0][0]
    for (one, _), (other, in_place) in pairwise(chain):
        needed = max(needed, max(one, other) if in_place and other % 2 == 0 else one + other)
    assert (held @ np.array([size for size, _ in chain] + [beside])).max() == needed + beside


def test_float32_is_what_a_site_without_a_format_has() -> None:
    peak = Peak([Part("x", ("x",), partial(bits, (3,)))], np.ones((1, 1), dtype=bool))
    assert peak.measure(Assignment()) == 3 * FP32.bits
    assert peak.shares(Assignment({"x": OPTIONS[0]})) == {"x": 6}
