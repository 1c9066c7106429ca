"""Networks of other widths: their layers, and costs by the formulas of widened networks."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mpsearch.core.errors import BadInput
from mpsearch.engine.variants import build_variants
from mpsearch.problem.build import build_problem, make_objective
from mpsearch.spec.load import load_spec
from mpsearch.zoo import images
from mpsearch.zoo.options import widened
from mpsearch.zoo.resnet import ResNet10


@pytest.fixture
def untrained(monkeypatch):
    """Networks of the zoo as they are initialised: costs do not depend on weights."""
    monkeypatch.setattr(images, "trained", lambda name, build, fit, recipe: build().eval())


@given(st.integers(1, 512), st.integers(1, 64))
def test_rounding_up_has_no_channel_of_rounding_error(channels, tenths):
    assert widened(channels, tenths / 10) == -(-channels * tenths // 10)


@pytest.mark.parametrize("width", [0.5, 1.0, 1.3, 3.0])
def test_weights_of_a_widened_resnet(width):
    a, b, c = (ceil(round(width * n, 6)) for n in (16, 32, 64))
    found = sum(m.weight.numel() for m in ResNet10(width).modules() if isinstance(m, nn.Conv2d | nn.Linear))
    blocks = 2 * 9 * a * a + (9 * a * b + 9 * b * b + a * b) + (9 * b * c + 9 * c * c + b * c)
    assert found == 9 * a + blocks + 10 * c


def test_costs_of_a_widened_network(untrained):
    """Weights b bits each, 32 of scale and 32 of bias for a channel; a product costs the bits of both operands."""
    overrides = ["variants.values=[1.0, 2.0]", 'sites[1].formats=["fp32"]']
    spec = load_spec("digits_widths.yaml", overrides)
    problems = build_variants(spec, build_problem)
    assert list(problems) == ["base", "width=2"]
    assert len({p.fingerprint for p in problems.values()}) == 2
    for problem, n in zip(problems.values(), (32, 64), strict=True):
        for name, assignment in problem.space.uniform().items():
            bits = int(name.removeprefix("uniform "))
            costs = problem.costs(assignment)
            weights, channels = 64 * n + n * n + n * 10, 2 * n + 10
            assert 8 * costs["memory_bytes"] == bits * weights + 2 * 32 * channels
            assert costs["bops"] == problem.batch_sizes[0] * 32 * bits * weights
            assert costs["weight_bits"] == bits


def test_other_widths_of_a_graph_network():
    spec = load_spec("gnn.yaml", ["variants={option: width, values: [1, 2.5]}", "objective.options.hidden=3"])
    hidden = {name: make_objective(of).hidden for name, of in spec.by_variant.items()}
    assert hidden == {"base": 3, "width=2.5": 8}


@pytest.mark.parametrize(("space", "width"), [("mlp.yaml", 0), ("mlp.yaml", True), ("gnn.yaml", "wide")])
def test_what_is_no_width_is_refused(space, width):
    with pytest.raises(BadInput, match=r"width: .* is not a number above 0"):
        load_spec(space, [f"objective.options.width={width}"])


@pytest.mark.parametrize("model", [name for name, entry in images.CLASSIFIERS.items() if entry.wide is None])
def test_networks_of_one_width_say_which_have_more(model):
    with pytest.raises(BadInput, match=rf"{model} is of width 1, not 2.*mlp, cnn"):
        load_spec("mlp.yaml", [f"objective.options.model={model}", "objective.options.width=2"])
