"""Memory of real graphs, against sums over tensors, packed bytes and a slow simulation written here."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs import Rig, lower, rig
from tiny_models import (
    Encoder,
    LanguageModel,
    OneConv,
    PlainNet,
    ResidualNet,
    SelfAttention,
    TwoLayerGcn,
    graph,
    randn,
)
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.site import Site
from mpsearch.cost.arena import arena_bytes
from mpsearch.cost.layout import device_peak
from mpsearch.cost.memory import Packed, memory_measures
from mpsearch.graph.notes import counted, noted
from mpsearch.graph.sites import discover
from mpsearch.graph.workload import values
from mpsearch.quant.grid import Grid
from mpsearch.spec.card import InPlace, Layout

TOKENS = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(0))
TEXTS = ("fp32", "int1", "int2", "int3:tensor", "int4:g4", "int8:affine", "fp16")
VALUE_TEXTS = ("fp32", "int1", "int2", "int3", "int4:channel", "int8:sym", "fp16")


@cache
def models() -> dict[str, Rig]:
    return {
        "cnn": rig(ResidualNet, (randn(4, 3, 6, 6),)),
        "gnn": rig(TwoLayerGcn, graph()),
        "language model": rig(LanguageModel, (TOKENS,)),
        "encoder": rig(Encoder, (randn(3, 5, 8),)),
    }


def assignments(found: Rig) -> st.SearchStrategy[dict[str, str]]:
    options = {s.name: st.sampled_from(TEXTS if s.role.is_parameter else VALUE_TEXTS) for s in found.program.sites}
    return st.fixed_dictionaries(options)


def grid_of(found: Rig, site: Site, text: str) -> Grid:
    index = [s.name for s in found.program.sites].index(site.name)
    return found.grids.grid(index, Format.parse(text))


def measures(found: Rig, texts: dict[str, str]) -> dict[str, float]:
    return found.memory.at(Assignment.parse(texts))


@pytest.mark.parametrize("name", ["cnn", "gnn", "language model", "encoder"])
def test_memory_is_the_sum_of_what_is_stored(name: str) -> None:
    found = models()[name]
    stored = found.program.tensors

    @settings(max_examples=15)
    @given(texts=assignments(found))
    def check(texts: dict[str, str]) -> None:
        total = 0
        for tensor_name, tensor in stored.items():
            text = texts.get(tensor_name, "fp32")
            if text == "fp32":
                total += tensor.nbytes
            else:
                total += sum(t.nbytes for t in grid_of(found, found.sites[tensor_name], text).pack(tensor).values())
        for site in found.program.sites:
            if not site.role.is_parameter and texts[site.name] != "fp32":
                packed = grid_of(found, site, texts[site.name]).pack(torch.zeros(site.shape))
                total += sum(t.nbytes for key, t in packed.items() if key not in ("codes", "values"))
        assert measures(found, texts)["memory_bytes"] == total

    check()


def test_every_value_site_with_a_choice_is_a_value_in_memory() -> None:
    for found in models().values():
        values = [value.site for value in found.values if value.site is not None]
        assert sorted(values) == sorted(s.name for s in found.program.sites if not s.role.is_parameter)


def test_tied_storage_counts_once() -> None:
    found = models()["language model"]
    lstm = 2 * 24 * 6 + 2 * 24
    assert measures(found, {})["memory_bytes"] == (11 * 6 + lstm) * 4
    assert next(s.name for s in found.program.sites if s.role.is_parameter) == "embed.weight"
    once = measures(found, {"embed.weight": "int8:tensor"})["memory_bytes"]
    assert once == 11 * 6 + 4 + lstm * 4


def test_weight_bits_are_codes_per_element_of_conv_and_linear_weights() -> None:
    found = models()["cnn"]
    sizes = {n: found.program.tensors[n].numel() for n in found.program.tensors if n.endswith("weight")}
    assert set(sizes) == {"stem.weight", "depthwise.weight", "grouped.weight", "head.weight"}
    texts = dict(zip(sizes, ("int2", "int4:g4", "fp32", "int8:affine"), strict=True))
    expected = sum(size * bits for size, bits in zip(sizes.values(), (2, 4, 32, 8), strict=True)) / sum(sizes.values())
    assert measures(found, texts)["weight_bits"] == pytest.approx(expected, rel=1e-12)
    assert measures(found, {})["weight_bits"] == 32


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_features_of_a_gcn(bits: int) -> None:
    """Nodes times channels times bits, of the inputs of both layers: 12 x 8 and 12 x 6."""
    found = models()["gnn"]
    assert measures(found, {})["feature_bytes"] == (12 * 8 + 12 * 6) * 4
    both = dict.fromkeys(("conv1:feature", "conv2:feature"), f"int{bits}")
    assert measures(found, both)["feature_bytes"] == 12 * 8 * bits // 8 + 12 * 6 * bits // 8
    one = measures(found, {"conv2:feature": f"int{bits}"})["feature_bytes"]
    assert one == 12 * 8 * 4 + 12 * 6 * bits // 8


def test_attention_of_a_gat_is_stored_with_its_features() -> None:
    x, edges = graph()
    edges = edges[:, edges[0] != edges[1]]
    found = rig(OneConv(pyg.GATConv(8, 4, heads=2)), (x, edges))
    loops = edges.shape[1] + 12
    assert measures(found, {})["feature_bytes"] == (12 * 8 + loops * 2) * 4
    texts = {"conv:attention": "int4"}
    assert measures(found, texts)["feature_bytes"] == 12 * 8 * 4 + loops * 2 * 4 // 8
    texts |= {"conv:score": "int1"}
    assert measures(found, texts)["feature_bytes"] == 12 * 8 * 4 + loops * 2 * 4 // 8, "coefficients are what is stored"
    assert measures(found, {"conv:score": "int1"})["feature_bytes"] == 12 * 8 * 4 + -(-loops * 2 // 8)
    sites = discover(lower(found.model, (x, edges)))
    for active, expected in ((set(), {"conv:attention": 3}), ({"conv:score"}, {"conv:attention": 1, "conv:score": 2})):
        counts = {held.name: times for held, times in noted(sites, counted(sites), active)}
        assert counts == {"conv:feature": 2, "conv:message": 2, **expected}, "three values of each edge and head"


# Activation memory against a simulation that keeps a set of live tensors and counts readers. Each step is
# (made, bytes, read); a step that makes nothing new (a view, an activation function in place) is not listed.
Steps = list[tuple[str, int, list[str]]]


def simulated(steps: Steps, result: str, sizes: dict[str, int]) -> tuple[int, int]:
    """(sum, peak) in bytes; `sizes` overrides those of quantized values."""
    waiting: dict[str, int] = {result: 1}
    for _, _, read in steps:
        for name in read:
            waiting[name] = waiting.get(name, 0) + 1
    live: dict[str, int] = {}
    total = peak = 0
    for made, size, read in steps:
        live[made] = sizes.get(made, size)
        total += live[made]
        peak = max(peak, sum(live.values()))
        for name in read:
            waiting[name] -= 1
            if not waiting[name]:
                del live[name]
    return total, peak


class Branches(nn.Module):
    """Two branches of different widths, concatenated; the input is read late again."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(2, 12, 1), nn.Conv2d(2, 2, 1)
        self.merge, self.out = nn.Conv2d(14, 2, 1), nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        merged = self.merge(torch.cat([F.relu(self.wide(x)), F.relu(self.narrow(x))], 1))
        return self.out(merged + x)


