"""Features are what torch computes after each layer, at the same rows for all layers that are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rigs import rig
from tiny_models import Encoder, LanguageModel, SelfAttention, Transformer, TwoLayerGcn, graph, randn, randomise_norms
from torch import Tensor, nn

from mpsearch.graph.features import Features, Where, features
from mpsearch.zoo.gnn import GAT, GIN
from mpsearch.zoo.resnet import ProjectionBlock, ResNet10
from mpsearch.zoo.vit import ViT

ALL = {"sample": 10**6, "token": 10**6, "node": 10**6}


def made(
    model: nn.Module | Callable[[], nn.Module],
    *batches: tuple[Tensor, ...],
    where: Where | None = None,
    weights_only: bool = False,
    lengths: list[int] | None = None,
    limits: dict[Any, int] = ALL,
    seed: int = 0,
) -> Features:
    built = rig(model, *batches)
    names = [s.name for s in built.discovery.sites if s.role.is_parameter or not weights_only]
    machine = rig(model, *batches, active=names).machine()
    return features(
        machine.interpreter, machine.streams, lengths or [len(b[0]) for b in batches], names, limits, seed, where
    )


def blocks(found: Features) -> list[tuple[str, int, set[str]]]:
    assert all(len({len(m) for m in b.matrices.values()}) == 1 for b in found.blocks)
    assert sorted(found.order) == sorted(tap for b in found.blocks for tap in b.matrices)
    return [(b.rows, len(next(iter(b.matrices.values()))), set(b.matrices)) for b in found.blocks]


def matrix(found: Features, tap: str) -> np.ndarray[Any, Any]:
    return next(b.matrices[tap] for b in found.blocks if tap in b.matrices)


class Residual(nn.Module):
    """A stem, a block whose shortcut is the identity, one whose shortcut is a convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.one, self.two = ProjectionBlock(4, 4, 1), ProjectionBlock(4, 6, 2)
        self.head = nn.Linear(6, 3)
        randomise_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        return self.head(self.two(self.one(x)).mean((2, 3)))


X, Y = randn(5, 2, 12, 12), randn(4, 2, 12, 12, seed=1)


@torch.no_grad()
def reference(model: Residual, x: Tensor, where: Where) -> dict[str, Tensor]:
    stem = F.relu(model.stem(x))
    found, value = {"stem.weight": F.adaptive_avg_pool2d(stem, 7)}, F.max_pool2d(stem, 2)
    for name, block in (("one", model.one), ("two", model.two)):
        first, out = F.relu(block.bn1(block.conv1(value))), block(value)
        found[f"{name}.conv1.weight"] = first
        found[f"{name}.conv2.weight"] = out if where == "post_residual" else block.bn2(block.conv2(first))
        if name == "two":
            found["two.short.weight"] = out if where == "post_residual" else block.bns(block.short(value))
        value = out
    return found | {"head.weight": model(x)}


@pytest.mark.parametrize("where", ["branch", "post_residual"])
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_residual_network_against_torch(where: Where, weights_only: bool) -> None:
    model = Residual()
    found = made(model, (X,), (Y,), where=where, weights_only=weights_only)
    expected = reference(model, torch.cat([X, Y]), where)
    for site, value in expected.items():
        np.testing.assert_allclose(matrix(found, found.tap_of[site]), value.flatten(1), atol=1e-4)
    assert (found.tap_of["two.short.weight"] == "two.conv2.weight") == (where == "post_residual")
    if weights_only:
        order = [site for site in expected if found.tap_of[site] == site]
        assert blocks(found) == [("sample", 9, set(order))]
        assert sorted(found.order, key=order.index) == list(found.order) or where == "branch"


def test_a_value_is_its_own_tap_and_shares_it_with_its_layer() -> None:
    found = made(Residual(), (X,), where="branch")
    assert found.tap_of["one.conv2:in"] == found.tap_of["one.conv1.weight"]
    np.testing.assert_array_equal(matrix(found, "stem:in"), F.adaptive_avg_pool2d(X, 7).flatten(1))


def test_where_follows_from_attention() -> None:
    assert made(Residual(), (X,), weights_only=True).where == "post_residual"
    assert made(Transformer(), (randn(3, 4, 8),), weights_only=True).where == "branch"
    assert made(Transformer(written_out=True), (randn(3, 4, 8),), weights_only=True).where == "branch"


