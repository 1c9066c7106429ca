"""Operations of whole models: their products against torch's own count, their tensors against the memory model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs import lower
from tiny_models import (
    Encoder,
    LanguageModel,
    OneConv,
    PreActivation,
    ResidualNet,
    SelfAttention,
    Smooth,
    Transformer,
    graph,
    perceptron,
    randn,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric import nn as pyg

from mpsearch.core.site import Role
from mpsearch.cost.memory import Value
from mpsearch.cost.workload import Held, Kind, Workload
from mpsearch.graph.export import Lowered
from mpsearch.graph.operations import operations
from mpsearch.graph.sites import Discovery, discover, live_nodes
from mpsearch.graph.workload import parameters, values
from mpsearch.zoo.gnn import GAT, GCN
from mpsearch.zoo.llama import Llama, Shape
from mpsearch.zoo.resnet import ResNet10, ResNet20
from mpsearch.zoo.vit import ViT


class Inverted(nn.Module):
    """Inverted residuals with squeeze and excitation, as MobileNets have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.wide = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 5, 1, 2, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6()
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1), nn.Sigmoid()
        )
        self.narrow = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.wide(x))
        return self.head((x + self.narrow(y * self.gate(y))).mean((2, 3)))


class Dense(nn.Module):
    """Concatenated features, upsampled by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, torch.relu(self.one(x))], 1)
        return self.out(torch.cat([y, self.up(self.two(y))], 1))


class Cross(nn.Module):
    """Attention between two sequences through `nn.MultiheadAttention`, keys and values of other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.mha(x, y, z, need_weights=False)[0]


def layer(make: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    return lambda: (OneConv(make()), graph())


MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "residual": lambda: (ResidualNet(), (randn(2, 3, 6, 6),)),
    "pre-activation": lambda: (PreActivation(), (randn(2, 3, 6, 6),)),
    "ResNet-10": lambda: (ResNet10(), (randn(2, 1, 8, 8),)),
    "ResNet-20": lambda: (ResNet20(), (randn(1, 3, 32, 32),)),
    "MobileNet": lambda: (Inverted(), (randn(2, 3, 12, 12),)),
    "dense": lambda: (Dense(), (randn(2, 3, 8, 8),)),
    "ViT": lambda: (ViT(width=16, depth=1, heads=2), (randn(2, 1, 8, 8),)),
    "encoder": lambda: (Encoder(), (randn(3, 5, 8),)),
    "self-attention": lambda: (SelfAttention(), (randn(3, 5, 8),)),
    "cross attention": lambda: (Cross(), (randn(3, 5, 8), randn(3, 4, 6), randn(3, 4, 4))),
    "written out": lambda: (Transformer(written_out=True), (randn(3, 5, 8),)),
    "Llama": lambda: (Llama(Shape(16, 24, 1, 4, 2, 20, 6)), (torch.zeros(2, 6, dtype=torch.long),)),
    "LSTM": lambda: (LanguageModel(), (torch.zeros(2, 6, dtype=torch.long),)),
    "GCN": lambda: (GCN(8, 6, 3), graph()),
    "GAT": lambda: (GAT(8, 4, 3, heads=2), graph()),
    "SAGE": layer(lambda: pyg.SAGEConv(8, 4)),
    "GIN": layer(lambda: pyg.GINConv(perceptron(8, 6))),
    "TransformerConv": layer(lambda: pyg.TransformerConv(8, 4, heads=2)),
    "EdgeConv": layer(lambda: pyg.EdgeConv(perceptron(16, 4))),
    "own layer": layer(Smooth),
}
NAMES = list(MODELS)


@cache
def built(name: str) -> tuple[nn.Module, tuple[Any, ...], Lowered, Discovery]:
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model.eval()
    lowered = lower(model, inputs)
    return model, inputs, lowered, discover(lowered)


def actives(found: Discovery) -> Iterator[list[str]]:
    """All sites, none, and all that leave a fused attention whole."""
    yield [site.name for site in found.sites]
    yield []
    yield [site.name for site in found.sites if site.role not in (Role.SCORE, Role.PROB)]