def bytes_of(*shape: int) -> int:
    return 4 * prod(shape)


CHAIN: Steps = [
    ("first:in", bytes_of(4, 3, 6, 6), []),
    ("second:in", bytes_of(4, 8, 6, 6), ["first:in"]),
    ("third:in", bytes_of(4, 8, 6, 6), ["second:in"]),
    ("mean:in", bytes_of(4, 8, 6, 6), ["third:in"]),
    ("head:in", bytes_of(4, 8), ["mean:in"]),
    ("result", bytes_of(4, 4), ["head:in"]),
]
RESIDUAL: Steps = [
    ("stem:in", bytes_of(4, 3, 6, 6), []),
    ("depthwise:in", bytes_of(4, 8, 6, 6), ["stem:in"]),
    ("grouped:in", bytes_of(4, 8, 6, 6), ["depthwise:in"]),
    ("grouped:out", bytes_of(4, 8, 6, 6), ["grouped:in"]),
    ("sum", bytes_of(4, 8, 6, 6), ["grouped:out", "depthwise:in"]),
    ("head:in", bytes_of(4, 8), ["sum"]),
    ("result", bytes_of(4, 4), ["head:in"]),
]
BRANCHES: Steps = [
    ("wide:in", bytes_of(3, 2, 5, 5), []),
    ("relu", bytes_of(3, 12, 5, 5), ["wide:in"]),
    ("relu_2", bytes_of(3, 2, 5, 5), ["wide:in"]),
    ("merge:in", bytes_of(3, 14, 5, 5), ["relu", "relu_2"]),
    ("merge:out", bytes_of(3, 2, 5, 5), ["merge:in"]),
    ("out:in", bytes_of(3, 2, 5, 5), ["merge:out", "wide:in"]),
    ("result", bytes_of(3, 3, 5, 5), ["out:in"]),
]
GRAPHS: dict[str, tuple[Any, tuple[Tensor, ...], Steps]] = {
    "chain": (PlainNet, (randn(4, 3, 6, 6),), CHAIN),
    "residual": (ResidualNet, (randn(4, 3, 6, 6),), RESIDUAL),
    "branches": (Branches, (randn(3, 2, 5, 5),), BRANCHES),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_activation_memory_against_a_simulation(name: str) -> None:
    build, inputs, steps = GRAPHS[name]
    found = rig(build, inputs)
    sited = [s.name for s in found.program.sites if not s.role.is_parameter]
    assert set(sited) <= {made for made, _, _ in steps}

    @settings(max_examples=25)
    @given(bits=st.lists(st.sampled_from((1, 2, 3, 8, 32)), min_size=len(sited), max_size=len(sited)))
    def check(bits: list[int]) -> None:
        chosen = {site: b for site, b in zip(sited, bits, strict=True) if b != 32}
        sizes = {site: (prod(found.sites[site].shape) * b + 7) // 8 for site, b in chosen.items()}
        ours = measures(found, {site: f"int{b}" for site, b in chosen.items()})
        expected = simulated(steps, "result", sizes)
        assert (ours["activation_sum_bytes"], ours["activation_peak_bytes"]) == expected

    check()


def test_slices_of_one_projection_are_counted_apart_and_once() -> None:
    """q, k and v of a packed projection: three thirds in float, each with its own bits when quantized."""
    found = rig(SelfAttention, (randn(3, 5, 8),))
    base = measures(found, {})["activation_sum_bytes"]
    third = bytes_of(3, 5, 8)
    for part, bits in (("q", 8), ("k", 4), ("v", 2)):
        ours = measures(found, {f"mha:{part}": f"int{bits}"})["activation_sum_bytes"]
        assert base - ours == third - third * bits // 32
    assert base >= bytes_of(3, 5, 8) + 3 * third


def test_outputs_of_an_lstm_are_values() -> None:
    """Embedded tokens, the LSTM's output, what it keeps between steps, and the scores; its results that nobody reads
    are none."""
    found = models()["language model"]
    kept = bytes_of(3, 6) + bytes_of(3, 6)
    assert measures(found, {})["activation_sum_bytes"] == 2 * bytes_of(3, 5, 6) + kept + bytes_of(3, 5, 11)


def test_fused_attention_holds_no_scores_until_they_have_a_choice() -> None:
    closed = rig(Encoder, (randn(3, 5, 8),), active=["head.weight"])
    opened = rig(Encoder, (randn(3, 5, 8),), active=["layer.self_attn:probs"])
    scores = bytes_of(3, 2, 5, 5)
    added = measures(opened, {})["activation_sum_bytes"] - measures(closed, {})["activation_sum_bytes"]
    assert added == scores
    saved = measures(opened, {})["activation_sum_bytes"]
    saved -= measures(opened, {"layer.self_attn:probs": "int8"})["activation_sum_bytes"]
    assert saved == scores * 3 // 4


class Overwriting(nn.Module):
    """Additions and products, of which some can be made over an operand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.columns = nn.Linear(4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first(x), self.second(x)
        total = first + second  # over either
        turned = total * total.t()  # reads each number twice
        third = self.third(turned)
        both = turned * third  # over third: turned is read again
        narrow = self.columns(both)
        return narrow * both + x * turned  # over both, not over narrow; x is the input: over turned; over either


def test_what_can_be_made_over_an_operand() -> None:
    lowered = lower(Overwriting(), (randn(4, 4),))
    held = values(lowered, discover(lowered), [])
    made = {i: value.overwrites for i, value in enumerate(held) if value.overwrites is not None}
    total, both, wide, product, result = 3, 6, 8, 9, 10
    assert made == {total: 2, both: 5, wide: both, product: 4, result: product}
    assert all(held[over].dies == held[i].born for i, over in made.items())


# Published peaks. Sandler et al., "MobileNetV2" (arXiv 1801.04381); in place as TinyEngine runs it (Lin et al.,
# "MCUNet", arXiv 2007.10319).


class Residual(nn.Module):
    """The input is added to what `body` makes of it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class MobileNetV2(nn.Sequential):
    """Inverted residuals: (expansion, channels, blocks, stride) per stage."""

    def __init__(self, width: float) -> None:
        def scaled(channels: int) -> int:
            rounded = max(8, int(channels * width + 4) // 8 * 8)
            return rounded + 8 if rounded < 0.9 * channels * width else rounded

        def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            made = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
            return [made, nn.BatchNorm2d(outputs), nn.ReLU6()]

        channels = scaled(32)
        layers = conv(3, channels, 3, 2)
        for expansion, outputs, blocks, stride in (
            *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
            *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
        ):
            for step in (stride, *[1] * (blocks - 1)):
                inner, after = channels * expansion, scaled(outputs)
                body = nn.Sequential(
                    *(conv(channels, inner, 1) if expansion > 1 else ()),
                    *conv(inner, inner, 3, step, groups=inner),
                    *conv(inner, after, 1)[:2],
                )
                layers.append(Residual(body) if step == 1 and after == channels else body)
                channels = after
        layers += [*conv(channels, max(1280, scaled(1280)), 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(max(1280, scaled(1280)), 1000))


@pytest.mark.parametrize(
    ("width", "side", "parameters", "separate", "in_place"),
    [(1.0, 224, 3_504_872, 1470, 1372), (0.35, 144, 1_677_128, 303.75, 283.5)],
)
def test_peak_of_mobilenet_v2(width: float, side: int, parameters: int, separate: float, in_place: float) -> None:
    """KiB at 8 bits: depthwise convolutions into memory of their own, or over their input."""
    model = MobileNetV2(width).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    lowered = lower(model, (torch.zeros(1, 3, side, side),))
    discovery = discover(lowered)
    sites = [site.name for site in discovery.sites if not site.role.is_parameter]
    held = values(lowered, discovery, sites)
    bits = {value.site: 8 * value.elements for value in held}

    def packed(name: str, fmt: Format) -> Packed:
        return Packed(bits[name], bits[name], 0)

    int8 = Assignment({site: Format.parse("int8") for site in sites})
    assert memory_measures((), held, packed)["activation_peak_bytes"].measure(int8) == separate * 1024
    for depthwise, expected in ((False, separate), (True, in_place)):
        where = InPlace(depthwise=depthwise)
        peak = device_peak(Layout(), where, held, packed)
        assert peak.measure(int8) == expected * 1024
        assert arena_bytes(Layout(), where, held, packed, int8) == expected * 1024
        assert len(peak.held) <= len(sites) + 1
