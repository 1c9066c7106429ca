"""Assignments, formats and spaces: identity, order and round trips."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Choice, Space

formats = st.builds(
    Format,
    st.sampled_from(["int", "fp", "bf", "pq"]),
    st.one_of(st.integers(1, 32), st.sampled_from([1.58, 2.5])),
    st.lists(st.sampled_from(["affine", "tensor", "g32", "p99.99", "mse"]), max_size=3).map(tuple),
)
site_names = st.text("abc.:_", min_size=1, max_size=6)
assignments = st.dictionaries(site_names, formats, max_size=6)


@st.composite
def spaces(draw):
    choices = []
    for i in range(draw(st.integers(0, 4))):
        options = draw(st.lists(st.sampled_from([2, 3, 4, 8, 32]), min_size=1, max_size=4, unique=True))
        tied = draw(st.integers(1, 2))
        sites = tuple(f"s{i}.{j}" for j in range(tied))
        choices.append(Choice(sites[0], sites, tuple(FP32 if b == 32 else Format("int", b) for b in options)))
    return Space(tuple(choices))


@given(formats)
def test_format_text_round_trip(fmt):
    assert Format.parse(str(fmt)) == fmt


@pytest.mark.parametrize("text", ["", "int", "4", "int4:", "INT4", "int-4", "int4 ", None, 4])
def test_malformed_formats_are_refused(text):
    with pytest.raises(BadInput):
        Format.parse(text)


@given(assignments, st.randoms())
def test_key_ignores_order_and_float_sites(sites, random):
    shuffled = list(sites.items())
    random.shuffle(shuffled)
    one, other = Assignment(sites), Assignment(dict(shuffled) | {"left in float": FP32})
    assert one == other
    assert one.key == other.key
    assert hash(one) == hash(other)
    assert Assignment.parse(one.texts()) == one


@given(assignments, assignments)
def test_keys_are_equal_only_for_equal_assignments(one, other):
    assert (Assignment(one).key == Assignment(other).key) == (Assignment(one) == Assignment(other))


def test_key_is_the_same_in_another_process_and_for_good():
    assignment = Assignment.parse({"b": "int4", "a": "int8:affine"})
    code = "from mpsearch.core.assignment import Assignment as A; print(A.parse({'a': 'int8:affine', 'b': 'int4'}).key)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == assignment.key == "58c926fe3977be4a"


def test_unmentioned_sites_are_float():
    assignment = Assignment.parse({"a": "int4"})
    assert assignment.at("a") == Format("int", 4)
    assert assignment.at("b") == FP32
    assert "b" not in assignment


@given(spaces())
def test_assignments_enumerates_the_space_once_in_encode_order(space):
    every = list(space.assignments())
    assert len(every) == len(set(every)) == space.size
    codes = [space.encode(a) for a in every]
    assert codes == sorted(codes)
    assert [space.decode(code) for code in codes] == every
    assert all(a in space for a in every)


@given(spaces(), st.integers(0, 2**32 - 1))
def test_samples_and_uniform_controls_are_in_the_space(space, seed):
    assert space.sample(np.random.default_rng(seed)) in space
    assert space.sample(np.random.default_rng(seed)) == space.sample(np.random.default_rng(seed))
    controls = space.uniform()
    assert all(a in space for a in controls.values())
    assert len(set(controls.values())) == len(controls) > 0 or not space.choices


def test_sampling_reaches_every_assignment_about_equally_often():
    space = Space(tuple(Choice(n, (n,), (Format("int", 2), Format("int", 4), FP32)) for n in "ab"))
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(space.assignments(), 0)
    for _ in range(9000):
        counts[space.sample(rng)] += 1
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


def test_uniform_controls_take_the_next_wider_option():
    int2, int4, int8 = (Format("int", b) for b in (2, 4, 8))
    space = Space((Choice("a", ("a",), (int2, int4)), Choice("b", ("b",), (int8, int4, FP32))))
    assert {name: a.texts() for name, a in space.uniform().items()} == {
        "uniform 2": {"a": "int2", "b": "int4"},
        "uniform 4": {"a": "int4", "b": "int4"},
        "uniform 8": {"a": "int4", "b": "int8"},
        "uniform 32": {"a": "int4"},
    }


def test_a_space_says_everything_that_is_wrong_with_an_assignment():
    int2, int4 = Format("int", 2), Format("int", 4)
    space = Space((Choice("a", ("a", "b"), (int2, int4)), Choice("c", ("c",), (int2,))))
    with pytest.raises(BadInput) as error:
        space.encode(Assignment({"a": int2, "b": int4, "x": int2}))
    assert len(error.value.errors) == 3
    assert "'x'" in error.value.errors[0]
    assert "tied sites a, b" in error.value.errors[1]
    assert "'c' cannot be fp32; allowed: int2" in error.value.errors[2]
    with pytest.raises(ValueError, match="expected 2"):
        space.decode([0])


def test_nearest_names_the_closest():
    assert "Did you mean 'optuna'?" in nearest("optna", ["optuna", "random"])
    assert nearest("zzz", []) == " Allowed: (none)."
