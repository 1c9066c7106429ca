"""What is measured: held-out runs keep away from all others, ties hold, a seed repeats itself."""

from __future__ import annotations

from functools import cache

import pytest
from deployed import Attention, Mlp, Residual, everywhere, problem, randn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32, Format
from mpsearch.cost.conversions import asked
from mpsearch.cost.workload import Kind
from mpsearch.deploy.features import Features
from mpsearch.deploy.integers import code_writers, integer_steps
from mpsearch.deploy.mixes import anchors, layers, mixes
from mpsearch.deploy.operations import steps_of
from mpsearch.problem.model import ModelProblem

MODELS = {"residual": (Residual, (4, 3, 8, 8)), "attention": (Attention, (3, 7, 16)), "mlp": (Mlp, (5, 16))}


@cache
def made(name: str) -> tuple[ModelProblem, frozenset[str]]:
    model, shape = MODELS[name]
    prepared = problem(model(), randn(*shape))
    return prepared, frozenset(matched(prepared, everywhere(prepared)))


def matched(prepared: ModelProblem, assignment: Assignment) -> list[str]:
    """Operations whose step can run on integers, as the exporter sees it."""
    interpreter = prepared.runner.interpreter
    program = interpreter.program
    formats = [assignment.get(site.name, FP32) for site in program.sites]
    able = integer_steps(program, interpreter.grids, formats)
    return [name for name, step in steps_of(prepared.cost_model.workload, program).items() if step.index in able]


def featured(name: str) -> Features:
    prepared, capable = made(name)
    workload, program = prepared.cost_model.workload, prepared.runner.interpreter.program
    writers = code_writers(program)
    return Features(workload, capable, [n for n, step in steps_of(workload, program).items() if step.index in writers])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_runs_differ_from_all_others_in_three_layers(name: str, seed: int) -> None:
    prepared, capable = made(name)
    space, workload = prepared.space, prepared.cost_model.workload
    found = mixes(space, workload, capable, (30,), seed)
    assert (len(found.train), len(found.held_out), found.apart) == (20, 10, 3)
    counted = layers(workload)
    for ours in found.held_out:
        for other in (*anchors(space), *found.train):
            differ = sum(asked(workload, layer, ours) != asked(workload, layer, other) for layer in counted)
            assert differ >= 3
    every = [*anchors(space), *found.train, *found.held_out]
    assert len(set(every)) == len(every)
    assert all(assignment in space for assignment in every)
    assert mixes(space, workload, capable, (30,), seed) == found
    assert mixes(space, workload, capable, (30,), seed + 1) != found


def test_all_of_a_float_and_an_integer_model_are_anchors() -> None:
    prepared, _ = made("residual")
    wide, narrow = anchors(prepared.space)
    assert wide == Assignment()
    assert narrow == everywhere(prepared)
    features = featured("residual")
    assert features.narrow(wide) == frozenset()
    assert features.narrow(narrow) == made("residual")[1]


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=60)
@given(data=st.data())
def test_the_table_and_the_exporter_agree_on_what_runs_on_integers(name: str, data: st.DataObject) -> None:
    prepared, _ = made(name)
    choices = data.draw(st.sets(st.sampled_from(range(len(prepared.space.choices)))))
    if data.draw(st.booleans()):
        choices = set(range(len(prepared.space.choices))) - choices
    sites = [site for i in choices for site in prepared.space.choices[i].sites]
    assignment = Assignment(dict.fromkeys(sites, Format("int", 8)))
    features = featured(name)
    assert features.narrow(assignment) == set(matched(prepared, assignment))


def test_features_of_a_run_by_hand() -> None:
    capable, features = made("residual")[1], featured("residual")
    assert features.integer_results == capable - {"head"}
    assert capable == {"stem", "one", "two", "three", "four", "head", "add"}
    alone = Assignment({"one:in": Format("int", 8)})  # what the stem writes; one and the sum read it
    assert not features.narrow(alone)
    counts = dict(zip(features.conversions, features.switches(alone, ()), strict=True))
    size = 4 * 8 * 8 * 8
    assert {key: n for key, n in counts.items() if n} == {
        ("quantize", "conv"): size,
        ("dequantize", "conv"): size,
        ("dequantize", "elementwise"): size,
    }
    given_input = Assignment({"stem:in": Format("int", 8)})
    counts = dict(zip(features.conversions, features.switches(given_input, ()), strict=True))
    assert counts["quantize", "input"] == counts["dequantize", "conv"] == 4 * 3 * 8 * 8
    counts = dict(zip(features.conversions, features.switches(given_input, capable), strict=True))
    assert {key for key, n in counts.items() if n} == {("quantize", "input")}


def test_operations_of_one_size_are_alike() -> None:
    features = featured("residual")
    classes = dict(zip(features.names, features.alike(), strict=True))
    assert classes["one"] == classes["two"] == classes["four"] != classes["stem"]
    assert classes["add"] == classes["add_2"]
    assert len({classes[name] for name in ("stem", "one", "add", "head", "mean")}) == 5


@pytest.mark.parametrize("name", MODELS)
def test_every_operation_finds_its_step(name: str) -> None:
    prepared, _ = made(name)
    workload = prepared.cost_model.workload
    found = steps_of(workload, prepared.runner.interpreter.program)
    assert set(found) == {operation.name for operation in workload.operations}
    order = [step.index for step in found.values()]
    assert order == sorted(set(order))
    for operation in workload.operations:
        if operation.kind in (Kind.CONV, Kind.LINEAR):
            assert found[operation.name].macs == operation.macs


class Two(nn.Module):
    """Fewer layers than held-out runs shall differ in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x).relu())


def test_small_models_are_measured_as_far_apart_as_they_can_be() -> None:
    prepared = problem(Two(), randn(5, 4))
    found = mixes(prepared.space, prepared.cost_model.workload, {"a", "b"}, (6,), 0)
    assert found.apart in (1, 2)
    assert len(found.held_out) == 2


def test_a_space_of_few_assignments_is_refused() -> None:
    prepared = problem(Two(), randn(5, 4))
    with pytest.raises(BadInput, match="too few assignments"):
        mixes(prepared.space, prepared.cost_model.workload, {"a", "b"}, (90,), 0)
