"""Node classifiers by name, each trained on the labelled nodes of one graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.functional import cross_entropy

from mpsearch.zoo import digits, planetoid
from mpsearch.zoo.cache import trained
from mpsearch.zoo.digits import NodeData
from mpsearch.zoo.gnn import AGNN, GAT, GCN
from mpsearch.zoo.train import fit_whole

NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {"gcn": GCN, "gat": GAT, "agnn": AGNN}
"""Name to `network(inputs, hidden, classes)`."""

DATASETS: dict[str, Callable[[], NodeData]] = {"digits-knn": digits.knn_graph, "cora": planetoid.cora}


@dataclass(frozen=True)
class Recipe:
    """Adam on the whole graph, weight decay added to the gradient."""

    epochs: int
    learning_rate: float
    weight_decay: float = 5e-4


_RECIPES = {"gcn": Recipe(200, 0.01), "gat": Recipe(100, 0.01), "agnn": Recipe(200, 0.01)}


def classifier(dataset: str, network: str, hidden: int) -> nn.Module:
    """The trained network, in evaluation mode; `hidden` features, in each head of a GAT."""
    data, recipe = DATASETS[dataset](), _RECIPES[network]

    def fit(model: nn.Module) -> None:
        rows = data.rows["train"]
        fit_whole(
            model,
            lambda m: cross_entropy(m(data.x, data.edge_index)[rows], data.labels[rows]),
            recipe.epochs,
            recipe.learning_rate,
            recipe.weight_decay,
        )

    def build() -> nn.Module:
        return NETWORKS[network](data.x.shape[1], hidden, int(data.labels.max()) + 1)

    return trained(f"{dataset}-{network}", build, fit, recipe)
