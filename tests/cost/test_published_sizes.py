"""Sizes of the ResNets that HAWQ-V3 published (arXiv 2011.10680), weights only, from their bits per layer."""

from __future__ import annotations

import hawq_v3 as hawq
import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.cost.memory import Packed, Parameter, memory_measures

NETWORKS = {
    "ResNet-18": ([9408, *map(int, hawq.WEIGHTS.split()), 512_000], hawq.SIZES_18),
    "ResNet-50": ([9408, *hawq.WEIGHTS_50, 2_048_000], hawq.SIZES_50),
}
OURS = {
    "ResNet-18": "11.138 9.732 7.763 7.138 8.536 6.487 5.909 8.536 7.060 5.909 5.818",
    "ResNet-50": "24.321 20.946 18.696 15.759 21.577 18.429 16.503 21.913 18.273 16.341 13.142",
}


def mebibytes(sizes: list[int], bits: str) -> float:
    """First convolution, convolutions and classifier; no scales."""

    def packed(name: str, fmt: Format) -> Packed:
        codes = sizes[int(name)] * int(fmt.bits)
        return Packed(codes, codes, 0)

    parameters = [Parameter(str(i), n, site=str(i), counts=True) for i, n in enumerate(sizes)]
    formats = {str(i): Format("int", int(b)) for i, b in enumerate(f"8{bits}8".replace(" ", ""))}
    assert len(formats) == len(sizes)
    measures = memory_measures(parameters, (), packed)
    found = measures["memory_bytes"].measure(Assignment(formats))
    assert measures["weight_bits"].measure(Assignment(formats)) == pytest.approx(8 * found / sum(sizes), rel=1e-12)
    return found / 2**20


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_of(name: str) -> None:
    """Uniform ones of ResNet-18 to the rounding of the table; in mixed ones the table counts a little more."""
    sizes, settings = NETWORKS[name]
    for (setting, (published, bits)), ours in zip(settings.items(), OURS[name].split(), strict=True):
        found = mebibytes(sizes, bits)
        assert found == pytest.approx(float(ours), abs=5.1e-4), setting
        is_uniform = setting.startswith("uniform")
        tolerance = {"abs": 0.0501} if is_uniform and name == "ResNet-18" else {"rel": 0.035}
        assert found == pytest.approx(published, **tolerance), setting


def test_weights_in_float() -> None:
    """HAWQ-V3 says 44.6 and 97.8 MB: ResNet-18 has 9,600 numbers in BatchNorm and 1,000 biases besides."""
    of_18, of_50 = (sizes for sizes, _ in NETWORKS.values())
    measures = memory_measures([Parameter(str(i), n) for i, n in enumerate([*of_18, 9_600, 1_000])], (), _no_grid)
    assert measures["memory_bytes"].measure(Assignment()) / 2**20 == pytest.approx(44.59, abs=5e-3)
    assert sum(of_18) + 10_600 == 11_689_512
    assert sum(of_50) == 25_502_912
    measures = memory_measures([Parameter(str(i), n) for i, n in enumerate(of_50)], (), _no_grid)
    assert measures["memory_bytes"].measure(Assignment()) / 2**20 == pytest.approx(97.3, abs=0.05)


def _no_grid(name: str, fmt: Format) -> Packed:
    raise AssertionError(f"nothing is quantized, {name} is asked for in {fmt}")
