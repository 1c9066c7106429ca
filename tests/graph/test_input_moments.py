"""Second moments of the inputs of layers against patches cut out one by one, and codebooks that are fitted to them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from rigs import Rig, rig
from tiny_models import randn
from torch import Tensor, nn

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.graph.inputs import second_moments
from mpsearch.quant.product import Product


class Layers(nn.Module):
    """A strided, a grouped and dilated, a depthwise and a one-dimensional convolution, and a layer read twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.strided = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=2, bias=False)
        self.depthwise = nn.Conv2d(8, 8, (1, 3), groups=8)
        self.line = nn.Conv1d(8, 6, 5)
        self.twice = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(F.relu(self.grouped(F.relu(self.strided(x)))))
        x = self.line(x.flatten(2)).mean(2)
        return self.twice(F.relu(self.twice(x)))


@pytest.fixture(scope="module")
def made() -> Rig:
    return rig(
        Layers(), (randn(3, 3, 12, 14),), calibration=[(randn(4, 3, 12, 14, seed=1),), (randn(2, 3, 12, 14, seed=2),)]
    )


def inputs(model: Layers, x: Tensor) -> dict[str, Tensor]:
    """What one output channel of each layer multiplies [positions, inputs], by unfolding."""
    found = {"strided.weight": F.unfold(x, 3, padding=1, stride=2).mT.reshape(-1, 27)}
    x = F.relu(model.strided(x))
    patches = F.unfold(x, 3, dilation=2, padding=2).unflatten(1, (2, 36))
    found["grouped.weight"] = patches.movedim(2, 3).reshape(-1, 36)
    x = F.relu(model.grouped(x))
    found["depthwise.weight"] = F.unfold(x, (1, 3)).unflatten(1, (8, 3)).movedim(2, 3).reshape(-1, 3)
    x = model.depthwise(x).flatten(2)
    found["line.weight"] = x.unfold(2, 5, 1).movedim(1, 2).flatten(2).reshape(-1, 40)
    x = model.line(x).mean(2)
    found["twice.weight"] = torch.cat((x, F.relu(model.twice(x))))
    return found


@pytest.mark.parametrize("length", [1, 4, 9, 50])
@torch.no_grad()
def test_moments_are_those_of_patches(made: Rig, length: int) -> None:
    machine = made.machine()
    wanted = {i: {length} for i, site in enumerate(made.program.sites) if site.role.is_parameter}
    found = second_moments(machine.interpreter, made.calibration_stream(), wanted)
    per_batch = [inputs(made.model, x) for (x,) in made.calibration]
    assert {name for name, _ in found} == set(per_batch[0])
    for name in per_batch[0]:
        rows = torch.cat([batch[name] for batch in per_batch]).double()
        size = min(length, rows.shape[1])
        blocks = F.pad(rows, (0, -rows.shape[1] % size)).reshape(-1, size)
        torch.testing.assert_close(found[name, length], blocks.T @ blocks / len(blocks), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_codebooks_are_fitted_to_the_inputs_of_the_float_model() -> None:
    """Outputs change less than with the plain codebook, where inputs differ in size."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 128))
    model[0].weight.copy_(torch.diag(torch.tensor([4.0, 1.0, 0.3, 0.1]).repeat(4)))
    layer, x, fmt = rig(model, (randn(200, 16),)), randn(200, 16), Format.parse("pq1:d4:mse")
    grids, weight = layer.grids, model[1].weight
    grids.calibrate(layer.machine().interpreter, layer.calibration_stream(), {})
    site = next(i for i, site in enumerate(layer.program.sites) if site.name == "1.weight")
    hidden, plain = model[0](x), Product().fit(weight, fmt, Role.WEIGHT, 0)
    aware, alone = (
        float((hidden @ (grid.round_trip(weight) - weight).T).square().mean())
        for grid in (grids.grid(site, fmt), plain)
    )
    assert aware < 0.6 * alone
