"""Trained codebooks: centroids move by mean gradients, blocks stay with theirs, layers come one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.learn.product import Product
from mpsearch.quant.rows import Rows, blocks_of


def placed(shapes: list[tuple[int, ...]], text: str = "pq0.75:d4:c32", **options: float) -> Product:
    torch.manual_seed(0)
    weights = {i: nn.Parameter(torch.randn(shape)) for i, shape in enumerate(shapes)}
    learner = Product(**options)
    sites = [Site(f"w{i}", Role.WEIGHT, shape) for i, shape in enumerate(shapes)]
    learner.place(sites, [Format.parse(text)] * len(shapes), weights)
    learner.fit(lambda look: None)
    learner.weights = weights  # type: ignore[attr-defined]
    return learner


@pytest.mark.parametrize("shape", [(8, 16), (8, 18), (6, 4, 3, 3)])
def test_a_centroid_moves_by_the_mean_gradient_of_its_blocks(shape: tuple[int, ...]) -> None:
    """Of each of its numbers, over the blocks that have it: the last block of a row may be shorter."""
    learner = placed([shape])
    learner.advance(3, 4)
    learner.training = True
    value, upstream = learner.weights[0], torch.randn(shape)  # type: ignore[attr-defined]
    before = learner(0, value).detach().clone()
    (book,) = learner.parameters()
    (learner(0, value) * upstream).sum().backward()
    rows = Rows.of_role(Role.WEIGHT, 0)
    blocks, gradients = (blocks_of(rows.of(t), 4).reshape(-1, 4) for t in (before, upstream))
    there = blocks_of(torch.ones_like(rows.of(before)), 4).reshape(-1, 4)
    whole = there.all(dim=1)
    assert book.grad is not None
    for centroid, gradient in zip(book.detach(), book.grad, strict=True):
        mine = ((blocks == centroid) | (there == 0)).all(dim=1)
        if mine[whole].any():
            torch.testing.assert_close(gradient, (gradients * mine[:, None]).sum(0) / (there * mine[:, None]).sum(0))
    with torch.no_grad():
        book -= 0.1 * book.grad
    after = blocks_of(rows.of(learner(0, value).detach()), 4).reshape(-1, 4)[whole]
    assert len(after.unique(dim=0)) == len(blocks[whole].unique(dim=0))


def test_layers_come_in_order_then_all_together() -> None:
    learner = placed([(4, 16)] * 4)
    weights = learner.weights  # type: ignore[attr-defined]
    books = learner.parameters()
    learner.training = True
    trained = []
    for epoch in range(4):
        learner.advance(epoch, 4)
        for book in books:
            book.grad = None
        values = [learner(i, weights[i]) for i in range(4)]
        sum(v.square().sum() for v in values if v.requires_grad).backward()  # type: ignore[union-attr]
        trained.append([i for i, book in enumerate(books) if book.grad is not None])
        is_float = [torch.equal(v, weights[i]) for i, v in enumerate(values)]
        assert is_float == ([False, False, True, True] if epoch == 0 else [False] * 4)
        assert all(weight.grad is None for weight in weights.values())
    assert trained == [[0, 1], [2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_bad_options_are_refused() -> None:
    for bad in (-0.1, 1.5, "half", True):
        with pytest.raises(BadInput, match="Allowed: 0 to 1"):
            Product(layerwise=bad)  # type: ignore[arg-type]
