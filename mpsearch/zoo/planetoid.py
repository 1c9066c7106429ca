"""Citation graphs as in Planetoid's raw files, read by an unpickler that knows only arrays, sparse matrices and lists.

Yang et al., "Revisiting semi-supervised learning with graph embeddings" (2016); public split: 20 nodes of a
class for training, the next 500 for validation, 1,000 for test.
"""

from __future__ import annotations

import collections
import io
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from mpsearch.core.errors import BadInput
from mpsearch.zoo.digits import NodeData
from mpsearch.zoo.files import data_file

_SOURCE = "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data/"
_NAMES = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
_SHA256_CORA = {
    "allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
}
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "defaultdict"): collections.defaultdict,
    ("__builtin__", "list"): list,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.array(0).__reduce__()[0],
    ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
}


class _Unpickler(pickle.Unpickler):
    """Refuses everything but the six names that these files need: a pickle could otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def unpickle(path: Path) -> Any:
    """The array, sparse matrix or dict of lists in a raw Planetoid file. Raises `BadInput` on another."""
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise BadInput(f"{path} is not a raw Planetoid file: {error}. Fetch it from {_SOURCE}.") from None


def _raw(name: str, part: str) -> Path:
    return data_file(
        f"gnn/planetoid/{_NAMES[name]}/raw/ind.{name}.{part}",
        f"Planetoid's {_NAMES[name]}, github.com/kimiyoung/planetoid",
        f"{_SOURCE}ind.{name}.{part}",
        _SHA256_CORA[part] if name == "cora" else None,
    )


def cora() -> NodeData:
    """2,708 papers, 1,433 words (each row sums to 1), 10,556 directed citations, 7 classes."""
    return citations("cora")


@cache
def citations(name: str) -> NodeData:
    """One of `cora`, `citeseer` and `pubmed`: words of papers (each row sums to 1), citations in both directions.

    Papers that no file describes (15 of CiteSeer) have no words, and are in no split. Raises `BadInput` without files.
    """
    order = torch.tensor([int(line) for line in _raw(name, "test.index").read_text().split()])
    known, tested = unpickle(_raw(name, "allx")), unpickle(_raw(name, "tx"))
    nodes = int(order.max()) + 1
    x, onehot = np.zeros((nodes, known.shape[1]), np.float32), np.zeros((nodes, unpickle(_raw(name, "ty")).shape[1]))
    x[: known.shape[0]], x[order] = known.toarray(), tested.toarray()
    onehot[: known.shape[0]], onehot[order] = unpickle(_raw(name, "ally")), unpickle(_raw(name, "ty"))
    features, labels = torch.from_numpy(x), torch.from_numpy(onehot.argmax(1))
    train = torch.arange(len(unpickle(_raw(name, "y"))))
    rows = {
        "train": train,
        "calibration": train,
        "validation": len(train) + torch.arange(500),
        "test": order.sort().values,
    }
    graph = unpickle(_raw(name, "graph"))
    pairs = {(min(a, b), max(a, b)) for a, others in graph.items() for b in others if a != b}
    edges = sorted((b, a) for pair in pairs for a, b in (pair, pair[::-1]))  # by target, then by source
    edge_index = torch.tensor(edges).T.flip(0).contiguous()
    return NodeData(features / features.sum(1, keepdim=True).clamp(min=1), edge_index, labels, rows)
