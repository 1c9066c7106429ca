"""A small Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU, head tied to the embedding.

Touvron et al., "Llama 2: open foundation and fine-tuned chat models" (2023); weights as in llama2.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.errors import BadInput


@dataclass(frozen=True)
class Shape:
    """The seven integers a llama2.c file begins with."""

    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    length: int


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Causal self-attention whose keys and values are shared by groups of heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.size = shape.width // shape.heads
        self.groups = shape.heads // shape.kv_heads
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * self.size, bias=False)
        self.out_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, self.size)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        k, v = (y.repeat_interleave(self.groups, 2) for y in (k, v))
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neighbouring pairs of the last axis of [n, length, heads, size] turned by angles [length, size / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Block(nn.Module):
    """Attention and the gated perceptron, each after an RMSNorm and added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attn_norm, self.attn = RMSNorm(shape.width), Attention(shape)
        self.mlp_norm = RMSNorm(shape.width)
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x), cos, sin)
        y = self.mlp_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Llama(nn.Module):
    """Tokens [n, length] to logits [n, length, vocabulary]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        size = shape.width // shape.heads
        speed = 10_000.0 ** -(torch.arange(0, size, 2) / size)
        angle = torch.outer(torch.arange(shape.length).float(), speed)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def read_llama2c(path: Path) -> Llama:
    """A model from a llama2.c file: seven int32, then float32, little-endian. Raises `BadInput` on another."""
    content = path.read_bytes()
    if len(content) < 28:
        raise BadInput(f"{path} is not a llama2.c model: it has {len(content)} bytes.")
    shape = Shape(*struct.unpack("<7i", content[:28]))
    values = torch.from_numpy(np.frombuffer(content, "<f4", offset=28).copy())
    sizes = _layout(shape) if min(vars(shape).values()) > 0 else []
    rotary = shape.length * shape.width // max(1, shape.heads)
    if not sizes or len(values) != sum(rows * columns for _, rows, columns in sizes) + rotary:
        raise BadInput(f"{path} is not a llama2.c model with a tied head: its size does not fit its header {shape}.")
    model, weights, start = Llama(shape), {}, 0
    for name, rows, columns in sizes:
        weights[name] = values[start : start + rows * columns].view((rows, columns) if rows > 1 else (columns,))
        start += rows * columns
    weights["head.weight"] = weights["embedding.weight"]
    model.load_state_dict(weights)
    return model.eval()


def _layout(shape: Shape) -> list[tuple[str, int, int]]:
    """Name, rows and columns of every array as in the file: one kind for all layers, then the next kind."""
    width, hidden, kv = shape.width, shape.hidden, shape.width // shape.heads * shape.kv_heads
    kinds = [
        ("attn_norm.weight", 1, width),
        ("attn.q_proj.weight", width, width),
        ("attn.k_proj.weight", kv, width),
        ("attn.v_proj.weight", kv, width),
        ("attn.out_proj.weight", width, width),
        ("mlp_norm.weight", 1, width),
        ("gate_proj.weight", hidden, width),
        ("down_proj.weight", width, hidden),
        ("up_proj.weight", hidden, width),
    ]
    layers = [(f"blocks.{i}.{kind}", rows, columns) for kind, rows, columns in kinds for i in range(shape.layers)]
    return [("embedding.weight", shape.vocabulary, width), *layers, ("norm.weight", 1, width)]
