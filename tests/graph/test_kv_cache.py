"""What a causal model caches: found by what its attentions let a token see, keys and values before heads share them."""

from __future__ import annotations

import math
from typing import Literal, get_args

import pytest
import torch
import torch.nn.functional as F
from rigs import lower, rig
from tiny_models import Encoder, Transformer, randn
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.cost.kv_cache import cache_measures
from mpsearch.graph.grids import packed_size
from mpsearch.graph.kv_cache import cached
from mpsearch.graph.sites import discover
from mpsearch.zoo.llama import Llama, Shape

BATCH, TOKENS, WIDTH, HEADS = 3, 7, 16, 4
SIZE = WIDTH // HEADS

Way = Literal["flag", "bool", "added", "lowest", "filled", "where"]
WAYS = get_args(Way)


class Masked(nn.Module):
    """One attention with its mask applied in one of the ways that models do; the query sees `ahead` tokens ahead."""

    def __init__(self, way: Way, ahead: int = 0, packed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.ahead = way, ahead
        widths = [3 * WIDTH] if packed else [WIDTH] * 3
        self.inputs = nn.ModuleList(nn.Linear(WIDTH, width) for width in widths)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = [layer(x) for layer in self.inputs] if len(self.inputs) == 3 else self.inputs[0](x).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for y in parts)
        return self.out(self._mixed(q, k, v).transpose(1, 2).flatten(2))

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril(self.ahead)
        lowest = torch.finfo(q.dtype).min if self.way == "lowest" else -math.inf
        if self.way == "flag":
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.ahead == 0)
        if self.way in ("bool", "added", "lowest"):
            added = torch.zeros(seen.shape).masked_fill(~seen, lowest)
            return F.scaled_dot_product_attention(q, k, v, seen if self.way == "bool" else added)
        scores = q @ k.transpose(-2, -1) / math.sqrt(SIZE)
        hidden = torch.tensor(-math.inf)
        scores = scores.masked_fill(~seen, -math.inf) if self.way == "filled" else torch.where(seen, scores, hidden)
        return torch.softmax(scores, -1) @ v


def kv_elements(model: nn.Module, *inputs: Tensor) -> list[int]:
    lowered = lower(model.eval(), inputs)
    return [held.elements for held in cached(lowered, discover(lowered), [])]


@pytest.mark.parametrize(("way", "packed"), [*((way, False) for way in WAYS), ("flag", True), ("filled", True)])
def test_a_mask_is_causal_however_it_is_applied(way: Way, packed: bool) -> None:
    one = BATCH * HEADS * TOKENS * SIZE
    assert kv_elements(Masked(way, packed=packed), randn(BATCH, TOKENS, WIDTH)) == [one, one]


@pytest.mark.parametrize("way", ["flag", "bool", "where"])
def test_what_sees_a_later_token_has_no_cache(way: Way) -> None:
    assert kv_elements(Masked(way, ahead=1), randn(BATCH, TOKENS, WIDTH)) == []


def test_encoders_have_no_cache() -> None:
    for model in (Encoder(), Transformer(written_out=True)):
        assert kv_elements(model, randn(3, 5, 8)) == []
    assert cache_measures((), lambda name, fmt: packed_size(None, ())) == {}


def llama() -> Llama:
    torch.manual_seed(1)
    shape = Shape(width=WIDTH, hidden=24, layers=2, heads=HEADS, kv_heads=2, vocabulary=11, length=TOKENS)
    model = Llama(shape)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_shared_heads_count_once_and_each_format_with_its_scales() -> None:
    """2 * layers * batch * key heads * tokens * head size numbers; one scale and zero point per tensor at 8 bits."""
    tokens = torch.randint(0, 11, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    found = rig(llama, (tokens,))
    lowered = lower(llama(), (tokens,))
    names = [site.name for site in found.program.sites]
    cache = cached(lowered, discover(lowered), names)
    numbers = 2 * 2 * BATCH * 2 * TOKENS * SIZE
    assert [held.site for held in cache] == [f"blocks.{i}.attn:{part}" for i in (0, 1) for part in "kv"]
    measure = cache_measures(cache, found.grids.packed)["kv_cache_bytes"]
    assert measure.measure(Assignment()) == 4 * numbers
    int8 = {name: Format.parse("int8") for name in ("blocks.0.attn:k", "blocks.0.attn:v")}
    scales = sum(found.grids.packed(name, fmt).static_bits for name, fmt in int8.items()) // 8
    assert scales == 2 * 5
    assert measure.measure(Assignment(int8)) == numbers // 2 * 4 + numbers // 2 + scales
    assert cached(lowered, discover(lowered), [])[0].site is None
