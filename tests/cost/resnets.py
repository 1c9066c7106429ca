"""The multiplications of ResNet-18 and ResNet-50 (He et al., arXiv 1512.03385) on 224 x 224 pixels, layer by layer.

The shortcuts come last in a block, and ResNet-50 has its strides on the first 1 x 1 convolutions, as in HAWQ-V3 (arXiv
2011.10680, https://github.com/Zhen-Dong/HAWQ).
"""

from __future__ import annotations

from dataclasses import dataclass

from mpsearch.cost.workload import Access, Gemm, Held, Kind, Operation, Workload


@dataclass(frozen=True)
class Layer:
    """A convolution from `size` x `size` positions to `out` channels, or the classifier (size 1)."""

    name: str
    channels: int
    out: int
    kernel: int
    stride: int
    size: int

    @property
    def gemm(self) -> Gemm:
        window, after = self.kernel**2, -(-self.size // self.stride)
        return Gemm(after**2, self.out, self.channels * window, 1, window, self.stride**2)

    @property
    def weights(self) -> int:
        return self.out * self.channels * self.kernel**2


def resnet18() -> list[Layer]:
    found, channels, size = [Layer("first", 3, 64, 7, 2, 224)], 64, 56
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for unit in (1, 2):
            stride = 2 if stage > 1 and unit == 1 else 1
            found.append(Layer(f"{stage}.{unit}.1", channels, width, 3, stride, size))
            found.append(Layer(f"{stage}.{unit}.2", width, width, 3, 1, size // stride))
            if stride == 2:
                found.append(Layer(f"{stage}.{unit}.short", channels, width, 1, stride, size))
            channels, size = width, size // stride
    return [*found, Layer("last", 512, 1000, 1, 1, 1)]


def resnet50() -> list[Layer]:
    found, channels, size = [Layer("first", 3, 64, 7, 2, 224)], 64, 56
    for stage, (width, units) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), start=1):
        for unit in range(1, units + 1):
            stride = 2 if stage > 1 and unit == 1 else 1
            found.append(Layer(f"{stage}.{unit}.1", channels, width, 1, stride, size))
            found.append(Layer(f"{stage}.{unit}.2", width, width, 3, 1, size // stride))
            found.append(Layer(f"{stage}.{unit}.3", width, 4 * width, 1, 1, size // stride))
            if unit == 1:
                found.append(Layer(f"{stage}.{unit}.short", channels, 4 * width, 1, stride, size))
            channels, size = 4 * width, size // stride
    return [*found, Layer("last", 2048, 1000, 1, 1, 1)]


def workload(layers: list[Layer]) -> Workload:
    """Each layer reads a value and a weight of its own, sites `name:in` and `name.weight`."""
    tensors, operations = [], []
    for layer in layers:
        value, weight = f"{layer.name}:in", f"{layer.name}.weight"
        taken = layer.channels * layer.size**2
        place = len(tensors)
        tensors += [
            Held(value, taken, layer.size**2, site=value),
            Held(weight, layer.weights, layer.out, site=weight, is_parameter=True),
        ]
        reads = (Access(place, taken), Access(place + 1, layer.weights))
        kind = Kind.LINEAR if layer.size == 1 else Kind.CONV
        operations.append(Operation(layer.name, kind, reads, None, layer.gemm.macs, 1, 0, layer.gemm))
    return Workload(tuple(tensors), tuple(operations))


HAWQ_18 = {"W8A8": "8" * 19, "W4A4": "4" * 19}
"""Bits of the convolutions between the first and the last layer, which stay at 8."""
BOPS_18 = {
    "fp32": 1858, "W8A8": 116, "W4A4": 34,
    "size 0.75": 103, "size 0.50": 98, "size 0.25": 95,
    "bops 0.75": 92, "bops 0.50": 72, "bops 0.25": 54,
    "latency 0.75": 92, "latency 0.50": 76, "latency 0.25": 54,
}  # fmt: skip
"""Published bit operations (10^9), from HAWQ's model_zoo.md."""

HAWQ_50 = {
    "size 0.75": "8888 888 888  8888 888 888 888  8888 888 888 888 888 888  8488 848 848",
    "size 0.50": "8888 888 888  8888 888 888 888  8488 888 844 888 848 848  8488 844 844",
    "size 0.25": "8888 888 888  8888 888 888 888  8488 844 844 844 844 444  4484 444 844",
    "bops 0.75": "8888 888 848  8888 888 888 848  8488 888 844 848 848 848  8488 888 888",
    "bops 0.50": "8888 888 848  8488 848 844 848  8488 844 844 844 844 848  8488 848 848",
    "bops 0.25": "8488 448 844  8488 444 444 844  8488 444 444 444 444 444  8488 844 844",
    "latency 0.75": "8888 888 848  8488 888 888 848  8488 888 848 888 848 848  8488 888 888",
    "latency 0.50": "8888 888 844  8488 888 848 848  8488 444 844 844 844 844  8488 848 848",
    "latency 0.25": "8888 848 844  8488 444 444 844  4484 444 444 444 444 844  8488 844 844",
    "W8A8": "8" * 52,
    "W4A4": "4" * 52,
}
"""Bits of the convolutions between the first and the last layer, from HAWQ's bit_config.py."""
BOPS_50 = {
    "fp32": 3951, "W8A8": 247, "W4A4": 67,
    "size 0.75": 226, "size 0.50": 197, "size 0.25": 168,
    "bops 0.75": 197, "bops 0.50": 154, "bops 0.25": 110,
    "latency 0.75": 199, "latency 0.50": 155, "latency 0.25": 114,
}  # fmt: skip
