"""Attention stays one node until one of its parts has a choice; written out it gives the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rigs import Rig, calls, rig
from tiny_models import Attention, Encoder, SelfAttention, Transformer, randn
from torch import Tensor, nn

from mpsearch.core.site import Role

FUSED = "scaled_dot_product_attention"
HIDDEN = torch.ones(4, 6, dtype=torch.bool).tril(1)
EMPTY_ROW = HIDDEN.clone()
EMPTY_ROW[2] = False


class Plain(nn.Module):
    """`scaled_dot_product_attention` of three inputs, projected so that nothing is an input of the model."""

    def __init__(self, mask: Tensor | None, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.mask, self.options = mask, dict(options)
        self.lin = nn.Linear(8, 8)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.lin(q), self.lin(k), self.lin(v), self.mask, **self.options)


CASES: dict[str, tuple[Tensor | None, dict[str, Any], int]] = {
    "plain": (None, {}, 2),
    "causal": (None, {"is_causal": True}, 2),
    "boolean mask": (HIDDEN, {}, 2),
    "row masked out": (EMPTY_ROW, {}, 2),
    "float mask": (randn(4, 6, seed=7), {}, 2),
    "mask of minus infinity": (torch.zeros(4, 6).masked_fill(~EMPTY_ROW, -torch.inf), {}, 2),
    "mask per head": (randn(2, 2, 4, 6, seed=7), {}, 2),
    "scale": (None, {"scale": 0.9}, 2),
    "grouped heads": (None, {"enable_gqa": True}, 1),
    "grouped heads, causal, scaled": (None, {"enable_gqa": True, "is_causal": True, "scale": 0.3}, 1),
}


@cache
def plain(case: str) -> nn.Module:
    torch.manual_seed(0)
    return Plain(*CASES[case][:2])


def attended(case: str, active: list[str]) -> Rig:
    key_heads = CASES[case][2]
    inputs = (randn(2, 2, 4, 8), *(randn(2, key_heads, 6, 8, seed=s) for s in (1, 2)))
    return rig(plain(case), inputs, active=active)


@pytest.mark.parametrize("case", CASES)
def test_written_out_equals_fused(case: str) -> None:
    fused = attended(case, ["lin.weight"])
    open_ = attended(case, ["attention:scores", "attention:probs"])
    assert [c for c in calls(fused.program) if c.startswith(FUSED)]
    assert not [c for c in calls(open_.program) if c.startswith(FUSED)]
    assert {"scores", "softmax"} <= set(calls(open_.program))
    ours, theirs = open_.run({})[0], fused.replay[1][0]
    assert bool(ours.isfinite().all())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["plain", "causal", "row masked out"])
def test_written_out_counts_the_same_work(case: str) -> None:
    scores_and_values = 2 * (2 * 2 * 4 * 6 * 8)
    projections = 2 * 2 * (4 + 6 + 6) * 8 * 8
    for active in (["lin.weight"], ["attention:probs"]):
        assert attended(case, active).program.macs == scores_and_values + projections


@pytest.mark.parametrize("case", ["plain", "boolean mask", "row masked out", "mask of minus infinity"])
def test_scores_are_quantized_before_the_mask(case: str) -> None:
    """A mask's infinities reach no grid, and what it hides stays hidden."""
    found = attended(case, ["attention:scores", "attention:probs"])
    out = found.run({"attention:scores": "int2", "attention:probs": "int8"})[0]
    assert bool(out.isfinite().all())
    if "row" in case:
        torch.testing.assert_close(out[:, :, 2], torch.zeros_like(out[:, :, 2]))


