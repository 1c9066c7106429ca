"""Models small enough to export in a fraction of a second, seeded."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric import nn as pyg


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def randomise_norms(model: nn.Module) -> nn.Module:
    """BatchNorms with statistics that matter, as after training."""
    generator = seeded(5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            positive, signed = (module.weight, module.running_var), (module.bias, module.running_mean)
            for tensor in (t for t in positive if t is not None):
                tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
            for tensor in (t for t in signed if t is not None):
                tensor.data = torch.randn(tensor.shape, generator=generator)
    return model.eval()


class ResidualNet(nn.Module):
    """Plain, depthwise, grouped and pointwise convolutions, a residual add with in-place activations, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 4)
        randomise_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        y = self.relu(self.depthwise(x))
        y = self.grouped(y)
        y += x
        return self.head(self.relu(y).mean((2, 3)))


class PlainNet(nn.Module):
    """Convolutions in a chain, some without bias; no normalisation."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.third = nn.Conv2d(channels, channels, 3, padding=1, groups=2)
        self.head = nn.Linear(channels, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.second(x))
        x = F.relu(self.third(x))
        return self.head(x.mean((2, 3)))


class PreActivation(nn.Module):
    """Values that an activation function and an addition read before somebody else does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.stem, self.inner = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.inner(F.relu(x))
        z = F.leaky_relu(y + x)
        return self.head((z * y + x).mean((2, 3)))


class Mlp(nn.Module):
    """Three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class Attention(nn.Module):
    """Self-attention with separate projections, fused or written out."""

    def __init__(self, dim: int = 8, heads: int = 2, written_out: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.heads, self.written_out = heads, written_out
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.written_out:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            y = torch.softmax(scores, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).reshape(x.shape))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Transformer(nn.Module):
    """Two pre-norm blocks and a head."""

    def __init__(self, written_out: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.attn = Attention(written_out=written_out)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class Encoder(nn.Module):
    """torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` asked for its probabilities, which it then writes out itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mha(x, x, x)


class LanguageModel(nn.Module):
    """An embedding whose storage is the head's too, with an LSTM between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.embed = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


def graph(nodes: int = 12, edges: int = 40, channels: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random node features [nodes, channels] and an edge_index [2, edges]."""
    return randn(nodes, channels, seed=seed), torch.randint(0, nodes, (2, edges), generator=seeded(seed + 1))


def perceptron(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


class TwoLayerGcn(nn.Module):
    """Two GCN layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.conv1, self.conv2 = pyg.GCNConv(8, 6), pyg.GCNConv(6, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x, edge_index)), edge_index)


class Smooth(pyg.MessagePassing):
    """A message-passing layer as a user writes one: the largest of what is sent along the edges."""

    def __init__(self) -> None:
        super().__init__(aggr="max")
        self.lin = nn.Linear(8, 8)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x))

    def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return torch.tanh(x_j - x_i)


class Weighted(pyg.MessagePassing):
    """A layer of a user's own that takes edge weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(aggr="sum")
        self.lin = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x), edge_weight=edge_weight)

    def message(self, x_j: Tensor, edge_weight: Tensor | None) -> Tensor:
        return x_j if edge_weight is None else x_j * edge_weight.view(-1, 1)


class OneConv(nn.Module):
    """A single layer under the name `conv`."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.conv(*inputs)
