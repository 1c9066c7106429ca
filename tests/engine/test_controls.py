"""The degree rule: fewer bits for higher degrees, evaluated with the other controls and named in the ledger."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.format import Format
from mpsearch.core.site import Bin, Role, Site
from mpsearch.core.space import Choice, Space
from mpsearch.engine.controls import DEGREE_RULE, controls, degree_bits, degree_rule, degree_steps
from mpsearch.engine.session import LedgerSession
from mpsearch.ledger.ledger import Ledger
from mpsearch.testing.toy import Toy, toy_spec


def made(starts: list[int], options: list[str]) -> tuple[Space, list[Site]]:
    """A value split into bins that begin at these degrees, and one that is whole."""
    ends = [b - 1 for b in starts[1:]]
    bins = [Bin(low, high) for low, high in zip(starts, [*ends, None], strict=True)]
    sites = [Site(f"conv:feature@{of.label}", Role.FEATURE, (3, 2), bin=of) for of in bins]
    sites.append(Site("conv:attention", Role.ATTENTION, (3,)))
    formats = tuple(map(Format.parse, options))
    return Space(tuple(Choice(site.name, (site.name,), formats) for site in sites)), sites


@given(
    starts=st.sets(st.integers(1, 3000), min_size=1, max_size=5).map(lambda found: [0, *sorted(found)]),
    options=st.sets(st.sampled_from(["int1", "int2", "int4", "int8", "int16", "fp32"]), min_size=1).map(list),
)
def test_bits_never_rise_with_the_degree(starts: list[int], options: list[str]) -> None:
    space, sites = made(starts, options)
    rule = degree_rule(space, sites)
    assert rule is not None
    bits = [rule.at(site.name).bits for site in sites]
    assert bits[:-1] == sorted(bits[:-1], reverse=True)
    assert bits[0] == bits[-1] == max(Format.parse(text).bits for text in options)


def test_the_rule_by_its_formula() -> None:
    """From 16 on 8 bits, from 64 on 4, from 256 on 2: 32 / sqrt(d)."""
    assert [degree_bits(d) for d in (0, 1, 4, 16, 256, 1024, 10**6)] == [32, 32, 16, 8, 2, 2, 2]
    space, sites = made([0, 4, 16, 20, 64, 256], ["int1", "int2", "int4", "int8", "fp32"])
    rule = degree_rule(space, sites)
    assert rule is not None
    assert [rule.at(site.name).bits for site in sites] == [32, 32, 8, 8, 4, 2, 32]


def test_tied_bins_have_the_bits_of_the_least_degree() -> None:
    space, sites = made([0, 16, 64], ["int2", "int4", "int8"])
    together = Choice("both", (sites[1].name, sites[2].name), space.choices[0].options)
    rule = degree_rule(Space((space.choices[0], together, space.choices[3])), sites)
    assert rule is not None
    assert rule.at(sites[2].name).bits == 8


@given(
    starts=st.sets(st.integers(1, 300), min_size=1, max_size=5).map(lambda found: [0, *sorted(found)]),
    options=st.sets(st.sampled_from(["int1", "int2", "int4", "int8"]), min_size=1).map(list),
)
def test_steps_go_from_the_widest_to_the_narrowest(starts: list[int], options: list[str]) -> None:
    space, sites = made(starts, options)
    steps = degree_steps(space, sites)
    assert steps is not None
    bits = [steps.at(site.name).bits for site in sites]
    widths = [Format.parse(text).bits for text in options]
    assert bits[:-1] == sorted(bits[:-1], reverse=True)
    assert (bits[0], bits[-2], bits[-1]) == (max(widths), min(widths), max(widths))
    assert len(set(bits)) == min(len(starts), len(options))


def test_four_bins_step_through_four_widths() -> None:
    space, sites = made([0, 2, 3, 5], ["int1", "int2", "int4", "int8"])
    steps = degree_steps(space, sites)
    assert steps is not None
    assert [steps.at(site.name).bits for site in sites] == [8, 4, 2, 1, 8]


def test_without_bins_there_is_no_rule() -> None:
    space, sites = made([0, 4], ["int2", "int8"])
    assert degree_steps(space, [sites[-1]]) is None
    assert degree_rule(space, [sites[-1]]) is None
    assert controls(space, [sites[-1]]) == space.uniform()


def test_a_search_evaluates_it_as_a_control(tmp_path: Path) -> None:
    problem = Toy()
    first = problem.space.choices[0].sites[0]
    problem.sites = (Site(first, Role.FEATURE, (3, 2), bin=Bin(256, None)),)
    goals = [goal.goal() for goal in toy_spec().goals]
    with Ledger(tmp_path / "ledger.jsonl", "spec", {}) as ledger:
        session = LedgerSession(problem, ledger, goals, seed=0, budget=40)
        session.evaluate_controls()
        asked = {e.asked_by: e for e in session.evaluations}
    assert asked[DEGREE_RULE].assignment == degree_rule(problem.space, problem.sites)
    assert set(asked) == {"baseline", *controls(problem.space, problem.sites)}
    assert set(asked) > {DEGREE_RULE, *problem.space.uniform()}
