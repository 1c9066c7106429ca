"""Bias correction gives a quantized layer the mean output per channel that the float layer has."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from rigs import Machine, Rig, rig
from tiny_models import OneConv, PlainNet, TwoLayerGcn, graph, perceptron, randn
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import FP32, Format
from mpsearch.graph.correct import _shift
from mpsearch.graph.interpret import Stream
from mpsearch.graph.program import Step

INT2 = Format.parse("int2")


@cache
def net() -> Rig:
    """Calibration data in three batches of different sizes."""
    calibration = [(randn(n, 3, 6, 6, seed=n),) for n in (4, 3, 2)]
    return rig(PlainNet, (randn(4, 3, 6, 6, seed=50),), calibration=calibration, corrects=True)


def layer_means(found: Rig, mode: Any, formats: list[Format]) -> dict[str, Tensor]:
    """Mean per channel of the output of every conv and linear layer, over all calibration data, corrections applied.

    Not asked of the calibration stream itself: the data go through as any other batch does.
    """
    machine = found.machine(mode)
    machine.interpreter.assign(formats)
    if machine.correction is not None:
        machine.correction.prepare()
    sums: dict[str, list[Tensor]] = {}

    def visit(step: Step, value: Any) -> None:
        if step.corrected is not None:
            along = value.movedim(step.channel_axis, 0).flatten(1)
            sums.setdefault(step.name, []).append(along.double())

    for i, batch in enumerate(found.calibration):
        stream = Stream(("again", i), [batch])
        machine.interpreter.pull(stream, found.program.corrected, visit)
    return {name: torch.cat(rows, 1).mean(1) for name, rows in sums.items()}


def largest_difference(found: Rig, mode: Any, formats: list[Format]) -> dict[str, float]:
    float_means = layer_means(found, "none", [FP32] * len(formats))
    means = layer_means(found, mode, formats)
    assert means.keys() == float_means.keys()
    return {name: float((means[name] - float_means[name]).abs().max()) for name in means}


@pytest.mark.parametrize("which", ["weights", "everything"])
def test_sequential_correction_restores_every_mean(which: str) -> None:
    found = net()
    formats = [INT2 if which == "everything" or s.role.is_parameter else FP32 for s in found.program.sites]
    uncorrected = largest_difference(found, "none", formats)
    assert len(uncorrected) == 4
    assert min(uncorrected.values()) > 1e-3
    assert max(largest_difference(found, "sequential", formats).values()) < 1e-5


class Separable(nn.Module):
    """A block of MobileNet, after each of the first two layers a ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expand, self.depthwise = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=12)
        self.project = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))


def test_before_a_relu6_the_mean_after_it_is_restored() -> None:
    """What the next layer reads; where channels pass peaks alone, restoring the mean before it would take from them."""
    found = rig(Separable, (randn(3, 3, 8, 8) * 4,))
    formats = found.formats({s.name: "int8" if s.role.is_parameter else "int2" for s in found.program.sites})
    machines = found.machine("none"), found.machine("sequential")
    machines[1].run(formats)

    def means(machine: Machine, at: list[Format]) -> Tensor:
        sums: list[Tensor] = []

        def visit(step: Step, value: Any) -> None:
            if step.corrected is not None:
                sums.append((value.clamp(0, 6) if len(sums) < 2 else value).mean((0, 2, 3)))

        machine.interpreter.assign(at)
        machine.interpreter.pull(machine.streams[0], found.program.corrected, visit)
        return torch.cat(sums)

    wanted = means(machines[0], [FP32] * len(formats))
    off, restored = ((means(machine, formats) - wanted).abs() for machine in machines)
    assert off.max() > 0.05
    assert restored.max() < 1e-4


