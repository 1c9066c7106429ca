"""Inputs of normalizations are sites where nothing else names them; keys and values of a causal model are its cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rigs import distance, rig
from tiny_models import Encoder, Transformer, randn
from torch import Tensor, nn

from mpsearch.core.site import Role
from mpsearch.zoo.llama import Llama, RMSNorm, Shape


class Normed(nn.Module):
    """A layer, its sum with its input, and a normalization of that."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.norm, self.head = nn.Linear(8, 8), norm, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.lin(x)))


class Squares(nn.Module):
    """An RMS norm with its square written as a power, a product or a method."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        square = {"power": x**2, "product": x * x, "method": x.square()}[self.way]
        return torch.rsqrt(square.mean(-1, keepdim=True) + 1e-5) * x


NORMS: dict[str, Any] = {
    "layer norm": lambda: nn.LayerNorm(8),
    "RMS norm": lambda: nn.RMSNorm(8),
    "RMS norm, written out": lambda: RMSNorm(8),
    "power": lambda: Squares("power"),
    "product": lambda: Squares("product"),
    "method": lambda: Squares("method"),
}


@pytest.mark.parametrize("norm", NORMS)
def test_the_input_of_a_norm_is_a_site(norm: str) -> None:
    found = rig(Normed(NORMS[norm]()), (randn(4, 5, 8),))
    assert found.sites["norm:in"].role is Role.ACTIVATION
    assert found.sites["norm:in"].shape == (4, 5, 8)
    assert distance(found.run({}), found.run({"norm:in": "int2"}))


class Cubes(nn.Module):
    """Not a normalization: a mean of cubes, and one whose reciprocal root is not multiplied with what was squared."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        root = torch.rsqrt((x**self.power).mean(-1, keepdim=True).abs() + 1.0)
        return root + x if self.power == 2 else root * x


@pytest.mark.parametrize("power", [2, 3])
def test_what_only_looks_like_a_norm_is_none(power: int) -> None:
    assert "norm:in" not in rig(Normed(Cubes(power)), (randn(4, 5, 8),)).sites


def test_a_value_that_is_a_site_already_keeps_its_name() -> None:
    """Before a block the residual sum has one; after torch's encoder layer the norm reads what nothing else names."""
    assert not [n for n in rig(Transformer, (randn(3, 5, 8),)).sites if "norm" in n]
    norms = [n for n in rig(Encoder, (randn(3, 5, 8),)).sites if "norm" in n]
    assert norms == ["layer.norm1:in", "layer.norm2:in"]


def llama() -> Llama:
    torch.manual_seed(1)
    shape = Shape(width=16, hidden=24, layers=2, heads=4, kv_heads=2, vocabulary=11, length=7)
    model = Llama(shape)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


TOKENS = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(0))


def test_components_of_a_language_model() -> None:
    found = rig(llama, (TOKENS,))
    assert found.sites["embedding.weight"].role is Role.WEIGHT, "the head's too"
    roles = {n.removeprefix("blocks.0."): s.role.value for n, s in found.sites.items() if n.startswith("blocks.0.attn")}
    assert roles == {
        "attn.q_proj:in": "activation",
        "attn.q_proj.weight": "weight",
        "attn.k_proj.weight": "weight",
        "attn.v_proj.weight": "weight",
        "attn:q": "activation",
        "attn:k": "cache",
        "attn:v": "cache",
        "attn:scores": "score",
        "attn:probs": "prob",
        "attn.out_proj:in": "activation",
        "attn.out_proj.weight": "weight",
        "attn.out_proj:out": "activation",
    }
    assert "norm:in" in found.sites
    pairs = [names for kind, names in found.discovery.ties if kind == "qkv" and names[0].endswith((":q", ":k"))]
    assert [set(names) for names in pairs] == [{f"blocks.{i}.attn:k", f"blocks.{i}.attn:v"} for i in (0, 1)]
    machine = found.machine()
    base = machine.run(found.formats({}))
    assert not [n for n in found.sites if not distance(base, machine.run(found.formats({n: "int1"})))]


def test_an_encoder_keeps_no_cache() -> None:
    found = rig(Encoder, (randn(3, 5, 8),))
    assert not [site for site in found.sites.values() if site.role is Role.CACHE]
    assert ("qkv", tuple(f"layer.self_attn:{p}" for p in "qkv")) in found.discovery.ties