def torch_macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """What torch counts, with attention written out: its fused kernels count nothing on a CPU."""
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LSTM"])
def test_products_as_torch_counts_them(name: str) -> None:
    model, inputs, lowered, found = built(name)
    for active in actives(found):
        listed = operations(lowered, found, active)
        assert sum(o.macs for o in listed.operations if o.kind.is_matrix) == torch_macs(model, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_each_product_is_that_of_its_sizes(name: str) -> None:
    _, _, lowered, found = built(name)
    for active in actives(found):
        listed = operations(lowered, found, active)
        assert len({o.name for o in listed.operations}) == len(listed.operations)
        for operation in listed.operations:
            assert operation.kind.is_matrix == (operation.gemm is not None)
            if operation.gemm is not None:
                assert operation.macs == operation.gemm.macs > 0
            for place in (operation.weight, operation.value):
                assert place is None or place < len(operation.reads)
        whole = sum(node.meta.get("macs", 0) for node in lowered.graph.nodes)
        assert whole == sum(o.macs for o in listed.operations if o.kind.is_matrix)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_was_written_or_is_given(name: str) -> None:
    """Given are parameters, inputs, what follows from the structure of the input, and the states of a first step."""
    _, _, lowered, found = built(name)
    live = live_nodes(lowered.graph.nodes)
    given = {n.name for n in lowered.graph.nodes if n.op == "placeholder" or n not in live}
    given_sites = {f.site.name for f in found.found if f.node.name in given or f.site.role is Role.STATE}
    for active in actives(found):
        listed = operations(lowered, found, active)
        written: set[int] = set()
        for operation in listed.operations:
            for access in operation.reads:
                held = listed.tensors[access.tensor]
                known = held.is_parameter or access.tensor in written
                assert known or held.name in given_sites or held.name.rpartition(":")[2] in given
            written |= {access.tensor for access in operation.writes}
        read = {access.tensor for o in listed.operations for access in o.reads}
        unread = [listed.tensors[i] for i in written - read]
        (output,) = [n for n in lowered.graph.nodes if n.op == "output"]
        assert len(unread) <= len(output.args[0])
        assert read | written == set(range(len(listed.tensors)))


@pytest.mark.parametrize("name", NAMES)
def test_every_site_is_that_of_one_tensor_of_its_size(name: str) -> None:
    _, _, lowered, found = built(name)
    sites = {site.name: site for site in found.sites}
    every, none, _ = (operations(lowered, found, active) for active in actives(found))
    assert Counter(t.site for t in every.tensors if t.site) == Counter(sites.keys())
    for held in every.tensors:
        if held.site is not None:
            site = sites[held.site]
            assert held.elements == prod(site.shape)
            assert held.is_parameter == site.role.is_parameter
            assert held.rows * site.shape[site.axis] == held.elements or held.rows == site.shape[site.axis]
    fused = {f.site.name for f in found.found if f.part is not None}
    assert {t.site for t in none.tensors if t.site} == set(sites) - fused


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_memory_model(name: str) -> None:
    _, _, lowered, found = built(name)
    names = [site.name for site in found.sites]
    listed = operations(lowered, found, names)
    stored = {p.name: (p.elements, p.rows, p.float_bits, p.site) for p in parameters(lowered, found, names, False)}
    held = {t.name: (t.elements, t.rows, t.float_bits, t.site) for t in listed.tensors if t.is_parameter}
    assert held.items() <= stored.items()
    unused = set(stored) - set(held)
    assert all(stored[n][0] <= 1 for n in unused), "constants inside what follows from the structure"


def held_values(listed: Workload, lowered: Lowered, found: Discovery) -> list[tuple[int, Held]]:
    """Values that depend on the input, with their places: what is written, and the inputs among the floats."""
    written = {access.tensor for o in listed.operations for access in o.writes}
    live = live_nodes(lowered.graph.nodes)
    inputs = {n.name for n in lowered.graph.nodes if n.op == "placeholder" and n in live}
    inputs |= {f.site.name for f in found.found if f.node.op == "placeholder"}
    return [(i, t) for i, t in enumerate(listed.tensors) if i in written or t.name in inputs]


def peak(steps: int, lives: list[tuple[int, int, int]]) -> int:
    """Most elements at a step, of (elements, born, dies)."""
    return max(sum(n for n, born, dies in lives if born <= step <= dies) for step in range(steps))


@pytest.mark.parametrize("name", NAMES)
def test_tensors_live_as_long_as_the_memory_model_says(name: str) -> None:
    """The same values with the same sites; and the same peak, though one counts in operations and one in nodes."""
    _, _, lowered, found = built(name)
    for active in list(actives(found))[1:]:
        listed = operations(lowered, found, active)
        memory = [v for v in values(lowered, found, active) if not _of_structure(v, found)]
        held = held_values(listed, lowered, found)
        assert Counter((v.elements, v.site) for v in memory) == Counter((t.elements, t.site) for _, t in held)
        born: dict[int, int] = {}
        dies: dict[int, int] = {}
        end = 0
        for operation in listed.operations:
            for access in operation.reads:
                dies[access.tensor] = end
            for access in operation.writes:
                born.setdefault(access.tensor, end)
            end += bool(operation.writes)  # what writes nothing is one kernel with the next
        lives = [(t.elements, born.get(i, 0), dies.get(i, end)) for i, t in held]
        steps = max(v.dies for v in memory) + 1
        assert peak(end + 1, lives) == peak(steps, [(v.elements, v.born, v.dies) for v in memory])


def _of_structure(value: Value, found: Discovery) -> bool:
    """Whether a value is the edge weights that follow from degrees."""
    nodes = [f.node for f in found.found if f.site.name == value.site]
    return bool(nodes) and nodes[0] not in live_nodes(nodes[0].graph.nodes)


DIMENSIONS = st.integers(1, 3)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution of one to three dimensions, transposed or not, with a sample that fits."""
    axes, groups = draw(DIMENSIONS), draw(st.integers(1, 4))
    several = st.lists(st.integers(1, 3), min_size=axes, max_size=axes).map(tuple)
    channels, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, stride, dilation = draw(several), draw(several), draw(several)
    padding = tuple(draw(st.integers(0, 2)) for _ in range(axes))
    size = tuple(draw(st.integers(0, 3)) + d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    if draw(st.booleans()):
        make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        made = make(channels, out, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    else:
        make = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
        made = make(channels, out, kernel, stride, 0, 0, groups, draw(st.booleans()), dilation)
    return made, (draw(st.integers(1, 3)), channels, *size)


class Side(nn.Module):
    """Layers side by side, each with its own input: one export for all."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


@given(st.lists(convolutions(), min_size=6, max_size=6))
@settings(max_examples=6)
def test_convolutions_of_any_shape(drawn: list[tuple[nn.Module, tuple[int, ...]]]) -> None:
    model = Side([made for made, _ in drawn]).eval()
    inputs = tuple(randn(*shape) for _, shape in drawn)
    lowered = lower(model, inputs)
    listed = operations(lowered, discover(lowered), [])
    for operation, (made, shape) in zip(listed.operations, drawn, strict=True):
        x = randn(*shape)
        gemm, y = operation.gemm, made(x)
        assert gemm is not None
        assert operation.macs == gemm.macs == torch_macs(made, (x,))
        if operation.kind is Kind.CONV:
            window, stride = prod(made.kernel_size), prod(made.stride)
            assert gemm.m * made.out_channels == y.numel()
            assert (gemm.k, gemm.window, gemm.stride) == (made.in_channels // made.groups * window, window, stride)
            assert operation.reduction == gemm.k
        else:
            assert gemm.m * made.in_channels == x.numel()
            assert operation.reduction == max(1, operation.macs / y.numel())
        assert (gemm.count, operation.write.elements) == (made.groups, y.numel())


def test_what_a_model_returns_is_marked():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            hidden = self.layer(x)
            return hidden, hidden + 1

    lowered = lower(Both().eval(), (torch.ones(2, 4),))
    workload = operations(lowered, discover(lowered), [])
    written = {access.tensor for operation in workload.operations for access in operation.writes}
    assert workload.outputs == written
    assert len(written) == 2