@given(st.integers(0, 10_000), st.floats(-1, 7))
def test_the_shift_to_a_mean_after_clipping_is_the_smallest(seed: int, wanted: float) -> None:
    rows, target = randn(1, 9, seed=seed) * 4, torch.tensor([min(6.0, max(0.0, wanted))])
    found = float(_shift(rows, target, 0.0, 6.0))
    assert (rows + found).clamp(0, 6).mean() == pytest.approx(float(target), abs=1e-4)
    assert abs((rows + found * 0.99).clamp(0, 6).mean() - target) > 0 or abs(found) < 1e-4


def test_the_per_site_form_restores_means_of_layers_with_float_inputs_only() -> None:
    found = net()
    names = [site.name for site in found.program.sites]
    for weight in (name for name in names if name.endswith("weight")):
        alone = largest_difference(found, "per_site", found.formats({weight: "int2"}))
        own = [step.name for step in found.program.steps if step.corrected == names.index(weight)]
        assert alone[own[0]] < 1e-5
    together = found.formats({name: "int2" for name in names if name.endswith("weight")})
    first, *others = largest_difference(found, "per_site", together).values()
    assert first < 1e-5
    assert min(others) > 1e-4


def test_a_layer_in_float_is_not_corrected() -> None:
    """Its inputs are off, and it passes that on: only quantized layers gain a bias."""
    found = net()
    formats = found.formats({"first.weight": "int2"})
    difference = largest_difference(found, "sequential", formats)
    first, *others = difference.values()
    assert first < 1e-5
    assert max(others) > 1e-5
    machine = found.machine("sequential")
    machine.run(formats)
    assert machine.correction is not None
    assert len(machine.correction) == 1


@pytest.mark.parametrize("mode", ["sequential", "per_site"])
def test_a_correction_is_learned_once(mode: Any) -> None:
    found = net()
    machine = found.machine(mode)
    assert machine.correction is not None
    formats = [INT2 if s.role.is_parameter else FP32 for s in found.program.sites]
    machine.run(formats)
    known = len(machine.correction)
    machine.run([FP32] * len(formats))
    machine.run(formats)
    assert known == len(machine.correction) == 4


class Shared(nn.Module):
    """One layer at two places: one bias for two means."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(self.lin(x).relu())


def test_a_shared_layer_is_not_corrected() -> None:
    assert rig(Shared, (randn(6, 4),)).program.corrected == []


def corrected_bits(found: Rig, text: str) -> int:
    """What memory_bytes counts beyond weights on their grids, float biases and static grids."""
    weights = [s for s in found.program.sites if s.role.is_parameter]
    fmt = Format.parse(text)
    total = found.memory.at(Assignment({s.name: fmt for s in weights}))["memory_bytes"]
    grids = [found.grids.grid(list(found.program.sites).index(s), fmt).nbytes(s.shape) for s in weights]
    others = [t for name, t in found.program.tensors.items() if name not in {s.name for s in weights}]
    return int(total) - sum(grids) - sum(t.nbytes for t in others)


def test_memory_counts_the_bias_that_a_correction_adds() -> None:
    """Two of the four layers have no bias: 8 and 4 channels of 32 bits."""
    assert corrected_bits(net(), "int2") == (8 + 4) * 4
    torch.manual_seed(0)
    assert corrected_bits(rig(PlainNet, (randn(4, 3, 6, 6),), corrects=False), "int2") == 0
    float_bytes = net().memory.at(Assignment())["memory_bytes"]
    assert float_bytes == sum(t.nbytes for t in net().program.tensors.values()), "a float layer gains none"


def test_layers_of_a_gnn_are_corrected_as_any_other() -> None:
    x, edges = graph()
    found = rig(TwoLayerGcn, (x, edges))
    formats = [INT2 if s.role.is_parameter else FP32 for s in found.program.sites]
    assert max(largest_difference(found, "sequential", formats).values()) < 1e-5
    gin = rig(OneConv(pyg.GINConv(perceptron(8, 6))), (x, edges))
    everything = [INT2] * len(gin.program.sites)
    assert max(largest_difference(gin, "sequential", everything).values()) < 1e-5
