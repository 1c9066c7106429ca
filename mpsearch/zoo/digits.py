"""scikit-learn's digits (1,797 images of 8x8 pixels) as images, as one graph and as many graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from torch import Tensor

TRAIN, HELD_OUT = 897, 450


@dataclass(frozen=True)
class Images:
    """Rows for each purpose. `calibration` is a part of the training rows; the others share no row with it.

    Args:
        inputs: [1797, 1, 8, 8], pixels scaled to [-1, 1].
        labels: [1797], 0 to 9.
        rows: row numbers of `train` (897), `calibration` (150 of those), `validation` (450) and `test` (450).
    """

    inputs: Tensor
    labels: Tensor
    rows: dict[str, Tensor]


@cache
def images() -> Images:
    """The digits with a fixed shuffled split."""
    digits = load_digits()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(digits.target)))
    rows = {
        "train": order[:TRAIN],
        "calibration": order[:150],
        "validation": order[TRAIN : TRAIN + HELD_OUT],
        "test": order[TRAIN + HELD_OUT :],
    }
    pixels = torch.from_numpy(digits.images).float()[:, None]
    return Images(pixels / 8 - 1, torch.from_numpy(digits.target).long(), rows)


@dataclass(frozen=True)
class NodeData:
    """One graph whose nodes are to be classified.

    Args:
        x: node features [n, features].
        edge_index: directed edges [2, e], source above target, sorted by target.
        labels: [n].
        rows: node numbers of `train`, `calibration` (a part of `train`), `validation` and `test`.
    """

    x: Tensor
    edge_index: Tensor
    labels: Tensor
    rows: dict[str, Tensor]


@cache
def knn_graph(neighbours: int = 8, labelled: int = 20) -> NodeData:
    """A node a digit, joined both ways to its `neighbours` nearest images; `labelled` of a class for training."""
    data = images()
    x = (data.inputs.flatten(1) + 1) / 2
    tree = NearestNeighbors(n_neighbors=neighbours + 1).fit(x.numpy())
    with threadpool_limits(1):  # which of equally near images is taken depends on the number of threads
        adjacency = tree.kneighbors_graph(mode="connectivity")
    adjacency.setdiag(0)
    adjacency = adjacency.maximum(adjacency.T).tocoo()
    adjacency.eliminate_zeros()
    edges = np.stack([adjacency.row, adjacency.col])[:, np.lexsort((adjacency.row, adjacency.col))]
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(x)))
    of_class = [order[data.labels[order] == digit] for digit in range(10)]
    train = torch.cat([nodes[:labelled] for nodes in of_class])
    rest = order[~torch.isin(order, train)]
    rows = {"train": train, "calibration": train, "validation": rest[:600], "test": rest[600:]}
    return NodeData(x, torch.from_numpy(edges).long(), data.labels, rows)


@dataclass(frozen=True)
class PixelGraphs:
    """One graph an image: its 32 brightest pixels, with edges from the 6 most alike in place and brightness.

    Args:
        x: brightness, row and column of each pixel, in [-1, 1]: [1797, 32, 3].
        edge_index: [1797, 2, 192], source above target, node numbers within the graph.
        labels: [1797].
        rows: as in `Images`.
    """

    x: Tensor
    edge_index: Tensor
    labels: Tensor
    rows: dict[str, Tensor]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Several graphs as one: node features [n, 3], edges [2, e], the graph of each node [n]."""
        graphs, nodes = len(rows), self.x.shape[1]
        edges = self.edge_index[rows] + nodes * torch.arange(graphs)[:, None, None]
        return (
            self.x[rows].flatten(0, 1),
            edges.permute(1, 0, 2).flatten(1),
            torch.arange(graphs).repeat_interleave(nodes),
        )


@cache
def pixel_graphs(nodes: int = 32, neighbours: int = 6) -> PixelGraphs:
    """Every digit as a small graph; all graphs have as many nodes and edges."""
    data = images()
    brightness = data.inputs.flatten(1)
    kept = brightness.argsort(dim=1, descending=True, stable=True)[:, :nodes].sort(1).values
    place = torch.cartesian_prod(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8))
    x = torch.cat([brightness.gather(1, kept)[..., None], place[kept]], 2)
    apart = (x[:, :, None] - x[:, None]).square().sum(-1) + 1e3 * torch.eye(nodes)
    sources = apart.argsort(dim=2, stable=True)[..., :neighbours].flatten(1)
    targets = torch.arange(nodes).repeat_interleave(neighbours).expand_as(sources)
    return PixelGraphs(x, torch.stack([sources, targets], 1), data.labels, data.rows)