def test_a_quantized_probability_is_what_the_values_are_weighed_with() -> None:
    """Against an oracle: softmax, the site's own grid, product."""
    found = attended("plain", ["attention:probs"])
    q, k, v = (found.model.lin(x) for x in found.flat[0])
    probs = torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, -1).detach()
    grid = found.grids.grid(0, found.formats({"attention:probs": "int3"})[0])
    torch.testing.assert_close(
        found.run({"attention:probs": "int3"})[0], grid.round_trip(probs) @ v.detach(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("written_out", [False, True], ids=["fused", "written out"])
def test_both_ways_of_writing_attention_give_the_same_sites(written_out: bool) -> None:
    found = rig(Attention(written_out=written_out), (randn(3, 5, 8),)).sites
    assert {name: site.role for name, site in found.items()} == {
        "q_proj:in": Role.ACTIVATION,
        "q_proj.weight": Role.WEIGHT,
        "k_proj.weight": Role.WEIGHT,
        "v_proj.weight": Role.WEIGHT,
        "attention:q": Role.ACTIVATION,
        "attention:k": Role.ACTIVATION,
        "attention:v": Role.ACTIVATION,
        "attention:scores": Role.SCORE,
        "attention:probs": Role.PROB,
        "out_proj:in": Role.ACTIVATION,
        "out_proj.weight": Role.WEIGHT,
    }
    assert found["attention:scores"].shape == found["attention:probs"].shape == (3, 2, 5, 5)


def test_both_ways_agree_at_any_assignment() -> None:
    texts = {"attn.attention:scores": "int4", "attn.attention:q": "int4", "attn.q_proj.weight": "int4"}
    outputs = []
    for way in (False, True):
        found = rig(Transformer(written_out=way), (randn(3, 5, 8),))
        names = {s.replace("attn:", "attn.attention:") if s.startswith("attn:") else s: s for s in found.sites}
        outputs.append(found.run({names[name]: text for name, text in texts.items()})[0])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_parts_and_ties_of_the_encoder_layer() -> None:
    found = rig(Encoder, (randn(3, 5, 8),))
    parts = {f"layer.self_attn:{part}" for part in ("q", "k", "v", "scores", "probs", "in")}
    assert parts <= set(found.sites)
    assert found.sites["layer.self_attn:scores"].shape == (3, 2, 5, 5)
    assert ("qkv", tuple(f"layer.self_attn:{p}" for p in "qkv")) in found.discovery.ties
    kinds = {kind for kind, _ in found.discovery.ties}
    assert kinds == {"qkv", "residual"}


def test_one_value_is_one_site() -> None:
    """Where attention is written out, the operands of its products are q, k, v and the probabilities: no more."""
    found = rig(SelfAttention, (randn(3, 5, 8),))
    assert not [name for name in found.sites if name.endswith((":lhs", ":rhs"))]


class Rotary(nn.Module):
    """Rotary positions on queries and keys, two of four heads on keys and values; `mixed` makes q of two layers."""

    def __init__(self, mixed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.mixed = mixed
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
        self.extra, self.out_proj = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q_proj(x) + self.extra(x) if self.mixed else self.q_proj(x)
        angle = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1]))[:, None]
        q, k = (self._turned(y.unflatten(-1, (-1, 4)), angle) for y in (q, self.k_proj(x)))
        v = self.v_proj(x).unflatten(-1, (-1, 4))
        q, k, v = (y.repeat_interleave(4 // y.shape[2], 2).transpose(1, 2) for y in (q, k, v))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    @staticmethod
    def _turned(y: Tensor, angle: Tensor) -> Tensor:
        even, odd = y[..., 0::2], y[..., 1::2]
        turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
        return torch.stack(turned, -1).flatten(-2)


def test_rotary_positions_do_not_hide_the_projections() -> None:
    found = rig(Rotary, (randn(3, 5, 8),))
    assert ("qkv", ("q_proj.weight", "k_proj.weight", "v_proj.weight")) in found.discovery.ties
    sizes = {part: found.sites[f"attention:{part}"].shape for part in "qkv"}
    assert {part: torch.Size(shape).numel() for part, shape in sizes.items()} == {"q": 240, "k": 120, "v": 120}, (
        "keys and values are stored once for the heads that share them"
    )


def test_a_query_of_two_layers_has_no_projection_to_tie() -> None:
    ties = rig(Rotary(mixed=True), (randn(3, 5, 8),)).discovery.ties
    assert ("qkv", ("k_proj.weight", "v_proj.weight")) in ties
    assert not [names for _, names in ties if "q_proj.weight" in names]


def test_a_tied_head_is_named_after_itself() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(torch.tanh(self.table(tokens)))

    found = rig(Tied(), (torch.randint(0, 9, (4, 5)),)).sites
    assert {name: site.role for name, site in found.items()} == {
        "table.weight": Role.WEIGHT,
        "head:in": Role.ACTIVATION,
    }
