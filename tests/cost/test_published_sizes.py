"""Sizes of the ResNets that HAWQ-V3 published (arXiv 2011.10680), weights only, from their bits per layer."""

from __future__ import annotations

import hawq_v3
import pytest
import resnets

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.cost.memory import Packed, Parameter, memory_measures

SETTINGS_18 = resnets.HAWQ_18 | {f"{name} {share:.2f}": bits for (name, share), (bits, _) in hawq_v3.PUBLISHED.items()}
SIZES_18 = {
    "W8A8": (11.1, 11.138), "W4A4": (5.8, 5.818),
    "size 0.75": (9.9, 9.732), "size 0.50": (7.9, 7.763), "size 0.25": (7.3, 7.138),
    "bops 0.75": (8.7, 8.536), "bops 0.50": (6.7, 6.487), "bops 0.25": (6.1, 5.909),
    "latency 0.75": (8.7, 8.536), "latency 0.50": (7.2, 7.060), "latency 0.25": (6.1, 5.909),
}  # fmt: skip
"""MiB as published in HAWQ's model_zoo.md, and as the bits of the weights add up to."""
SIZES_50 = {
    "W8A8": (24.5, 24.321), "W4A4": (13.1, 13.142),
    "size 0.75": (21.3, 20.946), "size 0.50": (19.0, 18.696), "size 0.25": (16.0, 15.759),
    "bops 0.75": (22.0, 21.577), "bops 0.50": (18.7, 18.429), "bops 0.25": (16.7, 16.503),
    "latency 0.75": (22.3, 21.913), "latency 0.50": (18.5, 18.273), "latency 0.25": (16.5, 16.341),
}  # fmt: skip
NETWORKS = {
    "ResNet-18": ([layer.weights for layer in resnets.resnet18()], SETTINGS_18, SIZES_18),
    "ResNet-50": ([layer.weights for layer in resnets.resnet50()], resnets.HAWQ_50, SIZES_50),
}
ROWS = [(network, setting) for network, (_, _, sizes) in NETWORKS.items() for setting in sizes]


@pytest.mark.parametrize(("network", "setting"), ROWS)
def test_size_of(network: str, setting: str) -> None:
    """Uniform settings of ResNet-18 to 0.05 MB, all others within 3.5 %: the authors add something."""
    weights, settings, sizes = NETWORKS[network]
    published, expected = sizes[setting]

    def packed(name: str, fmt: Format) -> Packed:
        codes = weights[int(name)] * int(fmt.bits)
        return Packed(codes, codes, 0)

    parameters = [Parameter(str(i), n, site=str(i), counts=True) for i, n in enumerate(weights)]
    bits = f"8{settings[setting]}8".replace(" ", "")
    at = Assignment({str(i): Format("int", int(b)) for i, b in zip(range(len(weights)), bits, strict=True)})
    measures = memory_measures(parameters, (), packed)
    found = measures["memory_bytes"].measure(at)
    assert found / 2**20 == pytest.approx(expected, abs=5.1e-4)
    is_close = {"abs": 0.0501} if network == "ResNet-18" and setting in resnets.HAWQ_18 else {"rel": 0.035}
    assert found / 2**20 == pytest.approx(published, **is_close)
    assert measures["weight_bits"].measure(at) == pytest.approx(8 * found / sum(weights), rel=1e-12)


@pytest.mark.parametrize(("network", "besides", "published"), [("ResNet-18", 10_600, 44.59), ("ResNet-50", 0, 97.29)])
def test_size_in_float(network: str, besides: int, published: float) -> None:
    """ResNet-18 with 9,600 numbers in BatchNorm and 1,000 biases; of ResNet-50 the weights."""
    weights = NETWORKS[network][0]
    parameters = [Parameter(str(i), n) for i, n in enumerate([*weights, besides])]
    measure = memory_measures(parameters, (), lambda name, fmt: Packed(0, 0, 0))["memory_bytes"]
    assert measure.measure(Assignment()) / 2**20 == pytest.approx(published, abs=5e-3)
