"""Codebooks of product quantization, trained: a centroid moves by the mean gradient of the blocks that it stands for.

Which centroid stands for which block is settled when the grids are fitted, and stays. Layers are taken in the order in
which they are computed, some in each of the epochs named by `layerwise`: those before them run on their codebooks,
those after them in float, and their own codebooks are trained. In the epochs that are left all are trained together.
Biases are trained throughout, weights that have a codebook never; everything else is trained as by `lsq`. Between
epochs the model is scored as it would be finished: with all of its codebooks.

The source teaches every layer the outputs of the float model: `distill: 1` in the recipe. It fits the codebook of a
layer to its inputs once the layers before it are done; here blocks are weighed alike, as no inputs are known.

Source: Stock et al., "And the Bit Goes Down: Revisiting the Quantization of Neural Networks" (ICLR 2020, arXiv
1907.05686).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.learn.base import Observe
from mpsearch.learn.lsq import Lsq
from mpsearch.quant.grid import Grid
from mpsearch.quant.product import CodebookGrid, as_stored
from mpsearch.quant.rows import blocks_of, unblocked


class Product(Lsq):
    """Trained codebooks.

    Args:
        layerwise: share of the epochs in which layers are trained one after the other.
    """

    def __init__(self, layerwise: float = 0.5) -> None:
        super().__init__()
        if not isinstance(layerwise, (int, float)) or isinstance(layerwise, bool) or not 0 <= layerwise <= 1:
            raise BadInput(f"option layerwise of pq: {layerwise!r} is no share of the epochs. Allowed: 0 to 1.")
        self._layerwise = layerwise
        self._books: dict[int, nn.Parameter] = {}  # [centroids, d]
        self._indices: dict[int, Tensor] = {}  # [rows, blocks]
        self._counts: dict[int, Tensor] = {}  # [centroids, d]: numbers that each of a codebook stands for
        self._trained: frozenset[int] = frozenset()
        self._ahead: frozenset[int] = frozenset()

    def __call__(self, site: int, value: Tensor) -> Tensor:
        book = self._books.get(site)
        if book is None:
            return super().__call__(site, value)
        if self.training and site in self._ahead:
            return value.detach()
        grid = self._grids[site]
        assert isinstance(grid, CodebookGrid)
        is_trained = self.training and site in self._trained
        blocks = _Built.apply(
            book if is_trained else book.detach(), self._stored(site), self._indices[site], self._counts[site]
        )
        return grid.rows.back(unblocked(blocks, grid.rows.size(value.shape)[1]), value.shape)

    def parameters(self) -> list[nn.Parameter]:
        return [*super().parameters(), *self._books.values()]

    def fitted(self) -> list[int]:
        return [site for site in super().fitted() if site not in self._books]

    def fit(self, observe: Observe) -> None:
        todo = self.fitted()
        super().fit(observe)
        for site in todo:
            grid = self._grids[site]
            if isinstance(grid, CodebookGrid) and self._weights[site].requires_grad:
                rows, book = grid.rows.of(self._weights[site].detach()), grid.codebook
                self._books[site], self._indices[site] = nn.Parameter(book.clone()), grid.indices(rows)
                ones = blocks_of(torch.ones_like(rows), book.shape[1])
                self._counts[site] = _summed(book, self._indices[site], ones)

    def advance(self, epoch: int, epochs: int) -> None:
        books, stages = list(self._books), math.ceil(self._layerwise * epochs)
        ends = [len(books) * i // stages for i in (epoch, epoch + 1)] if epoch < stages else [0, len(books)]
        first, last = ends
        self._trained, self._ahead = frozenset(books[first:last]), frozenset(books[last:])

    def state(self) -> dict[str, Tensor]:
        """Codebooks and indices, beside what `lsq` has."""
        found = super().state()
        for site in self._books:
            name = self._sites[site].name
            found |= {f"codebook/{name}": self._stored(site), f"indices/{name}": self._indices[site].to(torch.int16)}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        for site, book in self._books.items():
            name = self._sites[site].name
            self._indices[site] = state[f"indices/{name}"].to(book.device).long()
            book.data = state[f"codebook/{name}"].to(book)

    def grid(self, site: int) -> Grid | None:
        grid = super().grid(site)
        if isinstance(grid, CodebookGrid) and site in self._books:
            return replace(grid, codebook=self._stored(site))
        return grid

    def _stored(self, site: int) -> Tensor:
        """The codebook as it is stored, float32."""
        grid = self._grids[site]
        assert isinstance(grid, CodebookGrid)
        return as_stored(self._books[site].detach(), grid.centroid_bits)


class _Built(torch.autograd.Function):
    """Blocks [rows, blocks, d] out of a codebook; its gradient is the mean over what each number stands for."""

    @staticmethod
    def forward(ctx: Any, book: Tensor, stored: Tensor, indices: Tensor, counts: Tensor) -> Tensor:
        del book
        ctx.save_for_backward(indices, counts)
        return stored[indices]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        indices, counts = ctx.saved_tensors
        return _summed(counts, indices, gradients[0]) / counts.clamp(min=1), None, None, None


def _summed(like: Tensor, indices: Tensor, blocks: Tensor) -> Tensor:
    """Sum of the blocks [rows, blocks, d] of each centroid, shaped like the codebook."""
    return torch.zeros_like(like).index_add_(0, indices.flatten(), blocks.flatten(0, 1))
