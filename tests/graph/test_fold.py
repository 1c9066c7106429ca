"""BatchNorm goes into the layer before it where that is exact, and stays elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rigs import rig
from tiny_models import randn, randomise_norms
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mpsearch.graph.export import Example, export
from mpsearch.graph.fold import fold_batch_norm
from mpsearch.graph.measure import measure

EXACT = {
    "plain": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 6, 6)),
    "without bias": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 3, 6, 6)),
    "without affine": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 3, 6, 6)),
    "depthwise": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)), (2, 4, 6, 6)),
    "depthwise, twice as many": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (2, 4, 6, 6)),
    "grouped": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 6, 6)),
    "same padding": (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)), (2, 3, 6, 6)),
    "one dimension": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 9)),
    "three dimensions": (nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4)), (2, 2, 4, 4, 4)),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 3, 5, 5)),
    "linear": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (6, 5)),
    "two in a row": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), (2, 3, 6, 6)),
}


class TwoReaders(nn.Module):
    """The value before the BatchNorm is read by an addition, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class SharedWeight(nn.Module):
    """One convolution at two places, normalised after the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)))


class SharedBias(nn.Module):
    """Two convolutions with one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.b.bias = self.a.bias

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(self.a(x)), self.b(x)


STAYS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "second reader": (TwoReaders(), (2, 3, 6, 6)),
    "shared weight": (SharedWeight(), (2, 3, 6, 6)),
    "shared bias": (SharedBias(), (2, 3, 6, 6)),
    "after an activation": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), (2, 3, 6, 6)),
    "linear along another axis": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(7)), (6, 7, 5)),
    "grouped transposed": (nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)), (2, 4, 5, 5)),
    "first": (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), (2, 3, 6, 6)),
}


def folded(model: nn.Module, shape: tuple[int, ...]) -> tuple[list[str], set[str], list[Tensor], list[Tensor]]:
    model, x = randomise_norms(model), randn(*shape)
    lowered = export(model, [Example((x,))])
    names = fold_batch_norm(lowered)
    with torch.no_grad():
        expected = pytree.tree_leaves(model(x))
    return names, set(lowered.tensors), list(measure(lowered, [x])), expected


@pytest.mark.parametrize("case", EXACT)
def test_folded_where_exact(case: str) -> None:
    names, tensors, ours, theirs = folded(*EXACT[case])
    assert set(names) == {"0.weight"}
    assert tensors == {"0.weight", "0.bias"}
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", STAYS)
def test_stays_elsewhere(case: str) -> None:
    names, tensors, ours, theirs = folded(*STAYS[case])
    assert names == []
    assert any("running_mean" in name for name in tensors)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_what_stays_counts_in_memory_and_what_is_folded_does_not() -> None:
    conv = (4 * 3 * 9 + 4) * 4
    statistics = 4 * 4 * 4  # gamma, beta, mean and variance of 4 channels
    x = randn(2, 3, 6, 6)

    def memory_bytes(model: nn.Module) -> Any:
        from mpsearch.core.assignment import Assignment

        return rig(randomise_norms(model), (x,)).memory.at(Assignment())["memory_bytes"]

    assert memory_bytes(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))) == conv
    assert memory_bytes(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))) == conv
    assert memory_bytes(TwoReaders()) == conv + statistics


def test_the_model_itself_keeps_its_weights() -> None:
    model = randomise_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold_batch_norm(export(model, [Example((randn(2, 3, 6, 6),))]))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
