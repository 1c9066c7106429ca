"""Co-purchase graphs of Amazon, in the files of gnn-benchmark.

Shchur et al., "Pitfalls of graph neural network evaluation" (2018), github.com/shchur/gnn-benchmark. They come without
a split: nodes are shuffled once, 60 % are for training, 20 % for validation, 20 % for test.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import scipy.sparse
import torch

from mpsearch.core.errors import BadInput
from mpsearch.zoo.digits import NodeData
from mpsearch.zoo.files import data_file

_NAMES = {"amazon-photo": "photo", "amazon-computers": "computers"}


@cache
def purchases(name: str) -> NodeData:
    """`amazon-photo` or `amazon-computers`: words of reviews (0 or 1), goods bought together joined both ways.

    Rows of words are scaled to length 1: with some 250 ones in a row a network of 16 hidden features learns little.

    Photo has 7,650 nodes, 745 words, 238,162 directed edges and 8 classes. Raises `BadInput` without the file.
    """
    graph = _NAMES[name]
    path = data_file(
        f"gnn/amazon/{graph.title()}/raw/amazon_electronics_{graph}.npz",
        f"Amazon {graph.title()} of github.com/shchur/gnn-benchmark, data/npz",
    )
    try:
        with np.load(path) as stored:
            x, joined = _matrix(stored, "attr"), _matrix(stored, "adj")
            labels = torch.from_numpy(stored["labels"]).long()
    except (KeyError, ValueError, OSError) as error:
        raise BadInput(f"{path} is not a graph of gnn-benchmark: {error}. Fetch it again.") from None
    joined = (joined + joined.T).tolil()
    joined.setdiag(0)
    targets, sources = joined.tocsr().nonzero()  # by target, then by source
    edge_index = torch.from_numpy(np.stack([sources, targets])).long()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    train, validation, test = (
        part.sort().values for part in order.tensor_split([len(order) * 6 // 10, len(order) * 8 // 10])
    )
    rows = {"train": train, "calibration": train, "validation": validation, "test": test}
    words = torch.nn.functional.normalize(torch.from_numpy(x.toarray()).float())
    return NodeData(words, edge_index, labels, rows)


def _matrix(stored: np.lib.npyio.NpzFile, name: str) -> scipy.sparse.csr_matrix:
    parts = (stored[f"{name}_data"], stored[f"{name}_indices"], stored[f"{name}_indptr"])
    return scipy.sparse.csr_matrix(parts, shape=tuple(stored[f"{name}_shape"]))
