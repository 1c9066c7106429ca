"""Error and storage of every number format: normal and Laplacian numbers, trained weights, values and features.

For each tensor: bits per number, all counted that is stored; signal over noise in decibels (6 are a bit); and by how
much that is more than integers of as many bits have, straight lines drawn between their widths (0 bits: 0 decibels).
Weights: integers with a scale per channel; all scales by least squared error, so that errors can be compared. Values:
integers with one scale and zero point; bits are those that the value takes while the model runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.spec import registry

INTEGERS = [f"int{bits}:mse" for bits in range(1, 9)]
_WEIGHTS = """
int2:g32:mse int4:g32:mse sub4:mse sub8:mse planes1 planes2:mse planes3:mse planes4:mse pow2:mse pow3:mse pow4:mse
fp4:mse fp6:mse fp6:e3m2:mse fp8:mse fp8:e5m2:mse mx4 mx6 mx8 mx8:int nvfp4
esb2:mse esb3:mse esb4:k2:mse esb4:mse esb4:align esb5:mse esb6:mse esb8:mse
multibit0.5:g64:a16 multibit1 multibit1.5:g64:a16 multibit2:mse multibit2:mse:g64:a16 multibit3:mse multibit4:mse
pq0.444:d18 pq0.889:d9 pq1:d8 pq2:d4:mse pq2.75:d4:mse pq4:d1:mse int4:mse:stochastic
"""
_VALUES = """
planes2 planes4 pow3 pow4 fp4 fp6 fp8 fp8:e5m2 mx4 mx6 mx8 mx8:int nvfp4 esb3 esb4 esb4:align esb6 esb8
rowscale1 sparse1:row sparse1 sparse4 sparse8 sparse32 int4:stochastic
"""
Found = tuple[float, float]
"""Bits per number, decibels."""


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/reproduce formats", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="schemes to show; all if none is named")
    only = parser.parse_args(arguments).only
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    tables = {
        "weights": (_weights(), Role.WEIGHT, 0, INTEGERS, _WEIGHTS.split()),
        "values": (_values(), Role.FEATURE, 1, [text.removesuffix(":mse") for text in INTEGERS], _VALUES.split()),
    }
    for name, (samples, role, axis, integers, formats) in tables.items():
        texts = [text for text in formats if not only or Format.parse(text).scheme in only]
        lines = {sample: [_measured(tensors, t, role, axis) for t in integers] for sample, tensors in samples.items()}
        print(f"\n{name}: bits, decibels, decibels above integers of as many bits\n")
        _row("format", *samples)
        _row("---", *("---" for _ in samples))
        for text, *found in zip(integers, *lines.values(), strict=True):
            _row(text, *(f"{bits:.2f}  {_decibels(db)}" for bits, db in found))
        for text in texts:
            cells = []
            for sample, tensors in samples.items():
                bits, db = _measured(tensors, text, role, axis)
                more = db - _at(lines[sample], bits)
                result[f"{name} {sample} {text}"] = [round(bits, 3), _plain(db), _plain(more)]
                cells.append(f"{bits:.2f}  {_decibels(db)}  {'' if math.isinf(db) else f'{more:+.1f}'}")
            _row(text, *cells)
    return result


def _measured(tensors: Sequence[Tensor], text: str, role: Role, axis: int) -> Found:
    """Of tensors that are quantized one by one and counted together."""
    quantizer = registry.load("quantizers", Format.parse(text).scheme)()
    fmt = quantizer.canonical(Format.parse(text), role)
    bits, noise, power = 0, 0.0, 0.0
    for x in tensors:
        grid = quantizer.fit(x, fmt, role, axis)
        bits += grid.nbits(tuple(x.shape)) if role.is_parameter else grid.code_bits(tuple(x.shape))
        noise += float((grid.round_trip(x) - x).double().square().sum())
        power += float(x.double().square().sum())
    return bits / sum(x.numel() for x in tensors), 10 * math.log10(power / noise) if noise else math.inf


def _at(line: Sequence[Found], bits: float) -> float:
    """Decibels of integers at `bits`, on straight lines between widths; the last one goes on."""
    widths, heights = np.array([(0.0, 0.0), *line]).T
    if bits > widths[-1]:
        return float(heights[-1] + (bits - widths[-1]) * (heights[-1] - heights[-2]) / (widths[-1] - widths[-2]))
    return float(np.interp(bits, widths, heights))


def _weights() -> Mapping[str, list[Tensor]]:
    draw = torch.Generator().manual_seed(0)
    shape = (64, 64, 3, 3)
    uniform = torch.rand(shape, generator=draw).mul_(2).sub_(1).clamp_(-0.9999999, 0.9999999)
    found = {
        "normal": [torch.randn(shape, generator=draw)],
        "Laplacian": [-uniform.sign() * torch.log1p(-uniform.abs())],
        "ResNet-10, digits": _trained("cnn"),
    }
    try:
        return {**found, "ResNet-20, CIFAR-10": _trained("cifar_resnet20")}
    except BadInput as missing:
        print(missing)
        return found


def _trained(name: str) -> list[Tensor]:
    """Weights of all convolutions and linear layers."""
    from mpsearch.zoo.images import CLASSIFIERS

    layers = (m for m in CLASSIFIERS[name].model().modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return [layer.weight.detach() for layer in layers]


def _values() -> Mapping[str, list[Tensor]]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2048, 256, generator=draw)
    spread = x * torch.randn(256, generator=draw).exp()  # channels differ in range, as those of transformers do
    return {"normal": [x], "after a ReLU": [x.relu()], "uneven channels": [spread], **_words(draw)}


def _words(draw: torch.Generator) -> Mapping[str, list[Tensor]]:
    """Features of Cora, or made-up ones of the same shape and share of zeros."""
    try:
        from mpsearch.zoo.planetoid import cora

        return {"features of Cora": [cora().x]}
    except BadInput as missing:
        print(missing)
    words = (torch.rand(2708, 1433, generator=draw) < 0.0127).float()
    return {"bag of words": [words / words.sum(dim=1, keepdim=True).clamp(min=1)]}


def _row(*cells: str) -> None:
    print("| " + " | ".join(cell.ljust(21) for cell in cells) + " |")


def _decibels(db: float) -> str:
    return "exact" if math.isinf(db) else f"{db:5.1f}"


def _plain(number: float) -> float | None:
    return None if math.isinf(number) else round(number, 2)