def test_tokens_against_torch() -> None:
    model, x = Transformer().eval(), randn(3, 4, 8)
    kept: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda m, i, out, name=name: kept.update({f"{name}.weight": out.detach()}))
    model(x)
    found = made(Transformer(), (x,), weights_only=True)
    kept["up.weight"] = F.gelu(kept["up.weight"])
    for site in found.order:
        value = kept[site][:, 1:].flatten(0, 1) if kept[site].ndim == 3 else kept[site]
        np.testing.assert_allclose(matrix(found, site), value, atol=1e-5)
    tokens = {f"{name}.weight" for name in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj", "up", "down")}
    assert blocks(found) == [("token", 9, tokens), ("sample", 3, {"head.weight"})]
    residual = made(Transformer(), (x,), weights_only=True, where="post_residual")
    after = x + kept["attn.out_proj.weight"]
    np.testing.assert_allclose(matrix(residual, "attn.out_proj.weight"), after[:, 1:].flatten(0, 1), atol=1e-5)


def test_sites_inside_attention_have_token_rows() -> None:
    found = made(Transformer(), (randn(3, 4, 8),))
    assert {len(matrix(found, f"attn:{part}")) for part in ("scores", "probs")} == {9}
    assert matrix(found, "attn:scores").shape == (9, 2 * 4)


def test_the_patches_of_a_vision_transformer_are_its_tokens() -> None:
    found = made(lambda: ViT(width=8, heads=2).eval(), (randn(3, 1, 8, 8),), weights_only=True)
    (rows, n, taps), last = blocks(found)
    assert (rows, n) == ("token", 3 * 15)
    assert {"patches.weight", "blocks.1.fc2.weight"} <= taps
    assert last == ("sample", 3, {"head.weight"})


@pytest.mark.parametrize(("build", "x"), [(Encoder, randn(3, 4, 8)), (SelfAttention, randn(3, 4, 8))])
def test_packed_projections(build: type[nn.Module], x: Tensor) -> None:
    found = made(lambda: build().eval(), (x,))
    assert ("token", 9) in [(rows, n) for rows, n, _ in blocks(found)]


def test_recurrent_layers_and_embeddings() -> None:
    model = LanguageModel().eval()
    tokens = torch.arange(12).reshape(3, 4) % 11
    found = made(model, (tokens,), weights_only=True)
    assert found.tap_of["lstm.weight_ih_l0"] == found.tap_of["lstm.weight_hh_l0"]
    with torch.no_grad():
        out = model.lstm(model.embed(tokens))[0]
    np.testing.assert_allclose(matrix(found, "lstm.weight_ih_l0"), out[:, 1:].flatten(0, 1), atol=1e-5)
    shared = matrix(found, found.tap_of["embed.weight"])
    np.testing.assert_array_equal(shared, model.embed(tokens)[:, 1:].flatten(0, 1).detach())  # its first reader


class Masked(nn.Module):
    """Tokens through two layers, with a mask of those that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x))) * attention_mask[..., None]


def test_masked_tokens_are_left_out() -> None:
    x, mask = randn(3, 4, 4), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    model = Masked()
    found = made(model, (x, mask), weights_only=True)
    mask[:, 0] = 0
    np.testing.assert_allclose(matrix(found, "b.weight"), model.b(F.relu(model.a(x)))[mask > 0].detach(), atol=1e-6)


def test_nodes_and_edges_are_blocks_of_their_own() -> None:
    x, edges = graph()
    model = TwoLayerGcn().eval()
    found = made(model, (x, edges))
    (rows, n, nodes), (edge_rows, m, of_edges) = blocks(found)
    assert (rows, n, edge_rows) == ("node", 12, "node")
    assert {"conv1.lin.weight", "conv1:aggregate", "conv2:feature"} <= nodes
    assert {"conv1:message", "conv2:message"} <= of_edges
    assert m > n
    with torch.no_grad():
        np.testing.assert_allclose(matrix(found, "conv1.lin.weight"), model.conv1.lin(x), atol=1e-6)
    with_heads = made(lambda: GAT(8, 4, 3, heads=2).eval(), (x, edges))
    assert matrix(with_heads, "conv1:attention").shape == (m, 2)


def test_graphs_of_a_batch() -> None:
    x, edges = graph()
    found = made(lambda: GIN(8, 6, 3, 3).eval(), (x, edges, torch.arange(12) // 4), weights_only=True)
    (rows, n, taps), pooled = blocks(found)
    assert (rows, n, len(taps)) == ("node", 12, 6)
    assert pooled == ("node", 3, {"head.weight"})


def test_rows_are_drawn_evenly_and_the_same_for_all_taps() -> None:
    images = [torch.full((8, 1, 8, 8), 100.0 * i) + torch.arange(8.0)[:, None, None, None] for i in range(3)]
    model = ResNet10().eval()
    limits = ALL | {"sample": 10}
    found = made(model, *((x,) for x in images), limits=limits)
    seen = matrix(found, "stem:in")[:, 0]
    assert [int((seen // 100 == i).sum()) for i in range(3)] == [5, 5, 0]  # two batches are enough
    with torch.no_grad():
        stem = F.relu(model.bn(model.stem(torch.from_numpy(seen)[:, None, None, None].expand(10, 1, 8, 8))))
    np.testing.assert_allclose(
        matrix(found, "stem.weight"), F.adaptive_avg_pool2d(stem, 7).flatten(1), rtol=1e-3, atol=1e-3
    )
    np.testing.assert_array_equal(matrix(made(model, *((x,) for x in images), limits=limits), "stem:in")[:, 0], seen)
    other = matrix(made(model, *((x,) for x in images), limits=limits, seed=1), "stem:in")[:, 0]
    assert not np.array_equal(other, seen)


def test_padded_rows_are_left_out() -> None:
    x = randn(6, 4, 8)
    found = made(Transformer(), (x,), lengths=[4], weights_only=True)
    assert [n for _, n, _ in blocks(found)] == [12, 4]
