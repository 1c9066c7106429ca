"""Every row of docs/layers.md: the layer exports and replays, has these sites, and all of them are live."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rigs import distance, lower, rig
from tiny_models import Smooth, graph, perceptron, randn
from torch import Tensor, nn
from torch_geometric import nn as pyg

from mpsearch.graph.export import ExportError

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"
X, EDGES = graph()


class Pool(nn.Module):
    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        return pyg.global_mean_pool(x, batch, self.size)


class Fused(nn.Module):
    def __init__(self, is_causal: bool = False) -> None:
        super().__init__()
        self.is_causal = is_causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=False)[0]


class Holder(nn.Module):
    """Calls a layer, which is `layer` in it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Any:
        return self.layer(*inputs)


def on_graph(layer: Callable[[], nn.Module], *more: Tensor) -> tuple[Callable[[], nn.Module], tuple[Tensor, ...]]:
    return layer, (X, EDGES, *more)


TOKENS = torch.arange(6).reshape(2, 3)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "nn.Conv1d": (lambda: nn.Conv1d(3, 4, 3), (randn(2, 3, 9),)),
    "nn.Conv2d": (lambda: nn.Conv2d(3, 4, 3), (randn(2, 3, 6, 6),)),
    "nn.Conv3d": (lambda: nn.Conv3d(3, 4, 3), (randn(2, 3, 4, 4, 4),)),
    "nn.Conv2d(groups=channels)": (lambda: nn.Conv2d(4, 4, 3, groups=4), (randn(2, 4, 6, 6),)),
    "nn.ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 3), (randn(2, 3, 9),)),
    "nn.ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 3), (randn(2, 3, 6, 6),)),
    "nn.ConvTranspose3d": (lambda: nn.ConvTranspose3d(3, 4, 3), (randn(2, 3, 4, 4, 4),)),
    "nn.Linear": (lambda: nn.Linear(3, 4), (randn(2, 3),)),
    "nn.Embedding": (lambda: nn.Embedding(9, 4), (TOKENS,)),
    "nn.MultiheadAttention": (SelfAttention, (randn(2, 5, 8),)),
    "F.scaled_dot_product_attention": (Fused, tuple(randn(2, 2, 5, 4, seed=s) for s in range(3))),
    "nn.LayerNorm": (lambda: nn.LayerNorm(4), (randn(2, 5, 4),)),
    "nn.RMSNorm": (lambda: nn.RMSNorm(4), (randn(2, 5, 4),)),
    "F.scaled_dot_product_attention(is_causal=True)": (
        lambda: Fused(is_causal=True),
        tuple(randn(2, 2, 5, 4, seed=s) for s in range(3)),
    ),
    "nn.LSTM": (lambda: nn.LSTM(4, 4, batch_first=True), (randn(2, 5, 4),)),
    "nn.LSTM(bidirectional=True)": (
        lambda: nn.LSTM(4, 4, batch_first=True, bidirectional=True),
        (randn(2, 5, 4),),
    ),
    "nn.LSTM(proj_size=2)": (lambda: nn.LSTM(4, 4, batch_first=True, proj_size=2), (randn(2, 5, 4),)),
    "nn.GRU": (lambda: nn.GRU(4, 4, batch_first=True), (randn(2, 5, 4),)),
    "nn.RNN": (lambda: nn.RNN(4, 4, batch_first=True), (randn(2, 5, 4),)),
    "nn.LSTMCell": (lambda: nn.LSTMCell(4, 4), (randn(2, 4),)),
    "nn.EmbeddingBag": (lambda: nn.EmbeddingBag(9, 4), (TOKENS,)),
    "nn.Bilinear": (lambda: nn.Bilinear(3, 4, 5), (randn(2, 3), randn(2, 4))),
    "GCNConv": on_graph(lambda: pyg.GCNConv(8, 4)),
    "GATConv": on_graph(lambda: pyg.GATConv(8, 4, heads=2)),
    "GATv2Conv": on_graph(lambda: pyg.GATv2Conv(8, 4, heads=2)),
    "SAGEConv": on_graph(lambda: pyg.SAGEConv(8, 4)),
    "GINConv": on_graph(lambda: pyg.GINConv(perceptron(8, 4))),
    "GINEConv": on_graph(lambda: pyg.GINEConv(perceptron(8, 4)), randn(40, 8)),
    "TransformerConv": on_graph(lambda: pyg.TransformerConv(8, 4, heads=2)),
    "AGNNConv": on_graph(pyg.AGNNConv),
    "EdgeConv": on_graph(lambda: pyg.EdgeConv(perceptron(16, 4))),
    "MessagePassing": on_graph(Smooth),
    "global_mean_pool(size=...)": (lambda: Pool(3), (X, torch.arange(12) // 4)),
    "global_mean_pool": (lambda: Pool(None), (X, torch.arange(12) // 4)),
    "RGCNConv": on_graph(lambda: pyg.RGCNConv(8, 4, 3), EDGES[0] % 3),
    "TopKPooling": on_graph(lambda: pyg.TopKPooling(8)),
}


def table() -> dict[str, tuple[bool, set[str]]]:
    """Layer to whether it exports and its sites, as the page says."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            layer, exports, sites, _ = cells
            rows[layer.strip("`")] = (
                {"yes": True, "no": False}[exports],
                {s.strip(" `") for s in sites.split(",") if s.strip()},
            )
    return rows


def test_the_page_and_the_checks_list_the_same_layers() -> None:
    assert set(table()) == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_row(layer: str) -> None:
    build, inputs = LAYERS[layer]
    exports, sites = table()[layer]
    torch.manual_seed(0)
    model = Holder(build())
    if not exports:
        with pytest.raises(ExportError):
            lower(model, inputs)
        return
    found = rig(model, inputs)
    for ours, theirs in zip(*found.replay, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert {short(name) for name in found.sites} == sites
    machine = found.machine()
    base = machine.run(found.formats({}))
    dead = [name for name in found.sites if not distance(base, machine.run(found.formats({name: "int1"})))]
    assert not dead, "every site changes the output at its lowest format"


def short(name: str) -> str:
    """Without the layer's own path (`layer`, and `mha` in the holder of multi-head attention)."""
    for path in ("layer.mha", "layer"):
        if name.startswith((path + ".", path + ":")):
            return name[len(path) + 1 :]
    return name
