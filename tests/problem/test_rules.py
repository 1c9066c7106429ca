"""Rules, ties and their errors: from a spec and sites to choices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parts import make_spec
from torch import nn

from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Role, Site
from mpsearch.core.space import Space
from mpsearch.graph.export import Example, export
from mpsearch.graph.measure import measure
from mpsearch.graph.sites import discover
from mpsearch.problem.rules import build_space
from mpsearch.spec import registry
from mpsearch.spec.load import load_spec
from mpsearch.spec.menus import offered
from mpsearch.zoo.rows import RowReader

SITES = (
    Site("stem:in", Role.ACTIVATION, (2, 3, 6, 6), 1),
    Site("stem.weight", Role.WEIGHT, (8, 3, 3, 3)),
    Site("enc.0.q_proj.weight", Role.WEIGHT, (8, 8)),
    Site("enc.0.k_proj.weight", Role.WEIGHT, (8, 8)),
    Site("enc.0.v_proj.weight", Role.WEIGHT, (8, 8)),
    Site("enc.1.q_proj.weight", Role.WEIGHT, (8, 8)),
    Site("enc.1.k_proj.weight", Role.WEIGHT, (8, 8)),
    Site("enc.0:sum", Role.ACTIVATION, (2, 5, 8), 2),
    Site("enc.0:out", Role.ACTIVATION, (2, 5, 8), 2),
    Site("head.weight", Role.WEIGHT, (4, 8)),
)
QKV = ("qkv", ("enc.0.q_proj.weight", "enc.0.k_proj.weight", "enc.0.v_proj.weight"))
RESIDUAL = ("residual", ("enc.0:sum", "enc.0:out"))


def space(*rules: dict[str, Any], ties: Any = (), **more: Any) -> Space:
    return build_space(make_spec(sites=list(rules), **more), SITES, ties)


def rule(match: Any, *formats: str) -> dict[str, Any]:
    return {"match": match, "formats": list(formats)}


def groups(found: Space) -> list[tuple[str, ...]]:
    return [choice.sites for choice in found.choices if len(choice.sites) > 1]


EVERYTHING = rule("*", "int2", "int8")


def test_first_match_wins_and_the_rest_stays_float() -> None:
    found = space(rule("stem.weight", "int8", "fp32"), rule("*.weight", "int2", "int4"))
    options = {choice.name: list(map(str, choice.options)) for choice in found.choices}
    assert options["stem.weight"] == ["int8", "fp32"]
    assert options["head.weight"] == ["int2", "int4"]
    assert not any(name.endswith((":in", ":out", ":sum")) for name in options)
    assert found.decode([1, *[0] * (len(found.choices) - 1)]).at("stem.weight") == FP32


def test_a_rule_selects_by_role() -> None:
    found = space(rule({"role": "activation"}, "int8"), rule({"role": ["weight"], "name": "enc.*"}, "int2"))
    assert {choice.name for choice in found.choices} == {s.name for s in SITES} - {"stem.weight", "head.weight"}


def test_choices_come_in_the_order_of_computation_and_are_named_after_their_first_site() -> None:
    found = space(rule("head.weight", "int2"), EVERYTHING, ties=[QKV])
    assert [choice.name for choice in found.choices] == [s.name for s in SITES if s.name not in QKV[1][1:]]


def test_options_that_mean_the_same_are_one() -> None:
    found = space(rule("stem.weight", "int4", "int4:sym", "int4:channel", "int8:sym:channel"))
    assert list(map(str, found.choices[0].options)) == ["int4", "int8"]


def test_one_rule_may_mean_different_things_to_different_roles() -> None:
    found = space(rule("stem*", "int4:affine"))
    assert [str(c.options[0]) for c in found.choices] == ["int4", "int4:affine"], "affine is the default of values"


def test_a_scheme_stands_for_what_it_offers_a_role_and_all_for_every_scheme() -> None:
    found = space(rule("stem.weight", "int8", "pq"), rule("*", "all"))
    options = {choice.name: list(map(str, choice.options)) for choice in found.choices}
    assert options["stem.weight"] == ["int8", "pq0.889:d9", "pq1:d8", "pq1.5", "pq2"]
    assert options["head.weight"][:8] == [f"int{bits}" for bits in range(1, 9)]
    assert {"pq2", "mx4", "nvfp4", "multibit2", "planes2", "sub4", "esb4", "fp8", "pow3"} <= set(options["head.weight"])
    assert "rowscale1" in options["stem:in"]
    assert not [text for text in options["stem:in"] if text.startswith(("pq", "multibit", "sub"))]
    assert all(choice.options[k].bits <= 8 for choice in found.choices for k in range(len(choice.options)))


def test_what_a_scheme_offers_exists_somewhere() -> None:
    for scheme in registry.names("quantizers"):
        mine = {fmt for role in Role for fmt in offered(scheme, role)}
        texts = registry.load("quantizers", scheme).menu
        assert {Format.parse(text).bits for text in texts} == {fmt.bits for fmt in mine}, scheme
        assert len({str(fmt) for fmt in mine}) >= len(set(texts)), scheme


def test_a_scheme_that_has_nothing_for_a_site_is_refused() -> None:
    with pytest.raises(BadInput, match=r"sites\[0\]: pq: nothing is offered for 'stem:in' \(activation\); match"):
        space(rule("stem*", "pq"))


def test_default_ties_hold_until_they_are_switched_off() -> None:
    ties = [QKV, RESIDUAL]
    assert groups(space(EVERYTHING, ties=ties)) == [QKV[1], RESIDUAL[1]]
    assert groups(space(EVERYTHING, ties=ties, untie=["qkv"])) == [RESIDUAL[1]]
    assert groups(space(EVERYTHING, ties=ties, untie=["residual"])) == [QKV[1]]
    assert groups(space(EVERYTHING, ties=ties, untie=["residual", "qkv"])) == []


def test_ties_among_sites_without_a_choice_are_none() -> None:
    assert groups(space(rule("enc.0.q_proj.weight", "int2"), rule("head.weight", "int2"), ties=[QKV])) == []


def test_ties_that_overlap_join() -> None:
    chain = [("residual", ("stem:in", "enc.0:sum")), RESIDUAL]
    assert groups(space(EVERYTHING, ties=chain)) == [("stem:in", "enc.0:sum", "enc.0:out")]


def test_a_group_ties_names_that_are_equal_but_for_one_component() -> None:
    found = space(EVERYTHING, tie=[{"group": ["q_proj", "k_proj"]}])
    assert groups(found) == [
        ("enc.0.q_proj.weight", "enc.0.k_proj.weight"),
        ("enc.1.q_proj.weight", "enc.1.k_proj.weight"),
    ]


def test_a_match_ties_all_that_it_matches() -> None:
    assert groups(space(EVERYTHING, tie=[{"match": "enc.1.*"}])) == [("enc.1.q_proj.weight", "enc.1.k_proj.weight")]


def test_tied_sites_choose_from_what_they_share() -> None:
    found = space(rule("enc.0:sum", "int2", "int4", "int8"), rule("enc.0:out", "int8", "int4", "fp32"), ties=[RESIDUAL])
    assert [list(map(str, c.options)) for c in found.choices] == [["int4", "int8"]]


def test_float_is_an_option_to_share() -> None:
    found = space(rule("enc.0:sum", "int2", "fp32"), rule("enc.0:out", "int8", "fp32"), ties=[RESIDUAL])
    assert found.choices[0].options == (FP32,)
    assert not found.decode([0])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_ties_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    """Against a search through the graph of pairs."""
    ties = [("residual", (SITES[a].name, SITES[b].name)) for a, b in pairs]
    reached = []
    for start in range(10):
        seen, queue = {start}, [start]
        while queue:
            here = queue.pop()
            for a, b in pairs:
                for other in ((b,) if a == here else ()) + ((a,) if b == here else ()):
                    if other not in seen:
                        seen.add(other)
                        queue.append(other)
        reached.append(tuple(SITES[i].name for i in sorted(seen)))
    assert [c.sites for c in space(EVERYTHING, ties=ties).choices] == list(dict.fromkeys(reached))


@pytest.mark.parametrize(
    ("rules", "more", "message"),
    [
        (
            [rule("steam.weight", "int2")],
            {},
            r"sites\[0\]: 'steam.weight' matches no site. Did you mean 'stem.weight'",
        ),
        (
            [EVERYTHING, rule({"role": "message"}, "int2")],
            {},
            r"sites\[1\]: .* role message matches no site.*Roles of",
        ),
        ([rule("stem.weight", "int9")], {}, r"sites\[0\]: format 'int9': int has no 9 bits"),
        ([rule("stem.weight", "int4:afine")], {}, r"unknown option 'afine'. Did you mean 'affine'\?"),
        ([rule("stem:in", "int4:g32")], {}, r"groups \(g32\) need a fixed shape"),
        ([rule("stem.weight", "imt4")], {}, r"'imt'.*Did you mean 'int'\?"),
        (
            [rule("enc.0:sum", "int2"), rule("enc.0:out", "int8")],
            {"ties": [RESIDUAL]},
            r"tied sites share no format \(enc.0:sum: int2; enc.0:out: int8\); give them a common one, or untie",
        ),
        ([EVERYTHING], {"tie": [{"match": "dec.*"}]}, r"tie\[0\]: dec.\* matches no two sites"),
        ([EVERYTHING], {"tie": [{"group": ["a", "b"]}]}, r"tie\[0\]: \['a', 'b'\] matches no two sites"),
    ],
    ids=["misspelt", "role", "bits", "option", "grain", "scheme", "tied", "tie match", "tie group"],
)
def test_errors_name_place_value_and_next_step(rules: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        space(*rules, **more)


def test_every_error_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        space(rule("stem.weight", "int9"), rule("nothing", "int2"), tie=[{"match": "none"}])
    assert len([e for e in caught.value.errors if e.startswith(("sites[0]", "sites[1]", "tie[0]"))]) == 3


def test_canonical_formats_are_what_assignments_hold() -> None:
    found = space(rule("stem.weight", "int4:sym:channel"))
    assert found.decode([0])["stem.weight"] == Format.parse("int4")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_one_space_of_components_for_recurrent_layers_with_and_without_cells(kind: Any) -> None:
    lowered = export(RowReader(kind), [Example((images := torch.rand(3, 1, 8, 8),), {})])
    measure(lowered, [images])
    found = discover(lowered)
    made = {
        choice.name: set(map(str, choice.options)) for choice in build_space(load_spec("lstm"), found.sites, ()).choices
    }
    cells = {f"rnn:cell_l{i}": {"int8:sym", "int16:sym"} for i in (0, 1)}
    assert {name: options for name, options in made.items() if ":cell" in name} == (cells if kind is nn.LSTM else {})
    assert made["rnn:hidden_l1"] == {"int8", "int16"}
    assert made["rnn.weight_hh_l1"] == {f"int{b}:gate" for b in (2, 3, 4, 6, 8)}
    assert set(made) >= {s.name for s in found.sites}
